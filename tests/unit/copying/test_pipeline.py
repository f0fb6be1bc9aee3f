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


import threading

import pytest

from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import pipeline
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins import errors
from tests.contract import images
from tests.unit import fakes

B = images.BLOCK
M = pipeline.CHUNK      # 16 blocks

# Data across two chunks, a hole, zeros, data, and so on to a short end.
PATTERN = 'A' * 20 + '--0' + 'B' + '-' * 20 + 'C' * 4 + '0'

WRITES = [('write', 0, M), ('write', M, 4 * B), ('write', 23 * B, B),
          ('write', 44 * B, 4 * B)]
# What lies between data in a chunk is read with it.
ZEROES = [('zero', 24 * B, 20 * B), ('zero', 48 * B, B)]


@pytest.fixture(autouse=True)
def no_thread_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def _copy(source, sink, consumers=(), **kwargs):
    """Copy on a thread of its own, so that a hang is a failure."""
    outcome = []

    def run():
        try:
            pipeline.copy(source, sink, consumers, **kwargs)
        except BaseException as e:
            outcome.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), 'hangs'
    if outcome:
        raise outcome[0]


@pytest.mark.parametrize(('workers', 'queue_depth'), [
    (1, 1), (4, 1), (1, 16), (4, 16), (8, 3),
])
def test_writes_data_once_and_zeros_as_lengths(workers, queue_depth):
    sink = fakes.FakeSink()
    _copy(fakes.FakeSource(PATTERN), sink, workers=workers,
          queue_depth=queue_depth)
    assert sorted(c for c in sink.calls if c[0] == 'write') == WRITES
    assert [c for c in sink.calls if c[0] == 'zero'] == ZEROES
    # Creating, sealing and aborting are left to the caller.
    assert set(sink.names()) == {'write', 'zero'}


@pytest.mark.parametrize(('workers', 'queue_depth'), [
    (1, 1), (4, 16), (8, 3),
])
def test_consumers_see_everything_in_order(workers, queue_depth):
    one, two = fakes.Recorder(), fakes.Recorder()
    _copy(fakes.FakeSource(PATTERN), fakes.FakeSink(), (one, two),
          workers=workers, queue_depth=queue_depth)
    assert one.seen == two.seen == [
        b'A' * M, b'A' * 4 * B + bytes(3 * B) + b'B' * B, 20 * B,
        b'C' * 4 * B, B]


@pytest.mark.parametrize(('pattern', 'requests', 'zeros'), [
    ('', [], []),
    ('-', [], [(0, 1)]),
    ('A', [(0, 1)], []),
    # From the first of it to the last, and no further.
    ('-A-0A--', [(1, 4)], [(0, 1), (5, 2)]),
    ('A' * 15 + '-', [(0, 15)], [(15, 1)]),
    ('A' * 15 + '-A', [(0, 15), (16, 1)], [(15, 1)]),
    ('A' * 15 + '--A', [(0, 15), (17, 1)], [(15, 2)]),
    ('A' * 14 + '-AA', [(0, 16), (16, 1)], []),
    ('A' * 14 + '-AA-A', [(0, 16), (16, 3)], []),
    ('-' * 16 + 'A-A', [(16, 3)], [(0, 16)]),
    ('A' + '-' * 31 + 'A', [(0, 1), (32, 1)], [(1, 31)]),
])
def test_data_in_a_chunk_is_read_at_once(pattern, requests, zeros):
    asked, source = [], fakes.FakeSource(pattern)
    really_read = source.read

    def read(offset, length):
        asked.append((offset, length))
        return really_read(offset, length)

    source.read = read
    sink, consumer = fakes.FakeSink(), fakes.Recorder()
    _copy(source, sink, (consumer,), workers=1)

    def blocks(found):
        return [(start // B, length // B) for start, length in found]

    assert blocks(asked) == requests
    assert blocks(c[1:] for c in sink.calls if c[0] == 'zero') == zeros
    assert b''.join(bytes(seen) if isinstance(seen, int) else seen
                    for seen in consumer.seen) == images.content(pattern)
    # And only data is written.
    assert sum(c[2] for c in sink.calls if c[0] == 'write') == B * sum(
        char not in '0-' for char in pattern)


def test_order_of_consumers_is_not_that_of_reading():
    """The first chunk comes last, and is seen first all the same."""
    consumer = fakes.Recorder()
    _copy(fakes.FakeSource('A' * 16 + 'B' * 16, fakes.first_comes_last()),
          fakes.FakeSink(), (consumer,))
    assert consumer.seen == [b'A' * M, b'B' * M]


def test_large_hole_is_seen_in_pieces():
    class Hole(fakes.FakeSource):
        def extents(self, start, length):
            yield extent.Extent(0, self.size, extent.Kind.HOLE)

    source, consumer = Hole(''), fakes.Recorder()
    source.size = 1000 * M + 5
    sink = fakes.FakeSink()
    _copy(source, sink, (consumer,))
    assert sum(consumer.seen) == source.size
    assert max(consumer.seen) == 64 * M
    assert [c[1:] for c in sink.calls] == [
        (at, min(64 * M, source.size - at))
        for at in range(0, source.size, 64 * M)]


def test_empty_image():
    sink, consumer = fakes.FakeSink(), fakes.Recorder()
    _copy(fakes.FakeSource(''), sink, (consumer,))
    assert sink.calls == consumer.seen == []


def test_progress_is_told():
    progress, clock = progress_.Progress(), progress_.Clock()
    progress.enter('Converting', len(PATTERN) * B)
    _copy(fakes.FakeSource(PATTERN), fakes.FakeSink(), progress=progress,
          clock=clock)
    assert '100%' in str(progress)
    assert progress.written == sum(c[2] for c in WRITES)
    for stage in ('read', 'write', 'wait for data', 'wait for digests'):
        assert stage in str(clock)


@pytest.mark.parametrize('queue_depth', [1, 3, 7])
def test_never_more_than_queue_depth_outstanding(queue_depth):
    lock, outstanding = threading.Lock(), []
    counts = []
    # All that may be under way at once wait for each other.
    full = threading.Barrier(queue_depth)

    def before_read(offset):
        with lock:
            outstanding.append(offset)
            counts.append(len(outstanding))
        if offset < queue_depth * M:
            full.wait(60)

    class Consumer(fakes.Recorder):
        def update(self, view):
            with lock:
                outstanding.remove(len(self.seen) * M)
            super().update(view[:1])

    consumer = Consumer()
    _copy(fakes.FakeSource('A' * 16 * 20, before_read), fakes.FakeSink(),
          (consumer,), workers=20, queue_depth=queue_depth)
    assert len(consumer.seen) == 20
    assert max(counts) == queue_depth
    assert not outstanding


def test_no_more_workers_than_allowed():
    lock, now, seen = threading.Lock(), [], []

    def before_read(offset):
        with lock:
            now.append(offset)
            seen.append(len(now))

    def before_write(offset):
        with lock:
            now.remove(offset)

    _copy(fakes.FakeSource('A' * 16 * 20, before_read),
          fakes.FakeSink(before_write), workers=3, queue_depth=16)
    assert len(seen) == 20
    assert max(seen) <= 3


ERROR = errors.StoreFull('the first')


def _fails_at(wanted):
    def fail(offset):
        if offset == wanted:
            raise ERROR
    return fail


class _FailingConsumer(fakes.Recorder):
    def update(self, view):
        raise ERROR


class _FailingOnZeros(fakes.Recorder):
    def zeros(self, length):
        raise ERROR


class _FailingExtents(fakes.FakeSource):
    def extents(self, start, length):
        yield extent.Extent(0, B, extent.Kind.DATA)
        raise ERROR


FAILURES = {
    'read': lambda: (fakes.FakeSource(PATTERN, _fails_at(M)),
                     fakes.FakeSink(), ()),
    'last read': lambda: (fakes.FakeSource(PATTERN, _fails_at(44 * B)),
                          fakes.FakeSink(), ()),
    'extents': lambda: (_FailingExtents(PATTERN), fakes.FakeSink(), ()),
    'write': lambda: (fakes.FakeSource(PATTERN),
                      fakes.FakeSink(_fails_at(0)), ()),
    'zero': lambda: (fakes.FakeSource(PATTERN),
                     fakes.FakeSink(fail_at={'zero': ERROR}), ()),
    'consumer': lambda: (fakes.FakeSource(PATTERN), fakes.FakeSink(),
                         (fakes.Recorder(), _FailingConsumer())),
    'consumer of zeros': lambda: (fakes.FakeSource(PATTERN),
                                  fakes.FakeSink(), (_FailingOnZeros(),)),
}


@pytest.mark.parametrize('queue_depth', [1, 16])
@pytest.mark.parametrize('what', FAILURES)
def test_error_is_raised_and_both_ends_are_interrupted(what, queue_depth):
    source, sink, consumers = FAILURES[what]()
    with pytest.raises(errors.StoreFull) as caught:
        _copy(source, sink, consumers, queue_depth=queue_depth)
    assert caught.value is ERROR
    assert source.interrupted.is_set()
    assert sink.interrupted.is_set()
    assert 'seal' not in sink.names()


@pytest.mark.parametrize('depth', [1, 4, 16])
def test_consumers_see_nothing_beyond_a_failed_read(depth):
    pattern = ''.join(c * 16 for c in 'ABCDEFGH')
    consumer = fakes.Recorder()
    with pytest.raises(errors.StoreFull):
        _copy(fakes.FakeSource(pattern, _fails_at(3 * M)), fakes.FakeSink(),
              (consumer,), queue_depth=depth)
    assert consumer.seen == [
        c * M for c in (b'A', b'B', b'C')][:len(consumer.seen)]


def test_first_error_wins_over_those_that_follow_from_it():
    """The other reads and writes fail because of the interruption."""
    started = threading.Semaphore(0)
    source = fakes.FakeSource('A' * 16 * 4)
    sink = fakes.FakeSink()

    def before_read(offset):
        if offset == M:
            started.release()
            fakes.wait_for_interrupt(source)
        if offset == 2 * M:
            for _ in range(2):
                assert started.acquire(timeout=60)
            raise ERROR

    def before_write(offset):
        if offset == 0:
            started.release()
            fakes.wait_for_interrupt(sink)

    source._before_read, sink._before_write = before_read, before_write
    with pytest.raises(errors.StoreFull) as caught:
        _copy(source, sink, workers=4)
    assert caught.value is ERROR


def test_an_error_that_is_not_ours_is_raised_too():
    def before_read(offset):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _copy(fakes.FakeSource('A', before_read), fakes.FakeSink())


def test_nothing_is_read_after_a_failure():
    reads = []

    def before_read(offset):
        reads.append(offset)
        raise ERROR

    with pytest.raises(errors.StoreFull):
        _copy(fakes.FakeSource('A' * 16 * 64, before_read),
              fakes.FakeSink(), workers=1, queue_depth=4)
    assert reads == [0]


def test_cancelled_before_it_begins():
    cancel = threading.Event()
    cancel.set()
    source, sink = fakes.FakeSource(PATTERN), fakes.FakeSink()
    consumer = fakes.Recorder()
    with pytest.raises(errors.Cancelled):
        _copy(source, sink, (consumer,), cancel=cancel)
    assert not consumer.seen
    assert set(sink.names()) <= {'interrupt'}


@pytest.mark.parametrize('where', ['source', 'sink'])
def test_cancelled_while_an_end_hangs(where):
    cancel = threading.Event()
    source, sink = fakes.FakeSource(PATTERN), fakes.FakeSink()
    end = source if where == 'source' else sink

    def hang(_offset):
        cancel.set()
        fakes.wait_for_interrupt(end)

    if where == 'source':
        source._before_read = hang
    else:
        sink._before_write = hang
    with pytest.raises(errors.Cancelled):
        _copy(source, sink, cancel=cancel)


def test_cancelled_in_a_large_hole():
    cancel = threading.Event()

    class Consumer(fakes.Recorder):
        def zeros(self, length):
            super().zeros(length)
            if len(self.seen) == 3:
                cancel.set()

    class Hole(fakes.FakeSource):
        def extents(self, start, length):
            yield extent.Extent(0, 1 << 60, extent.Kind.HOLE)

    consumer = Consumer()
    with pytest.raises(errors.Cancelled):
        _copy(Hole(''), fakes.FakeSink(), (consumer,), cancel=cancel)
    assert len(consumer.seen) == 3


def test_views_stay_as_they_were():
    """Digests look at them long after the next ones were read."""
    views = []

    class Consumer(fakes.Recorder):
        def update(self, view):
            views.append(view)

    pattern = ''.join(c * 16 for c in 'ABCDEFGH')
    _copy(fakes.FakeSource(pattern), fakes.FakeSink(), (Consumer(),))
    assert b''.join(views) == images.content(pattern)


def test_ctrl_c_interrupts_both_ends():
    """A worker that waits would keep it from ending."""
    def before_read(offset):
        if offset:
            fakes.wait_for_interrupt(source)

    class Impatient(fakes.Recorder):
        def update(self, view):
            raise KeyboardInterrupt

    # Two chunks, of which the second is not read before it is too late.
    source, sink = fakes.FakeSource('A' * 20, before_read), fakes.FakeSink()
    with pytest.raises(KeyboardInterrupt):
        pipeline.copy(source, sink, (Impatient(),), queue_depth=2)
    assert source.interrupted.is_set()
    assert sink.interrupted.is_set()
