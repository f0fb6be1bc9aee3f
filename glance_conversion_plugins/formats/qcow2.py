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

"""Where the compressed clusters of a qcow2 image end.

``qemu-img map`` tells where an uncompressed cluster lies in the file, and
nothing of a compressed one. Of those the last is what a truncated file loses
first, and a zlib stream without its end decodes to garbage without an error.
The layout is that of qemu's docs/interop/qcow2.txt.
"""

from array import array
from collections.abc import Iterator
import os
import struct
import sys
from typing import BinaryIO
from typing import NamedTuple
import zlib

_HEADER = struct.Struct('>4sIQIIQIIQ')
_COMPRESSED = 1 << 62
_OFFSET = 0x00fffffffffffe00
_ZLIB = 0


class _Header(NamedTuple):
    cluster_bits: int
    l1_size: int            # in entries
    l1_offset: int          # in bytes
    subclusters: bool       # entries of 16 bytes instead of 8
    compression: int


class _Cluster(NamedTuple):
    start: int              # in bytes
    end: int                # of its last sector, in bytes


def ends_early(path: str) -> bool:
    """Say whether the last compressed cluster goes beyond the file's end.

    A file may end within the last sector of that cluster, for its stream
    seldom fills it; then the stream decides.
    """
    size = os.path.getsize(path)
    with open(path, 'rb') as f:
        header = _read_header(f)
        last = max(_compressed(f, header, size), default=None,
                   key=lambda cluster: cluster.end)
        if last is None or last.end <= size:
            return False
        if last.end - size >= 512 or header.compression != _ZLIB:
            return last.end - size >= 512
        f.seek(last.start)
        stream = zlib.decompressobj(-15)
        try:
            stream.decompress(f.read(), 1 << header.cluster_bits)
        except zlib.error:
            return True
        return not stream.eof


def _read_header(f: BinaryIO) -> _Header:
    head = f.read(112)
    fields = _HEADER.unpack_from(head)
    version, cluster_bits, l1_size, l1_offset = (
        fields[1], fields[4], fields[7], fields[8])
    incompatible = compression = 0
    if version >= 3:
        incompatible, = struct.unpack_from('>Q', head, 72)
        if incompatible & 1 << 3:
            compression = head[104]
    return _Header(cluster_bits, l1_size, l1_offset,
                   bool(incompatible & 1 << 4), compression)


def _compressed(f: BinaryIO, header: _Header, size: int
                ) -> Iterator[_Cluster]:
    """Every compressed cluster that an active table refers to."""
    shift = 62 - (header.cluster_bits - 8)
    mask = (1 << shift) - 1
    for l2_offset in _table(f, header.l1_offset, header.l1_size):
        l2_offset &= _OFFSET
        if not l2_offset or l2_offset >= size:
            continue
        entries = _table(f, l2_offset, (1 << header.cluster_bits) // 8)
        for entry in entries[::2 if header.subclusters else 1]:
            if entry & _COMPRESSED:
                start = entry & mask
                sectors = 1 + ((entry & _COMPRESSED - 1) >> shift)
                yield _Cluster(start, (start & ~511) + sectors * 512)


def _table(f: BinaryIO, offset: int, entries: int) -> 'array[int]':
    f.seek(offset)
    data = f.read(entries * 8)
    table = array('Q', data[:len(data) // 8 * 8])
    if sys.byteorder == 'little':
        table.byteswap()
    return table
