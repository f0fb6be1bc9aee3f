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

import os
import stat
import subprocess
import sys
import tempfile

import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import locks


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'lock')


@pytest.fixture
def held(path):
    fd = locks.acquire(path)
    yield fd
    os.close(fd)


def test_a_lock_has_one_holder(path, held):
    assert held is not None
    assert locks.acquire(path) is None


def test_who_asks_in_vain_leaves_no_descriptor(path, held):
    before = len(os.listdir('/proc/self/fd'))
    for _ in range(3):
        locks.acquire(path)
        locks.is_free(path)
    assert len(os.listdir('/proc/self/fd')) == before


def test_a_lock_that_was_let_go_can_be_had_again(path):
    for _ in range(3):
        fd = locks.acquire(path)
        assert fd is not None
        os.close(fd)


def test_a_lock_is_its_users_alone(path, held):
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_nothing_is_written_into_a_file_that_is_there(path):
    with open(path, 'w') as f:
        f.write('kept')
    os.close(locks.acquire(path))
    with open(path) as f:
        assert f.read() == 'kept'


def test_a_link_is_not_followed(path, tmp_path):
    os.symlink(tmp_path / 'elsewhere', path)
    with pytest.raises(OSError, match='symbolic'):
        locks.acquire(path)
    assert not locks.is_free(path)
    assert not (tmp_path / 'elsewhere').exists()


def test_a_program_that_is_started_does_not_hold_it(path):
    fd = locks.acquire(path)
    with subprocess.Popen([sys.executable, '-c', 'print(flush=1); input()'],
                          close_fds=False, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        os.close(fd)
        assert locks.is_free(path)
        child.kill()


def test_a_lock_is_free_if_it_is_there_and_nobody_holds_it(path):
    assert not locks.is_free(path)
    assert not os.path.exists(path)
    fd = locks.acquire(path)
    assert not locks.is_free(path)
    os.close(fd)
    assert locks.is_free(path)


def test_to_look_is_not_to_take_it(path):
    os.close(locks.acquire(path))
    for _ in range(3):
        assert locks.is_free(path)
    fd = locks.acquire(path)
    assert fd is not None
    os.close(fd)


def test_what_can_not_be_looked_at_is_not_free(tmp_path):
    assert not locks.is_free(str(tmp_path / 'no' / 'such' / 'folder'))
    assert not locks.is_free(str(tmp_path / ('x' * 300)))


# Where they live

def test_a_folder_that_is_named_is_made(tmp_path):
    path = str(tmp_path / 'a' / 'b')
    assert locks.folder(path) == path
    assert locks.folder(path) == path
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    return tmp_path


@pytest.mark.parametrize('unset', [None, ''])
def test_without_a_name_it_is_a_folder_of_this_user(temporary, unset):
    found = locks.folder(unset)
    assert os.path.dirname(found) == str(temporary)
    assert found.endswith(f'-{os.getuid()}')
    assert stat.S_IMODE(os.stat(found).st_mode) == 0o700


def test_a_folder_that_somebody_else_has_made_is_refused(temporary, caplog):
    os.chown(locks.folder(None), 12345, -1)
    with pytest.raises(errors.Misconfigured, match='not safe'):
        locks.folder(None)
    assert 'lock_path' in caplog.text


def test_a_link_in_the_place_of_that_folder_is_refused(temporary):
    os.rename(locks.folder(None), temporary / 'elsewhere')
    os.symlink(temporary / 'elsewhere',
               temporary / f'glance-conversion-slots-{os.getuid()}')
    with pytest.raises(errors.Misconfigured):
        locks.folder(None)
