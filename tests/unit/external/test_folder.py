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

"""What is special to the folder of a file store; see sinks/test_file.py too.
"""

from concurrent import futures
import contextlib
import errno
import fcntl
import functools
import itertools
import os
import subprocess
import sys
import threading
import time

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
MARK = marks.Mark(IMAGE, TASK)
LATER_MARK = marks.Mark(IMAGE, LATER)
OTHER_MARK = marks.Mark(OTHER, TASK)
PARTIAL = f'.{IMAGE}.{TASK}.partial'
SEALED = f'.{IMAGE}.{TASK}.sealed'
REMOVED = f'.{IMAGE}.{TASK}.removed'
UNSEALED = f'.{IMAGE}.{TASK}.unsealed'
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
    with (_open(path) as folder,
          folder.create(marks.Mark(IMAGE, task_id)) as file):
        file.write(content)


def _publish(path, content=b'A', task_id=TASK):
    _write(path, content, task_id)
    with _open(path) as folder:
        folder.publish(marks.Mark(IMAGE, task_id))


def _sink(path, marker='', task_id=TASK):
    return file_sink.FileSink(
        lambda size: file_sink.Datadir(str(path), marker=marker),
        marks.Mark(IMAGE, task_id), zero_block_size=images.BLOCK)


def _sealed(path, task_id=TASK):
    """A sink that holds a whole image, and still has to publish it."""
    sink = _sink(path, task_id=task_id)
    sink.create(images.BLOCK)
    sink.write(memoryview(images.content('A')), 0)
    sink.seal()
    return sink


def _published(path, task_id=TASK):
    sink = _sealed(path, task_id)
    sink.publish()
    return sink


def _marked(path):
    with _open(path) as folder:
        return sorted(folder.marked())


# Names

def test_a_name_tells_whose_the_file_is_and_hides_it():
    mark = marks.Mark(IMAGE, TASK, 'deadbeef', 'node1')
    assert folders.name_of(MARK, marks.PARTIAL) == PARTIAL
    assert folders.name_of(MARK, marks.UNSEALED) == UNSEALED
    assert (folders.name_of(mark, marks.SEALED)
            == f'.{IMAGE}.{TASK}.deadbeef.sealed')


def test_marks_of_two_deployments_are_two(path, any_system):
    """They may share a folder; none of them touches the other's."""
    mine, theirs = (MARK._replace(deployment=deployment)
                    for deployment in ('deadbeef', '0badcafe'))
    with _open(path) as folder:
        folder.create(theirs).close()
        folder.create(mine).close()
        folder.publish(mine)
        assert sorted(folder.marked()) == [
            marks.Found(theirs, False), marks.Found(mine, True)]
        folder.discard(mine)
        assert list(folder.marked()) == [marks.Found(theirs, False)]
        assert not folder.fence(MARK)
        folder.discard(theirs)
    assert _names(path) == []


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
    assert _names(path) == [PARTIAL, MARKER]
    sink.publish()
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
            folder.publish(MARK)
    assert _names(path) == []
    assert _names(moved) == [PARTIAL]


def test_nothing_is_published_in_a_folder_that_is_gone(path, any_system):
    _write(path)
    with _open(path) as folder:
        moved = path.rename(path.with_name('moved'))
        with pytest.raises(errors.SinkFailed):
            folder.publish(MARK)
    assert _names(moved) == [PARTIAL]


def test_a_sink_writes_into_the_folder_that_it_opened(path):
    sink = _sink(path)
    sink.create(images.BLOCK)
    moved = _swap(path)
    sink.write(memoryview(images.content('A')), 0)
    assert _names(path) == []
    sink.abort()
    assert _names(moved) == _names(path) == []


@pytest.mark.parametrize('swapped', ['written', 'sealed'])
def test_a_sink_that_can_not_publish_leaves_nothing_behind(path, swapped,
                                                           any_system):
    """Neither where it wrote nor where it should have."""
    sink = _sink(path)
    sink.create(images.BLOCK)
    if swapped == 'written':
        moved = _swap(path)
    sink.seal()
    if swapped == 'sealed':
        moved = _swap(path)
    with pytest.raises(errors.SinkFailed, match='no longer mounted'):
        sink.publish()
    sink.abort()
    assert _names(path) == []
    assert _names(moved) == []


def test_a_folder_that_came_back_publishes(path):
    _write(path)
    with _open(path) as folder:
        moved = _swap(path)
        path.rmdir()
        moved.rename(path)
        folder.publish(MARK)
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
        folder.publish(MARK)
    assert _names(path) == [PARTIAL]


def test_after_a_rename_that_fails_a_discard_removes_all(path, without_links,
                                                         monkeypatch):
    def rename(*_args, **_kwargs):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    _write(path)
    with _open(path) as folder:
        with monkeypatch.context() as patch:
            patch.setattr(os, 'rename', rename)
            with pytest.raises(errors.SinkFailed):
                folder.publish(MARK)
        folder.discard(MARK)
    assert _names(path) == []


def test_a_mark_is_one_leftover(path, any_system):
    _publish(path)
    assert _marked(path) == [marks.Found(MARK, True)]


def test_discard_removes_all_that_was_published(path, any_system):
    _publish(path)
    (path / OTHER).touch()
    with _open(path) as folder:
        for _ in range(2):
            folder.discard(MARK)
            assert _names(path) == [OTHER]
            assert list(folder.marked()) == []


def test_discard_removes_what_was_not_published(path, any_system):
    _write(path)
    with _open(path) as folder:
        folder.discard(MARK)
    assert _names(path) == []


def test_discard_is_of_one_task(path, any_system):
    _publish(path)
    before = _names(path)
    with _open(path) as folder:
        folder.discard(LATER_MARK)
        folder.discard(OTHER_MARK)
    assert _names(path) == before


def test_hand_over_leaves_only_the_image(path, any_system):
    _publish(path)
    with _open(path) as folder:
        for was_there in (True, False):
            assert folder.hand_over(MARK) == was_there
            assert _names(path) == [IMAGE]
        assert list(folder.marked()) == []
        # From then on it is Glance's.
        folder.discard(MARK)
    assert (path / IMAGE).read_bytes() == b'A'


def test_a_taken_name_is_told_and_left_alone(path, any_system):
    _write(path)
    (path / IMAGE).write_text('of another')
    with _open(path) as folder:
        with pytest.raises(errors.AlreadyStored):
            folder.publish(MARK)
        assert _names(path) == [PARTIAL, IMAGE]
        folder.discard(MARK)
    assert _names(path) == [IMAGE]
    assert (path / IMAGE).read_text() == 'of another'


def test_of_two_tasks_the_first_to_publish_wins(path, any_system):
    _write(path, b'B', LATER)
    _publish(path, b'A', TASK)
    with _open(path) as folder:
        with pytest.raises(errors.AlreadyStored):
            folder.publish(LATER_MARK)
        folder.discard(LATER_MARK)
        assert (path / IMAGE).read_bytes() == b'A'
        assert list(folder.marked()) == [marks.Found(MARK, True)]


def test_a_sink_does_all_of_it_without_links(path, without_links):
    for finish, expected in (('abort', []), ('hand over', [IMAGE])):
        sink = _sink(path)
        sink.create(images.BLOCK)
        sink.write(memoryview(images.content('A')), 0)
        sink.seal()
        assert _names(path) == [PARTIAL]
        sink.publish()
        assert _names(path) == [SEALED, IMAGE]
        if finish == 'hand over':
            sink.hand_over()
            assert _names(path) == [IMAGE]
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
                    folder.publish(MARK)
            else:
                folder.publish(MARK)
            folder.discard(MARK)
        assert _names(path) == []
    finally:
        subprocess.run(['umount', '--lazy', str(path)], check=True)


# Whether its writer lives

def _is_open(path, task_id=TASK):
    with _open(path) as folder:
        return folder.is_open(marks.Mark(IMAGE, task_id))


def test_nothing_is_open_in_an_empty_folder(path):
    assert not _is_open(path)


def test_is_open_while_its_sink_lives(path, any_system):
    """Until it has handed over, however long Glance takes to record it."""
    sink = _sink(path)
    sink.create(images.BLOCK)
    for _ in range(2):
        assert _is_open(path)
        assert not _is_open(path, LATER)
    # That somebody looks does not disturb the writer.
    sink.write(memoryview(images.content('A')), 0)
    assert _is_open(path)
    sink.seal()
    assert _is_open(path)
    sink.publish()
    for _ in range(2):
        assert _is_open(path)
        assert not _is_open(path, LATER)
    sink.abort()
    assert not _is_open(path)


def test_is_open_at_every_moment_of_being_published(path, any_system,
                                                    monkeypatch):
    """Or its writer would be taken for dead in the middle of it."""
    sink, seen = _sealed(path), []
    with monkeypatch.context() as patch:
        _before_each(patch, lambda number: seen.append(_is_open(path)))
        sink.publish()
    sink.abort()
    assert len(seen) >= 2
    assert all(seen), seen


# What a sink has done when it ends, and how to get there.
STEPS = {
    'written': ('write',),
    'sealed': ('write', 'seal'),
    'published': ('write', 'seal', 'publish'),
}


def _at(path, state):
    """A sink that has come so far."""
    sink = _sink(path)
    sink.create(images.BLOCK)
    for step in STEPS[state]:
        if step == 'write':
            sink.write(memoryview(images.content('A')), 0)
        else:
            getattr(sink, step)()
    return sink


@pytest.mark.parametrize('state', STEPS)
@pytest.mark.parametrize('end', ['release', 'abort'])
def test_is_not_open_once_its_sink_has_let_go(path, any_system, state, end):
    sink = _at(path, state)
    try:
        assert _is_open(path)
        before = _names(path)
        for _ in range(2):
            getattr(sink, end)()
            # Nothing keeps the clean-up from it any more.
            assert not _is_open(path)
            assert _names(path) == ([] if end == 'abort' else before)
    finally:
        sink.abort()
    assert _names(path) == []


def test_is_not_open_once_it_was_handed_over(path, any_system):
    sink = _published(path)
    assert _is_open(path)
    sink.hand_over()
    assert not _is_open(path)
    # Nor has the image a lock of ours, by whatever name it goes.
    with _open(path) as folder:
        assert not folder._is_locked(IMAGE)
    assert _names(path) == [IMAGE]


def test_what_was_released_can_be_aborted(path, any_system):
    """As by whoever learns only then that Glance has not recorded it."""
    sink = _published(path)
    sink.release()
    assert IMAGE in _names(path)
    sink.abort()
    assert _names(path) == []


@pytest.mark.parametrize('state', STEPS)
def test_an_abort_that_fails_lets_go_all_the_same(path, any_system,
                                                  monkeypatch, state):
    """Or the clean-up would take the writer for alive while it runs."""
    def rename(*_args, **_kwargs):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    sink = _at(path, state)
    with monkeypatch.context() as patch:
        patch.setattr(os, 'rename', rename)
        sink.abort()
    was_open = _is_open(path)
    # The next attempt succeeds.
    sink.abort()
    assert _names(path) == []
    assert not was_open


_WRITER = '''
import errno
import fcntl
import os
import sys
from glance_conversion_plugins.copying.sinks import file
from glance_conversion_plugins.external import marks
place, image_id, task_id, system, *steps = sys.argv[1:]
if system == 'no links':
    def link(*_args, **_kwargs):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    os.link = link
sink = file.FileSink(lambda size: file.Datadir(place),
                     marks.Mark(image_id, task_id), zero_block_size=4096)
sink.create(1 << 20)
for step in steps:
    if step == 'write':
        sink.write(memoryview(b'A' * 4096), 0)
    else:
        getattr(sink, step)()
print('begun', flush=True)
sys.stdin.read()
'''


@pytest.mark.parametrize('state', STEPS)
def test_is_open_until_its_process_dies(path, any_system, state):
    with subprocess.Popen(
            [sys.executable, '-c', _WRITER, str(path), IMAGE, TASK,
             any_system, *STEPS[state]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout.readline() == b'begun\n'
            assert _is_open(path)
        finally:
            writer.kill()
        writer.wait(60)
    assert not _is_open(path)
    with _open(path) as folder:
        assert list(folder.marked()) == [
            marks.Found(MARK, state == 'published')]
        folder.discard(MARK)
    assert _names(path) == []


def test_what_nobody_began_here_is_not_open(path):
    """As one of a node that has lost its power."""
    (path / PARTIAL).touch()
    assert not _is_open(path)


@pytest.mark.parametrize('state', STEPS)
def test_is_open_although_it_was_taken_from_its_writer(path, any_system,
                                                       state):
    """Its writer may be at work with it, and does not know yet."""
    sink = _at(path, state)
    with _open(path) as folder:
        assert folder.fence(MARK)
    assert _is_open(path)
    assert not _is_open(path, LATER)
    sink.release()
    assert not _is_open(path)
    assert _names(path)


def _bears(path, mark=MARK):
    with _open(path) as folder:
        return folder.bears(mark)


@pytest.mark.parametrize('state', STEPS)
def test_bears_its_mark_until_it_is_taken(path, any_system, state):
    assert not _bears(path)
    sink = _at(path, state)
    assert _bears(path)
    assert not _bears(path, LATER_MARK)
    assert not _bears(path, OTHER_MARK)
    assert sink.is_held()
    with _open(path) as folder:
        folder.fence(MARK)
    assert not _bears(path)
    assert not sink.is_held()
    sink.release()
    # By another way into the folder, which was closed.
    assert not sink.is_held()


@pytest.mark.parametrize('state', STEPS)
def test_what_was_let_go_is_held_until_it_is_taken(path, any_system, state):
    sink = _at(path, state)
    sink.release()
    assert sink.is_held()
    with _open(path) as folder:
        folder.discard(MARK)
    assert not sink.is_held()


def test_what_was_never_begun_was_not_taken(path):
    """The name is another's, so nothing of this one ever was there."""
    _publish(path)
    sink = _sink(path, task_id=LATER)
    assert sink.is_held()
    with pytest.raises(errors.AlreadyStored):
        sink.create(images.BLOCK)
    assert sink.is_held()
    sink.release()


def test_a_folder_that_does_not_say_has_taken_nothing(path, any_system):
    sink = _sealed(path)
    sink.release()
    os.rename(path, f'{path}.away')
    assert sink.is_held()


# One at a time removes it

@pytest.fixture
def written_off(path, any_system, request):
    """Left by a writer that is gone, and taken from it or not."""
    state, fenced = request.param
    _at(path, state).release()
    if fenced:
        with _open(path) as folder:
            folder.fence(MARK)
    return path


EVERY_STATE = pytest.mark.parametrize(
    'written_off', [*itertools.product(STEPS, (False, True))], indirect=True,
    ids=lambda given: f'{given[0]}-{"fenced" if given[1] else "marked"}')


@EVERY_STATE
def test_what_is_claimed_nobody_else_can_claim(written_off):
    with _open(written_off) as one, _open(written_off) as two:
        with one.claimed(MARK):
            before = _names(written_off)
            with pytest.raises(errors.Busy), two.claimed(MARK):
                pytest.fail('both have it')
            assert _names(written_off) == before
        with two.claimed(MARK):
            two.discard(MARK)
    assert _names(written_off) == []


@EVERY_STATE
def test_a_claim_that_fails_lets_go_of_what_it_had(written_off):
    with _open(written_off) as folder:
        with pytest.raises(ZeroDivisionError), folder.claimed(MARK):
            raise ZeroDivisionError
        with folder.claimed(MARK):
            pass


@EVERY_STATE
def test_a_claim_is_of_one_writer(written_off):
    (written_off / f'.{IMAGE}.{LATER}.partial').touch()
    with (_open(written_off) as one, _open(written_off) as two,
          one.claimed(MARK), two.claimed(LATER_MARK),
          two.claimed(OTHER_MARK)):
        two.discard(LATER_MARK)
    assert f'.{IMAGE}.{LATER}.partial' not in _names(written_off)


@EVERY_STATE
def test_what_is_claimed_changes_nothing(written_off):
    before = _names(written_off)
    with _open(written_off) as folder, folder.claimed(MARK):
        assert _names(written_off) == before
    assert _names(written_off) == before


@pytest.mark.parametrize('fenced', [False, True])
@pytest.mark.parametrize('state', ['written', 'sealed'])
def test_what_a_writer_holds_can_not_be_claimed(path, any_system, state,
                                                fenced):
    sink = _at(path, state)
    with _open(path) as folder:
        if fenced:
            folder.fence(MARK)
        with pytest.raises(errors.Busy), folder.claimed(MARK):
            pytest.fail('its writer lives')
        sink.release()
        with folder.claimed(MARK):
            folder.discard(MARK)
    assert _names(path) == []


@pytest.mark.parametrize('fenced', [False, True])
def test_nor_once_it_is_published(path, fenced):
    sink = _at(path, 'published')
    with _open(path) as folder:
        if fenced:
            folder.fence(MARK)
        with pytest.raises(errors.Busy), folder.claimed(MARK):
            pytest.fail('its writer lives')
    sink.abort()


def test_what_is_not_there_can_be_claimed(path):
    with _open(path) as folder, folder.claimed(MARK):
        folder.discard(MARK)
    assert _names(path) == []


def test_where_no_locks_are_known_a_claim_is_none(path, any_system,
                                                  monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    _at(path, 'published').release()
    monkeypatch.setattr('fcntl.flock', flock)
    with _open(path) as folder, folder.claimed(MARK):
        folder.discard(MARK)
    assert _names(path) == []


@EVERY_STATE
def test_who_claims_late_removes_nothing_of_the_next(written_off):
    """The name is free by then, and another one may publish under it."""
    with _open(written_off) as one, _open(written_off) as two:
        with one.claimed(MARK):
            one.discard(MARK)
        _publish(written_off, b'B', LATER)
        before = _names(written_off)
        with two.claimed(MARK):
            two.discard(MARK)
    assert _names(written_off) == before
    assert (written_off / IMAGE).read_bytes() == b'B'


# Who has what was written: its writer, or who takes that for dead

def test_a_fenced_writer_can_neither_publish_nor_hand_over(path, any_system):
    sink = _sealed(path)
    with _open(path) as folder:
        assert folder.fence(MARK)
        assert _names(path) == [REMOVED]
        with pytest.raises(errors.Fenced):
            sink.publish()
        assert _names(path) == [REMOVED]
        with pytest.raises(errors.Fenced):
            sink.hand_over()
        assert _names(path) == [REMOVED]
        folder.discard(MARK)
    assert _names(path) == []
    sink.abort()
    assert _names(path) == []


def test_a_writer_that_was_discarded_can_neither_publish_nor_hand_over(
        path, any_system):
    sink = _sealed(path)
    with _open(path) as folder:
        folder.discard(MARK)
    assert _names(path) == []
    with pytest.raises(errors.Fenced):
        sink.publish()
    with pytest.raises(errors.Fenced):
        sink.hand_over()
    assert _names(path) == []
    sink.abort()


def test_hand_over_after_a_fence_is_refused(path, any_system):
    """Then Glance has it recorded in vain, and is told so."""
    sink = _published(path)
    with _open(path) as folder:
        assert folder.fence(MARK)
        assert not folder.hand_over(MARK)
        with pytest.raises(errors.Fenced):
            sink.hand_over()
        # Nothing is gone before it is discarded.
        assert (path / IMAGE).read_bytes() == images.content('A')
        assert list(folder.marked()) == [marks.Found(MARK, True)]
        folder.discard(MARK)
    assert _names(path) == []


def test_a_fence_after_the_hand_over_comes_too_late(path, any_system):
    sink = _published(path)
    sink.hand_over()
    with _open(path) as folder:
        for _ in range(2):
            assert not folder.fence(MARK)
            folder.discard(MARK)
        assert list(folder.marked()) == []
    assert _names(path) == [IMAGE]
    assert (path / IMAGE).read_bytes() == images.content('A')


@pytest.mark.parametrize(('write', 'links', 'no_links'), [
    (_write, [REMOVED], [REMOVED]),
    (_publish, [REMOVED, IMAGE], [UNSEALED, IMAGE])])
def test_a_fence_changes_the_mark_and_nothing_else(path, any_system, write,
                                                   links, no_links):
    write(path)
    with _open(path) as folder:
        # Who comes second has to know that somebody came first.
        for _ in range(2):
            assert folder.fence(MARK)
            assert _names(path) == (links if any_system == 'links'
                                    else no_links)
    for name in _names(path):
        assert (path / name).read_bytes() == (b'' if name == UNSEALED
                                              else b'A')


def test_there_is_no_fence_around_what_is_not_there(path, any_system):
    _publish(path)
    (path / OTHER).touch()
    before = _names(path)
    with _open(path) as folder:
        for mark in (LATER_MARK, OTHER_MARK,
                     MARK._replace(deployment='deadbeef')):
            assert not folder.fence(mark)
            folder.discard(mark)
            folder.give_back(mark)
            assert not folder.hand_over(mark)
    assert _names(path) == before


@pytest.mark.parametrize('write', [_write, _publish])
def test_a_fence_is_of_one_writer(path, any_system, write):
    _write(path, b'B', LATER)
    write(path)
    with _open(path) as folder:
        assert folder.fence(LATER_MARK)
        if write is _write:
            folder.publish(MARK)
        with pytest.raises((errors.Fenced, errors.AlreadyStored)):
            folder.publish(LATER_MARK)
        assert folder.hand_over(MARK)
        folder.discard(LATER_MARK)
    assert _names(path) == [IMAGE]
    assert (path / IMAGE).read_bytes() == b'A'


def test_what_was_fenced_leaves_the_name_to_the_next(path, any_system):
    """Nobody has to wait for the clean-up to complete."""
    _write(path)
    with _open(path) as folder:
        assert folder.fence(MARK)
        _publish(path, b'B', LATER)
        folder.discard(MARK)
        assert list(folder.marked()) == [marks.Found(LATER_MARK, True)]
        assert folder.hand_over(LATER_MARK)
    assert _names(path) == [IMAGE]
    assert (path / IMAGE).read_bytes() == b'B'


def test_a_fenced_image_that_is_glances_after_all_is_given_back(path,
                                                                any_system):
    sink = _published(path)
    with _open(path) as folder:
        assert folder.fence(MARK)
        for _ in range(2):
            folder.give_back(MARK)
            assert _names(path) == [IMAGE]
        assert list(folder.marked()) == []
        # Whatever the writer does by now.
        sink.hand_over()
        sink.abort()
        folder.discard(MARK)
    assert _names(path) == [IMAGE]
    assert (path / IMAGE).read_bytes() == images.content('A')
    assert os.stat(path / IMAGE).st_nlink == 1


def test_only_what_was_fenced_is_given_back(path, any_system):
    _publish(path)
    before = _names(path)
    with _open(path) as folder:
        folder.give_back(MARK)
        assert _names(path) == before
        assert folder.hand_over(MARK)


def _race(number, *calls):
    """Call two functions at nearly the same moment; what each returns.

    :param number: of the attempt; decides by how much which one comes first
    """
    lead = (number % 31 - 15) * 5e-5    # seconds
    barrier = threading.Barrier(len(calls), timeout=60)

    def call(function, delay):
        barrier.wait()
        time.sleep(max(0, delay))
        return function()

    with futures.ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls, (-lead, lead)))


def test_of_a_hand_over_and_a_fence_exactly_one_wins(path, any_system):
    winners = set()
    for number in range(300):
        _publish(path)
        with _open(path) as mine, _open(path) as theirs:
            handed_over, fenced = _race(
                number, functools.partial(mine.hand_over, MARK),
                functools.partial(theirs.fence, MARK))
            assert handed_over != fenced
            theirs.discard(MARK)
        assert _names(path) == ([IMAGE] if handed_over else [])
        (path / IMAGE).unlink(missing_ok=True)
        winners.add(handed_over)
    # Else it was no race.
    assert winners == {True, False}


def _finish(sink):
    """Do all that is left to do; says whether the image is Glance's."""
    try:
        sink.publish()
        sink.hand_over()
    except errors.Fenced:
        return False
    return True


def test_of_a_writer_and_a_fence_exactly_one_wins(path, any_system):
    """Also where it is published at that very moment."""
    for number in range(300):
        sink = _sealed(path)
        with _open(path) as folder:
            finished, fenced = _race(
                number, functools.partial(_finish, sink),
                functools.partial(folder.fence, MARK))
            assert finished != fenced
            if fenced:
                folder.discard(MARK)
        sink.abort()
        assert _names(path) == ([IMAGE] if finished else [])
        (path / IMAGE).unlink(missing_ok=True)


def test_of_two_fences_none_is_told_that_it_came_too_late(path, any_system):
    for number in range(100):
        _publish(path)
        with _open(path) as one, _open(path) as other:
            assert _race(number, functools.partial(one.fence, MARK),
                         functools.partial(other.fence, MARK)) == [True, True]
            _race(number, functools.partial(one.discard, MARK),
                  functools.partial(other.discard, MARK))
        assert _names(path) == []


# What the system is asked to do, and what may come in between

_CALLS = ('link', 'rename', 'unlink', 'open', 'fsync')


def _before_each(monkeypatch, act):
    """Do something before each call of the system that changes a folder.

    :param act: called with a number, from 0 on; what it calls is not counted
    """
    numbers, acting = itertools.count(), []

    def wrap(function):
        def wrapped(*args, **kwargs):
            if not acting:
                acting.append(True)
                try:
                    act(next(numbers))
                finally:
                    acting.clear()
            return function(*args, **kwargs)
        return wrapped

    for name in _CALLS:
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))


class Killed(BaseException):
    """Nothing that is there to handle an error is there any more."""


@contextlib.contextmanager
def _killed_before(monkeypatch, moment):
    """What dies before a call of the system does no other one either."""
    def act(number):
        if number >= moment:
            raise Killed

    with monkeypatch.context() as patch:
        _before_each(patch, act)
        yield


def _dies(monkeypatch, moment, call, *args):
    """Say whether a call gets so far that it can be killed there."""
    with _killed_before(monkeypatch, moment):
        try:
            call(*args)
        except Killed:
            return True
    return False


@pytest.mark.parametrize('write', [_write, _publish])
def test_a_discard_that_ends_with_the_fence_is_completed_later(
        path, any_system, write):
    write(path)
    with _open(path) as folder:
        assert folder.fence(MARK)
    assert _marked(path) == [marks.Found(MARK, write is _publish)]
    with _open(path) as folder:
        folder.discard(MARK)
        assert _names(path) == []
        assert not folder.fence(MARK)


@pytest.mark.parametrize('write', [_write, _publish])
def test_a_discard_that_removes_one_name_only_is_completed_later(
        path, any_system, monkeypatch, write):
    write(path)
    removed = []

    def unlink(name, **kwargs):
        if removed:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        removed.append(name)
        return real(name, **kwargs)

    real = os.unlink
    with monkeypatch.context() as patch, _open(path) as folder:
        patch.setattr(os, 'unlink', unlink)
        with pytest.raises(errors.SinkFailed):
            folder.discard(MARK)
    # The image goes first; what tells of it stays while anything does.
    assert IMAGE not in _names(path)
    assert [found.mark for found in _marked(path)] == (
        [MARK] if _names(path) else [])
    if write is _publish:
        assert _names(path)
    with _open(path) as folder:
        folder.discard(MARK)
    assert _names(path) == []


@pytest.mark.parametrize('write', [_write, _publish])
def test_a_discard_may_be_killed_at_any_moment(path, any_system, monkeypatch,
                                               write):
    for moment in itertools.count():
        write(path)
        with _open(path) as folder:
            died = _dies(monkeypatch, moment, folder.discard, MARK)
        if not died:
            break
        # Either nothing is left, or what is left tells so.
        assert {found.mark for found in _marked(path)} == (
            {MARK} if _names(path) else set())
        with _open(path) as folder:
            folder.discard(MARK)
        assert _names(path) == []
    assert moment >= 2
    assert _names(path) == []


@pytest.mark.parametrize('their_task', [LATER, ''])
def test_a_discard_that_was_killed_removes_nothing_of_others_later(
        path, any_system, monkeypatch, their_task):
    """Of a task that came meanwhile, or of nobody that is known."""
    for moment in itertools.count():
        _publish(path)
        with _open(path) as folder:
            died = _dies(monkeypatch, moment, folder.discard, MARK)
        if not died:
            break
        if not (path / IMAGE).exists():
            if their_task:
                _publish(path, b'B', their_task)
            else:
                (path / IMAGE).write_bytes(b'B')
            with _open(path) as folder:
                folder.discard(MARK)
            assert (path / IMAGE).exists(), f'killed before call {moment}'
            assert (path / IMAGE).read_bytes() == b'B'
            assert [found.mark for found in _marked(path)] == (
                [LATER_MARK] if their_task else [])
        for name in _names(path):
            (path / name).unlink()
    assert moment >= 2


@pytest.mark.parametrize('fenced', [False, True])
def test_a_discard_removes_nothing_that_another_one_published(
        path, any_system, fenced):
    _write(path)
    _publish(path, b'B', LATER)
    with _open(path) as folder:
        if fenced:
            assert folder.fence(MARK)
        folder.discard(MARK)
        assert (path / IMAGE).read_bytes() == b'B'
        assert list(folder.marked()) == [marks.Found(LATER_MARK, True)]


@pytest.mark.parametrize('fenced', [False, True])
def test_a_discard_removes_nothing_that_nobody_of_us_published(
        path, any_system, fenced):
    """As stock Glance, which sets no mark, or an import long ago."""
    _write(path)
    (path / IMAGE).write_bytes(b'B')
    with _open(path) as folder:
        if fenced:
            assert folder.fence(MARK)
        folder.discard(MARK)
    assert _names(path) == [IMAGE]
    assert (path / IMAGE).read_bytes() == b'B'


def test_being_published_may_be_killed_at_any_moment(path, any_system,
                                                     monkeypatch):
    """Whatever is left of it is ours to find, and to remove."""
    for moment in itertools.count():
        _write(path)
        with _open(path) as folder:
            died = _dies(monkeypatch, moment, folder.publish, MARK)
        assert MARK in {found.mark for found in _marked(path)}
        for found in _marked(path):
            with _open(path) as folder:
                folder.discard(found.mark)
        assert _names(path) == [], f'killed before call {moment}'
        if not died:
            break
    assert moment >= 2


@pytest.mark.parametrize('discard', [False, True])
def test_a_writer_may_be_fenced_at_any_moment_of_its_end(
        path, any_system, monkeypatch, discard):
    """It is told at the latest when it hands over; and nothing stays."""
    def fence(folder, fenced, moment, number):
        if number == moment:
            fenced.append(folder.fence(MARK))
            if discard:
                folder.discard(MARK)

    for moment in itertools.count():
        sink, fenced = _sealed(path), []
        with monkeypatch.context() as patch, _open(path) as folder:
            _before_each(patch, functools.partial(fence, folder, fenced,
                                                  moment))
            finished = _finish(sink)
        with _open(path) as folder:
            folder.discard(MARK)
        sink.abort()
        assert finished != any(fenced), f'before call {moment}'
        assert _names(path) == ([IMAGE] if finished else []), (
            f'before call {moment}')
        (path / IMAGE).unlink(missing_ok=True)
        if not fenced:
            break
    assert moment >= 4


# What is listed

def _left(path, state):
    """Bring an image into a state, as somebody has left it."""
    if 'published' in state:
        _publish(path)
    else:
        _write(path)
    if 'fenced' in state:
        with _open(path) as folder:
            assert folder.fence(MARK)


@pytest.mark.parametrize('state', ['written', 'written and fenced',
                                   'published', 'published and fenced'])
def test_a_leftover_tells_whether_it_is_published(path, any_system, state):
    _left(path, state)
    assert _marked(path) == [marks.Found(MARK, 'published' in state)]


@pytest.mark.parametrize('state', ['written', 'written and fenced'])
@pytest.mark.parametrize('theirs', [
    lambda path: _publish(path, b'B', LATER),
    lambda path: (path / IMAGE).write_bytes(b'B'),
    lambda path: (path / IMAGE).symlink_to(PARTIAL)],
    ids=['task', 'nobody', 'link'])
def test_what_others_published_is_not_ours(path, any_system, state, theirs):
    _left(path, state)
    theirs(path)
    assert [found for found in _marked(path)
            if found.mark == MARK] == [marks.Found(MARK, False)]


@pytest.mark.parametrize('state', ['published', 'published and fenced'])
def test_what_was_removed_is_not_published_any_more(path, any_system, state):
    """By Glance, which knows of no mark; or by a discard that was killed."""
    _left(path, state)
    (path / IMAGE).unlink()
    assert _marked(path) == [marks.Found(MARK, False)]


@pytest.mark.parametrize('mark', [SEALED, UNSEALED])
@pytest.mark.parametrize('beside', [PARTIAL, REMOVED])
def test_what_has_another_name_beside_its_mark_is_not_published(path, mark,
                                                                beside):
    """Without links a name is reserved before the file gets it, and kept
    until the file was removed.
    """
    for name in (mark, beside, IMAGE):
        (path / name).touch()
    with _open(path) as folder:
        assert {*folder.marked()} == {marks.Found(MARK, False)}
    (path / beside).unlink()
    with _open(path) as folder:
        assert [*folder.marked()] == [marks.Found(MARK, True)]


def test_what_was_replaced_is_no_state_of_a_file(path):
    (path / f'.{IMAGE}.{TASK}.replaced').touch()
    (path / f'{IMAGE}.{TASK}.partial').touch()
    assert _marked(path) == []


# Descriptors; the fixture counts them

def test_a_file_is_no_folder(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(errors.SinkFailed):
        _open(tmp_path / 'file')


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
            folder.create(MARK)
    (path / IMAGE).unlink()
    (path / PARTIAL).touch()
    with _open(path) as folder:
        with pytest.raises(errors.SinkFailed):
            folder.create(MARK)


def test_a_program_that_is_started_inherits_nothing(path):
    with _open(path) as folder, folder.create(MARK) as file:
        assert not os.get_inheritable(file.fileno())
        assert not os.get_inheritable(folder._fd)


# What Glance has recorded and is to go

def test_what_is_recorded_gets_a_mark_by_which_it_goes(path, any_system):
    (path / IMAGE).write_text('recorded')
    with _open(path) as folder:
        folder.mark_again(MARK)
        assert list(folder.marked()) == [marks.Found(MARK, True)]
        folder.discard(LATER_MARK)
        assert (path / IMAGE).read_text() == 'recorded'
        with folder.claimed(MARK):
            folder.discard(MARK)
    assert _names(path) == []


def test_a_mark_on_what_stays_recorded_goes_alone(path, any_system):
    (path / IMAGE).write_text('recorded')
    with _open(path) as folder:
        folder.mark_again(MARK)
        folder.hand_over(MARK)
    assert _names(path) == [IMAGE]


def test_what_is_not_there_gets_no_mark(path):
    with _open(path) as folder:
        folder.mark_again(MARK)
    assert _names(path) == []


def test_what_somebody_writes_gets_no_mark(path, any_system):
    _publish(path)
    before = _names(path)
    with _open(path) as folder, open(path / IMAGE, 'rb') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(errors.Busy):
            folder.mark_again(LATER_MARK)
    assert _names(path) == before
