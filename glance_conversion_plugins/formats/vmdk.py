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

"""The tables of a vmdk image.

One file of sparse content: a header, a descriptor in text, and a directory of
tables of grains. Everything else that VMDK may be names other files. The
layout is that of VMware's "Virtual Disk Format 5.0"; the limits are those of
qemu's block/vmdk.c.
"""

from array import array
from collections.abc import Iterator
import struct
import sys
from typing import BinaryIO
from typing import NamedTuple

from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import remarks
from glance_conversion_plugins.formats import vmdk_text

_SECTOR = 512
_MAGIC = b'KDMV'
_HEADER = struct.Struct('<4sIIQQQQIQQQ5xH')
_GD_AT_END = (1 << 64) - 1
_ZERO_GRAIN = 1 << 2            # a flag: table entries of 1 mean zeros
_COMPRESSED = 1 << 16           # another, which some readers go by
_MAX_GRAIN = 0x200000           # in sectors, as in qemu
# Of those that are compressed: qemu takes memory for three at each request.
_MAX_PACKED_GRAIN = 0x8000
_MIN_GRAIN = 8                  # in sectors, as in the specification
_MAX_TABLE = 512                # entries of a grain table, as in qemu
_MAX_DIRECTORY = 1 << 21        # entries; with common tables that is 64 TiB

_DESCRIPTOR = 512               # where it begins, as qemu and others expect
# What qemu reads of a descriptor to find a parent, whatever the header says.
_QEMU_DESCRIPTOR = 20 * _SECTOR
_MAX_DESCRIPTOR = (1 << 20) - 1

# What ends a stream: a marker, the footer, and a marker of zeros.
_FOOTER_MARKER = struct.pack('<II', 0, 3) + bytes(496)
_FOOTER_SIZE = 3 * _SECTOR
# How far from the end of the file it is looked for, in bytes.
_WINDOW = 4 << 20

_NO_FOOTER = ('The image is damaged or truncated: its footer is missing, or '
              'does not agree with its header.')
# What a footer may not say otherwise than the header.
_SAME = ('magic', 'version', 'capacity', 'grain', 'descriptor',
         'descriptor_size', 'table_entries', 'compression')


class _Header(NamedTuple):
    magic: bytes
    version: int
    flags: int
    capacity: int               # in sectors, as are grain and all offsets
    grain: int
    descriptor: int
    descriptor_size: int
    table_entries: int          # of each grain table
    backup_directory: int
    directory: int
    overhead: int
    compression: int

    @property
    def reach(self) -> int:
        """How many sectors of the disk one grain table describes."""
        return self.table_entries * self.grain


def check(f: BinaryIO, size: int) -> list[str]:
    """Refuse an image for its tables, and for naming other files.

    :param size: of the file, in bytes
    :returns: what its owner is to know
    """
    first = header = _read(f, 0)
    _check_header(first)
    _check_descriptor(f, size, first)
    end = size
    if first.directory == _GD_AT_END:
        end = _stream_end(f, size)
        header = _footer(f, end, first)
    for start, sectors in _grains(f, end, header):
        # How long a compressed grain is shows when it is decoded.
        length = 1 if header.compression else sectors * _SECTOR
        if start * _SECTOR + length > end:
            raise binary.truncated()
    return [] if end == size else [remarks.BEYOND]


def image_length(f: BinaryIO, size: int) -> int:
    """How long an image that was checked is in its file; 0: all of that."""
    if _read(f, 0).directory != _GD_AT_END:
        return 0
    # qemu looks for the footer at the end of the file.
    end = _stream_end(f, size)
    return 0 if end == size else end


def _read(f: BinaryIO, offset: int) -> _Header:
    return _Header(*_HEADER.unpack(binary.read(f, offset, _HEADER.size)))


def _stream_end(f: BinaryIO, size: int) -> int:
    """Where a stream ends; tools that align append to it."""
    start = max(0, size - _WINDOW) // _SECTOR * _SECTOR
    f.seek(start)
    data = f.read(_WINDOW + _SECTOR)
    at = len(data)
    while (at := data.rfind(_MAGIC, 0, at)) >= 0:
        place = at - _SECTOR
        if (not at % _SECTOR and place >= 0
                and data[place + 8:at] == _FOOTER_MARKER
                and data[at + _SECTOR:at + 2 * _SECTOR] == bytes(_SECTOR)):
            return start + place + _FOOTER_SIZE
    raise errors.DamagedImage(_NO_FOOTER)


def _footer(f: BinaryIO, end: int, first: _Header) -> _Header:
    """Read the header that stands at the end of a stream."""
    footer = _read(f, end - 2 * _SECTOR)
    if (footer.directory == _GD_AT_END
            or (first.flags ^ footer.flags) & _COMPRESSED
            or any(getattr(first, field) != getattr(footer, field)
                   for field in _SAME)):
        raise errors.DamagedImage(_NO_FOOTER)
    return footer


def _check_header(header: _Header) -> None:
    if header.magic == _MAGIC and not header.descriptor:
        raise vmdk_text.refused(vmdk_text.PART)
    # Of a disk of no size qemu believes the descriptor, and opens whatever
    # files that names.
    if not header.capacity:
        raise vmdk_text.refused('its disk has no size of its own')
    if (header.magic != _MAGIC or header.version not in (1, 2, 3)
            or header.descriptor * _SECTOR != _DESCRIPTOR
            or header.compression != bool(header.flags & _COMPRESSED)
            or header.grain & header.grain - 1
            or not _MIN_GRAIN <= header.grain <= (
                _MAX_PACKED_GRAIN if header.compression else _MAX_GRAIN)
            or not 0 < header.table_entries <= _MAX_TABLE
            or -(-header.capacity // header.reach) > _MAX_DIRECTORY):
        raise binary.senseless('header')


def _check_descriptor(f: BinaryIO, size: int, header: _Header) -> None:
    count = max(_QEMU_DESCRIPTOR,
                min(header.descriptor_size * _SECTOR, _MAX_DESCRIPTOR))
    data = binary.read(f, _DESCRIPTOR, min(count, size - _DESCRIPTOR))
    vmdk_text.check(data)


def _grains(f: BinaryIO, size: int, header: _Header
            ) -> Iterator[tuple[int, int]]:
    """Where in the file the highest grain of each table is, and the last one.

    :returns: its first sector, and how many the disk has of it
    """
    nowhere = 1 if header.flags & _ZERO_GRAIN else 0
    tables = -(-header.capacity // header.reach)
    length = 0
    for number, offset in _directory(f, size, header, tables):
        # More tables than the file has room for: a small file could keep
        # this busy for long.
        length += header.table_entries * 4
        if length > size:
            raise binary.senseless('directory of grains')
        entries = _array(binary.read(f, offset * _SECTOR,
                                     header.table_entries * 4))
        left = header.capacity - number * header.reach
        if left <= header.reach:
            # The last grain of a disk need not be whole.
            last = (left - 1) // header.grain
            if entries[last] > nowhere:
                yield entries[last], left - last * header.grain
            del entries[last:]
        highest = max(entries, default=0)
        if highest > nowhere:
            yield highest, header.grain


def _directory(f: BinaryIO, size: int, header: _Header, tables: int
               ) -> Iterator[tuple[int, int]]:
    """The number and the place of each grain table that there is."""
    start = header.directory * _SECTOR
    if not header.directory or start + tables * 4 > size:
        raise binary.truncated()
    step = 4096
    for first in range(0, tables, step):
        count = min(step, tables - first)
        data = binary.read(f, start + first * 4, count * 4)
        for number, offset in enumerate(_array(data), first):
            if offset:
                yield number, offset


def _array(data: bytes) -> 'array[int]':
    numbers = array('I', data)
    if sys.byteorder == 'big':
        numbers.byteswap()
    return numbers
