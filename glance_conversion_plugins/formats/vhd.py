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

"""The tables of a vhd image.

A footer of 512 bytes ends every image; a dynamic one begins with a copy of
it, and has a header and a table of blocks. The layout is that of Microsoft's
"Virtual Hard Disk Image Format Specification"; the limits are those of qemu's
block/vpc.c, which trusts the first footer that it finds.
"""

from array import array
import os
import struct
import sys
from typing import BinaryIO
from typing import NamedTuple

from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import binary

_SECTOR = 512
_COOKIE = b'conectix'
_FOOTER = struct.Struct('>8sIIQI4sI4sQQHBBII')
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
# Microsoft's tools before Virtual PC 2004 wrote a footer without its last
# byte.
_OLD_FOOTER = 511

_DYNAMIC_COOKIE = b'cxsparse'
_DYNAMIC_HEADER = struct.Struct('>8sQQIIII')
_DYNAMIC_SIZE = 1024
_MIN_BLOCK, _MAX_BLOCK = 1 << 12, 1 << 28
_UNUSED = 0xffffffff
_MAX_DISK = 0xff000000 * _SECTOR    # 2040 GiB, as in qemu

# Of all others qemu takes the size from the geometry, unless that is the
# largest there is.
_BY_SIZE = {b'win ', b'qem2', b'd2v ', b'tap\0', b'CTXS', b'wa\0\0'}
_MAX_GEOMETRY = 65535 * 16 * 255
# VirtualBox means the size that it writes; the geometry, rounded down, would
# cut off the end of the disk, with its second partition table.
_UNKNOWN_TO_QEMU = {b'vbox'}


class _Footer(NamedTuple):
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
    def served(self) -> int:
        """The size of the disk that is converted, in bytes."""
        geometry = self.cylinders * self.heads * self.sectors
        if (self.creator in _BY_SIZE | _UNKNOWN_TO_QEMU
                or geometry == _MAX_GEOMETRY):
            return self.size // _SECTOR * _SECTOR
        return geometry * _SECTOR


def check(f: BinaryIO, size: int) -> None:
    """Refuse an image for its tables, and for having a parent."""
    if size < _OLD_FOOTER:
        raise binary.truncated()
    if binary.read(f, 0, len(_COOKIE)) != _COOKIE:
        _check_fixed(_footer(f, size - _SECTOR), size)
        return
    footer = _footer(f, 0)
    if footer.type == _DIFFERENCING:
        raise errors.UnsafeImage(
            'The image is refused: it holds only the changes to another '
            'image; convert it into a standalone image and upload that.')
    if footer.type != _DYNAMIC:
        raise binary.senseless('header')
    end = _check_end(f, size, footer)
    _check_dynamic(f, end, footer)


def is_fixed(path: str) -> bool:
    """Say whether a file is a raw disk with the footer of a fixed VHD."""
    footer = _last_footer(path)
    return footer is not None and footer.type == _FIXED


def is_cut_by_qemu(path: str) -> bool:
    """Say whether qemu has to be told to take the size from the footer."""
    footer = _last_footer(path)
    return footer is not None and footer.creator in _UNKNOWN_TO_QEMU


def _last_footer(path: str) -> _Footer | None:
    size = os.path.getsize(path)
    with open(path, 'rb') as f:
        try:
            return _footer(f, max(0, size - _SECTOR))
        except errors.DamagedImage:
            return None


def _footer(f: BinaryIO, offset: int, length: int = _SECTOR) -> _Footer:
    data = binary.read(f, offset, length)
    footer = _Footer(*_FOOTER.unpack_from(data))
    _check_sum(data, 64, footer.checksum)
    if footer.cookie != _COOKIE:
        raise binary.senseless('footer')
    return footer


def _check_sum(data: bytes, at: int, expected: int) -> None:
    """Compare the sum of all bytes but those of the sum itself."""
    total = sum(data) - sum(data[at:at + 4])
    if ~total & 0xffffffff != expected:
        raise errors.DamagedImage(
            'The image is damaged: its header has a wrong checksum.')


def _check_fixed(footer: _Footer, size: int) -> None:
    if footer.type != _FIXED:
        raise binary.senseless('footer')
    content = size - _SECTOR
    # The footer itself, and zeros after it, would become content.
    if footer.size > content or footer.served > content:
        raise binary.truncated()
    if footer.size < content:
        raise binary.senseless('footer')


def _check_end(f: BinaryIO, size: int, first: _Footer) -> int:
    """See that the file ends with what it begins with, and tell where.

    A file that was cut has lost this, whatever else it has lost.
    """
    for length in (_SECTOR, _OLD_FOOTER):
        try:
            last = _footer(f, size - length, length)
        except errors.DamagedImage:
            continue
        if (last.type, last.size) != (first.type, first.size):
            raise binary.senseless('footer')
        return size - length
    raise binary.truncated()


def _check_dynamic(f: BinaryIO, end: int, footer: _Footer) -> None:
    data = binary.read(f, footer.next, _DYNAMIC_SIZE)
    cookie, _, table, _, entries, block, checksum = (
        _DYNAMIC_HEADER.unpack_from(data))
    _check_sum(data, 36, checksum)
    if (cookie != _DYNAMIC_COOKIE or block & block - 1
            or not _MIN_BLOCK <= block <= _MAX_BLOCK
            or entries > _MAX_DISK // block
            or entries * block < max(footer.size, footer.served)):
        raise binary.senseless('header')
    if table + entries * 4 > end:
        raise binary.truncated()
    bitmap = -(-block // (8 * _SECTOR) // _SECTOR) * _SECTOR
    _check_blocks(f, table, entries, (end - bitmap - block) // _SECTOR)


def _check_blocks(f: BinaryIO, table: int, entries: int, highest: int) -> None:
    """Look for a block after the highest sector where one can begin."""
    step = 1 << 16
    for first in range(0, entries, step):
        count = min(step, entries - first)
        numbers = array('I', binary.read(f, table + first * 4, count * 4))
        if sys.byteorder == 'little':
            numbers.byteswap()
        used = (n for n in numbers if n != _UNUSED)
        if max(used, default=highest) > highest:
            raise binary.truncated()
