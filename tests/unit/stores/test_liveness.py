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

"""Real processes, which are killed, stopped and forked."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid

import pytest

from glance_conversion_plugins.external import marks
from glance_conversion_plugins.stores import liveness
from tests.unit import processes

DAY = 24 * 3600

# Says what it is called whenever it is asked; forks if it is told to.
CHILD = """
import os, sys
from oslo_concurrency import lockutils
from glance_conversion_plugins.stores import liveness
lockutils.set_defaults(sys.argv[1])
for line in sys.stdin:
    if line.strip() == 'fork' and not (pid := os.fork()):
        print(os.getpid(), liveness.new_id(), flush=True)
        while True:
            os.read(int(sys.argv[2]), 1) or os._exit(0)
    elif line.strip() == 'id':
        print(os.getpid(), liveness.new_id(), flush=True)
"""


class Process:
    """Another process, with ids of its own."""

    def __init__(self, folder):
        self._ends, self._end = os.pipe()
        self.popen = subprocess.Popen(
            [sys.executable, '-c', CHILD, str(folder), str(self._ends)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            pass_fds=[self._ends])

    def ask(self, what='id'):
        """(pid, id) of the process that answers."""
        self.popen.stdin.write(f'{what}\n')
        self.popen.stdin.flush()
        pid, name = self.popen.stdout.readline().split()
        return int(pid), name

    def kill(self):
        self.popen.kill()
        self.popen.wait()

    def close(self):
        os.close(self._end)         # by that a fork ends
        os.close(self._ends)
        self.kill()
        self.popen.stdin.close()
        self.popen.stdout.close()


@pytest.fixture
def other(lock_files):
    found = Process(lock_files)
    yield found
    found.close()


def _process(name):
    return name.partition('-')[0]


def _file(lock_files, name):
    return lock_files / f'glance-conversion-process-{_process(name)}'


# Ids

def test_each_id_is_another_of_one_process():
    ids = [liveness.new_id() for _ in range(100)]
    assert len({*ids}) == 100
    assert len({_process(each) for each in ids}) == 1


def test_an_id_is_told_from_that_of_a_task():
    assert liveness.is_id(liveness.new_id())
    assert not liveness.is_id(str(uuid.uuid4()))
    assert not liveness.is_id(f'{liveness.new_id()}.')


def test_two_processes_have_different_names(other):
    assert _process(other.ask()[1]) != _process(liveness.new_id())


@pytest.mark.parametrize('state', [
    marks.PARTIAL, marks.SEALED, marks.REPLACED, marks.REMOVED,
    marks.UNSEALED])
def test_an_id_fits_into_the_name_of_an_image(state):
    """Clients of RBD take no more than 96 characters."""
    mark = marks.Mark(str(uuid.uuid4()), liveness.new_id(), '0123abcd')
    assert len(mark.name(state)) <= 96
    assert marks.parse(mark.name(state), state) == mark


def test_a_process_has_one_file(lock_files):
    for _ in range(3):
        name = liveness.new_id()
    assert [*lock_files.iterdir()] == [_file(lock_files, name)]


# Who is dead

def test_this_process_lives():
    assert not liveness.is_dead(liveness.new_id())


def test_a_process_is_dead_once_it_is_killed(other):
    ids = [other.ask()[1] for _ in range(2)]
    assert not any(liveness.is_dead(each) for each in ids)
    other.kill()
    assert all(liveness.is_dead(each) for each in ids)
    assert not liveness.is_dead(liveness.new_id())


def test_a_process_that_sleeps_is_not_dead(other):
    pid, name = other.ask()
    os.kill(pid, signal.SIGSTOP)
    processes.wait_for(lambda: ') T ' in processes.proc(pid, 'stat'),
                       'it to stop')
    assert not liveness.is_dead(name)
    os.kill(pid, signal.SIGCONT)
    assert _process(other.ask()[1]) == _process(name)
    assert not liveness.is_dead(name)


def test_a_process_that_ended_by_itself_is_dead(other):
    _, name = other.ask()
    other.popen.stdin.close()
    other.popen.wait(60)
    assert liveness.is_dead(name)


def test_a_fork_has_another_name(other):
    pid, name = other.ask()
    fork, its = other.ask('fork')
    assert fork != pid
    assert _process(its) != _process(name)
    assert _process(other.ask()[1]) == _process(name)
    os.kill(fork, signal.SIGKILL)
    processes.wait_for(lambda: liveness.is_dead(its), 'its death')
    assert not liveness.is_dead(name)


def test_a_process_whose_fork_lives_is_not_known_to_be_dead(other):
    """They share a lock; that is safe, only late."""
    _, name = other.ask()
    fork, its = other.ask('fork')
    other.kill()
    assert not liveness.is_dead(name)
    assert not liveness.is_dead(its)
    os.kill(fork, signal.SIGKILL)
    processes.wait_for(lambda: liveness.is_dead(name), 'its death')
    assert liveness.is_dead(its)


@pytest.mark.parametrize('name', [
    '', 'x', str(uuid.uuid4()), '0123456789abcdef',
    # Of another node, say.
    '0123456789abcdef-01234567',
    '0123456789ABCDEF-01234567', '0123456789abcdef-01234567\n',
    '../../../../etc/passwd', '0123456789abcdef-0123456'])
def test_of_what_is_not_known_nobody_says_that_it_is_dead(lock_files, name):
    liveness.new_id()
    assert not liveness.is_dead(name)


@pytest.mark.parametrize('name', ['0123456789abcdef', str(uuid.uuid4())])
def test_a_file_alone_makes_no_id(lock_files, name):
    _file(lock_files, name).touch()
    assert not liveness.is_dead(name)


def test_with_another_folder_nobody_can_say_so(other, override, tmp_path):
    _, name = other.ask()
    other.kill()
    override('lock_path', str(tmp_path / 'another'), 'oslo_concurrency')
    assert not liveness.is_dead(name)
    override('lock_path', str(tmp_path / 'locks'), 'oslo_concurrency')
    assert liveness.is_dead(name)


# What is left of the dead

def _age(path, seconds):
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


@pytest.mark.parametrize(('days', 'expected'), [
    (0, True), (6.9, True), (7.1, False), (100, False)])
def test_files_of_the_dead_go_when_no_mark_can_name_them_any_more(
        other, lock_files, days, expected):
    _, name = other.ask()
    other.kill()
    _age(_file(lock_files, name), days * DAY)
    liveness.forget_dead()
    assert _file(lock_files, name).exists() is expected
    assert liveness.is_dead(name) is expected


def test_files_of_the_living_never_go(other, lock_files):
    names = [other.ask()[1], liveness.new_id()]
    for name in names:
        _age(_file(lock_files, name), 1000 * DAY)
    liveness.forget_dead()
    assert all(_file(lock_files, name).exists() for name in names)
    other.kill()
    assert [liveness.is_dead(name) for name in names] == [True, False]


def test_other_files_never_go(lock_files):
    for name in ('glance-conversion-slot-0', 'glance-conversion-prefetch',
                 'nova-process-0123456789abcdef'):
        (lock_files / name).touch()
        _age(lock_files / name, 1000 * DAY)
    liveness.forget_dead()
    assert len([*lock_files.iterdir()]) == 3


def test_a_file_that_somebody_else_removes_is_no_failure(lock_files,
                                                         monkeypatch):
    path = _file(lock_files, '0123456789abcdef')
    path.touch()
    is_free = liveness.locks.is_free

    def removed_meanwhile(name):
        found = is_free(name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        return found

    monkeypatch.setattr(liveness.locks, 'is_free', removed_meanwhile)
    liveness.forget_dead()
    assert not path.exists()
