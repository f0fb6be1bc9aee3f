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

"""What the tests of processes look at, and wait for."""

import contextlib
import os
import time

import pytest


def proc(pid, name):
    """Read what the kernel says of a process; '' if it is gone."""
    try:
        with open(f'/proc/{pid}/{name}') as f:
            return f.read()
    except (FileNotFoundError, ProcessLookupError):
        return ''


def wait_for(condition, what):
    """Wait for something that another process does."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail(f'waited in vain for {what}')


def wait_for_comm(pid, name):
    """Wait until a process has become a program."""
    wait_for(lambda: proc(pid, 'comm').strip() == name, name)


def is_gone(pid):
    """Ended; nobody may be there to reap it in a container."""
    stat = proc(pid, 'stat')
    return not stat or stat.rpartition(')')[2].split()[0] == 'Z'


def children(name):
    """The pids of our own processes that run a program."""
    found = []
    for task in os.listdir('/proc/self/task'):
        for pid in proc('self', f'task/{task}/children').split():
            if proc(pid, 'comm').strip() == name:
                found.append(int(pid))
    return found


def flags(pid, path):
    """How a process has opened a file."""
    found = []
    for fd in os.listdir(f'/proc/{pid}/fd'):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f'/proc/{pid}/fd/{fd}') == path:
                info = dict(line.split(':', 1) for line in
                            proc(pid, f'fdinfo/{fd}').splitlines())
                found.append(int(info['flags'], 8))
    return found
