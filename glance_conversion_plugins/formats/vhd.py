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
from collections.abc import Iterator
import struct
import sys
from typing import BinaryIO
from typing import NamedTuple

from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import remarks
from glance_conversion_plugins.formats import vhd_footer

_SECTOR = 512
_PIECE = 8 * _SECTOR            # of which one byte of a bitmap tells
_DYNAMIC_COOKIE = b'cxsparse'
_DYNAMIC_HEADER = struct.Struct('>8sQQIIII')
_DYNAMIC_SIZE = 1024
# Before a block of less than 4 KiB qemu expects no bitmap.
_MIN_BLOCK, _MAX_BLOCK = 1 << 12, 1 << 28
_UNUSED = 0xffffffff
_MAX_DISK = 0xff000000 * _SECTOR    # 2040 GiB, as in qemu

# Whose guests saw what cylinders, heads and sectors come to. To everybody
# else, and to Microsoft's specification, the disk is as large as the footer
# says; qemu before version 10 cuts off the end of most.
_BY_GEOMETRY = {b'vpc ', b'qemu'}
_MAX_GEOMETRY = 65535 * 16 * 255


class _Table(NamedTuple):
    """Where the blocks of a dynamic image are."""

    offset: int             # of the table, in bytes
    entries: int
    block: int              # in bytes

    @property
    def bitmap(self) -> int:
        """What stands before the content of each block, in bytes."""
        return -(-self.block // (8 * _SECTOR) // _SECTOR) * _SECTOR


class _Layout(NamedTuple):
    footer: vhd_footer.Footer
    end: int                # where the last footer is, in bytes
    table: _Table | None    # None: fixed
    content_end: int        # of what belongs to the disk, in bytes


class View(NamedTuple):
    """How qemu is to look at a file."""

    by_geometry: bool
    virtual_size: int       # in bytes
    length: int             # of the image in the file; 0: all of it


def check(f: BinaryIO, size: int) -> list[str]:
    """Refuse an image for its tables, and for having a parent.

    :returns: what its owner is to know
    """
    layout = _read(f, size)
    if layout.table:
        _see_unwritten(f, layout.table, layout.footer.whole)
    after = size - layout.end > _SECTOR
    before = layout.table is None and layout.end - layout.content_end
    return [remarks.BEYOND] if after or before else []


def view(f: BinaryIO, size: int) -> View:
    """How qemu is to look at an image that was checked."""
    layout = _read(f, size)
    by_geometry = _is_by_geometry(f, layout)
    footer = layout.footer
    # qemu looks for the footer of a fixed image at the end of the file.
    after = layout.table is None and size - layout.end > _SECTOR
    return View(by_geometry, footer.geometry if by_geometry else footer.whole,
                layout.end + _SECTOR if after else 0)


def _read(f: BinaryIO, size: int) -> _Layout:
    if size < vhd_footer.SHORTEST:
        raise binary.truncated()
    if binary.read(f, 0, len(vhd_footer.COOKIE)) != vhd_footer.COOKIE:
        return _read_fixed(f, size)
    footer = vhd_footer.read(f, 0)
    if footer.type == vhd_footer.DIFFERENCING:
        raise errors.UnsafeImage(
            'The image is refused: it holds only the changes to another '
            'image; convert it into a standalone image and upload that.')
    if footer.type != vhd_footer.DYNAMIC:
        raise binary.senseless('header')
    table = _read_table(f, footer)
    content_end = _content_end(f, table, size)
    return _Layout(footer, _find_end(f, size, footer, content_end), table,
                   content_end)


def _read_fixed(f: BinaryIO, size: int) -> _Layout:
    found = vhd_footer.find_fixed(f, size)
    if found is None:
        raise binary.senseless('footer')
    end, footer = found
    # The footer itself, and zeros after it, would become content.
    if footer.size > end:
        raise binary.truncated()
    return _Layout(footer, end, None, footer.whole)


def _find_end(f: BinaryIO, size: int, first: vhd_footer.Footer, start: int
              ) -> int:
    """See that a file ends with what it begins with, and tell where.

    A file that was cut has lost this, whatever else it has lost.

    :param start: where its last block ends, in bytes
    """
    for place, last in vhd_footer.candidates(f, size, start):
        if (last.type, last.size) != (first.type, first.size):
            raise binary.senseless('footer')
        return place
    raise binary.truncated()


def _read_table(f: BinaryIO, footer: vhd_footer.Footer) -> _Table:
    data = binary.read(f, footer.next, _DYNAMIC_SIZE)
    cookie, _, table, _, entries, block, checksum = (
        _DYNAMIC_HEADER.unpack_from(data))
    vhd_footer.check_sum(data, 36, checksum)
    if (cookie != _DYNAMIC_COOKIE or block & block - 1
            or not _MIN_BLOCK <= block <= _MAX_BLOCK
            or entries > _MAX_DISK // block
            or entries * block < footer.size):
        raise binary.senseless('header')
    return _Table(table, entries, block)


def _content_end(f: BinaryIO, table: _Table, size: int) -> int:
    """Where the last of the table and the blocks ends, in bytes."""
    highest = -1
    if table.offset + table.entries * 4 > size:
        raise binary.truncated()
    step = 1 << 16
    for first in range(0, table.entries, step):
        numbers = _numbers(f, table, first, min(step, table.entries - first))
        used = (n for n in numbers if n != _UNUSED)
        highest = max(highest, max(used, default=-1))
    end = table.offset + table.entries * 4
    if highest >= 0:
        end = max(end, highest * _SECTOR + table.bitmap + table.block)
    if end > size:
        raise binary.truncated()
    return end


def _numbers(f: BinaryIO, table: _Table, first: int, count: int
             ) -> 'array[int]':
    """Entries of the table: the first sector of each block."""
    numbers = array('I', binary.read(f, table.offset + first * 4, count * 4))
    if sys.byteorder == 'little':
        numbers.byteswap()
    return numbers


def _see_unwritten(f: BinaryIO, table: _Table, size: int) -> None:
    """See that what nobody has written is zeros.

    A bit for each sector of a block says whether somebody has. If not, it
    reads as zeros by the specification, and to others; qemu reads what the
    file happens to have there.

    :param size: of the disk, in bytes
    """
    count, step = -(-size // table.block), 1 << 16
    for first in range(0, count, step):
        numbers = _numbers(f, table, first, min(step, count - first))
        for number, sector in enumerate(numbers, first):
            if sector != _UNUSED:
                _see_block(f, table, sector * _SECTOR,
                           min(table.block, size - number * table.block))


def _see_block(f: BinaryIO, table: _Table, start: int, length: int) -> None:
    bits = binary.read(f, start, table.bitmap)[:-(-length // _PIECE)]
    if bits.count(0xff) == len(bits):
        return
    for number, byte in enumerate(bits):
        if byte == 0xff:
            continue
        at = number * _PIECE
        piece = binary.read(f, start + table.bitmap + at,
                            min(_PIECE, length - at))
        for bit in range(8):
            if not byte << bit & 0x80 and any(
                    piece[bit * _SECTOR:(bit + 1) * _SECTOR]):
                raise errors.UnsafeImage(
                    'The image is refused: in sectors that were never written '
                    'it has old data, which not all programs leave out; '
                    'convert it by the program that made it.')


def _is_by_geometry(f: BinaryIO, layout: _Layout) -> bool:
    """Say whether a disk ends where its geometry does.

    Only if the footer's size is the same, rounded up, and nothing is stored
    in what is cut off: some tools call themselves Virtual PC, and mean the
    size.
    """
    footer = layout.footer
    rest = footer.whole - footer.geometry
    return (footer.creator in _BY_GEOMETRY
            and footer.geometry != _MAX_GEOMETRY * _SECTOR
            and 0 < rest < footer.heads * footer.sectors * _SECTOR
            and not any(any(piece) for piece in _stored(
                f, layout, footer.geometry, footer.whole)))


def _stored(f: BinaryIO, layout: _Layout, start: int, end: int
            ) -> Iterator[bytes]:
    """What is stored of a part of a disk."""
    table = layout.table
    if table is None:
        yield binary.read(f, start, end - start)
        return
    for number in range(start // table.block, -(-end // table.block)):
        sector = _numbers(f, table, number, 1)[0]
        first = number * table.block
        begin, stop = max(start, first), min(end, first + table.block)
        if sector != _UNUSED:
            yield binary.read(f, sector * _SECTOR + table.bitmap + begin
                              - first, stop - begin)
