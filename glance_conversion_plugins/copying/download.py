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
"""A stored image as a stream: holes are known to be zeros, data is read ahead.
"""

import collections
from collections.abc import Callable
from collections.abc import Iterator
import concurrent.futures
import functools
from typing import NamedTuple
from typing import Protocol

from glance_conversion_plugins.copying import extent

# Data is read at once where smaller holes lie between: a request costs more
# than reading their zeros.
_GAP = 256 * 1024


class Readable(Protocol):
    """A source whose data Glance sends on as it is: as bytes."""

    size: int

    def extents(self, start: int, length: int) -> Iterator[extent.Extent]: ...

    def read(self, offset: int, length: int) -> bytes: ...

    def close(self) -> None: ...


class _Part(NamedTuple):
    """A range of the image, and what of it must be read."""

    start: int
    length: int
    data: list[extent.Extent]


class Download:
    """An iterable of the bytes of a range; reading begins with iterating."""

    def __init__(self, open_source: Callable[[], Readable], offset: int,
                 length: int | None, chunk_size: int, ahead: int) -> None:
        """Describe what to read.

        :param offset: in bytes
        :param length: in bytes; None: up to the end
        :param chunk_size: of each piece but the last, in bytes
        :param ahead: how many pieces are read while one is used
        """
        self._open = open_source
        self._offset = offset
        self._length = length
        self._chunk_size = chunk_size
        self._ahead = ahead

    def __iter__(self) -> Iterator[bytes]:
        source = self._open()
        try:
            start = min(self._offset, source.size)
            length = source.size - start
            if self._length is not None:
                length = min(length, self._length)
            parts = _parts(source, start, length, self._chunk_size)
            if self._ahead:
                yield from _read_ahead(source, parts, self._ahead)
            else:
                yield from (_read(source, part) for part in parts)
        finally:
            source.close()


def _parts(source: Readable, start: int, length: int, chunk_size: int
           ) -> Iterator[_Part]:
    runs = extent.data(source.extents(start, length), _GAP)
    run = next(runs, None)
    end = start + length
    while start < end:
        stop = min(start + chunk_size, end)
        data = []
        while run and run.start < stop:
            first, last = max(run.start, start), min(run.end, stop)
            data.append(extent.Extent(first, last - first, run.kind))
            if run.end > stop:
                break
            run = next(runs, None)
        yield _Part(start, stop - start, data)
        start = stop


def _read(source: Readable, part: _Part) -> bytes:
    start, length, data = part
    if not data:
        return _zeros(length)
    if data[0].length == length:
        return source.read(start, length)
    zeros, at = memoryview(_zeros(length)), start
    pieces: list[bytes | memoryview] = []
    for run in data:
        pieces += [zeros[:run.start - at], source.read(run.start, run.length)]
        at = run.end
    return b''.join([*pieces, zeros[:start + length - at]])


@functools.lru_cache(maxsize=4)
def _zeros(length: int) -> bytes:
    """Zeros, the same object each time; never touched, they cost no memory."""
    return bytes(length)


def _read_ahead(source: Readable, parts: Iterator[_Part], ahead: int
                ) -> Iterator[bytes]:
    pending: collections.deque[concurrent.futures.Future[bytes] | bytes] = (
        collections.deque())
    pool = concurrent.futures.ThreadPoolExecutor(ahead, 'download')
    try:
        for part in parts:
            pending.append(pool.submit(_read, source, part) if part.data
                           else _read(source, part))
            if len(pending) > ahead:
                yield _result(pending.popleft())
        while pending:
            yield _result(pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _result(found: 'concurrent.futures.Future[bytes] | bytes') -> bytes:
    return found if isinstance(found, bytes) else found.result()
