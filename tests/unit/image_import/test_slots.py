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
import subprocess
import sys
import threading
import time

import pytest

from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins import errors
from glance_conversion_plugins.image_import import slots

_CHILD = """
import sys, threading
from glance_conversion_plugins.copying import progress
from glance_conversion_plugins.image_import import slots
with slots.hold(int(sys.argv[1]), sys.argv[2], progress.Progress(),
                threading.Event()):
    print('held', flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / 'slots')


@pytest.fixture
def progress():
    return progress_.Progress()


def _cancelled():
    event = threading.Event()
    event.set()
    return event


def _is_full(limit, folder):
    """Whether one more would have to wait."""
    try:
        with slots.hold(limit, folder, progress_.Progress(), _cancelled()):
            return False
    except errors.Cancelled:
        return True


def _await_waiting(progress):
    for _ in range(6000):
        if 'Waiting for a free conversion slot' in str(progress):
            return
        time.sleep(0.01)
    pytest.fail(f'not waiting: {progress}')


def _child(limit, folder):
    return subprocess.Popen(
        [sys.executable, '-c', _CHILD, str(limit), folder],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_free_again_after_the_block(folder):
    for _ in range(3):
        with slots.hold(1, folder, progress_.Progress(), threading.Event()):
            assert _is_full(1, folder)
        assert not _is_full(1, folder)


def test_free_again_after_an_error(folder, progress):
    with pytest.raises(KeyError):
        with slots.hold(1, folder, progress, threading.Event()):
            raise KeyError
    assert not _is_full(1, folder)


def test_limit_over_threads(folder):
    limit, threads = 3, 10
    lock, now, seen = threading.Lock(), set(), []
    full = threading.Barrier(limit)

    def work(number):
        with slots.hold(limit, folder, progress_.Progress(),
                        threading.Event()):
            with lock:
                now.add(number)
                seen.append(len(now))
            # The first ones wait for each other: all slots are in use.
            if number < limit:
                full.wait(60)
            with lock:
                now.remove(number)

    first = [threading.Thread(target=work, args=(n,)) for n in range(limit)]
    for thread in first:
        thread.start()
    others = [threading.Thread(target=work, args=(n,))
              for n in range(limit, threads)]
    for thread in others:
        thread.start()
    for thread in first + others:
        thread.join(60)
    assert len(seen) == threads
    assert max(seen) == limit


def test_limit_over_processes(folder):
    with _child(2, folder) as one, _child(2, folder) as two:
        assert one.stdout.readline() == two.stdout.readline() == 'held\n'
        assert _is_full(2, folder)
        assert not _is_full(3, folder)
        one.communicate('\n', timeout=60)
        assert not _is_full(2, folder)
        two.communicate('\n', timeout=60)


def test_waits_for_a_process_that_is_killed(folder, progress):
    with _child(1, folder) as child:
        assert child.stdout.readline() == 'held\n'
        holding = threading.Event()

        def wait():
            with slots.hold(1, folder, progress, threading.Event()):
                holding.set()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        _await_waiting(progress)
        assert not holding.is_set()
        child.kill()
        child.wait()
        assert holding.wait(60)
        thread.join(60)
    assert 'Preparing' in str(progress)


def test_a_child_process_does_not_inherit_the_slot(folder, progress):
    sleeper = None
    try:
        with slots.hold(1, folder, progress, threading.Event()):
            sleeper = subprocess.Popen(['sleep', '60'])
        assert not _is_full(1, folder)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_cancel_while_waiting(folder, progress):
    cancel, outcome = threading.Event(), []

    def wait():
        try:
            with slots.hold(1, folder, progress, cancel):
                outcome.append('held')
        except errors.Cancelled as e:
            outcome.append(e)

    with slots.hold(1, folder, progress_.Progress(), threading.Event()):
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        _await_waiting(progress)
        cancel.set()
        thread.join(60)
    assert [type(o) for o in outcome] == [errors.Cancelled]
    assert not _is_full(1, folder)


def test_a_limit_that_is_lowered_counts_those_who_hold(folder, progress):
    with slots.hold(5, folder, progress, threading.Event()):
        assert _is_full(1, folder)


def test_folder_belongs_to_its_user_alone(folder, progress):
    with slots.hold(1, folder, progress, threading.Event()):
        assert os.stat(folder).st_mode & 0o777 == 0o700
        names = os.listdir(folder)
    assert names
    for name in names:
        mode = os.stat(os.path.join(folder, name)).st_mode
        assert mode & 0o077 == 0


def test_default_folder_is_in_the_folder_for_temporary_files(
        tmp_path, monkeypatch, progress):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    with slots.hold(1, None, progress, threading.Event()):
        assert _is_full(1, str(
            tmp_path / f'glance-conversion-slots-{os.getuid()}'))
