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


import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import threading

import pytest

from glance_conversion_plugins.stores import placeholder

HEADER = placeholder.Header('11111111-2222-3333-4444-555555555555', 'task',
                          'qcow2', 'bare', 'node1')


@pytest.fixture
def made(tmp_path):
    found = placeholder.Placeholder(str(tmp_path), HEADER)
    found.create()
    yield found
    found.release()


def _head(path):
    with open(path, 'rb') as f:
        return f.read(4096)


def test_round_trip(made):
    made.release()
    assert placeholder.read_abandoned(made.path) == HEADER


def test_is_named_so_that_glance_knows_it(made, tmp_path):
    assert made.path == str(tmp_path / (HEADER.image_id + '.converted'))
    mode = stat.S_IMODE(os.stat(made.path).st_mode)
    assert mode & ~0o640 == 0
    assert mode & 0o600 == 0o600


def test_a_locked_one_is_not_abandoned(made):
    assert placeholder.read_abandoned(made.path) is None


def test_abandoned_when_its_process_is_killed(tmp_path):
    child = subprocess.Popen(
        [sys.executable, '-c',
         'import sys\n'
         'from glance_conversion_plugins.stores import placeholder\n'
         'p = placeholder.Placeholder(sys.argv[1], placeholder.Header('
         '"image", "task", "qcow2", "bare", "node1"))\n'
         'p.create()\n'
         'p.hand_on(p.path, 1 << 20)\n'
         'print(p.path, flush=True)\n'
         'sys.stdin.read()\n', str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        path = child.stdout.readline().strip()
        try:
            assert path
            assert placeholder.read_abandoned(path) is None
        finally:
            child.kill()
    assert placeholder.read_abandoned(path) == (
        'image', 'task', 'qcow2', 'bare', 'node1')
    assert os.path.getsize(path) == 1 << 20


def test_looking_does_not_keep_the_lock(made):
    made.release()
    for _ in range(2):
        assert placeholder.read_abandoned(made.path) == HEADER
    with open(made.path) as f:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_release_twice(made):
    made.release()
    made.release()
    assert placeholder.read_abandoned(made.path) == HEADER


@pytest.mark.parametrize('size', [4096, 4097, 100 << 30])
def test_has_the_length_of_the_image_and_little_content(made, size):
    made.hand_on(made.path, size)
    found = os.stat(made.path)
    assert found.st_size == size
    assert found.st_blocks * 512 <= 4096
    assert placeholder.is_placeholder(_head(made.path))


def test_shorter_than_its_head(made):
    """A converted image may have no more than one sector."""
    made.hand_on(made.path, 512)
    assert os.path.getsize(made.path) == 512
    assert placeholder.is_placeholder(_head(made.path))
    made.release()
    assert placeholder.read_abandoned(made.path) == HEADER


def test_a_second_one_does_no_harm_to_the_first(made, tmp_path):
    """Two imports of one image: the lock of the first was stolen."""
    made.hand_on(made.path, 1 << 20)
    with pytest.raises(OSError):
        placeholder.Placeholder(str(tmp_path),
                                HEADER._replace(task_id='2')).create()
    assert os.path.getsize(made.path) == 1 << 20
    assert placeholder.is_placeholder(_head(made.path))


def test_replaces_an_abandoned_one(made, tmp_path):
    made.hand_on(made.path, 1 << 20)
    made.release()
    later = placeholder.Placeholder(str(tmp_path),
                                    HEADER._replace(task_id='later'))
    later.create()
    later.release()
    assert placeholder.read_abandoned(made.path).task_id == 'later'
    assert os.path.getsize(made.path) == 4096


def _open_files():
    return sorted(os.listdir('/proc/self/fd'))


def test_one_that_is_not_made_has_nothing_to_let_go_of(tmp_path):
    found = placeholder.Placeholder(str(tmp_path / 'gone'), HEADER)
    before = _open_files()
    with pytest.raises(FileNotFoundError):
        found.create()
    found.release()
    found.remove()
    assert _open_files() == before


def test_what_is_let_go_of_is_closed_once(made):
    before = _open_files()
    for _ in range(3):
        made.release()
        assert len(_open_files()) == len(before) - 1


def test_one_that_is_held_is_not_kept_open_by_another_task(made, tmp_path):
    before = _open_files()
    other = placeholder.Placeholder(str(tmp_path), HEADER)
    with pytest.raises(BlockingIOError):
        other.create()
    assert _open_files() == before
    assert os.path.exists(made.path)


def test_one_that_there_is_no_room_for_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, 'no room')

    found = placeholder.Placeholder(str(tmp_path), HEADER)
    before = _open_files()
    with monkeypatch.context() as patch:
        patch.setattr(os, 'pwrite', fail)
        with pytest.raises(OSError, match='no room'):
            found.create()
    assert not os.path.exists(found.path)
    assert _open_files() == before


def test_does_not_follow_a_link(tmp_path):
    victim = tmp_path / 'victim'
    victim.write_bytes(b'precious')
    (tmp_path / (HEADER.image_id + '.converted')).symlink_to(victim)
    with pytest.raises(OSError):
        placeholder.Placeholder(str(tmp_path), HEADER).create()
    assert victim.read_bytes() == b'precious'


def test_is_consumed_once_glance_has_removed_what_it_was_given(made):
    other = made.path + '.raw'
    with open(other, 'wb') as f:
        f.write(b'converted')
    assert not made.is_consumed()
    made.hand_on(other, 9)
    assert not made.is_consumed()
    assert os.path.getsize(made.path) == 4096
    os.unlink(other)
    assert made.is_consumed()


def test_is_consumed_itself(made):
    made.hand_on(made.path, 1 << 20)
    assert not made.is_consumed()
    os.unlink(made.path)
    assert made.is_consumed()


@pytest.mark.parametrize('head', [
    b'', b'\0' * 4096, b'glance-conversion-plugins', b'QFI\xfb', b'{}',
    b'\nglance-conversion-plugins placeholder, not image data\n',
])
def test_other_data_is_no_placeholder(head):
    assert not placeholder.is_placeholder(head)


@pytest.mark.parametrize('content', [
    b'', b'A' * 10, b'\0' * 5000,
    b'glance-conversion-plugins placeholder, not image data\n',
    b'glance-conversion-plugins placeholder, not image data\n{"a"',
    b'glance-conversion-plugins placeholder, not image data\n[]',
    b'glance-conversion-plugins placeholder, not image data\n{"of": "v2"}',
    b'glance-conversion-plugins placeholder, not image data\n\xff',
])
def test_other_files_have_no_maker(tmp_path, content):
    path = tmp_path / 'x.converted'
    path.write_bytes(content)
    assert placeholder.read_abandoned(str(path)) is None


def test_a_file_that_is_gone_has_no_maker(tmp_path):
    assert placeholder.read_abandoned(str(tmp_path / 'gone')) is None


def test_a_link_has_no_maker(made, tmp_path):
    made.release()
    link = tmp_path / 'link.converted'
    link.symlink_to(made.path)
    assert placeholder.read_abandoned(str(link)) is None


def test_a_folder_has_no_maker(tmp_path):
    folder = tmp_path / 'folder.converted'
    folder.mkdir()
    assert placeholder.read_abandoned(str(folder)) is None


def test_remove_takes_the_file_and_the_lock(made):
    made.remove()
    assert not os.path.exists(made.path)
    made.remove()


def test_remove_of_one_that_glance_has_removed_takes_the_lock(made):
    os.unlink(made.path)
    before = _open_files()
    made.remove()
    assert len(_open_files()) == len(before) - 1


def test_remove_leaves_what_another_has_put_there(made, tmp_path):
    other = tmp_path / 'other'
    other.write_text('of the next import')
    other.rename(made.path)
    made.remove()
    with open(made.path) as f:
        assert f.read() == 'of the next import'


def test_one_of_a_version_that_did_not_say_where_is_of_no_host(made):
    said = {name: value for name, value in HEADER._asdict().items()
            if name != 'host'}
    with open(made.path, 'r+b') as f:
        head = f.read(placeholder.MAGIC_LENGTH) + json.dumps(said).encode()
        f.seek(0)
        f.write(head.ljust(placeholder.SMALLEST))
    made.release()
    assert placeholder.read_abandoned(made.path) == HEADER._replace(host='')


def test_whoever_begins_waits_for_the_one_who_tidies_up(tmp_path):
    """And has a placeholder of its own then."""
    old = placeholder.Placeholder(str(tmp_path), HEADER)
    old.create()
    old.release()
    new = placeholder.Placeholder(str(tmp_path),
                                  HEADER._replace(task_id='new'))
    thread = threading.Thread(target=new.create)
    with placeholder.taken(str(tmp_path), HEADER.image_id):
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        os.unlink(old.path)
    thread.join(60)
    assert os.path.samefile(new.path, f'/proc/self/fd/{new._fd}')
    assert placeholder.read_abandoned(new.path) is None
    new.release()
    assert placeholder.read_abandoned(new.path).task_id == 'new'


def test_whoever_tidies_up_leaves_the_place_of_a_living_one(made, tmp_path):
    with pytest.raises(BlockingIOError):
        with placeholder.taken(str(tmp_path), HEADER.image_id):
            pytest.fail('it has it')
    assert placeholder.is_placeholder(_head(made.path))


def test_another_task_of_this_node_is_told(made, tmp_path, monkeypatch):
    monkeypatch.setattr(placeholder, '_PATIENCE_SECONDS', 0.1)
    with pytest.raises(BlockingIOError):
        placeholder.Placeholder(str(tmp_path), HEADER).create()


def test_who_tidies_up_leaves_what_was_there_and_nothing_else(tmp_path):
    with placeholder.taken(str(tmp_path), HEADER.image_id):
        pass
    assert [*tmp_path.glob('*.converted')] == []
    old = placeholder.Placeholder(str(tmp_path), HEADER)
    old.create()
    old.release()
    with placeholder.taken(str(tmp_path), HEADER.image_id):
        pass
    assert placeholder.read_abandoned(old.path) == HEADER


def test_an_empty_file_in_its_place_goes_and_no_other(tmp_path):
    """It may be gone, and another be there, when its holder lets go."""
    new = placeholder.Placeholder(str(tmp_path), HEADER)
    with placeholder.taken(str(tmp_path), HEADER.image_id):
        os.unlink(new.path)
        new.create()
        os.truncate(new.path, 0)
    assert os.path.exists(new.path)
    new.remove()
    with placeholder.taken(str(tmp_path), HEADER.image_id):
        os.unlink(new.path)
    assert not os.path.exists(new.path)
