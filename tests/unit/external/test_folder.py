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

"""What is special to the folder of a file store; see test_file_sink.py too.
"""

import errno
import os
import subprocess
import sys

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
SEALED = f'.{IMAGE}.{TASK}.sealed'
MARKER = '.mounted'


@pytest.fixture
def path(tmp_path):
    found = tmp_path / 'store'
    found.mkdir()
    return found


@pytest.fixture(autouse=True)
def no_descriptor_left():
    before = len(os.listdir('/proc/self/fd'))
    yield
    assert len(os.listdir('/proc/self/fd')) == before


@pytest.fixture
def without_links(monkeypatch):
    """A file system that knows no second names.

    Only a stand-in: the functional tests use a real one.
    """
    def link(*_args, **_kwargs):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, 'link', link)


@pytest.fixture(params=['links', 'no links'])
def any_system(request):
    if request.param == 'no links':
        request.getfixturevalue('without_links')
    return request.param


def _names(path):
    return sorted(os.listdir(path))


def _open(path, marker=''):
    return folders.Folder(str(path), marker)


def _write(path, content=b'A', task_id=TASK):
    """Write an image that is not yet published."""
    with _open(path) as folder, folder.create(IMAGE, task_id) as file:
        file.write(content)


def _publish(path, content=b'A', task_id=TASK):
    _write(path, content, task_id)
    with _open(path) as folder:
        folder.publish(IMAGE, task_id)


def _sink(path, marker='', task_id=TASK):
    return file_sink.FileSink(
        lambda size: file_sink.Datadir(str(path), marker=marker), IMAGE,
        task_id, zero_block_size=images.BLOCK)


# Whether it is mounted

def test_without_its_marker_a_folder_is_not_mounted(path, caplog):
    with pytest.raises(errors.WriteDenied, match='not mounted') as caught:
        _open(path, MARKER)
    assert str(path) not in str(caught.value)
    assert str(path) in caplog.text
    assert MARKER in caplog.text


def test_nothing_is_created_where_nothing_is_mounted(path):
    sink = _sink(path, MARKER)
    with pytest.raises(errors.WriteDenied):
        sink.create(images.BLOCK)
    sink.abort()
    assert _names(path) == []


@pytest.mark.parametrize('make', [
    lambda path: path.touch(), lambda path: path.mkdir(),
    lambda path: path.symlink_to('/nowhere')], ids=['file', 'dir', 'link'])
def test_a_marker_may_be_anything(path, make):
    make(path / MARKER)
    sink = _sink(path, MARKER)
    sink.create(images.BLOCK)
    sink.seal()
    assert _names(path) == [PARTIAL, MARKER, IMAGE]
    sink.abort()
    assert _names(path) == [MARKER]


def test_a_marker_that_can_not_be_looked_for(path):
    """As where a file server does not answer, or a name is no name."""
    (path / MARKER).touch()
    with pytest.raises(errors.SinkFailed):
        _open(path, MARKER + '/')


def test_a_folder_that_is_not_there(path):
    path.rmdir()
    for marker in ('', MARKER):
        with pytest.raises(errors.SinkFailed) as caught:
            _open(path, marker)
        assert str(path) not in str(caught.value)


# A folder in whose place there is another by now

def _swap(path):
    """As a mount or an unmount does."""
    moved = path.with_name('moved')
    path.rename(moved)
    path.mkdir()
    return moved


def test_nothing_is_published_in_a_folder_that_was_swapped(path, any_system):
    _write(path)
    with _open(path) as folder:
        moved = _swap(path)
        with pytest.raises(errors.SinkFailed, match='no longer mounted'):
            folder.publish(IMAGE, TASK)
    assert _names(path) == []
    assert _names(moved) == [PARTIAL]


def test_nothing_is_published_in_a_folder_that_is_gone(path, any_system):
    _write(path)
    with _open(path) as folder:
        moved = path.rename(path.with_name('moved'))
        with pytest.raises(errors.SinkFailed):
            folder.publish(IMAGE, TASK)
    assert _names(moved) == [PARTIAL]


def test_a_sink_writes_into_the_folder_that_it_opened(path):
    sink = _sink(path)
    sink.create(images.BLOCK)
    moved = _swap(path)
    sink.write(memoryview(images.content('A')), 0)
    assert _names(path) == []
    sink.abort()
    assert _names(moved) == _names(path) == []


def test_a_sink_that_can_not_seal_leaves_nothing_behind(path):
    """Neither where it wrote nor where it should have."""
    sink = _sink(path)
    sink.create(images.BLOCK)
    moved = _swap(path)
    with pytest.raises(errors.SinkFailed):
        sink.seal()
    sink.abort()
    assert _names(path) == []
    assert _names(moved) == []


def test_a_folder_that_came_back_publishes(path):
    _write(path)
    with _open(path) as folder:
        moved = _swap(path)
        path.rmdir()
        moved.rename(path)
        folder.publish(IMAGE, TASK)
    assert _names(path) == [PARTIAL, IMAGE]


# Where files have one name only

def test_a_mark_stands_for_the_second_name(path, without_links):
    _publish(path)
    assert _names(path) == [SEALED, IMAGE]
    assert (path / IMAGE).read_bytes() == b'A'
    assert (path / SEALED).read_bytes() == b''


@pytest.mark.parametrize('number', [errno.EPERM, errno.EOPNOTSUPP,
                                    errno.ENOSYS])
def test_file_systems_differ_in_how_they_say_so(path, monkeypatch, number):
    def link(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, 'link', link)
    _publish(path)
    assert _names(path) == [SEALED, IMAGE]


def test_a_link_that_fails_for_another_reason_is_no_mark(path, monkeypatch):
    def link(*_args, **_kwargs):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, 'link', link)
    _write(path)
    with _open(path) as folder, pytest.raises(errors.SinkFailed):
        folder.publish(IMAGE, TASK)
    assert _names(path) == [PARTIAL]


def test_a_mark_is_one_leftover(path, any_system):
    _publish(path)
    with _open(path) as folder:
        assert list(folder.marked()) == [marks.Mark(IMAGE, TASK)]


def test_discard_removes_all_that_was_published(path, any_system):
    _publish(path)
    (path / OTHER).touch()
    with _open(path) as folder:
        for _ in range(2):
            folder.discard(IMAGE, TASK)
            assert _names(path) == [OTHER]
            assert list(folder.marked()) == []


def test_discard_removes_what_was_not_published(path, any_system):
    _write(path)
    with _open(path) as folder:
        folder.discard(IMAGE, TASK)
    assert _names(path) == []


def test_discard_is_of_one_task(path, any_system):
    _publish(path)
    before = _names(path)
    with _open(path) as folder:
        folder.discard(IMAGE, LATER)
        folder.discard(OTHER, TASK)
    assert _names(path) == before


def test_hand_over_leaves_only_the_image(path, any_system):
    _publish(path)
    with _open(path) as folder:
        for _ in range(2):
            folder.hand_over(IMAGE, TASK)
            assert _names(path) == [IMAGE]
        assert list(folder.marked()) == []
        # From then on it is Glance's.
        folder.discard(IMAGE, TASK)
    assert (path / IMAGE).read_bytes() == b'A'


def test_a_taken_name_is_told_and_left_alone(path, any_system):
    _write(path)
    (path / IMAGE).write_text('of another')
    with _open(path) as folder:
        with pytest.raises(errors.AlreadyStored):
            folder.publish(IMAGE, TASK)
        assert _names(path) == [PARTIAL, IMAGE]
        folder.discard(IMAGE, TASK)
    assert _names(path) == [IMAGE]
    assert (path / IMAGE).read_text() == 'of another'


def test_of_two_tasks_the_first_to_publish_wins(path, any_system):
    _write(path, b'B', LATER)
    _publish(path, b'A', TASK)
    with _open(path) as folder:
        with pytest.raises(errors.AlreadyStored):
            folder.publish(IMAGE, LATER)
        folder.discard(IMAGE, LATER)
        assert (path / IMAGE).read_bytes() == b'A'
        assert list(folder.marked()) == [marks.Mark(IMAGE, TASK)]


def test_a_sink_does_all_of_it_without_links(path, without_links):
    for finish, expected in (('abort', []), ('hand over', [IMAGE])):
        sink = _sink(path)
        sink.create(images.BLOCK)
        sink.write(memoryview(images.content('A')), 0)
        sink.seal()
        assert _names(path) == [SEALED, IMAGE]
        if finish == 'hand over':
            with _open(path) as folder:
                folder.hand_over(IMAGE, TASK)
        sink.abort()
        assert _names(path) == expected
    assert (path / IMAGE).read_bytes() == images.content('A')


@pytest.mark.parametrize('free', [0, 1, 2])
def test_no_room_for_a_mark_leaves_nothing(path, without_links, free):
    """Else no later attempt could take the name of the image."""
    # The folder itself, the image that is written, and what is left.
    subprocess.run(['mount', '-t', 'tmpfs', '-o', f'nr_inodes={2 + free}',
                    'tmpfs', str(path)], check=True)
    try:
        _write(path)
        with _open(path) as folder:
            if free < 2:
                with pytest.raises(errors.StoreFull):
                    folder.publish(IMAGE, TASK)
            else:
                folder.publish(IMAGE, TASK)
            folder.discard(IMAGE, TASK)
        assert _names(path) == []
    finally:
        subprocess.run(['umount', '--lazy', str(path)], check=True)


# Whether its writer lives

def _is_open(path, task_id=TASK):
    with _open(path) as folder:
        return folder.is_open(IMAGE, task_id)


def test_nothing_is_open_in_an_empty_folder(path):
    assert not _is_open(path)


def test_is_open_while_its_sink_lives(path, any_system):
    sink = _sink(path)
    sink.create(images.BLOCK)
    for _ in range(2):
        assert _is_open(path)
        assert not _is_open(path, LATER)
    # That somebody looks does not disturb the writer.
    sink.write(memoryview(images.content('A')), 0)
    assert _is_open(path)
    sink.seal()
    assert not _is_open(path)
    sink.abort()
    assert not _is_open(path)


def test_is_not_open_once_its_sink_was_aborted(path):
    sink = _sink(path)
    sink.create(images.BLOCK)
    sink.abort()
    assert not _is_open(path)


_WRITER = '''
import sys
from glance_conversion_plugins.copying.sinks import file
sink = file.FileSink(lambda size: file.Datadir(sys.argv[1]), *sys.argv[2:],
                     zero_block_size=4096)
sink.create(1 << 20)
sink.write(memoryview(b'A' * 4096), 0)
print('begun', flush=True)
sys.stdin.read()
'''


def test_is_open_until_its_process_dies(path):
    with subprocess.Popen(
            [sys.executable, '-c', _WRITER, str(path), IMAGE, TASK],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout.readline() == b'begun\n'
            assert _is_open(path)
        finally:
            writer.kill()
        writer.wait(60)
    assert not _is_open(path)
    with _open(path) as folder:
        assert list(folder.marked()) == [marks.Mark(IMAGE, TASK)]
        folder.discard(IMAGE, TASK)
    assert _names(path) == []


def test_what_nobody_began_here_is_not_open(path):
    """As one of a node that has lost its power."""
    (path / PARTIAL).touch()
    assert not _is_open(path)


# Descriptors; the fixture counts them

def test_may_be_closed_twice(path):
    folder = _open(path)
    folder.close()
    folder.close()
    with _open(path) as folder:
        folder.close()


def test_is_reopened_only_if_it_was_closed(path):
    folder = _open(path)
    assert folder.reopened() is folder
    folder.close()
    with folder.reopened() as again:
        assert again is not folder
        assert not again.holds(IMAGE)


def test_a_name_that_is_taken_leaves_no_descriptor(path):
    (path / IMAGE).touch()
    with _open(path) as folder:
        with pytest.raises(errors.AlreadyStored):
            folder.create(IMAGE, TASK)
    (path / IMAGE).unlink()
    (path / PARTIAL).touch()
    with _open(path) as folder:
        with pytest.raises(errors.SinkFailed):
            folder.create(IMAGE, TASK)


def test_a_program_that_is_started_inherits_nothing(path):
    with _open(path) as folder, folder.create(IMAGE, TASK) as file:
        assert not os.get_inheritable(file.fileno())
        assert not os.get_inheritable(folder._fd)
