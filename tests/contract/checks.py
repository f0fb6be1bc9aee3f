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


"""What every source and every sink must do, whatever stands behind it.

Each check takes a factory, so that the functional tests hold to it also those
that need a cluster::

    @pytest.mark.parametrize('check', checks.SOURCE_CHECKS, ids=checks.name)
    def test_rbd_source(check, open_source):
        check(open_source, EXPECTED)
"""

from collections.abc import Callable
from concurrent import futures
import random
import threading

import pytest

from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import sinks
from glance_conversion_plugins.copying import sources
from glance_conversion_plugins import errors
from tests.contract import images

# What the factory of a source must serve, and what its guest sees. The blocks
# are of 64 KiB, the last piece is no whole number of any cluster or object.
PATTERN = 'A-B0CC--DE0-FGHIJKLMNOPQRSTU' + '-' * 40 + '0X0-Y'
EXPECTED = images.content(PATTERN)

OpenSource = Callable[[], sources.Source]
OpenSink = Callable[[], sinks.Sink]

# What stands under the name of the image; None if nothing does.
ReadBack = Callable[[], bytes | None]

# No check asserts a speed; this only turns a hang into a failure.
_HANG = 60

# What is read at once at most.
_MOST = 32 << 20


def name(check: object) -> str:
    """Name a check, for pytest."""
    return check.__name__.removeprefix('source_').removeprefix('sink_')


def read(source: sources.Source, offset: int, length: int) -> bytes:
    """Read a range, of which neither more nor less comes."""
    found = source.read(offset, length)
    assert len(found) == length
    return bytes(found)


def assert_covers(found: list[extent.Extent], start: int,
                  length: int) -> None:
    """Extents of a range are in order, without a gap or an overlap."""
    at = start
    for part in found:
        assert part.start == at, found
        assert part.length > 0, found
        at = part.end
    assert at == start + length, found


# Sources

def source_has_size_of_guest(open_source: OpenSource,
                             expected: bytes) -> None:
    source = open_source()
    try:
        assert source.size == len(expected)
    finally:
        source.close()


def source_extents_cover_all(open_source: OpenSource,
                             expected: bytes) -> None:
    source = open_source()
    try:
        assert_covers(list(source.extents(0, source.size)), 0, len(expected))
    finally:
        source.close()


def source_extents_cover_ranges(open_source: OpenSource,
                                expected: bytes) -> None:
    source = open_source()
    rng = random.Random(1)  # noqa: S311
    ranges = [(0, 1), (len(expected) - 1, 1), (1, len(expected) - 1),
              (images.BLOCK, images.BLOCK), (images.BLOCK - 1, 2)]
    for _ in range(50):
        start = rng.randrange(len(expected))
        ranges.append((start, rng.randint(1, len(expected) - start)))
    try:
        for start, length in ranges:
            assert_covers(list(source.extents(start, length)), start, length)
    finally:
        source.close()


def source_zeros_are_zeros(open_source: OpenSource, expected: bytes) -> None:
    source = open_source()
    try:
        found = [e for e in source.extents(0, source.size)
                 if e.kind is not extent.Kind.DATA]
        # A source that knows no hole at all would pass without a look.
        assert sum(e.length for e in found) >= 40 * images.BLOCK
        for part in found:
            assert not any(expected[part.start:part.end]), part
            # NBD takes requests of up to 32 MiB.
            length = min(part.length, 16 << 20)
            assert not any(read(source, part.start, length)), part
    finally:
        source.close()


def source_extents_agree_with_ranges(open_source: OpenSource,
                                     expected: bytes) -> None:
    """No sub-range calls zeros what holds data."""
    source = open_source()
    rng = random.Random(2)  # noqa: S311
    try:
        for _ in range(30):
            start = rng.randrange(len(expected))
            length = rng.randint(1, len(expected) - start)
            for part in source.extents(start, length):
                if part.kind is not extent.Kind.DATA:
                    assert not any(expected[part.start:part.end]), part
    finally:
        source.close()


def source_content_equals(open_source: OpenSource, expected: bytes) -> None:
    source = open_source()
    step = 5 * images.BLOCK
    try:
        found = b''.join(
            read(source, at, min(step, source.size - at))
            for at in range(0, source.size, step))
        assert found == expected
    finally:
        source.close()


def source_reads_across_extents(open_source: OpenSource,
                                expected: bytes) -> None:
    source = open_source()
    bounds = [e.start for e in source.extents(0, source.size)][1:]
    assert bounds
    try:
        for bound in bounds:
            start, stop = bound - 777, min(bound + 513, len(expected))
            assert read(source, start, stop - start) == expected[start:stop]
    finally:
        source.close()


def source_reads_from_many_threads(open_source: OpenSource,
                                   expected: bytes) -> None:
    source = open_source()

    def check(seed: int) -> int:
        rng = random.Random(seed)  # noqa: S311
        for _ in range(25):
            start = rng.randrange(len(expected))
            length = min(rng.randint(1, 3 * images.BLOCK),
                         len(expected) - start)
            assert (read(source, start, length)
                    == expected[start:start + length]), (start, length)
        return seed

    try:
        with futures.ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(check, range(8))) == 28
    finally:
        source.close()


def source_describes_while_others_read(open_source: OpenSource,
                                       expected: bytes) -> None:
    source = open_source()
    stop = threading.Event()

    def read_on() -> int:
        count = 0
        while not stop.is_set() or not count:
            assert read(source, 0, images.BLOCK) == expected[:images.BLOCK]
            count += 1
        return count

    try:
        with futures.ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(read_on) for _ in range(4)]
            try:
                first = list(source.extents(0, source.size))
                for _ in range(20):
                    assert list(source.extents(0, source.size)) == first
            finally:
                stop.set()
            assert all(r.result(_HANG) for r in readers)
    finally:
        source.close()


def source_closes_twice(open_source: OpenSource, expected: bytes) -> None:
    source = open_source()
    assert read(source, 0, 1) == expected[:1]
    source.close()
    source.close()


def source_fails_after_interrupt(open_source: OpenSource,
                                 expected: bytes) -> None:
    source = open_source()
    try:
        assert read(source, 0, 1) == expected[:1]
        source.interrupt()
        source.interrupt()
        with pytest.raises((errors.Cancelled, errors.SourceFailed)):
            read(source, 0, 1)
    finally:
        source.close()


def source_interrupt_ends_readers(open_source: OpenSource,
                                  expected: bytes) -> None:
    source = open_source()
    reading = threading.Semaphore(0)
    hung = threading.Event()

    def read_on() -> None:
        while not hung.is_set():
            assert read(source, 0, images.BLOCK) == expected[:images.BLOCK]
            reading.release()

    try:
        with futures.ThreadPoolExecutor(8) as pool:
            readers = [pool.submit(read_on) for _ in range(8)]
            for _ in range(8):
                assert reading.acquire(timeout=_HANG)
            source.interrupt()
            try:
                ended = [r.exception(5) for r in readers]
            finally:
                hung.set()
        assert {type(e) for e in ended} <= {errors.Cancelled,
                                            errors.SourceFailed}
    finally:
        source.close()


def source_reads_bytes(open_source: OpenSource, expected: bytes) -> None:
    """As they are where an image can be downloaded, and else alike."""
    source = open_source()
    rng = random.Random(4)  # noqa: S311
    ranges = [(0, 0), (0, 1), (0, min(_MOST, len(expected))),
              (len(expected) - 1, 1),
              (len(expected), 0), (40 * images.BLOCK - 1, 3)]
    for _ in range(50):
        start = rng.randrange(len(expected))
        ranges.append((start, rng.randint(
            1, min(_MOST, len(expected) - start))))
    try:
        def check(part: tuple[int, int]) -> bool:
            start, length = part
            return read(source, start, length) == expected[
                start:start + length]

        # As it is used: by several threads, for several pieces.
        with futures.ThreadPoolExecutor(4) as pool:
            assert all(pool.map(check, ranges))
        source.interrupt()
        with pytest.raises((errors.Cancelled, errors.SourceFailed)):
            source.read(0, 1)
    finally:
        source.close()


SOURCE_CHECKS = [
    source_has_size_of_guest,
    source_extents_cover_all,
    source_extents_cover_ranges,
    source_extents_agree_with_ranges,
    source_zeros_are_zeros,
    source_content_equals,
    source_reads_across_extents,
    source_reads_from_many_threads,
    source_reads_bytes,
    source_describes_while_others_read,
    source_closes_twice,
    source_fails_after_interrupt,
    source_interrupt_ends_readers,
]


# Sinks

def _write_all(sink: sinks.Sink, data: bytes, piece: int) -> None:
    """Write pieces out of order, from several threads."""
    starts = list(range(0, len(data), piece))
    random.Random(3).shuffle(starts)  # noqa: S311
    with futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(
            lambda at: sink.write(memoryview(data)[at:at + piece], at),
            starts))


def sink_keeps_what_is_written(open_sink: OpenSink,
                               read_back: ReadBack) -> None:
    sink = open_sink()
    try:
        _store(sink)
        assert read_back() == EXPECTED
    finally:
        sink.abort()


def _store(sink: sinks.Sink) -> None:
    sink.create(len(EXPECTED))
    _write_all(sink, EXPECTED, 16 * images.BLOCK)
    sink.seal()
    sink.publish()


def sink_tells_what_is_free(open_sink: OpenSink, read_back: ReadBack) -> None:
    """Before anything is there, and makes nothing."""
    sink = open_sink()
    try:
        found = sink.room(len(EXPECTED))
        assert found
        for place in found:
            assert place.name
            assert place.free > len(EXPECTED)
        assert read_back() is None
        assert [p.name for p in sink.room(1)] == [p.name for p in found]
        _store(sink)
        assert read_back() == EXPECTED
    finally:
        sink.abort()


def sink_takes_writes_of_any_alignment(open_sink: OpenSink,
                                       read_back: ReadBack) -> None:
    sink = open_sink()
    expected = EXPECTED[:-3]
    try:
        sink.create(len(expected))
        _write_all(sink, expected, 100_003)
        sink.seal()
        sink.publish()
        assert read_back() == expected
    finally:
        sink.abort()


def sink_new_target_reads_as_zeros(open_sink: OpenSink,
                                   read_back: ReadBack) -> None:
    sink = open_sink()
    try:
        sink.create(5 * images.BLOCK)
        sink.write(memoryview(b'A' * 100), 2 * images.BLOCK)
        sink.seal()
        sink.publish()
        expected = bytearray(5 * images.BLOCK)
        expected[2 * images.BLOCK:2 * images.BLOCK + 100] = b'A' * 100
        assert read_back() == expected
    finally:
        sink.abort()


def sink_zeroes(open_sink: OpenSink, read_back: ReadBack) -> None:
    sink = open_sink()
    try:
        sink.create(4 * images.BLOCK)
        sink.write(memoryview(b'A' * images.BLOCK), 0)
        sink.zero(images.BLOCK, 3 * images.BLOCK)
        sink.seal()
        sink.publish()
        assert read_back() == images.content('A000')
    finally:
        sink.abort()


def sink_says_how_much_is_not_zeros(open_sink: OpenSink,
                                    read_back: ReadBack) -> None:
    sink = open_sink()
    mebibyte = 16 * images.BLOCK
    try:
        sink.create(3 * mebibyte)
        assert sink.write(memoryview(b'A' * mebibyte), 0) == mebibyte
        assert sink.write(memoryview(bytes(mebibyte)), mebibyte) == 0
        mixed = images.content('A' + '0' * 14 + 'B')
        written = sink.write(memoryview(mixed), 2 * mebibyte)
        # The grain is the sink's own; no grain adds more than the rest.
        assert 2 * images.BLOCK <= written <= mebibyte
        sink.seal()
        sink.publish()
        assert read_back() == b'A' * mebibyte + bytes(mebibyte) + mixed
    finally:
        sink.abort()


def sink_shows_nothing_before_it_is_published(open_sink: OpenSink,
                                              read_back: ReadBack) -> None:
    sink = open_sink()
    try:
        sink.create(images.BLOCK)
        sink.write(memoryview(images.content('A')), 0)
        assert read_back() is None
        sink.seal()
        assert read_back() is None
        sink.publish()
        assert read_back() == images.content('A')
    finally:
        sink.abort()


def sink_abort_leaves_nothing(open_sink: OpenSink,
                              read_back: ReadBack) -> None:
    sink = open_sink()
    sink.create(16 * images.BLOCK)
    sink.write(memoryview(images.content('A' * 16)), 0)
    sink.abort()
    sink.abort()
    assert read_back() is None
    # Nothing stands in the way of the next attempt.
    sink = open_sink()
    try:
        sink.create(images.BLOCK)
        sink.seal()
        sink.publish()
        assert read_back() == images.content('0')
    finally:
        sink.abort()


def sink_abort_before_create(open_sink: OpenSink,
                             read_back: ReadBack) -> None:
    sink = open_sink()
    sink.abort()
    sink.abort()
    assert read_back() is None


def sink_abort_removes_what_was_sealed(open_sink: OpenSink,
                                       read_back: ReadBack) -> None:
    sink = open_sink()
    sink.create(images.BLOCK)
    sink.seal()
    sink.abort()
    assert read_back() is None


def sink_abort_removes_what_was_published(open_sink: OpenSink,
                                          read_back: ReadBack) -> None:
    sink = open_sink()
    sink.create(images.BLOCK)
    sink.write(memoryview(images.content('A')), 0)
    sink.seal()
    sink.publish()
    assert read_back() == images.content('A')
    sink.abort()
    assert read_back() is None
    sink.abort()


def sink_does_not_overwrite(open_sink: OpenSink,
                            read_back: ReadBack) -> None:
    """The second attempt fails, and its abort leaves the first's data."""
    first, second = open_sink(), open_sink()
    try:
        first.create(images.BLOCK)
        first.write(memoryview(images.content('A')), 0)
        first.seal()
        first.publish()
        with pytest.raises(errors.AlreadyStored):
            second.create(images.BLOCK)
        second.abort()
        assert read_back() == images.content('A')
    finally:
        first.abort()


def sink_fails_after_interrupt(open_sink: OpenSink,
                               read_back: ReadBack) -> None:
    sink = open_sink()
    sink.create(images.BLOCK)
    sink.interrupt()
    sink.interrupt()
    try:
        with pytest.raises((errors.Cancelled, errors.SinkFailed)):
            sink.write(memoryview(images.content('A')), 0)
    finally:
        sink.abort()
    assert read_back() is None


def _write_growing(sink: sinks.Sink, data: bytes, step: int) -> None:
    """Write as what comes in while nobody knows how long it is."""
    piece, room = 16 * images.BLOCK, 0
    sink.create(0)
    for at in range(0, len(data), piece):
        view = memoryview(data)[at:at + piece]
        if at + len(view) > room:
            room = max(at + len(view), room + step)
            sink.resize(room)
        sink.write(view, at)


def sink_resizes(open_sink: OpenSink, read_back: ReadBack) -> None:
    """Room comes before data, and in the end it is what was needed."""
    # Nothing of the tail is ever written; its end is in no place of note.
    tail = bytes(20 * images.BLOCK + 777)
    for step, expected in ((images.BLOCK, EXPECTED + tail),
                           (35 * images.BLOCK, EXPECTED[:-3])):
        sink = open_sink()
        try:
            _write_growing(sink, expected[:len(EXPECTED)], step)
            sink.resize(len(expected))
            assert read_back() is None
            sink.seal()
            sink.publish()
            assert read_back() == expected
        finally:
            sink.abort()


def sink_shrinks(open_sink: OpenSink, read_back: ReadBack) -> None:
    """There was much more room than was needed."""
    for size in (1, 17 * images.BLOCK + 1):
        expected = images.content('A' * 18)[:size]
        sink = open_sink()
        try:
            sink.create(0)
            sink.resize(100 * images.BLOCK)
            sink.write(memoryview(expected), 0)
            sink.resize(size)
            sink.seal()
            sink.publish()
            assert read_back() == expected
        finally:
            sink.abort()


SINK_CHECKS = [
    sink_keeps_what_is_written,
    sink_tells_what_is_free,
    sink_takes_writes_of_any_alignment,
    sink_new_target_reads_as_zeros,
    sink_zeroes,
    sink_resizes,
    sink_shrinks,
    sink_says_how_much_is_not_zeros,
    sink_shows_nothing_before_it_is_published,
    sink_abort_leaves_nothing,
    sink_abort_before_create,
    sink_abort_removes_what_was_sealed,
    sink_abort_removes_what_was_published,
    sink_does_not_overwrite,
    sink_fails_after_interrupt,
]
