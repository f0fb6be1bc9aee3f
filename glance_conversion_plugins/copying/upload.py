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
"""A stream written into a sink while it comes in, and digested on the way.

The thread that reads also finds zeros and hands data to the sink; each digest
has a thread of its own, and what is in flight between them is bounded.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from typing import NamedTuple

from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import sinks
from glance_conversion_plugins import errors

# What is digested and written at a time: large enough that threads seldom
# take turns, and a divisor of every object size of RBD.
BLOCK = 1024 * 1024

_SMALL = 64 * 1024

# How much an image of unknown size grows at once: it begins with the first
# and doubles up to the second, as in the stock driver.
_FIRST_STEP = 16 * BLOCK
_LAST_STEP = 8 << 30


class Stored(NamedTuple):
    """What has been written."""

    size: int
    digest: digest.Digest


def upload(chunks: Iterable[bytes], sink: sinks.Sink, size: int,
           digests: digest.Digests) -> Stored:
    """Write a stream into a sink, which is sealed but never aborted.

    :param chunks: of any length; freed as soon as they are written
    :param size: in bytes; 0 if it is not known
    :raises errors.WrongSize: if the stream is longer or shorter
    """
    with digests:
        sink.create(size)
        room = _Room(sink, size)
        written = 0
        for length, view in blocks(_limited(chunks, size)):
            room.fit(written + length)
            if view is None:
                digests.zeros(length)
                sink.zero(written, length)
            else:
                digests.update(view)
                sink.write(view, written)
            written += length
        room.trim(written)
        found = digests.finish()
        sink.seal()
        return Stored(written, found)


def blocks(chunks: Iterable[bytes]
           ) -> Iterator[tuple[int, memoryview | None]]:
    """Cut a stream into blocks of 1 MiB, the last of which may be shorter.

    :returns: (length, content) pairs; None stands for zeros
    """
    pieces: list[memoryview] = []
    missing = BLOCK
    for chunk in _joined(chunks):
        view = memoryview(chunk)
        while len(view) >= missing:
            pieces.append(view[:missing])
            yield _join(pieces)
            view, pieces, missing = view[missing:], [], BLOCK
        if view:
            pieces.append(view)
            missing -= len(view)
    if pieces:
        yield _join(pieces)


def _joined(chunks: Iterable[bytes]) -> Iterator[bytes | bytearray]:
    """Put small chunks together, which would cost more than they hold."""
    held = bytearray()
    for chunk in chunks:
        if not held and len(chunk) >= _SMALL:
            yield chunk
            continue
        held += chunk
        if len(held) >= _SMALL:
            yield held
            held = bytearray()
    if held:
        yield held


def _join(pieces: list[memoryview]) -> tuple[int, memoryview | None]:
    length = sum(map(len, pieces))
    if all(map(extent.is_zero, pieces)):
        return length, None
    return length, (pieces[0] if len(pieces) == 1
                    else memoryview(b''.join(pieces)))


def _limited(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Pass a stream on, and see that it has the announced size."""
    seen = 0
    for chunk in chunks:
        seen += len(chunk)
        if size and seen > size:
            raise errors.WrongSize(f'Size exceeds: expected {size} bytes, '
                                   f'got {seen} bytes')
        yield chunk
    if size and seen != size:
        raise errors.WrongSize(f'Size mismatch: expected {size} bytes, '
                               f'got {seen} bytes')


class _Room:
    """Makes a sink of unknown size as large as it needs to be."""

    def __init__(self, sink: sinks.Sink, size: int) -> None:
        self._sink = sink
        self._known = bool(size)
        self._size = size
        self._step = _FIRST_STEP

    def fit(self, size: int) -> None:
        if size > self._size:
            self._size = max(size, self._size + self._step)
            self._step = min(self._step * 2, _LAST_STEP)
            self._sink.resize(self._size)

    def trim(self, size: int) -> None:
        if not self._known:
            self._sink.resize(size)
