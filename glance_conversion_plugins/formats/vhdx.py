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

"""The tables of a vhdx image.

A header, see ``vhdx_log``; a table of regions; in one of those the properties
of the disk, in another its table of blocks. The layout is that of Microsoft's
[MS-VHDX]; qemu reads the first table of regions only, and so does this.
"""

from array import array
from collections.abc import Iterator
import struct
import sys
from typing import BinaryIO
from typing import NamedTuple
import uuid

from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import layout as layout_

_SECTOR = 512
_KIB = 1024
_MIB = 1024 * _KIB

_REGIONS = 192 * _KIB
_TABLE_SIZE = 64 * _KIB
_REGION = struct.Struct('<16sQII')
_ITEM = struct.Struct('<16sIII4x')
_MAX_ENTRIES = 2047

_MIN_BLOCK, _MAX_BLOCK = _MIB, 256 * _MIB
_MAX_DISK = 64 << 40
_HAS_PARENT = 1 << 1

# What an entry of the table of blocks says in its lowest bits. All others
# mean zeros: not present, undefined, zero, unmapped and its old number.
_PRESENT = 6
_ZEROS = {0, 1, 2, 3, 5}
_STATE = 7
_OFFSET = ~(_MIB - 1) & (1 << 64) - 1


def _guid(text: str) -> bytes:
    return uuid.UUID(text).bytes_le


_BLOCKS = _guid('2dc27766-f623-4200-9d64-115e9bfd4a08')
_METADATA = _guid('8b7ca206-4790-4b9a-b8fe-575f050f886e')
_PARAMETERS = _guid('caa16737-fa36-4d43-b3b6-33f0aa44e76b')
_DISK_SIZE = _guid('2fa54224-cd1b-4876-b211-5dbed83bf4b8')
_SECTOR_SIZE = _guid('8141bf1d-a96f-4709-ba47-f233a8faab5f')


class _Range(NamedTuple):
    offset: int             # in bytes
    length: int             # in bytes


class _Disk(NamedTuple):
    size: int               # in bytes
    block: int              # in bytes
    table: _Range           # of blocks

    @property
    def blocks(self) -> int:
        return -(-self.size // self.block)

    @property
    def chunk(self) -> int:
        """After so many blocks the table has an entry that is none."""
        return (_MIB << 3) * _SECTOR // self.block


def check(f: BinaryIO, size: int) -> list[str]:
    """Refuse an image for its tables, or for having a parent."""
    disk = _disk(f, size)
    for number, entry in _entries(f, disk):
        state = entry & _STATE
        if state in _ZEROS:
            continue
        # At the very beginning is what says that it is a vhdx.
        if state != _PRESENT or not entry & _OFFSET:
            raise binary.senseless('table of blocks')
        # The last block need not be whole.
        length = min(disk.block, disk.size - number * disk.block)
        if (entry & _OFFSET) + length > size:
            raise binary.truncated()
    return []


def layout(f: BinaryIO, size: int) -> layout_.Layout:
    """Where in the file each block of the disk is.

    qemu does not tell: to ``qemu-img map`` and over NBD all of a vhdx image
    is data, and reading 100 GiB of zeros takes a minute. So it does of a disk
    in more pieces than a layout keeps, over 1 TiB in blocks of 1 MiB.

    :param size: of the file, in bytes, whose tables were checked
    """
    disk = _disk(f, size)
    found = layout_.Layout()
    for number, entry in _entries(f, disk):
        found.add(min(disk.block, disk.size - number * disk.block),
                  entry & _OFFSET if entry & _STATE == _PRESENT
                  else layout_.HOLE)
    return found


def _disk(f: BinaryIO, size: int) -> _Disk:
    regions = _regions(f, size)
    items = _items(f, regions[_METADATA])
    parameters = _read_item(f, items, _PARAMETERS, 8)
    block, flags = parameters & 0xffffffff, parameters >> 32
    if flags & _HAS_PARENT:
        raise errors.UnsafeImage(
            'The image is refused: it holds only the changes to another '
            'image; convert it into a standalone image and upload that.')
    # qemu does not open those of 4096 bytes.
    if _read_item(f, items, _SECTOR_SIZE, 4) != _SECTOR:
        raise errors.ImageRefused(
            'The image can not be converted: the sectors of its disk do not '
            'have 512 bytes.')
    disk = _Disk(_read_item(f, items, _DISK_SIZE, 8), block, regions[_BLOCKS])
    if (block & block - 1 or not _MIN_BLOCK <= block <= _MAX_BLOCK
            or disk.size > _MAX_DISK or disk.size % _SECTOR):
        raise binary.senseless('header')
    entries = disk.blocks + max(disk.blocks - 1, 0) // disk.chunk
    if entries * 8 > disk.table.length:
        raise binary.senseless('table of blocks')
    return disk


def _regions(f: BinaryIO, size: int) -> dict[bytes, _Range]:
    table = binary.read(f, _REGIONS, _TABLE_SIZE)
    magic, _, count = struct.unpack_from('<4sII', table)
    if magic != b'regi' or count > _MAX_ENTRIES:
        raise binary.senseless('table of regions')
    found: dict[bytes, _Range] = {}
    for number in range(count):
        guid, offset, length, _ = _REGION.unpack_from(table,
                                                      16 + number * 32)
        if offset + length > size:
            raise binary.truncated()
        found.setdefault(guid, _Range(offset, length))
    if not found.keys() >= {_BLOCKS, _METADATA}:
        raise binary.senseless('table of regions')
    return found


def _items(f: BinaryIO, region: _Range) -> dict[bytes, _Range]:
    """Where the properties of the disk stand in the file."""
    if region.length < _TABLE_SIZE:
        raise binary.senseless('header')
    table = binary.read(f, region.offset, _TABLE_SIZE)
    magic, count = struct.unpack_from('<8s2xH', table)
    if magic != b'metadata' or count > _MAX_ENTRIES:
        raise binary.senseless('header')
    found: dict[bytes, _Range] = {}
    for number in range(count):
        guid, offset, length, _ = _ITEM.unpack_from(table, 32 + number * 32)
        if offset + length > region.length:
            raise binary.senseless('header')
        found.setdefault(guid, _Range(region.offset + offset, length))
    return found


def _read_item(f: BinaryIO, items: dict[bytes, _Range], guid: bytes,
               length: int) -> int:
    item = items.get(guid)
    if item is None or item.length != length:
        raise binary.senseless('header')
    return int.from_bytes(binary.read(f, item.offset, length), 'little')


def _entries(f: BinaryIO, disk: _Disk) -> Iterator[tuple[int, int]]:
    """The number of each block, and what the table says of it."""
    step = 1 << 14
    for first in range(0, disk.blocks, disk.chunk):
        end = min(first + disk.chunk, disk.blocks)
        index = first + first // disk.chunk
        for at in range(first, end, step):
            count = min(step, end - at)
            data = binary.read(
                f, disk.table.offset + (index + at - first) * 8, count * 8)
            numbers = array('Q', data)
            if sys.byteorder == 'big':
                numbers.byteswap()
            yield from enumerate(numbers, at)
