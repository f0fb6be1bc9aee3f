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
from collections.abc import Sequence
import os
import struct
import sys
from typing import BinaryIO
from typing import NamedTuple
import zlib

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import zstd

_HEADER = struct.Struct('>4sIQIIQIIQ')
_COMPRESSED = 1 << 62
_OFFSET = 0x00fffffffffffe00
_ZLIB, _ZSTD = 0, 1
# Entries of a table that are held at a time.
_STEP = 1 << 16


class _Header(NamedTuple):
    cluster_bits: int
    l1_size: int            # in entries
    l1_offset: int          # in bytes
    subclusters: bool       # entries of 16 bytes instead of 8
    compression: int


class _Cluster(NamedTuple):
    end: int                # of its last sector, in bytes
    start: int              # in bytes


def ends_early(path: str, cancel: cancel_.Cancel = cancel_.NEVER) -> bool:
    """Say whether the last compressed cluster goes beyond the file's end.

    A file may end within the last sector of that cluster, for its stream
    seldom fills it; then the stream decides. Several small clusters may end
    in one sector, and the one that begins last is cut off first.
    """
    size = os.path.getsize(path)
    with binary.opened(path, cancel) as f:
        header = _read_header(f)
        last = max(_compressed(f, header, size), default=None)
        if last is None or last.end <= size:
            return False
        if last.end - size >= 512:
            return True
        f.seek(last.start)
        stream = f.read(last.end - last.start)
        if header.compression == _ZSTD:
            return not zstd.is_complete(stream)
        return not _inflates(stream, 1 << header.cluster_bits)


def _inflates(stream: bytes, size: int) -> bool:
    """Say whether a stream of zlib's is there up to its end."""
    inflating = zlib.decompressobj(-15)
    try:
        # One more byte than there is: its end is behind its last one.
        inflating.decompress(stream, size + 1)
    except zlib.error:
        return False
    return inflating.eof


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
    """The compressed cluster that ends last, of each table."""
    shift = 62 - (header.cluster_bits - 8)
    mask = (1 << shift) - 1
    step = 2 if header.subclusters else 1
    for offset in _tables(f, header, size):
        for entries in _numbers(f, offset, (1 << header.cluster_bits) // 8):
            # Tables of attacks repeat one entry; those of disks do not.
            packed = {entry & _COMPRESSED - 1 for entry in entries[::step]
                      if entry & _COMPRESSED}
            yield from sorted(
                _Cluster((entry & mask & ~511) + ((entry >> shift) + 1) * 512,
                         entry & mask) for entry in packed)[-1:]


def _tables(f: BinaryIO, header: _Header, size: int) -> set[int]:
    """Where the tables of the second level are, each of them once.

    Any number of entries may refer to one table. That a table begins with a
    cluster is for qemu to see; then there are no more of them than fit into
    the file.
    """
    whole = ~((1 << header.cluster_bits) - 1)
    found: set[int] = set()
    for entries in _numbers(f, header.l1_offset, header.l1_size):
        found.update(entry & _OFFSET & whole for entry in entries)
    return {offset for offset in found if 0 < offset < size}


def _numbers(f: BinaryIO, offset: int, count: int
             ) -> Iterator[Sequence[int]]:
    """The entries of a table, or of what there is of it, in pieces."""
    f.seek(offset)
    for first in range(0, count, _STEP):
        data = f.read(min(_STEP, count - first) * 8)
        numbers = array('Q', data[:len(data) // 8 * 8])
        if sys.byteorder == 'little':
            numbers.byteswap()
        yield numbers
