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

"""No more bytes in a second than are allowed, whoever reads them."""

import threading

import pytest

from glance_conversion_plugins.copying import pipeline
from glance_conversion_plugins.copying.sinks import discard
from glance_conversion_plugins.copying import throttle
from tests.contract import images
from tests.unit import fakes


class FakeClock:
    """Time goes by only while somebody waits."""

    def __init__(self):
        self.now = 500.0
        self.waits = []

    def time(self):
        return self.now

    def wait(self, seconds):
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def time():
    return FakeClock()


def _throttle(rate, time):
    return throttle.Throttle(rate, time.wait, time.time)


def test_without_a_rate_nobody_waits(time):
    limit = _throttle(0, time)
    for _ in range(10):
        limit.take(1 << 40)
    assert time.waits == []


def test_the_first_bytes_do_not_wait(time):
    _throttle(100, time).take(1 << 20)
    assert time.waits == []


def test_who_reads_on_waits_until_the_last_bytes_are_due(time):
    limit = _throttle(100, time)
    for length in (50, 200, 100, 1):
        limit.take(length)
    assert time.waits == pytest.approx([0.5, 2.0, 1.0])


def test_over_a_long_time_the_rate_is_kept(time):
    limit = _throttle(1000, time)
    for _ in range(500):
        limit.take(64)
    assert (499 * 64) / (time.now - 500.0) == pytest.approx(1000)


def test_who_reads_slower_than_allowed_never_waits(time):
    limit = _throttle(100, time)
    for _ in range(10):
        limit.take(100)
        time.now += 1.0
    assert time.waits == []


def test_what_was_not_read_is_not_saved_up(time):
    limit = _throttle(100, time)
    limit.take(100)
    time.now += 3600
    limit.take(100)
    limit.take(100)
    assert time.waits == pytest.approx([1.0])


def test_the_wait_is_shorter_by_what_has_gone_by(time):
    limit = _throttle(100, time)
    limit.take(100)
    time.now += 0.75
    limit.take(100)
    assert time.waits == pytest.approx([0.25])


def test_all_threads_share_the_rate():
    waits, lock = [], threading.Lock()

    def wait(seconds):
        with lock:
            waits.append(seconds)

    # Time stands still: each one waits behind all others.
    limit = throttle.Throttle(1000, wait, lambda: 7.0)
    threads = [threading.Thread(target=limit.take, args=(100,))
               for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waits) == pytest.approx(
        [number / 10 for number in range(1, 20)])


def test_one_that_waits_does_not_hold_up_whoever_asks_next():
    entered, go_on = threading.Event(), threading.Event()
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 1:
            entered.set()
            assert go_on.wait(10)

    limit = throttle.Throttle(100, wait, lambda: 7.0)
    limit.take(100)
    first = threading.Thread(target=limit.take, args=(100,))
    first.start()
    try:
        assert entered.wait(10)
        limit.take(100)
    finally:
        go_on.set()
        first.join()
    assert waits == pytest.approx([1.0, 2.0])


def test_in_a_copy_data_counts_and_zeros_do_not(time):
    limit = _throttle(images.BLOCK, time)
    pipeline.copy(fakes.FakeSource('A' + '-' * 30 + 'B' + '0' * 30 + 'C'),
                  discard.DiscardSink(), (limit,))
    limit.take(1)
    assert sum(time.waits) == pytest.approx(3)
