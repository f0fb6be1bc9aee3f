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

"""Deferred digests end with the image that they are of."""

import contextlib
import os
import subprocess
import sys
import threading
import time

from oslo_concurrency import lockutils
from oslo_config import cfg
import pytest

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import courtesy
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import slots
from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance import background
from glance_conversion_plugins.maintenance import digests
from tests.unit import fakes

SPEC = digest.DigestSpec('sha256')
# What takes minutes to digest, and nothing to read.
HUGE = 1 << 40


class _Zeros(fakes.FakeSource):
    """An empty image, however large."""

    def __init__(self, size=HUGE):
        super().__init__('-')
        self.size = size
        self.opened = threading.Event()

    def extents(self, start, length):
        self.opened.set()
        yield extent.Extent(start, length, extent.Kind.HOLE)


class _Store:
    def __init__(self, source):
        self._source = source
        self.suffers = False

    def source(self, image_id):
        return self._source

    def is_slow(self):
        return self.suffers


@pytest.fixture
def recorded(monkeypatch):
    """The stores that Glance has recorded, and what digests it was told."""
    found = {'ceph'}
    found_digests = []
    monkeypatch.setattr(records, 'recorded_stores', lambda _: set(found))
    monkeypatch.setattr(records, 'record_digests',
                        lambda image_id, *told: found_digests.append(told))
    monkeypatch.setattr(digests, '_LOOK_SECONDS', 0.05)
    return found, found_digests


@pytest.fixture(autouse=True)
def folder(tmp_path):
    """Where the locks of this node live."""
    lockutils.get_lock_path(cfg.CONF)
    cfg.CONF.set_override('lock_path', str(tmp_path), 'oslo_concurrency')
    yield str(tmp_path)
    cfg.CONF.clear_override('lock_path', 'oslo_concurrency')


def _compute(stores, cancel=cancel_.NEVER):
    """Compute digests on a thread; how that ended is in the list."""
    ended = []

    def run():
        try:
            digests.compute('image', stores, SPEC, None, cancel)
            ended.append(None)
        except Exception as e:
            ended.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, ended


def test_an_image_that_is_deleted_is_read_no_further(recorded):
    stores, told = recorded
    source = _Zeros()
    thread, ended = _compute({'ceph': _Store(source)})
    assert source.opened.wait(60)
    stores.clear()
    thread.join(60)
    assert ended == [None]
    assert told == []


def test_another_store_that_has_it_is_read_then(recorded):
    stores, told = recorded
    stores.add('file')
    source = _Zeros()
    thread, ended = _compute({'ceph': _Store(source),
                              'file': _Store(fakes.FakeSource('AB'))})
    assert source.opened.wait(60)
    stores.remove('ceph')
    thread.join(60)
    assert ended == [None]
    assert len(told) == 1


def test_whoever_is_told_to_stop_says_so(recorded):
    _, told = recorded
    source, cancel = _Zeros(), cancel_.Cancel()
    thread, ended = _compute({'ceph': _Store(source)}, cancel)
    assert source.opened.wait(60)
    cancel.set()
    thread.join(60)
    assert [type(e) for e in ended] == [errors.Cancelled]
    assert told == []


def _slot(folder, kind, limit=1):
    """A slot of another process of this node."""
    return slots.hold(slots.Limits(limit), folder, progress_.Progress(),
                      threading.Event(), kind=kind)


def test_an_image_that_is_deleted_waits_for_no_other(recorded, folder):
    stores, told = recorded
    source = _Zeros()
    with contextlib.ExitStack() as held:
        for _ in range(digests._limits().node):
            held.enter_context(_slot(folder, slots.DIGESTS, 99))
        thread, ended = _compute({'ceph': _Store(source)})
        stores.clear()
        thread.join(60)
        assert ended == [None]
    assert not source.opened.is_set()


def test_a_source_that_fails_is_no_reason_to_be_silent(recorded):
    def fail(offset):
        raise errors.SourceFailed('broken')

    _, told = recorded
    thread, ended = _compute(
        {'ceph': _Store(fakes.FakeSource('AB', before_read=fail))})
    thread.join(60)
    assert [type(e) for e in ended] == [errors.SourceFailed]


def test_a_store_that_can_not_be_read_is_not_the_last(recorded):
    def fail(offset):
        raise errors.SourceFailed('broken')

    stores, told = recorded
    stores.add('file')
    thread, ended = _compute(
        {'ceph': _Store(fakes.FakeSource('AB', before_read=fail)),
         'file': _Store(fakes.FakeSource('AB'))})
    thread.join(60)
    assert ended == [None]
    assert len(told) == 1


def test_of_a_process_few_wait_for_a_slot(recorded, folder, monkeypatch):
    """Each look at the slots costs all who look."""
    monkeypatch.setattr(digests, '_turns', threading.Semaphore(1))
    _, told = recorded
    with contextlib.ExitStack() as held:
        for _ in range(digests._limits().node):
            held.enter_context(_slot(folder, slots.DIGESTS, 99))
        works = [_compute({'ceph': _Store(fakes.FakeSource('AB'))})
                 for _ in range(5)]
        while not slots.usage(folder, slots.DIGESTS).waiting:
            assert all(thread.is_alive() for thread, _ in works)
        # And no more come.
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert slots.usage(folder, slots.DIGESTS).waiting == 1
    for thread, ended in works:
        thread.join(60)
        assert ended == [None]
    assert len(told) == 5


def test_who_waits_for_the_others_can_be_told_to_stop(recorded, monkeypatch):
    monkeypatch.setattr(digests, '_turns', threading.Semaphore(0))
    cancel = cancel_.Cancel()
    thread, ended = _compute({'ceph': _Store(fakes.FakeSource('AB'))}, cancel)
    cancel.set()
    thread.join(60)
    assert [type(e) for e in ended] == [errors.Cancelled]


@pytest.mark.parametrize('waited, left', [(0, 600), (500, 100), (700, 0)])
def test_patience_ends_some_time_after_they_are_owed(waited, left):
    """Else each would wait anew once those before it are done."""
    work = digests._Work('image', SPEC, cancel_.NEVER, progress_.Progress(),
                         time.monotonic() - waited)
    assert work.patience() == pytest.approx(left, abs=60)


def test_a_process_does_not_stay_for_them():
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', '''
import threading
from glance_conversion_plugins.maintenance import background
begun = threading.Event()
def work():
    begun.set()
    threading.Event().wait()
threading.Thread(target=background.run, args=(work,),
                 daemon=True).start()
begun.wait()
'''], timeout=60, check=False)
    assert done.returncode == 0


def test_a_database_that_is_away_stops_nothing(recorded, monkeypatch):
    """Nobody knows then whether the image is there."""
    _, told = recorded
    looked = threading.Event()
    answers = iter([{'ceph'}])

    def ask(image_id):
        if (answer := next(answers, None)) is None and not looked.is_set():
            looked.set()
            raise OSError('away')
        return {'ceph'} if answer is None else answer

    monkeypatch.setattr(records, 'recorded_stores', ask)

    def before_read(offset):
        assert looked.wait(60)

    thread, ended = _compute(
        {'ceph': _Store(fakes.FakeSource('AB', before_read=before_read))})
    thread.join(60)
    assert ended == [None]
    assert len(told) == 1


def test_a_node_computes_digests_of_as_many_images_as_cores_allow(
        monkeypatch, override):
    override('max_concurrent', 3, 'conversion')
    for cores, at_once in ((1, 1), (2, 1), (3, 1), (4, 2), (8, 3), (64, 3)):
        monkeypatch.setattr(os, 'sched_getaffinity',
                            lambda _, n=cores: set(range(n)))
        assert digests._limits().node == at_once


def test_digests_give_way_to_conversions_of_their_node(recorded, folder):
    _, told = recorded
    with _slot(folder, slots.CONVERSION):
        # Of the first byte on.
        time.sleep(courtesy._LOOK_SECONDS)
        source = _Zeros(1 << 20)
        thread, ended = _compute({'ceph': _Store(source)})
        assert source.opened.wait(60)
        thread.join(4 * courtesy._LOOK_SECONDS)
        assert thread.is_alive()
        assert told == []
    thread.join(60)
    assert ended == [None]
    assert len(told) == 1


def test_digests_give_way_to_all_others_in_a_store_that_suffers(
        recorded, monkeypatch):
    monkeypatch.setattr(background, '_SLOW_SECONDS', 0)
    _, told = recorded
    store = _Store(_Zeros(1 << 20))
    store.suffers = True
    time.sleep(courtesy._LOOK_SECONDS)
    thread, ended = _compute({'ceph': store})
    assert store.source('image').opened.wait(60)
    thread.join(4 * courtesy._LOOK_SECONDS)
    assert thread.is_alive()
    store.suffers = False
    thread.join(60)
    assert ended == [None]
    assert len(told) == 1


def test_digests_are_not_starved(recorded, folder, monkeypatch):
    monkeypatch.setattr(digests, '_PATIENCE_SECONDS', 0.5)
    _, told = recorded
    with _slot(folder, slots.CONVERSION):
        thread, ended = _compute({'ceph': _Store(fakes.FakeSource('AB'))})
        thread.join(60)
        assert ended == [None]
        assert len(told) == 1


def test_those_that_gave_way_long_enough_go_on_at_once(recorded, folder):
    _, told = recorded
    with _slot(folder, slots.CONVERSION):
        digests.compute(
            'image', {'ceph': _Store(fakes.FakeSource('AB'))}, SPEC, None,
            since=time.monotonic() - digests._PATIENCE_SECONDS)
        assert len(told) == 1


def test_all_threads_that_compute_digests_are_nice(recorded):
    """Those that read and those that digest, but nobody else's."""
    seen = {}

    def before_read(offset):
        seen[threading.current_thread().name] = [
            os.getpriority(os.PRIO_PROCESS, thread.native_id)
            for thread in threading.enumerate()
            if thread.name.startswith(('conversion', 'background'))
            or '_run' in thread.name]

    own = os.getpriority(os.PRIO_PROCESS, 0)
    thread, _ = _compute(
        {'ceph': _Store(fakes.FakeSource('AB', before_read=before_read))})
    thread.join(60)
    assert set(sum(seen.values(), [])) == {max(own, courtesy._NICENESS)}
    assert os.getpriority(os.PRIO_PROCESS, 0) == own
