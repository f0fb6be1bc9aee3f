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

"""As much is under way as a store takes well."""

import threading

import pytest

from glance_conversion_plugins.copying.sinks import window
from glance_conversion_plugins import errors

MIB = 1 << 20


class _Store:
    """A store that takes so long for each write, of 1 MiB.

    And longer where others are under way, if it takes one after the other.
    """

    def __init__(self, base, each):
        self.base = base            # seconds, of each write
        self.each = each            # seconds for each that waits before it
        self.time = 1000.0
        self.window = window.Window(lambda: self.time)
        self._under_way = []        # when each began, and when it ends
        self.peak = 0
        self._free_at = 0.0

    def copy(self, mib):
        """Write so much; returns MiB per second."""
        start, begun = self.time, 0
        while begun < mib or self._under_way:
            if begun < mib and len(self._under_way) * MIB < self.window.limit:
                self._begin()
                begun += 1
            else:
                self._end()
        return mib / (self.time - start)

    def _begin(self):
        batch = self.window.begin(MIB)
        self._free_at = max(self._free_at, self.time) + self.each
        self._under_way.append((batch, self._free_at + self.base))
        self.peak = max(self.peak, len(self._under_way))

    def _end(self):
        batch, ends = self._under_way.pop(0)
        self.time = max(self.time, ends)
        batch.end()


def test_a_store_that_keeps_up_is_used_in_full():
    store = _Store(0.005, 0.001)
    assert store.copy(1000) > 900
    assert store.peak == 32
    assert store.window.limit == window.MOST


def test_writes_do_not_queue_up_before_a_slow_disk():
    """20 MiB/s: 32 under way would wait for 1.6 s, and others with them."""
    store = _Store(0.005, 0.05)
    assert store.copy(200) > 19
    assert window.LEAST < store.window.limit <= 20 * MIB


def test_before_a_very_slow_one_there_is_little():
    store = _Store(0.005, 0.5)
    assert store.copy(100) > 1.9
    assert store.window.limit <= 5 * MIB


def test_a_store_that_is_only_far_away_is_used_in_full():
    """Fewer would be slower, and in nobody's way."""
    store = _Store(1.5, 0.001)
    assert store.copy(500) > 15
    assert store.window.limit == window.MOST


def test_a_store_that_is_quick_again_is_used_in_full_again():
    store = _Store(0.005, 0.5)
    store.copy(100)
    store.each = 0.001
    store.copy(2000)
    assert store.window.limit == window.MOST


def test_what_waited_together_counts_once():
    """The limit falls by half, not by half for each of them."""
    time = [0.0]
    found = window.Window(lambda: time[0])
    batches = [found.begin(MIB) for _ in range(32)]
    time[0] = 0.01
    batches[0].end()
    time[0] = 5
    for each in batches[1:]:
        each.end()
    assert found.limit == window.MOST // 2


def test_a_write_that_failed_tells_nothing_of_speed():
    time = [0.0]
    found = window.Window(lambda: time[0])
    found.begin(MIB).end()
    batch = found.begin(MIB)
    time[0] = 100
    batch.end(errors.SinkFailed('broken'))
    assert found.limit == window.MOST
    with pytest.raises(errors.SinkFailed):
        found.begin(MIB)


def test_those_that_begin_together_end_with_the_last_of_them():
    found = window.Window()
    batch = found.begin(2 * MIB + window.MOST, 3)
    batch.end()
    batch.end(errors.SinkFailed('broken'))
    with pytest.raises(errors.SinkFailed):
        found.begin(1)
    # What still reads from memory is waited for.
    assert not found.settle(0.01)
    batch.end()
    assert found.settle(0.01)


def test_of_those_that_begin_together_some_may_not_begin_at_all():
    found = window.Window()
    batch = found.begin(3 * MIB, 3)
    batch.end(errors.SinkFailed('broken'), 2)
    assert not found.settle(0.01)
    batch.end()
    assert found.settle(0.01)


def test_whoever_waits_hears_that_it_failed():
    found = window.Window()
    found.begin(window.MOST)
    timer = threading.Timer(0.1, found.fail, [errors.Cancelled('stopped')])
    timer.start()
    with pytest.raises(errors.Cancelled):
        found.begin(1)
    with pytest.raises(errors.Cancelled):
        found.drain()
    assert not found.settle(0.01)


def test_a_store_that_complains_is_spared_however_quick_it_is():
    store = _Store(0.005, 0.001)
    store.window.spare(True)
    store.copy(1000)
    assert store.window.limit == window.LEAST
    assert store.peak == 4


def test_a_store_that_is_well_again_is_used_in_full_again():
    store = _Store(0.005, 0.001)
    store.window.spare(True)
    store.copy(10)
    store.window.spare(False)
    store.copy(1000)
    assert store.window.limit == window.MOST
