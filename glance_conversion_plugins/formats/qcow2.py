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

"""The tables of a qcow2 image, as far as qemu-img leaves questions open.

``qemu-img map`` tells where an uncompressed cluster lies in the file, and
nothing of a compressed one. Of those the last is what a truncated file loses
first, and a zlib stream without its end decodes to garbage without an error.

``qemu-img check`` counts what is wrong, and does not say what. Most of it
concerns how often each cluster is in use, which nobody asks who only reads.
The layout is that of qemu's docs/interop/qcow2.txt.
"""

from array import array
from collections.abc import Iterator
import struct
import sys
from typing import BinaryIO
from typing import NamedTuple
import zlib

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import zstd

ENCRYPTED = ('The image is refused: it is encrypted, and can not be '
             'converted.')

_HEADER = struct.Struct('>4sIQIIQIIQQI')
_SECTOR = 512
_COMPRESSED = 1 << 62
_ZERO = 1                       # whatever is in its place
_OFFSET = 0x00fffffffffffe00
_ZLIB, _ZSTD = 0, 1
# Entries of a table that are held at a time.
_STEP = 1 << 16
# Features that a reader has to know: not closed, marked as corrupt, data in
# another file, another compression, entries of 16 bytes.
_COMPRESSION, _SUBCLUSTERS = 1 << 3, 1 << 4
_KNOWN_FEATURES = (1 << 5) - 1

# How many clusters of a file are looked at, in a byte each.
_MAX_CLUSTERS = 1 << 27
_FREE, _USED, _SHARED = 0, 1, 2


class _Header(NamedTuple):
    version: int
    cluster_bits: int
    size: int               # of the disk, in bytes
    encryption: int         # of two kinds; 0: none
    l1_size: int            # in entries
    l1_offset: int          # in bytes
    refcounts: int          # where their table is, in bytes
    refcount_clusters: int  # of that table
    incompatible: int       # features
    compression: int

    @property
    def step(self) -> int:
        """How many numbers there are for each cluster."""
        return 2 if self.incompatible & _SUBCLUSTERS else 1

    @property
    def cluster(self) -> int:
        return 1 << self.cluster_bits

    def compressed(self, entry: int) -> '_Cluster':
        """Where a compressed cluster is."""
        shift = 62 - (self.cluster_bits - 8)
        start = entry & (1 << shift) - 1
        sectors = 1 + ((entry & _COMPRESSED - 1) >> shift)
        return _Cluster((start & ~511) + sectors * 512, start)


class _Cluster(NamedTuple):
    # First: clusters are compared by it.
    end: int                # of its last sector, in bytes
    start: int              # in bytes


def check(f: BinaryIO, size: int) -> list[str]:
    """Refuse an image whose features nobody knows here, or whose size.

    The inspectors refuse entries of 16 bytes as well, which qemu reads. Of a
    disk that ends within a sector qemu leaves out what is in that.
    """
    header = _read_header(f)
    if (header.version not in (2, 3)
            or header.incompatible & ~_KNOWN_FEATURES):
        raise errors.UnsafeImage(
            'The image is refused: it uses features of its format that are '
            'unknown here; "qemu-img convert -O qcow2 FILE NEW" writes it '
            'without them.')
    # qemu 7.2 dies of one that does not say where its keys are.
    if header.encryption in (1, 2):     # AES, LUKS
        raise errors.UnsafeImage(ENCRYPTED)
    if header.size % _SECTOR:
        raise binary.senseless('header')
    return []


def check_tables(path: binary.Where, cancel: cancel_.Cancel = cancel_.NEVER
                 ) -> None:
    """Refuse an image that does not say where all of its content is.

    Every table and every cluster has a place of its own within the file.
    Compressed clusters share one; those of internal snapshots do not count.

    :raises errors.DamagedImage: names what is wrong
    """
    size = binary.size(path)
    with binary.opened(path, cancel) as f:
        header = _read_header(f)
        places = _Places(size, header.cluster)
        places.take(0)
        tables = places.table(f, header.l1_offset, header.l1_size)
        _take_refcounts(f, header, places)
        for entry in tables:
            # One without a place, though not empty, is at the header's.
            if entry:
                _take_clusters(f, header, places, entry & _OFFSET)


class _Places:
    """Which clusters of a file are in use."""

    def __init__(self, size: int, cluster: int) -> None:
        if size // cluster >= _MAX_CLUSTERS:
            raise _damaged('there are too many to look at all')
        self._size = size
        self._cluster = cluster
        self._use = bytearray(-(-size // cluster))

    def take(self, offset: int, count: int = 1) -> None:
        """Note whole clusters that nothing else may use."""
        first, rest = divmod(offset, self._cluster)
        if rest:
            raise _damaged('one begins where none can')
        if first + count > len(self._use):
            raise binary.truncated()
        for number in range(first, first + count):
            if self._use[number]:
                raise _damaged('two are in the same place of the file')
            self._use[number] = _USED

    def share(self, cluster: _Cluster) -> None:
        """Note what only other compressed clusters may use as well."""
        if cluster.start >= self._size:
            raise binary.truncated()
        # Its last sector may be beyond the end of the file.
        for number in range(cluster.start // self._cluster,
                            min(-(-cluster.end // self._cluster),
                                len(self._use))):
            if self._use[number] == _USED:
                raise _damaged('two are in the same place of the file')
            self._use[number] = _SHARED

    def table(self, f: BinaryIO, offset: int, entries: int
              ) -> 'array[int]':
        """Read a table that nothing else may overlap."""
        length = entries * 8
        if offset + length > self._size:
            raise binary.truncated()
        self.take(offset, -(-length // self._cluster))
        # Numbers of Python would take five times the memory.
        table = array('Q')
        for numbers in _numbers(f, offset, entries):
            table += numbers
        return table


def _damaged(why: str) -> errors.DamagedImage:
    return errors.DamagedImage(
        f'The image is damaged: of its tables and clusters {why}; "qemu-img '
        'check -r all FILE" repairs what can be repaired.')


def _take_refcounts(f: BinaryIO, header: _Header, places: _Places) -> None:
    table = places.table(f, header.refcounts, header.refcount_clusters
                         * header.cluster // 8)
    for block in table:
        if block:
            places.take(block & ~511)


def _take_clusters(f: BinaryIO, header: _Header, places: _Places, table: int
                   ) -> None:
    """Note a table of clusters, and each of those."""
    entries = places.table(f, table, header.cluster // 8)
    for entry in entries[::header.step]:
        if entry & _COMPRESSED:
            places.share(header.compressed(entry))
        elif entry & ~_ZERO:
            places.take(entry & _OFFSET)


def ends_early(path: binary.Where, cancel: cancel_.Cancel = cancel_.NEVER
               ) -> bool:
    """Say whether the last compressed cluster goes beyond the file's end.

    A file may end within the last sector of that cluster, for its stream
    seldom fills it; then the stream decides. Several small clusters may end
    in one sector, and the one that begins last is cut off first.
    """
    size = binary.size(path)
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
    # The inspectors have seen 512 bytes.
    head = binary.read(f, 0, 112)
    fields = _HEADER.unpack_from(head)
    version, (cluster_bits, size, encryption) = fields[1], fields[4:7]
    l1_size, l1_offset, refcounts, refcount_clusters = fields[7:11]
    incompatible = compression = 0
    if version >= 3:
        incompatible, = struct.unpack_from('>Q', head, 72)
        if incompatible & _COMPRESSION:
            compression = head[104]
    return _Header(version, cluster_bits, size, encryption, l1_size,
                   l1_offset, refcounts, refcount_clusters, incompatible,
                   compression)


def _compressed(f: BinaryIO, header: _Header, size: int
                ) -> Iterator[_Cluster]:
    """The compressed cluster that ends last, of each table."""
    for offset in _tables(f, header, size):
        for entries in _numbers(f, offset, header.cluster // 8):
            # Tables of attacks repeat one entry; those of disks do not.
            packed = {entry & _COMPRESSED - 1
                      for entry in entries[::header.step]
                      if entry & _COMPRESSED}
            yield from sorted(map(header.compressed, packed))[-1:]


def _tables(f: BinaryIO, header: _Header, size: int) -> Iterator[int]:
    """Where the tables of the second level are, each of them once.

    Any number of entries may refer to one table. That a table begins with a
    cluster is for qemu to see; then there are no more of them than fit into
    the file, which a bit for each cluster of it keeps small.
    """
    seen = bytearray((size >> header.cluster_bits + 3) + 1)
    for entries in _numbers(f, header.l1_offset, header.l1_size):
        for entry in entries:
            number = (entry & _OFFSET) >> header.cluster_bits
            byte, bit = number >> 3, 1 << (number & 7)
            if (0 < number << header.cluster_bits < size
                    and not seen[byte] & bit):
                seen[byte] |= bit
                yield number << header.cluster_bits


def _numbers(f: BinaryIO, offset: int, count: int
             ) -> 'Iterator[array[int]]':
    """The entries of a table, or of what there is of it, in pieces."""
    for first in range(0, count, _STEP):
        # Whoever gets them may read elsewhere meanwhile.
        f.seek(offset + first * 8)
        data = f.read(min(_STEP, count - first) * 8)
        numbers = array('Q', data[:len(data) // 8 * 8])
        if sys.byteorder == 'little':
            numbers.byteswap()
        yield numbers
