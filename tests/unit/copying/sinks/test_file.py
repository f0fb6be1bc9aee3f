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

import contextlib
import errno
import fcntl
import os
import resource
import stat
import subprocess
import threading

import pytest

from glance_conversion_plugins.copying.sinks import file as file_sink
from glance_conversion_plugins.copying.sinks import patient as patient_sink
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import folder as folders
from glance_conversion_plugins.external import marks
from tests.contract import images

IMAGE = '11111111-2222-3333-4444-555555555555'
OTHER = '66666666-7777-8888-9999-000000000000'
TASK = 'aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee'
LATER = 'ffffffff-bbbb-cccc-dddd-eeeeeeeeeeee'
MARK = marks.Mark(IMAGE, TASK)
LATER_MARK = marks.Mark(IMAGE, LATER)
OTHER_MARK = marks.Mark(OTHER, TASK)
PARTIAL = f'.{IMAGE}.{TASK}.partial'


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / 'store'
    found.mkdir()
    return found


@pytest.fixture(autouse=True)
def no_descriptor_left():
    before = len(os.listdir('/proc/self/fd'))
    yield
    assert len(os.listdir('/proc/self/fd')) == before


def _sink(folder, task_id=TASK, mode=0):
    return file_sink.FileSink(
        lambda size: file_sink.Datadir(str(folder), mode),
        marks.Mark(IMAGE, task_id), zero_block_size=images.BLOCK)


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


def _published(folder, pattern='A', **kwargs):
    sink = _sealed(folder, pattern, **kwargs)
    sink.publish()
    return sink


def _stored(folder, pattern='A', **kwargs):
    """Publish an image, and leave it to whoever finds it."""
    _published(folder, pattern, **kwargs).release()


def _names(folder):
    return sorted(os.listdir(folder))


def _hand_over(path, mark):
    with folders.Folder(str(path)) as found:
        return found.hand_over(mark)


def _discard(path, mark):
    with folders.Folder(str(path)) as found:
        found.discard(mark)


def _leftovers(path):
    with folders.Folder(str(path)) as found:
        return list(found.marked())


# What it writes

def test_stands_under_a_name_of_its_own_until_it_is_published(folder):
    sink = _write(_sink(folder), 'A')
    assert _names(folder) == [PARTIAL]
    sink.seal()
    assert _names(folder) == [PARTIAL]
    assert (folder / PARTIAL).read_bytes() == images.content('A')
    sink.publish()
    assert _names(folder) == [PARTIAL, IMAGE]
    assert os.path.samefile(folder / PARTIAL, folder / IMAGE)
    assert os.stat(folder / IMAGE).st_nlink == 2
    sink.hand_over()
    assert _names(folder) == [IMAGE]
    assert (folder / IMAGE).read_bytes() == images.content('A')
    assert os.stat(folder / IMAGE).st_nlink == 1


def test_its_name_tells_of_which_deployment_it_is(folder):
    mark = MARK._replace(deployment='deadbeef', host='node1')
    sink = file_sink.FileSink(lambda size: file_sink.Datadir(str(folder)),
                              mark, zero_block_size=images.BLOCK)
    sink.create(images.BLOCK)
    assert _names(folder) == [f'.{IMAGE}.{TASK}.deadbeef.partial']
    sink.abort()
    assert _names(folder) == []


def test_the_place_is_chosen_by_size(folder):
    asked = []

    def choose(size):
        asked.append(size)
        return file_sink.Datadir(str(folder))

    sink = file_sink.FileSink(choose, MARK, zero_block_size=images.BLOCK)
    assert asked == []
    sink.create(12345)
    assert asked == [12345]
    sink.abort()


def test_no_place_is_told_as_it_is(folder):
    def choose(size):
        raise errors.StoreFull('nowhere')

    sink = file_sink.FileSink(choose, MARK, zero_block_size=images.BLOCK)
    with pytest.raises(errors.StoreFull, match='nowhere'):
        sink.create(1)
    sink.abort()
    assert _names(folder) == []


@pytest.mark.parametrize('pattern', ['-' * 100, 'A' + '-' * 98 + 'B',
                                     'A' + '0' * 98 + 'B'])
def test_zeros_are_holes(folder, pattern):
    _stored(folder, pattern)
    found = os.stat(folder / IMAGE)
    assert found.st_size == 100 * images.BLOCK
    assert found.st_blocks * 512 <= 3 * images.BLOCK
    assert (folder / IMAGE).read_bytes() == images.content(pattern)


def test_what_was_written_is_told(folder):
    sink = _sink(folder)
    sink.create(3 * images.BLOCK)
    for pattern, expected in (('000', 0), ('A0B', 2), ('ABC', 3)):
        view = memoryview(images.content(pattern))
        assert sink.write(view, 0) == expected * images.BLOCK
    sink.abort()


def test_an_image_of_zeros_takes_no_room(folder):
    sink = _sink(folder)
    sink.create(1 << 40)
    sink.zero(0, 1 << 40)
    sink.seal()
    sink.publish()
    sink.release()
    found = os.stat(folder / IMAGE)
    assert found.st_size == 1 << 40
    assert found.st_blocks * 512 <= images.BLOCK


@pytest.mark.parametrize('mode', [0o640, 0o600, 0o666])
def test_has_the_mode_of_the_store(folder, mode):
    _stored(folder, mode=mode)
    assert stat.S_IMODE(os.stat(folder / IMAGE).st_mode) == mode


@pytest.mark.parametrize('umask', [0o022, 0o077])
def test_has_the_mode_of_the_umask(folder, umask):
    before = os.umask(umask)
    try:
        _stored(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(folder / IMAGE).st_mode) == 0o666 & ~umask


def test_a_mode_that_can_not_be_set_stays_as_it_is(folder, monkeypatch,
                                                  caplog):
    """As where all files of a file system have one mode."""
    def fchmod(_fd, _mode):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, 'fchmod', fchmod)
    _stored(folder, mode=0o600)
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
    sink.publish()
    sink.release()
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
    sink.publish()
    sink.release()
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


@pytest.mark.parametrize('end', ['hand_over', 'release', 'abort'])
def test_leaves_no_descriptor_open(folder, end):
    before = len(os.listdir('/proc/self/fd'))
    sink = _published(folder)
    # One of the folder, and one that keeps the lock.
    assert len(os.listdir('/proc/self/fd')) == before + 2
    getattr(sink, end)()
    assert len(os.listdir('/proc/self/fd')) == before
    sink.abort()
    (folder / IMAGE).unlink(missing_ok=True)
    _write(_sink(folder), 'A').abort()
    assert len(os.listdir('/proc/self/fd')) == before


def test_a_program_that_is_started_inherits_nothing(folder):
    """Else the lock would be held for as long as that runs."""
    def opened(**kwargs):
        found = subprocess.run(['ls', '-l', '/proc/self/fd'], check=True,
                               stdout=subprocess.PIPE, text=True, **kwargs)
        return found.stdout.count(str(folder))

    sink = _write(_sink(folder), 'A')
    assert opened(close_fds=False) == 0
    # It would be seen.
    with open(folder / PARTIAL) as file:
        assert opened(pass_fds=[file.fileno()]) == 1
    sink.abort()


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
    sink.seal()
    with pytest.raises(errors.AlreadyStored):
        sink.publish()
    sink.abort()
    assert _names(folder) == [IMAGE]
    assert (folder / IMAGE).read_text() == 'of another'


def test_two_tasks_one_winner(folder):
    first, second = (_write(_sink(folder, task), char)
                     for task, char in ((TASK, 'A'), (LATER, 'B')))
    # It is not the first to be complete who wins.
    second.seal()
    first.seal()
    first.publish()
    with pytest.raises(errors.AlreadyStored):
        second.publish()
    second.abort()
    assert _names(folder) == [PARTIAL, IMAGE]
    first.hand_over()
    assert _names(folder) == [IMAGE]
    assert (folder / IMAGE).read_bytes() == images.content('A')


def test_does_not_follow_a_link(folder, tmp_path):
    victim = tmp_path / 'victim'
    victim.write_text('precious')
    (folder / PARTIAL).symlink_to(victim)
    sink = _sink(folder)
    with pytest.raises(errors.SinkFailed):
        sink.create(images.BLOCK)
    sink.abort()
    assert victim.read_text() == 'precious'


def test_a_disk_that_is_full(small_disk):
    sink = _sink(small_disk)
    with pytest.raises(errors.StoreFull, match='no room'):
        _write(sink, 'A' * 32)
    sink.abort()
    assert _names(small_disk) == []
    # And all of the room is there again.
    _stored(small_disk, 'A' * 12)


def test_holes_take_no_room_on_a_small_disk(small_disk):
    _stored(small_disk, 'A' + '0' * 10 + '-' * 1000 + 'B')
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
    sink.seal()
    with pytest.raises(errors.SinkFailed):
        sink.publish()
    sink.abort()
    sink.abort()
    assert _names(tmp_path) == ['elsewhere']
    assert _names(tmp_path / 'elsewhere') == []


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

@pytest.mark.parametrize('make', [_sealed, _published])
@pytest.mark.parametrize('released', [False, True])
def test_abort_removes_what_was_not_handed_over(folder, make, released):
    sink = make(folder)
    if released:
        sink.release()
    for _ in range(2):
        sink.abort()
        assert _names(folder) == []


@pytest.mark.parametrize('by', ['its sink', 'the clean-up'])
def test_abort_leaves_what_was_handed_over(folder, by):
    """From then on it is Glance's, and only Glance removes it."""
    sink = _published(folder)
    if by == 'its sink':
        sink.hand_over()
    else:
        assert _hand_over(folder, MARK)
    sink.abort()
    assert _names(folder) == [IMAGE]


def test_a_release_leaves_all_as_it_is(folder):
    sink = _published(folder)
    for _ in range(2):
        sink.release()
        assert _names(folder) == [PARTIAL, IMAGE]
    assert (folder / IMAGE).read_bytes() == images.content('A')


def test_a_release_of_what_was_never_begun_is_harmless(folder):
    sink = _sink(folder)
    sink.release()
    sink.abort()
    assert _names(folder) == []


def test_hand_over_leaves_a_file_as_stock_writes_it(folder):
    _stored(folder)
    for was_there in (True, False):
        assert _hand_over(folder, MARK) == was_there
        assert _names(folder) == [IMAGE]
        assert os.stat(folder / IMAGE).st_nlink == 1
    assert (folder / IMAGE).read_bytes() == images.content('A')


def test_what_the_clean_up_has_handed_over_is_handed_over(folder):
    """It saw the image recorded before its writer did."""
    sink = _published(folder)
    assert _hand_over(folder, MARK)
    sink.hand_over()
    assert _names(folder) == [IMAGE]


def test_who_lost_its_name_is_fenced(folder):
    """Another file has it by now, which is none of ours."""
    sink = _published(folder)
    assert _hand_over(folder, MARK)
    os.unlink(folder / IMAGE)
    (folder / IMAGE).write_text('of another')
    with pytest.raises(errors.Fenced):
        sink.hand_over()
    assert (folder / IMAGE).read_text() == 'of another'


def test_hand_over_is_of_one_task(folder):
    _stored(folder)
    assert not _hand_over(folder, LATER_MARK)
    assert _names(folder) == [PARTIAL, IMAGE]


def test_a_hand_over_that_fails_lets_go_and_leaves_the_mark(folder,
                                                            monkeypatch):
    """The clean-up makes up for it."""
    def unlink(*_args, **_kwargs):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    sink = _published(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, 'unlink', unlink)
        with pytest.raises(errors.SinkFailed) as caught:
            sink.hand_over()
    assert not isinstance(caught.value, errors.Fenced)
    with folders.Folder(str(folder)) as found:
        assert not found.is_open(MARK)
        assert list(found.marked()) == [marks.Found(MARK, True)]
        assert found.hand_over(MARK)


def test_what_a_fenced_writer_says_is_for_the_owner_of_the_image(folder):
    sink = _published(folder)
    _discard(folder, MARK)
    with pytest.raises(errors.Fenced, match='import the image again') as e:
        sink.hand_over()
    assert str(folder) not in str(e.value)
    assert str(e.value).endswith('.')


@pytest.mark.parametrize('make', [_write, _sealed, _published])
def test_abort_completes_what_was_fenced(folder, make):
    """The writer that is alive after all leaves nothing to others."""
    sink = make(_sink(folder), 'A') if make is _write else make(folder)
    with folders.Folder(str(folder)) as found:
        assert found.fence(MARK)
    for _ in range(2):
        sink.abort()
        assert _names(folder) == []


@pytest.mark.parametrize('finish', ['write', 'seal', 'publish'])
def test_discard_removes_what_the_task_wrote(folder, finish):
    sink = _write(_sink(folder), 'A')
    if finish != 'write':
        sink.seal()
    if finish == 'publish':
        sink.publish()
    for _ in range(2):
        _discard(folder, MARK)
        assert _names(folder) == []
    sink.abort()


def test_discard_removes_nothing_of_others(folder):
    _stored(folder)
    (folder / OTHER).write_text('x')
    _discard(folder, LATER_MARK)
    _discard(folder, OTHER_MARK)
    assert _names(folder) == [PARTIAL, IMAGE, OTHER]


def test_discard_leaves_the_final_file_of_another_task(folder):
    later = _write(_sink(folder, LATER), 'B')
    _stored(folder)
    _discard(folder, LATER_MARK)
    assert _names(folder) == [PARTIAL, IMAGE]
    later.abort()
    assert _names(folder) == [PARTIAL, IMAGE]
    assert (folder / IMAGE).read_bytes() == images.content('A')


def test_a_writer_that_was_discarded_can_not_publish(folder):
    sink = _write(_sink(folder), 'A')
    _discard(folder, MARK)
    sink.write(memoryview(b'B'), 0)
    sink.seal()
    assert _names(folder) == []
    with pytest.raises(errors.Fenced):
        sink.publish()
    assert _names(folder) == []
    with pytest.raises(errors.Fenced):
        sink.hand_over()
    sink.abort()
    assert _names(folder) == []


def test_leftovers_are_marked_files_only(folder):
    _stored(folder)
    for name in (OTHER, f'.{OTHER}.{TASK}.partial', '.hidden', 'x.partial',
                 f'.{OTHER}.{TASK}.deadbeef.removed',
                 f'{OTHER}.{TASK}.partial', f'.{OTHER}.partial',
                 f'.{OTHER}.{TASK}.partial.bak', f'.short.{TASK}.partial',
                 f'.{OTHER}.{TASK}.deadbee.partial',
                 f'.{OTHER}.{TASK}.DEADBEEF.partial',
                 f'.{OTHER}.{TASK}.deadbeef.deadbeef.partial',
                 f'.{OTHER}.{TASK}.replaced', f'.{OTHER}.{TASK}.other',
                 f'.{OTHER}..partial', f'.{OTHER}.../x.partial'[:40]):
        (folder / name).touch()
    theirs = OTHER_MARK._replace(deployment='deadbeef')
    assert sorted(_leftovers(folder)) == [
        marks.Found(MARK, True), marks.Found(OTHER_MARK, False),
        marks.Found(theirs, False)]
    _hand_over(folder, MARK)
    _discard(folder, OTHER_MARK)
    assert _leftovers(folder) == [marks.Found(theirs, False)]
    _discard(folder, theirs)
    assert _leftovers(folder) == []
    assert (folder / OTHER).exists()


@pytest.mark.parametrize('state', ['partial', 'sealed', 'removed',
                                   'unsealed'])
def test_leftovers_of_a_name_with_a_line_break(folder, state):
    (folder / f'.{OTHER}.{TASK}.{state}\n').touch()
    assert _leftovers(folder) == []


# Read back

@pytest.mark.parametrize('wrap', [
    lambda sink: sink, lambda sink: patient_sink.PatientSink(sink, 'files')],
    ids=['file', 'patient'])
def test_what_is_sealed_is_read_back(folder, wrap):
    sink = wrap(_sink(folder))
    _write(sink, 'A-B').seal()
    with contextlib.closing(sink.read_back()) as source:
        assert source.size == 3 * images.BLOCK
        assert bytes(source.read(0, source.size)) == images.content('A-B')
    # It is still the one whose writer lives, and is published after that.
    with open(folder / PARTIAL) as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    sink.publish()
    sink.hand_over()
    assert (folder / IMAGE).read_bytes() == images.content('A-B')


def test_what_can_not_be_opened_again(folder, monkeypatch):
    sink = _sealed(folder)

    def fail(*args):
        raise OSError(errno.ESTALE, 'Stale file handle')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'posix_fadvise', fail)
        with pytest.raises(errors.SourceFailed, match='could not be read'):
            sink.read_back()
    sink.abort()


def test_what_changed_meanwhile_is_read_back(folder):
    sink = _sealed(folder)
    (folder / PARTIAL).write_bytes(images.content('B'))
    with contextlib.closing(sink.read_back()) as source:
        assert bytes(source.read(0, source.size)) == images.content('B')
    sink.abort()
