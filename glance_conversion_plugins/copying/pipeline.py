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

"""One pass over an image: read, write, and show every byte in order.

Reading, testing for zeros and writing run on ``workers`` threads, in any
order. The consumers (digests, the inspection of the result) see the bytes in
order, zeros as a length. At most ``queue_depth`` requests are in flight.
"""

import collections
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import threading
from typing import NamedTuple
from typing import Protocol

from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import sinks
from glance_conversion_plugins.copying import sources
from glance_conversion_plugins import errors

# Reads of 256 KiB to 1 MiB suit NBD best. Requests are aligned, so none of
# them crosses an object of an RBD image.
CHUNK = 1024 * 1024

# Zero runs are handed on in pieces of this size, so that progress moves and
# cancelling is heard while a large hole is digested.
_ZERO_RUN = 64 * CHUNK

# How long a wait for data lasts before it looks whether to give up.
_CANCEL_SECONDS = 1


class Consumer(Protocol):
    """Something that sees every byte in order."""

    def update(self, view: memoryview, /) -> None: ...

    def zeros(self, length: int, /) -> None: ...


class _Part(NamedTuple):
    """What is done at once: zeros, or data that is read in one request."""

    start: int
    length: int
    runs: Sequence[extent.Extent]   # of data, in order; none: all is zeros


class _Request(NamedTuple):
    part: _Part
    data: 'futures.Future[memoryview] | None'


class _Copier:
    """The state of one copy."""

    def __init__(self, src: sources.Source, dst: sinks.Sink,
                 consumers: Sequence[Consumer],
                 progress: progress_.Progress, clock: progress_.Clock,
                 cancel: threading.Event) -> None:
        self._src = src
        self._dst = dst
        self._consumers = consumers
        self._progress = progress
        self._clock = clock
        self._cancel = cancel
        self._lock = threading.Lock()
        self._failed = threading.Event()
        self._error: BaseException | None = None

    def run(self, workers: int, queue_depth: int) -> None:
        pool = futures.ThreadPoolExecutor(workers, 'conversion')
        try:
            self._run(pool, queue_depth)
        except BaseException as e:
            self._fail(e)
            # The workers may be waiting for a program or a cluster, and not
            # even Ctrl-C ends before they do.
            self._src.interrupt()
            self._dst.interrupt()
        finally:
            pool.shutdown(cancel_futures=True)
        if self._error:
            raise self._error

    def _run(self, pool: futures.Executor, queue_depth: int) -> None:
        in_flight: collections.deque[_Request] = collections.deque()
        for part in _parts(extent.merge(
                self._src.extents(0, self._src.size))):
            future = pool.submit(self._transfer, part) if part.runs else None
            in_flight.append(_Request(part, future))
            if len(in_flight) >= queue_depth:
                self._consume(in_flight.popleft())
        while in_flight:
            self._consume(in_flight.popleft())

    def _transfer(self, part: _Part) -> memoryview:
        """Move one range; runs on a worker."""
        try:
            self._go_on()
            with self._clock.run('read'):
                view = memoryview(self._src.read(part.start, part.length))
            with self._clock.run('write'):
                for run in part.runs:
                    at = run.start - part.start
                    self._progress.wrote(self._dst.write(
                        view[at:at + run.length], run.start))
            return view
        except Exception as e:
            self._fail(e)
            raise

    def _consume(self, request: _Request) -> None:
        """Finish the oldest request."""
        self._go_on()
        part, future = request
        if future is None:
            self._dst.zero(part.start, part.length)
        view = self._wait(future) if future else None
        with self._clock.run('wait for digests'):
            for consumer in self._consumers:
                if view is None:
                    consumer.zeros(part.length)
                else:
                    consumer.update(view)
        self._progress.advance(part.length)

    def _wait(self, future: 'futures.Future[memoryview]') -> memoryview:
        with self._clock.run('wait for data'):
            while not futures.wait([future], _CANCEL_SECONDS).done:
                self._go_on()
            return future.result()

    def _go_on(self) -> None:
        if self._cancel.is_set():
            raise errors.Cancelled('The conversion was stopped.')
        if self._failed.is_set():
            raise errors.Cancelled('Another part of the copy failed.')

    def _fail(self, error: BaseException) -> None:
        """Keep the first error; what follows it follows from it."""
        with self._lock:
            self._error = self._error or error
        self._failed.set()


def _parts(extents: Iterable[extent.Extent]) -> Iterator[_Part]:
    """What is asked for at once: all the data in a chunk.

    Zeros between cost less to read with it than another request does, by far
    where data lies in pieces of a few KiB.

    :param extents: merged, in order and without a gap
    """
    held: list[extent.Extent] = []
    at = end = 0
    for found in extents:
        end = found.end
        if found.kind is not extent.Kind.DATA:
            if held and end < _chunk(held[-1]) + CHUNK:
                continue        # more data follows in the chunk, or nothing
            yield from _joined(held)
            yield from _zeros(at, end)
            at = end
            continue
        for piece in extent.split(found, CHUNK):
            if held and _chunk(held[-1]) != _chunk(piece):
                yield from _joined(held)
            held.append(piece)
            at = piece.end
    yield from _joined(held)
    yield from _zeros(at, end)


def _chunk(piece: extent.Extent) -> int:
    """Where the chunk begins that has a piece."""
    return piece.start // CHUNK * CHUNK


def _joined(held: list[extent.Extent]) -> Iterator[_Part]:
    """One request for pieces of a chunk, which are forgotten."""
    if held:
        start = held[0].start
        yield _Part(start, held[-1].end - start, tuple(held))
        held.clear()


def _zeros(start: int, end: int) -> Iterator[_Part]:
    for piece in extent.split(extent.Extent(start, end - start,
                                            extent.Kind.ZERO), _ZERO_RUN):
        yield _Part(piece.start, piece.length, ())


def copy(src: sources.Source, dst: sinks.Sink,
         consumers: Sequence[Consumer] = (), *,
         progress: progress_.Progress | None = None,
         clock: progress_.Clock | None = None,
         cancel: threading.Event | None = None,
         workers: int = 4, queue_depth: int = 16) -> None:
    """Copy all of ``src`` to ``dst``, which is neither sealed nor aborted.

    :param consumers: see every byte in order
    :param cancel: when set, the copy ends with ``errors.Cancelled``
    :param workers: threads that read and write
    :param queue_depth: requests of up to 1 MiB in flight
    :raises: the first error of the source, the sink or a consumer
    """
    copier = _Copier(src, dst, consumers,
                     progress or progress_.Progress(),
                     clock or progress_.Clock(),
                     cancel or threading.Event())
    copier.run(workers, queue_depth)
