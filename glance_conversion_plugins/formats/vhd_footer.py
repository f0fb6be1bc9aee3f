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

"""The footer of a vhd image, and where in a file it is.

It is at the end; but tools that align or merge leave gaps before it, others
append to it, and Microsoft's before Virtual PC 2004 wrote it without its last
byte.
"""

from collections.abc import Iterator
import io
import struct
from typing import BinaryIO
from typing import NamedTuple

from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import binary

SECTOR = 512
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
# The least that a file has.
SHORTEST = 511
# How far from where it should be a footer is looked for, in bytes.
WINDOW = 4 << 20

COOKIE = b'conectix'
_LAYOUT = struct.Struct('>8sIIQI4sI4sQQHBBII')


class Footer(NamedTuple):
    """What a footer says; that of a dynamic image stands at its begin too."""

    cookie: bytes
    features: int
    version: int
    next: int               # where the dynamic header is
    timestamp: int
    creator: bytes
    creator_version: int
    creator_host: bytes
    original_size: int
    size: int               # of the disk, in bytes
    cylinders: int
    heads: int
    sectors: int
    type: int
    checksum: int

    @property
    def whole(self) -> int:
        """The size of the disk in whole sectors, in bytes."""
        return self.size // SECTOR * SECTOR

    @property
    def geometry(self) -> int:
        """The size of the disk by its geometry, in bytes."""
        return self.cylinders * self.heads * self.sectors * SECTOR


def read(f: BinaryIO, offset: int, length: int = SECTOR) -> Footer:
    """Read a footer that stands at some place.

    :raises errors.DamagedImage: if it does not
    """
    data = binary.read(f, offset, length)
    footer = Footer(*_LAYOUT.unpack_from(data))
    check_sum(data, 64, footer.checksum)
    if footer.cookie != COOKIE:
        raise binary.senseless('footer')
    return footer


def check_sum(data: bytes, at: int, expected: int) -> None:
    """Compare the sum of all bytes but those of the sum itself."""
    total = sum(data) - sum(data[at:at + 4])
    if ~total & 0xffffffff != expected:
        raise errors.DamagedImage(
            'The image is damaged: its header has a wrong checksum.')


def candidates(f: BinaryIO, size: int, start: int
               ) -> Iterator[tuple[int, Footer]]:
    """Every footer where one may stand, the likeliest first, and its place.

    :param start: what is before it is no footer
    """
    places = [(size - SECTOR, SECTOR), (size - SHORTEST, SHORTEST)]
    for at in (start, max(start, size - WINDOW)):
        places += [(place, SECTOR) for place in _cookies(f, at)]
    for place, length in places:
        if place >= start:
            try:
                yield place, read(f, place, length)
            except errors.DamagedImage:
                continue


def _cookies(f: BinaryIO, start: int) -> Iterator[int]:
    """Each sector of a window that begins as a footer does."""
    start = -(-start // SECTOR) * SECTOR
    f.seek(start)
    data = f.read(WINDOW)
    at = data.find(COOKIE)
    while at >= 0:
        if not at % SECTOR:
            yield start + at
        at = data.find(COOKIE, at + 1)


def find_fixed(f: BinaryIO, size: int) -> tuple[int, Footer] | None:
    """The last footer of a fixed image, and where it is."""
    found = None
    for place, footer in candidates(f, size, max(0, size - WINDOW)):
        if footer.type == FIXED:
            found = place, footer
            if size - place <= SECTOR:
                break
    return found


def is_footer(data: bytes) -> bool:
    """Say whether a disk that ends so ends with the footer of a fixed VHD."""
    return find_fixed(io.BytesIO(data), len(data)) is not None


def is_fixed(path: binary.Where, window: int = 0) -> bool:
    """Say whether a file ends with the footer of a fixed VHD.

    :param window: how many bytes may follow the footer
    """
    size = binary.size(path)
    with binary.opened(path) as f:
        found = find_fixed(f, size)
    return found is not None and size - found[0] <= SECTOR + window
