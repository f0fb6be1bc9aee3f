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
from glance_conversion_plugins.copying import slots
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import tickets

_CHILD = """
import sys, threading
from glance_conversion_plugins.copying import progress
from glance_conversion_plugins.copying import slots
with slots.hold(slots.Limits(int(sys.argv[1])), sys.argv[2],
                progress.Progress(),
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


def _holders(folder):
    return list(tickets.held(folder, slots.CONVERSION.slot,
                             are_tickets=False).values())


def _cancelled():
    event = threading.Event()
    event.set()
    return event


def _is_full(limit, folder):
    """Whether one more would have to wait."""
    try:
        with slots.hold(slots.Limits(limit), folder, progress_.Progress(),
                        _cancelled()):
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
        with slots.hold(slots.Limits(1), folder, progress_.Progress(),
                        threading.Event()):
            assert _is_full(1, folder)
        assert not _is_full(1, folder)


def test_free_again_after_an_error(folder, progress):
    with pytest.raises(KeyError):
        with slots.hold(slots.Limits(1), folder, progress, threading.Event()):
            raise KeyError
    assert not _is_full(1, folder)


def test_limit_over_threads(folder):
    limit, threads = 3, 10
    lock, now, seen = threading.Lock(), set(), []
    full = threading.Barrier(limit)

    def work(number):
        with slots.hold(slots.Limits(limit), folder, progress_.Progress(),
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
            with slots.hold(slots.Limits(1), folder, progress,
                            threading.Event()):
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
        with slots.hold(slots.Limits(1), folder, progress, threading.Event()):
            sleeper = subprocess.Popen(['sleep', '60'])
        assert not _is_full(1, folder)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_cancel_while_waiting(folder, progress):
    cancel, outcome = threading.Event(), []

    def wait():
        try:
            with slots.hold(slots.Limits(1), folder, progress, cancel):
                outcome.append('held')
        except errors.Cancelled as e:
            outcome.append(e)

    with slots.hold(slots.Limits(1), folder, progress_.Progress(),
                    threading.Event()):
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        _await_waiting(progress)
        cancel.set()
        thread.join(60)
    assert [type(o) for o in outcome] == [errors.Cancelled]
    assert not _is_full(1, folder)


def test_a_limit_that_is_lowered_counts_those_who_hold(folder, progress):
    with slots.hold(slots.Limits(5), folder, progress, threading.Event()):
        assert _is_full(1, folder)


def test_folder_belongs_to_its_user_alone(folder, progress):
    with slots.hold(slots.Limits(1), folder, progress, threading.Event()):
        assert os.stat(folder).st_mode & 0o777 == 0o700
        names = os.listdir(folder)
    assert names
    for name in names:
        mode = os.stat(os.path.join(folder, name)).st_mode
        assert mode & 0o077 == 0


def test_default_folder_is_in_the_folder_for_temporary_files(
        tmp_path, monkeypatch, progress):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    with slots.hold(slots.Limits(1), None, progress, threading.Event()):
        assert _is_full(1, str(
            tmp_path / f'glance-conversion-slots-{os.getuid()}'))


# First come, first served

class _Waiting:
    """Somebody who waits on a thread, and holds until told to go."""

    def __init__(self, order, name, limits, folder, project=''):
        self.progress = progress_.Progress()
        self.cancel, self.go = threading.Event(), threading.Event()
        self.holding = threading.Event()

        def work():
            try:
                with slots.hold(limits, folder, self.progress, self.cancel,
                                project):
                    order.append(name)
                    self.holding.set()
                    assert self.go.wait(60)
            except errors.Cancelled:
                order.append(f'{name} left')

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def end(self):
        self.go.set()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def order():
    return []


def _queue(order, folder, limits, projects):
    """Let one after the other come; the first ones hold, the others wait."""
    found = []
    for number, project in enumerate(projects):
        found.append(_Waiting(order, number, limits, folder, project))
        while not (found[-1].holding.is_set()
                   or 'Waiting' in str(found[-1].progress)):
            time.sleep(0.01)
    return found


def test_first_come_first_served(folder, order):
    everyone = _queue(order, folder, slots.Limits(1), [''] * 6)
    for waiting in everyone:
        assert waiting.holding.wait(60)
        waiting.end()
    assert order == list(range(6))


def test_who_leaves_the_queue_keeps_nobody_waiting(folder, order):
    first, second, third = _queue(order, folder, slots.Limits(1), [''] * 3)
    second.cancel.set()
    second.end()
    first.end()
    assert third.holding.wait(60)
    third.end()
    assert order == [0, '1 left', 2]
    assert not [n for n in os.listdir(folder) if 'ticket' in n]


def test_who_dies_in_the_queue_keeps_nobody_waiting(folder, order):
    first, = _queue(order, folder, slots.Limits(1), [''])
    with _child(1, folder) as child:
        while len([n for n in os.listdir(folder) if 'ticket' in n]) < 1:
            time.sleep(0.01)
        second = _queue(order, folder, slots.Limits(1), [''])[0]
        child.kill()
    first.end()
    assert second.holding.wait(60)
    second.end()
    assert not [n for n in os.listdir(folder) if 'ticket' in n]


def test_one_project_does_not_hold_all_slots(folder, order):
    limits = slots.Limits(2, 1)
    one, two, three, other = _queue(order, folder, limits,
                                    ['a', 'a', 'a', 'b'])
    assert order == [0, 3]
    one.end()
    # In their order within the project.
    assert two.holding.wait(60)
    assert not three.holding.is_set()
    two.end()
    assert three.holding.wait(60)
    three.end()
    other.end()


def test_all_slots_where_nobody_else_wants_them(folder, order):
    everyone = _queue(order, folder, slots.Limits(3), ['a'] * 3)
    assert sorted(order) == [0, 1, 2]
    for waiting in everyone:
        waiting.end()


def test_a_project_is_known_to_other_processes(folder, order):
    """By what stands in the files, also where it is odd."""
    project = 'b\u00fc/..\n' * 3
    with slots.hold(slots.Limits(2, 1), folder, progress_.Progress(),
                    threading.Event(), project):
        assert _holders(folder) == [project]
        with pytest.raises(errors.Cancelled):
            with slots.hold(slots.Limits(2, 1), folder, progress_.Progress(),
                            _cancelled(), project):
                pass


def test_a_slot_that_changes_hands_names_its_holder(folder):
    for project in ('a long name', 'b', ''):
        with slots.hold(slots.Limits(1), folder, progress_.Progress(),
                        threading.Event(), project):
            assert _holders(folder) == [project]


def test_kinds_of_work_do_not_count_together(folder, progress):
    with slots.hold(slots.Limits(1), folder, progress, threading.Event(),
                    kind=slots.DIGESTS):
        assert not _is_full(1, folder)
        with slots.hold(slots.Limits(1), folder, progress, threading.Event()):
            assert str(progress).startswith('Preparing')


def test_it_shows_who_has_a_slot_and_who_waits_for_one(folder, progress):
    def usage():
        return slots.usage(folder, slots.CONVERSION)

    assert usage() == (0, 0)
    with slots.hold(slots.Limits(2), folder, progress, threading.Event()):
        assert usage() == (1, 0)
        with tickets.drawn(folder, slots.CONVERSION.ticket, ''):
            assert usage() == (1, 1)
            with slots.hold(slots.Limits(2), folder, progress,
                            threading.Event(), kind=slots.DIGESTS):
                assert usage() == (1, 1)
                assert slots.usage(folder, slots.DIGESTS) == (1, 0)
    assert usage() == (0, 0)
