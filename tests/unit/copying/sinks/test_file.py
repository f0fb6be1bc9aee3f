#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""What is special to a sink that is a file; see tests/contract for the rest.
"""

import errno
import os
import resource
import stat
import threading

import pytest

from glance_conversion_plugins.copying.sinks import file as file_sink
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import folder as folders
from glance_conversion_plugins.external import marks
from tests.contract import images

IMAGE = '11111111-2222-3333-4444-555555555555'
OTHER = '66666666-7777-8888-9999-000000000000'
TASK = 'aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee'
LATER = 'ffffffff-bbbb-cccc-dddd-eeeeeeeeeeee'
PARTIAL = f'.{IMAGE}.{TASK}.partial'


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / 'store'
    found.mkdir()
    return found


def _sink(folder, task_id=TASK, mode=0):
    return file_sink.FileSink(
        lambda size: file_sink.Datadir(str(folder), mode), IMAGE, task_id,
        zero_block_size=images.BLOCK)


def _write(sink, pattern):
    """Write an image and return the sink."""
    sink.create(len(pattern) * images.BLOCK)
    for number, char in enumerate(pattern):
        if char != '-':
            sink.write(memoryview(images.content(char)),
                       number * images.BLOCK)
    return sink


def _sealed(folder, pattern='A', **kwargs):
    sink = _write(_sink(folder, **kwargs), pattern)
    sink.seal()
    return sink


def _names(folder):
    return sorted(os.listdir(folder))


def _hand_over(path, *names):
    with folders.Folder(str(path)) as found:
        found.hand_over(*names)


def _discard(path, *names):
    with folders.Folder(str(path)) as found:
        found.discard(*names)


def _leftovers(path):
    with folders.Folder(str(path)) as found:
        return list(found.marked())


# What it writes

def test_stands_under_a_name_of_its_own_until_it_is_sealed(folder):
    sink = _write(_sink(folder), 'A')
    assert _names(folder) == [PARTIAL]
    sink.seal()
    assert _names(folder) == [PARTIAL, IMAGE]
    assert os.path.samefile(folder / PARTIAL, folder / IMAGE)
    assert os.stat(folder / IMAGE).st_nlink == 2


def test_the_place_is_chosen_by_size(folder):
    asked = []

    def choose(size):
        asked.append(size)
        return file_sink.Datadir(str(folder))

    sink = file_sink.FileSink(choose, IMAGE, TASK,
                              zero_block_size=images.BLOCK)
    assert asked == []
    sink.create(12345)
    assert asked == [12345]
    sink.abort()


def test_no_place_is_told_as_it_is(folder):
    def choose(size):
        raise errors.StoreFull('nowhere')

    sink = file_sink.FileSink(choose, IMAGE, TASK,
                              zero_block_size=images.BLOCK)
    with pytest.raises(errors.StoreFull, match='nowhere'):
        sink.create(1)
    sink.abort()
    assert _names(folder) == []


@pytest.mark.parametrize('pattern', ['-' * 100, 'A' + '-' * 98 + 'B',
                                     'A' + '0' * 98 + 'B'])
def test_zeros_are_holes(folder, pattern):
    _sealed(folder, pattern)
    found = os.stat(folder / IMAGE)
    assert found.st_size == 100 * images.BLOCK
    assert found.st_blocks * 512 <= 3 * images.BLOCK
    assert (folder / IMAGE).read_bytes() == images.content(pattern)


def test_an_image_of_zeros_takes_no_room(folder):
    sink = _sink(folder)
    sink.create(1 << 40)
    sink.zero(0, 1 << 40)
    sink.seal()
    found = os.stat(folder / IMAGE)
    assert found.st_size == 1 << 40
    assert found.st_blocks * 512 <= images.BLOCK


@pytest.mark.parametrize('mode', [0o640, 0o600, 0o666])
def test_has_the_mode_of_the_store(folder, mode):
    _sealed(folder, mode=mode)
    assert stat.S_IMODE(os.stat(folder / IMAGE).st_mode) == mode


@pytest.mark.parametrize('umask', [0o022, 0o077])
def test_has_the_mode_of_the_umask(folder, umask):
    before = os.umask(umask)
    try:
        _sealed(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(folder / IMAGE).st_mode) == 0o666 & ~umask


def test_a_mode_that_can_not_be_set_stays_as_it_is(folder, monkeypatch,
                                                  caplog):
    """As where all files of a file system have one mode."""
    def fchmod(_fd, _mode):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, 'fchmod', fchmod)
    _sealed(folder, mode=0o600)
    assert (folder / IMAGE).read_bytes() == images.content('A')
    assert 'mode' in caplog.text
    assert IMAGE in caplog.text


@pytest.mark.parametrize('size', [0, 1, images.BLOCK + 5, 1 << 40])
def test_has_the_size_that_it_was_given_last(folder, size):
    sink = _sink(folder)
    sink.create(0)
    for each in (10 * images.BLOCK, 1 << 41, size):
        sink.resize(each)
    sink.write(memoryview(b'A' * min(size, 5)), 0)
    sink.seal()
    found = os.stat(folder / IMAGE)
    assert found.st_size == size
    assert found.st_blocks * 512 <= images.BLOCK
    with open(folder / IMAGE, 'rb') as f:
        assert f.read(5) == b'A' * min(size, 5)


def test_what_is_announced_takes_no_room_before_it_is_written(folder):
    """Nor time, where a file system without holes would write zeros."""
    sink = _sink(folder)
    sink.create(0)
    sink.resize(1 << 40)
    sink.write(memoryview(images.content('A')), 3 * images.BLOCK)
    assert (os.stat(folder / PARTIAL).st_blocks * 512
            <= 2 * images.BLOCK)
    sink.abort()
    assert _names(folder) == []


def test_what_was_cut_off_reads_as_zeros_when_there_is_room_again(folder):
    sink = _sink(folder)
    sink.create(0)
    sink.resize(3 * images.BLOCK)
    sink.write(memoryview(images.content('ABC')), 0)
    sink.resize(images.BLOCK)
    sink.resize(3 * images.BLOCK)
    sink.seal()
    assert (folder / IMAGE).read_bytes() == images.content('A00')


def test_a_size_for_which_there_is_no_room_is_told(folder):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    sink = _sink(folder)
    try:
        sink.create(0)
        with pytest.raises(errors.StoreFull):
            sink.resize((1 << 20) + 1)
            sink.seal()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    sink.abort()
    assert _names(folder) == []


def test_leaves_no_descriptor_open(folder):
    before = len(os.listdir('/proc/self/fd'))
    sink = _sealed(folder)
    assert len(os.listdir('/proc/self/fd')) == before
    sink.abort()
    _write(_sink(folder), 'A').abort()
    assert len(os.listdir('/proc/self/fd')) == before


# What stands in its way

@pytest.mark.parametrize('make', [
    lambda path: path.write_text('x'), lambda path: path.mkdir(),
    lambda path: path.symlink_to('/nowhere')], ids=['file', 'dir', 'link'])
def test_a_name_that_is_taken(folder, make):
    make(folder / IMAGE)
    sink = _sink(folder)
    with pytest.raises(errors.AlreadyStored):
        sink.create(images.BLOCK)
    sink.abort()
    assert _names(folder) == [IMAGE]


def test_a_name_that_is_taken_while_it_writes(folder):
    sink = _write(_sink(folder), 'A')
    (folder / IMAGE).write_text('of another')
    with pytest.raises(errors.AlreadyStored):
        sink.seal()
    sink.abort()
    assert _names(folder) == [IMAGE]
    assert (folder / IMAGE).read_text() == 'of another'


def test_two_tasks_one_winner(folder):
    first, second = (_write(_sink(folder, task), char)
                     for task, char in ((TASK, 'A'), (LATER, 'B')))
    first.seal()
    with pytest.raises(errors.AlreadyStored):
        second.seal()
    second.abort()
    assert _names(folder) == [PARTIAL, IMAGE]
    assert (folder / IMAGE).read_bytes() == images.content('A')


def test_does_not_follow_a_link(folder, tmp_path):
    victim = tmp_path / 'victim'
    victim.write_text('precious')
    (folder / PARTIAL).symlink_to(victim)
    with pytest.raises(errors.SinkFailed):
        _sink(folder).create(images.BLOCK)
    assert victim.read_text() == 'precious'


def test_a_disk_that_is_full(small_disk):
    sink = _sink(small_disk)
    with pytest.raises(errors.StoreFull, match='no room'):
        _write(sink, 'A' * 32)
    sink.abort()
    assert _names(small_disk) == []
    # And all of the room is there again.
    _sealed(small_disk, 'A' * 12)


def test_holes_take_no_room_on_a_small_disk(small_disk):
    _sealed(small_disk, 'A' + '0' * 10 + '-' * 1000 + 'B')
    assert len(_names(small_disk)) == 2     # the image and its mark


def test_larger_than_a_file_may_be(folder):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    sink = _sink(folder)
    try:
        with pytest.raises(errors.StoreFull):
            sink.create((1 << 20) + 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    sink.abort()
    assert _names(folder) == []


def test_a_disk_that_is_read_only(read_only_disk, caplog):
    sink = _sink(read_only_disk)
    with pytest.raises(errors.SinkFailed) as caught:
        sink.create(images.BLOCK)
    assert str(read_only_disk) not in str(caught.value)
    assert str(read_only_disk) in caplog.text
    sink.abort()


def test_a_folder_that_is_not_there(folder):
    folder.rmdir()
    sink = _sink(folder)
    with pytest.raises(errors.SinkFailed):
        sink.create(images.BLOCK)
    sink.abort()
    with pytest.raises(errors.SinkFailed):
        _leftovers(folder)


def test_a_folder_that_vanishes(folder, tmp_path):
    sink = _write(_sink(folder), 'A')
    folder.rename(tmp_path / 'elsewhere')
    sink.write(memoryview(b'B'), 0)
    with pytest.raises(errors.SinkFailed):
        sink.seal()
    sink.abort()
    sink.abort()
    assert _names(tmp_path) == ['elsewhere']


def test_a_folder_that_is_a_file(folder, tmp_path):
    path = tmp_path / 'file'
    path.touch()
    sink = _sink(path)
    with pytest.raises(errors.SinkFailed):
        sink.create(1)
    sink.abort()


def test_interrupt_ends_a_writer(folder):
    """One that is in the middle of a large view, in another thread."""
    sink = _sink(folder)
    sink.create(images.BLOCK)
    ended, began = [], threading.Event()

    def write():
        try:
            while True:
                sink.write(memoryview(images.content('A')), 0)
                began.set()
        except errors.Cancelled as e:
            ended.append(e)

    thread = threading.Thread(target=write)
    thread.start()
    assert began.wait(60)
    sink.interrupt()
    thread.join(60)
    assert len(ended) == 1
    with pytest.raises(errors.Cancelled):
        sink.seal()
    sink.abort()
    assert _names(folder) == []


# What is left of it

def test_abort_removes_what_was_sealed(folder):
    sink = _sealed(folder)
    sink.abort()
    assert _names(folder) == []
    sink.abort()
    assert _names(folder) == []


def test_abort_leaves_what_was_handed_over(folder):
    """From then on it is Glance's, and only Glance removes it."""
    sink = _sealed(folder)
    _hand_over(folder, IMAGE, TASK)
    sink.abort()
    assert _names(folder) == [IMAGE]


def test_hand_over_leaves_a_file_as_stock_writes_it(folder):
    _sealed(folder)
    for _ in range(2):
        _hand_over(folder, IMAGE, TASK)
        assert _names(folder) == [IMAGE]
        assert os.stat(folder / IMAGE).st_nlink == 1
    assert (folder / IMAGE).read_bytes() == images.content('A')


def test_hand_over_is_of_one_task(folder):
    _sealed(folder)
    _hand_over(folder, IMAGE, LATER)
    assert _names(folder) == [PARTIAL, IMAGE]


@pytest.mark.parametrize('finish', ['seal', 'write'])
def test_discard_removes_what_the_task_wrote(folder, finish):
    sink = _write(_sink(folder), 'A')
    if finish == 'seal':
        sink.seal()
    for _ in range(2):
        _discard(folder, IMAGE, TASK)
        assert _names(folder) == []
    sink.abort()


def test_discard_removes_nothing_of_others(folder):
    _sealed(folder)
    (folder / OTHER).write_text('x')
    _discard(folder, IMAGE, LATER)
    _discard(folder, OTHER, TASK)
    assert _names(folder) == [PARTIAL, IMAGE, OTHER]


def test_discard_leaves_the_final_file_of_another_task(folder):
    _write(_sink(folder, LATER), 'B')
    _sealed(folder)
    _discard(folder, IMAGE, LATER)
    assert _names(folder) == [PARTIAL, IMAGE]
    assert (folder / IMAGE).read_bytes() == images.content('A')


def test_a_writer_that_was_discarded_can_not_seal(folder):
    sink = _write(_sink(folder), 'A')
    _discard(folder, IMAGE, TASK)
    sink.write(memoryview(b'B'), 0)
    with pytest.raises(errors.SinkFailed):
        sink.seal()
    assert _names(folder) == []


def test_leftovers_are_partial_files_only(folder):
    _sealed(folder)
    for name in (OTHER, f'.{OTHER}.{TASK}.partial', '.hidden', 'x.partial',
                 f'{OTHER}.{TASK}.partial', f'.{OTHER}.partial',
                 f'.{OTHER}.{TASK}.partial.bak', f'.short.{TASK}.partial',
                 f'.{OTHER}..partial', f'.{OTHER}.../x.partial'[:40]):
        (folder / name).touch()
    assert sorted(_leftovers(folder)) == [
        marks.Mark(IMAGE, TASK), marks.Mark(OTHER, TASK)]
    _hand_over(folder, IMAGE, TASK)
    _discard(folder, OTHER, TASK)
    assert _leftovers(folder) == []
    assert (folder / OTHER).exists()


def test_leftovers_of_a_name_with_a_line_break(folder):
    (folder / f'.{OTHER}.{TASK}.partial\n').touch()
    assert _leftovers(folder) == []
