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

"""VDI 1.1, as VDICore.h of VirtualBox says."""

import struct

from tests import judges

_FREE, _ZEROS = 0xffffffff, 0xfffffffe


def read(data: bytes) -> bytes:
    """What the guest sees, in whole sectors."""
    head = judges.part(data, 0, 400)
    signature, version = struct.unpack_from('<II', head, 64)
    if signature != 0xbeda107f or version >> 16 != 1:
        raise judges.Unreadable('no vdi')
    table, start = struct.unpack_from('<II', head, 340)
    size, block, extra, blocks = struct.unpack_from('<QIII', head, 368)
    size = -(-size // 512) * 512
    count = -(-size // block)
    if count > blocks:
        raise judges.Unreadable('the disk is larger than its blocks')
    disk = bytearray(size)
    for number, place in enumerate(struct.unpack(
            f'<{count}I', judges.part(data, table, count * 4))):
        if place not in (_FREE, _ZEROS):
            at = number * block
            length = min(block, size - at)
            disk[at:at + length] = judges.part(
                data, start + place * (block + extra) + extra, length)
    return bytes(disk)
