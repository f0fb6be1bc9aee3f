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

"""VHD, as Microsoft's "Virtual Hard Disk Image Format Specification" says."""

import struct

from tests import judges

_TYPES = _FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
_UNUSED = 0xffffffff
_COOKIE = b'conectix'


def read(data: bytes) -> bytes:
    """What the guest sees, as large as "Current Size" in the footer."""
    at = 0 if data.startswith(_COOKIE) else _last(data)
    following, = struct.unpack_from('>Q', data, at + 16)
    size, = struct.unpack_from('>Q', data, at + 48)
    kind, = struct.unpack_from('>I', data, at + 60)
    size = size // 512 * 512
    if kind == _FIXED:
        return judges.part(data, 0, size)
    if kind != _DYNAMIC:
        raise judges.Unreadable(f'of type {kind}')
    return _dynamic(data, following, size)


def _last(data: bytes) -> int:
    """Where the last footer is, of a type that there is.

    Its checksum is right. It may lack its last byte, which is reserved, and
    something may follow it.
    """
    at = data.rfind(_COOKIE)
    while at >= 0:
        footer = data[at:at + 512]
        said = int.from_bytes(footer[64:68])
        if (len(footer) > 510 and int.from_bytes(footer[60:64]) in _TYPES
                and said == ~(sum(footer) - sum(footer[64:68])) & 0xffffffff):
            return at
        at = data.rfind(_COOKIE, 0, at)
    raise judges.Unreadable('no footer')


def _dynamic(data: bytes, header: int, size: int) -> bytes:
    table, _, entries, block = struct.unpack_from(
        '>QIII', judges.part(data, header, 1024), 16)
    count = -(-size // block)
    if count > entries:
        raise judges.Unreadable('the disk is larger than its blocks')
    # A bit for each sector of a block, in whole sectors, precedes it.
    bitmap = -(-block // 512 // 8 // 512) * 512
    disk = bytearray(size)
    for number, place in enumerate(struct.unpack(
            f'>{count}I', judges.part(data, table, count * 4))):
        if place != _UNUSED:
            at = number * block
            length = min(block, size - at)
            bits = judges.part(data, place * 512, bitmap)
            content = judges.part(data, place * 512 + bitmap, length)
            disk[at:at + length] = _modified(content, bits)
    return bytes(disk)


def _modified(content: bytes, bits: bytes) -> bytes:
    """What is valid of a block, "Block Allocation Table and Data Blocks".

    Of a dynamic disk a sector whose bit is 0 has never been modified, and is
    zeros, as it is in a block that is not there at all.
    """
    if bits.startswith(b'\xff' * (len(content) // 4096)):
        whole = len(content) // 4096 * 8
    else:
        whole = 0
    parts = [content[:whole * 512]]
    for sector in range(whole, len(content) // 512):
        valid = bits[sector // 8] >> 7 - sector % 8 & 1
        piece = content[sector * 512:(sector + 1) * 512]
        parts.append(piece if valid else bytes(512))
    return b''.join(parts)
