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

"""The tables of a vdi image.

A header, and a map that tells for each block of the disk which block of the
file holds it. The layout is that of VirtualBox; the limits are those of
qemu's block/vdi.c.
"""

from array import array
from collections.abc import Iterator
import struct
import sys
from typing import BinaryIO
from typing import NamedTuple

from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import binary

_SECTOR = 512
_MAGIC = 0xbeda107f
_VERSION = 0x00010001
# From the signature on, without the description of 256 bytes.
_HEADER = struct.Struct('<64xIIIII256xII12xI4xQIIII32x16s16s')
_DYNAMIC, _STATIC, _UNDO, _DIFFERENCING = 1, 2, 3, 4
_BLOCK = 1 << 20
# That VirtualBox knows, and qemu does not.
_OTHER_BLOCKS = {1 << bits for bits in range(12, 28)} - {_BLOCK}
_MAX_DISK = 0x3fffffff * _BLOCK     # as in qemu
_NOT_ALLOCATED = 0xfffffffe         # from here on


class _Header(NamedTuple):
    magic: int
    version: int
    header_size: int
    type: int
    flags: int
    map: int                # where it is, in bytes
    data: int               # where block 0 is, in bytes
    sector: int             # in bytes
    size: int               # of the disk, in bytes
    block: int              # in bytes
    block_extra: int
    blocks: int             # of the disk
    allocated: int          # in the file
    linked: bytes
    parent: bytes


def check(f: BinaryIO, size: int) -> list[str]:
    """Refuse an image for its tables, and for having a parent."""
    header = _Header(*_HEADER.unpack(binary.read(f, 0, _HEADER.size)))
    _check_header(header)
    if header.map + header.blocks * 4 > size:
        raise binary.truncated()
    # A file of N blocks can not hold more than N, however large the disk.
    seen = bytearray(max(0, size - header.data) // _BLOCK + 1)
    for number, block in _allocated(f, header):
        # The last block of a disk need not be whole.
        length = min(_BLOCK, header.size - number * _BLOCK)
        if header.data + block * _BLOCK + length > size:
            raise binary.truncated()
        if seen[block]:
            raise binary.senseless('table of blocks')
        seen[block] = 1
    return []


def _check_header(header: _Header) -> None:
    if (header.type == _DIFFERENCING or any(header.linked)
            or any(header.parent)):
        raise errors.UnsafeImage(
            'The image is refused: it holds only the changes to another '
            'image; convert it into a standalone image and upload that.')
    if header.magic == _MAGIC and (
            header.version != _VERSION or header.type == _UNDO
            or header.block in _OTHER_BLOCKS):
        raise errors.UnsafeImage(
            'The image is refused: it is a VDI of a kind that is not read '
            'here; "VBoxManage clonemedium" makes one that is.')
    if (header.magic != _MAGIC or header.type not in (_DYNAMIC, _STATIC)
            or header.sector != _SECTOR or header.block != _BLOCK
            # qemu would take what comes before each block for its content.
            or header.block_extra
            or header.map % _SECTOR or header.data % _SECTOR
            or header.size > _MAX_DISK
            or header.blocks * _BLOCK < header.size
            or header.allocated > header.blocks):
        raise binary.senseless('header')


def _allocated(f: BinaryIO, header: _Header) -> Iterator[tuple[int, int]]:
    """Which block of the disk is which block of the file."""
    blocks = -(-header.size // _BLOCK)
    step = 1 << 14
    for first in range(0, blocks, step):
        count = min(step, blocks - first)
        numbers = array('I', binary.read(f, header.map + first * 4,
                                         count * 4))
        if sys.byteorder == 'big':
            numbers.byteswap()
        for number, block in enumerate(numbers, first):
            if block < _NOT_ALLOCATED:
                yield number, block
