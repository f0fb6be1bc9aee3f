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

"""Conversions wait for room that others may need, and for nothing else."""

import contextlib
import os
import subprocess
import sys
import threading
import time

import pytest

from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import room
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import tickets

GIB = 1 << 30


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(room, '_RETRY_SECONDS', 0.01)
    monkeypatch.setattr(room, '_TELL_SECONDS', 0)


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path)


@pytest.fixture
def pool():
    """What is free in each place; tests change it."""
    return {'images': 10 * GIB}


@contextlib.contextmanager
def _claim(folder, pool, needed, cancel=None, names=None):
    progress = progress_.Progress()
    with room.claim(folder, needed, lambda: [
            room.Place(name, free) for name, free in pool.items()
            if names is None or name in names], progress,
            cancel or threading.Event()) as claim:
        yield claim, progress


class _Waiter(threading.Thread):
    """Wants room, on a thread."""

    def __init__(self, folder, pool, needed):
        super().__init__(daemon=True)
        self._wanted = folder, pool, needed
        self.cancel = threading.Event()
        self.has_it, self.done = threading.Event(), threading.Event()
        self.error = None
        self.start()

    def run(self):
        try:
            with _claim(*self._wanted, self.cancel):
                self.has_it.set()
                self.done.wait(60)
        except Exception as e:
            self.error = e

    def waits(self):
        return not self.has_it.wait(0.2)


def test_all_that_fits_goes_on_at_once(folder, pool):
    with (_claim(folder, pool, 5 * GIB) as (_, first),
          _claim(folder, pool, 5 * GIB) as (_, second)):
        assert str(first).startswith('Preparing')
        assert str(second).startswith('Preparing')


def test_whoever_comes_first_waits_for_nobody(folder, pool):
    """It may need less than seems; and if not, waiting makes no room."""
    with _claim(folder, pool, 500 * GIB) as (_, progress):
        assert str(progress).startswith('Preparing')
    pool['images'] = 0
    with _claim(folder, pool, 1) as (_, progress):
        assert str(progress).startswith('Preparing')


def test_what_does_not_fit_waits_for_those_before(folder, pool):
    with _claim(folder, pool, 6 * GIB):
        waiter = _Waiter(folder, pool, 5 * GIB)
        assert waiter.waits()
    assert waiter.has_it.wait(60)
    waiter.done.set()


def test_what_was_written_is_claimed_no_more(folder, pool):
    """It is missing from what is free."""
    with _claim(folder, pool, 6 * GIB) as (claim, _):
        waiter = _Waiter(folder, pool, 5 * GIB)
        assert waiter.waits()
        # Its zeros took nothing.
        pool['images'] -= GIB
        claim.reach(5 * GIB)
        assert waiter.has_it.wait(60)
        waiter.done.set()


def test_what_was_written_is_needed_no_more(folder, pool):
    with _claim(folder, pool, 3 << 20) as (claim, _):
        claim.reach(2 << 20)
        content, = tickets.held(folder, room._TICKET).values()
        assert content == '00000000000001048576\nimages'
        claim.reach(4 << 20)
        content, = tickets.held(folder, room._TICKET).values()
        assert content == '00000000000000000000\nimages'


def test_small_ones_do_not_overtake_a_large_one(folder, pool):
    with _claim(folder, pool, 6 * GIB):
        large = _Waiter(folder, pool, 8 * GIB)
        assert large.waits()
        small = _Waiter(folder, pool, GIB)
        assert small.waits()
    assert large.has_it.wait(60)
    large.done.set()
    assert small.has_it.wait(60)
    small.done.set()


def test_places_do_not_count_together(folder, pool):
    pool['backup'] = GIB
    with (_claim(folder, pool, 10 * GIB, names=['images']),
          _claim(folder, pool, GIB, names=['backup'])):
        waiter = _Waiter(folder, pool, GIB)
        assert waiter.waits()
        waiter.cancel.set()
        waiter.join(60)
        assert isinstance(waiter.error, errors.Cancelled)


def test_a_place_that_says_nothing_is_not_waited_for(folder):
    with (_claim(folder, {}, GIB),
          _claim(folder, {}, GIB) as (_, progress)):
        assert str(progress).startswith('Preparing')


def test_room_that_others_make_is_seen(folder, pool):
    with _claim(folder, pool, 6 * GIB):
        waiter = _Waiter(folder, pool, 5 * GIB)
        assert waiter.waits()
        pool['images'] = 11 * GIB
        assert waiter.has_it.wait(60)
        waiter.done.set()


def test_nobody_waits_for_a_process_that_died(folder, pool):
    code = ('import sys, threading\n'
            'from glance_conversion_plugins.copying import progress, room\n'
            'with room.claim(sys.argv[1], 10 << 30,\n'
            '                lambda: [room.Place("images", 10 << 30)],\n'
            '                progress.Progress(), threading.Event()):\n'
            '    print("held", flush=True)\n'
            '    sys.stdin.readline()\n')
    with subprocess.Popen(
            [sys.executable, '-c', code, folder], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == 'held\n'
        waiter = _Waiter(folder, pool, GIB)
        assert waiter.waits()
        child.kill()
        child.wait()
        assert waiter.has_it.wait(60)
        waiter.done.set()
    waiter.join(60)
    assert os.listdir(folder) == ['glance-conversion-queue']


def test_staging_has_room_beside_what_is_to_stay_free(tmp_path):
    free = room.of_folder(str(tmp_path)).free
    assert free > 0
    kept = room.of_folder(str(tmp_path), free // 2).free
    assert 0 < kept < free
    assert room.of_folder(str(tmp_path), 1 << 62).free == 0
    room.see_free(str(tmp_path), 0)
    room.see_free(str(tmp_path), 1)
    with pytest.raises(errors.StagingFull, match='too little room'):
        room.see_free(str(tmp_path), 1 << 62)


def test_one_file_system_is_one_place(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'b').mkdir()
    assert (room.of_folder(str(tmp_path / 'a')).name
            == room.of_folder(str(tmp_path / 'b')).name
            != room.of_folder('/proc').name)


def test_what_is_told_is_told_now_and_then(folder, pool, monkeypatch):
    monkeypatch.setattr(room, '_TELL_SECONDS', 3600)
    written = []
    monkeypatch.setattr(tickets, 'write', lambda fd, content: written.append(
        content))
    start = time.monotonic()
    with _claim(folder, pool, GIB) as (claim, _):
        for _ in range(1000):
            claim.reach(1)
    assert time.monotonic() - start < 3600
    # What it needs when it comes, and one that follows.
    assert len(written) == 2


def test_many_read_what_one_writes_again_and_again(folder):
    """As others look while a conversion goes on."""
    names = [f'pool {number}' for number in range(200)]
    places = [room.Place(name, 10 * GIB) for name in names]
    done, errors_ = threading.Event(), []

    def look():
        try:
            while not done.is_set():
                assert room._has_room(folder, 'z', 1, places[-1:])
        except Exception as e:
            errors_.append(e)

    thread = threading.Thread(target=look)
    with room.claim(folder, 5 * GIB, lambda: places, progress_.Progress(),
                    threading.Event()) as claim:
        thread.start()
        for written in range(0, 5 * GIB, 1 << 20):
            claim.reach(written)
        done.set()
        thread.join(60)
    assert errors_ == []
