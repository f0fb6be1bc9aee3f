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

"""Ranges of an image: what is data, what reads as zeros, what is a hole."""

from collections.abc import Iterable
from collections.abc import Iterator
import enum
from typing import NamedTuple

# The largest range that is_zero() takes, and what a source gives for zeros
# that it has read. One buffer for all keeps it in the cache.
_ZERO_BYTES = bytes(1024 * 1024)

# In bytes: of the blocks of file systems, and of what stores allocate.
GRAIN = 4096


class Kind(enum.Enum):
    """What is known of an extent before it is read."""

    DATA = 'data'   # must be read
    ZERO = 'zero'   # allocated, reads as zeros
    HOLE = 'hole'   # not allocated, reads as zeros


class Extent(NamedTuple):
    """A range of bytes of one kind."""

    start: int
    length: int
    kind: Kind

    @property
    def end(self) -> int:
        return self.start + self.length


def zeros(length: int) -> bytes:
    """So many zeros, mostly those that all have; at most 1 MiB."""
    return _ZERO_BYTES[:length]


def is_zero(view: memoryview) -> bool:
    """Say whether a view of at most 1 MiB holds nothing but zeros.

    ``startswith`` compares with memcmp, at 30 GiB/s and without a copy;
    ``any(view)`` walks the bytes at 0.2 GiB/s.
    """
    return view.obj is _ZERO_BYTES or _ZERO_BYTES.startswith(view)


def merge(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Join neighbours that need the same treatment.

    Zeros and holes are treated alike by all that read, so a run of both
    becomes one zero extent.
    """
    held: Extent | None = None
    for extent in extents:
        if not extent.length:
            continue
        if held is None:
            held = extent
        elif (held.kind is Kind.DATA) == (extent.kind is Kind.DATA):
            kind = held.kind if held.kind is extent.kind else Kind.ZERO
            held = Extent(held.start, held.length + extent.length, kind)
        else:
            yield held
            held = extent
    if held is not None:
        yield held


def data(extents: Iterable[Extent], gap: int) -> Iterator[Extent]:
    """Keep what is data, joined where less than ``gap`` bytes lie between."""
    held: Extent | None = None
    for extent in extents:
        if extent.kind is not Kind.DATA or not extent.length:
            continue
        if held and extent.start - held.end < gap:
            held = held._replace(length=extent.end - held.start)
        else:
            if held:
                yield held
            held = extent
    if held:
        yield held


def split(extent: Extent, block: int) -> Iterator[Extent]:
    """Cut an extent at every multiple of ``block``."""
    start = extent.start
    while start < extent.end:
        stop = min(extent.end, (start // block + 1) * block)
        yield Extent(start, stop - start, extent.kind)
        start = stop


def data_runs(view: memoryview, offset: int, gap: int
              ) -> Iterator[tuple[int, int]]:
    """Find what must be written of ``view``, which lies at ``offset``.

    Zeros are told apart in blocks of 4 KiB, aligned in the image. Between
    data they are left out where that saves more than one more write costs.

    :param gap: how many bytes of zeros that takes, from 4 KiB to 1 MiB
    :returns: (start, stop) pairs, relative to the view, outside of which the
        view holds only zeros
    """
    blocks = _Blocks(view, offset, max(GRAIN, gap // 2 // GRAIN * GRAIN))
    at = blocks.skip(0)
    while at < len(view):
        stop, following = blocks.zeros_after(at, gap)
        yield at, stop
        at = following


class _Blocks(NamedTuple):
    """A view of an image in aligned blocks, small ones and some larger ones.

    Where data is dense, few have to be looked at: of zeros as long as two
    large blocks one is a whole one.
    """

    view: memoryview
    offset: int
    large: int

    def _next(self, at: int, block: int) -> int:
        """Where the next block begins, or the view ends."""
        begin = self.offset + at
        return min(len(self.view), at + block - begin % block)

    def skip(self, at: int) -> int:
        """Where the zeros end that begin here, if they do."""
        for block in (self.large, GRAIN):
            while at < len(self.view) and is_zero(
                    self.view[at:(stop := self._next(at, block))]):
                at = stop
        return at

    def _back(self, at: int) -> int:
        """Where the zeros begin that end here; there is data before."""
        while True:
            start = max(0, at - ((self.offset + at) % GRAIN or GRAIN))
            if not is_zero(self.view[start:at]):
                return at
            at = start

    def zeros_after(self, at: int, least: int) -> tuple[int, int]:
        """The next zeros of so many bytes, or those at the end of the view.

        :param at: where there is data
        """
        length = len(self.view)
        while (at := self._next(at, self.large)) < length:
            stop = self._next(at, self.large)
            if is_zero(self.view[at:stop]):
                start, stop = self._back(at), self.skip(stop)
                if stop - start >= least or stop == length:
                    return start, stop
                at = stop
        return self._back(length), length
