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

"""Where in its file an image has what its disk has."""

import array
import bisect
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

# What stands in the place of an offset.
HOLE = -1       # not stored: zeros
ZEROS = -2      # stored, and zeros
ENCODED = -3    # as nobody but qemu reads it

# Sixteen bytes of memory each.
_MOST = 1 << 20


class Piece(NamedTuple):
    """A range of the disk."""

    start: int      # in bytes
    length: int
    place: int      # offset in the file, or what stands for it


def place(found: Mapping[str, Any]) -> int:
    """Where an extent is that ``qemu-img map`` describes."""
    if found['zero']:
        return ZEROS if found['data'] else HOLE
    if found['data'] and not found.get('compressed'):
        return int(found.get('offset', ENCODED))
    return ENCODED


class Layout:
    """The pieces of a disk, in order and without a gap.

    Of a disk in more pieces than memory is worth only the size is known.
    """

    def __init__(self) -> None:
        self.size = 0           # in bytes, of the disk
        self.data = 0           # how much of it is neither zeros nor a hole
        self.is_known = True
        self.is_plain = True    # nothing of it is encoded
        self._next = 0          # what would continue the last piece
        self._starts = array.array('q')
        self._places = array.array('q')

    def add(self, length: int, place: int) -> None:
        """Say what follows.

        :raises ValueError: if it is nothing
        """
        if length < 1:
            raise ValueError(f'{length} bytes')
        start, self.size = self.size, self.size + length
        if place not in (HOLE, ZEROS):
            self.data += length
        self.is_plain = self.is_plain and place != ENCODED
        if self._places and place == self._next:
            self._next += length if place >= 0 else 0
            return
        self._next = place + length if place >= 0 else place
        if len(self._starts) == _MOST:
            self.is_known = False
            del self._starts[:], self._places[:]
        if self.is_known:
            self._starts.append(start)
            self._places.append(place)

    def pieces(self, start: int, length: int) -> Iterator[Piece]:
        """What a range consists of."""
        end = start + length
        number = bisect.bisect_right(self._starts, start) - 1
        while start < end:
            first, place = self._starts[number], self._places[number]
            number += 1
            last = (self._starts[number] if number < len(self._starts)
                    else self.size)
            stop = min(last, end)
            yield Piece(start, stop - start,
                        place if place < 0 else place + start - first)
            start = stop
