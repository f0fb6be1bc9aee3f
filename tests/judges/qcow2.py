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

"""qcow2, as docs/interop/qcow2.txt of qemu says.

Without snapshots, and without what lies in other files.
"""

import ctypes
import struct
import zlib

from tests import judges

_INCOMPATIBLE, _COMPRESSION_TYPE = 72, 104
_ZSTD_FEATURE, _EXTENDED = 1 << 3, 1 << 4
_COMPRESSED, _ZEROS = 1 << 62, 1
_OFFSET = (1 << 56) - 512           # bits 9 to 55
_SUBCLUSTERS = 32


class _Image:
    def __init__(self, data: bytes) -> None:
        magic, version, _, _, self.bits, self.size, _, l1_size, l1 = (
            struct.unpack('>4sIQIIQIIQ', judges.part(data, 0, 48)))
        if magic != b'QFI\xfb' or version not in (2, 3):
            raise judges.Unreadable('no qcow2')
        features = 0
        if version == 3:
            features, = struct.unpack_from('>Q', data, _INCOMPATIBLE)
        self.data = data
        self.zeros = _ZEROS if version == 3 else 0
        self.entry = 2 if features & _EXTENDED else 1
        self.flagged = b'\0'
        self.inflate = _inflate
        if features & _ZSTD_FEATURE and data[_COMPRESSION_TYPE] == 1:
            self.inflate = _unzstd
        self.l1 = struct.unpack(f'>{l1_size}Q',
                                judges.part(data, l1, l1_size * 8))

    @property
    def cluster(self) -> int:
        return 1 << self.bits


def read(data: bytes, *, flagged: int = 0) -> bytes:
    """What the guest sees.

    :param flagged: what stands for the zeros of clusters that have bit 0 set,
        to find out which ones have
    """
    image = _Image(data)
    image.flagged = bytes([flagged])
    disk = bytearray(image.size)
    reach = image.cluster // 8 // image.entry
    for number, entry in enumerate(image.l1):
        table = entry & _OFFSET
        first = number * reach * image.cluster
        if table and first < image.size:
            words = struct.unpack(f'>{image.cluster // 8}Q', judges.part(
                data, table, image.cluster))
            for at in range(reach):
                place = first + at * image.cluster
                if place < image.size:
                    _fill(image, disk, place, words[at * image.entry:
                                                    (at + 1) * image.entry])
    return bytes(disk)


def _fill(image: _Image, disk: bytearray, at: int, words: tuple[int, ...]
          ) -> None:
    """Put one cluster in its place of the disk."""
    entry = words[0]
    if entry & _COMPRESSED:
        content = _decompressed(image, entry)[:image.size - at]
        disk[at:at + len(content)] = content
        return
    place = entry & _OFFSET
    if len(words) == 1:
        if entry & image.zeros:
            length = min(image.cluster, image.size - at)
            disk[at:at + length] = image.flagged * length
        elif place:
            _copy(image, disk, at, place, image.cluster)
        return
    grain = image.cluster // _SUBCLUSTERS
    for number in range(_SUBCLUSTERS):
        allocated, zeros = words[1] >> number & 1, words[1] >> number + 32 & 1
        if allocated and zeros:
            raise judges.Unreadable('allocated, and reads as zeros')
        if allocated:
            _copy(image, disk, at + number * grain, place + number * grain,
                  grain)


def _copy(image: _Image, disk: bytearray, at: int, place: int, length: int
          ) -> None:
    length = min(length, image.size - at)
    if length > 0:
        disk[at:at + length] = judges.part(image.data, place, length)


def _decompressed(image: _Image, entry: int) -> bytes:
    shift = 62 - (image.bits - 8)
    start = entry & (1 << shift) - 1
    sectors = 1 + ((entry & _COMPRESSED - 1) >> shift)
    # The last of its sectors need not be there to its end.
    stream = image.data[start:start // 512 * 512 + sectors * 512]
    content = image.inflate(stream, image.cluster)
    if len(content) != image.cluster:
        raise judges.Unreadable('a compressed cluster is not whole')
    return content


def _inflate(stream: bytes, size: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream, size)
    except zlib.error as e:
        raise judges.Unreadable(str(e)) from e


def _unzstd(stream: bytes, size: int) -> bytes:
    library = ctypes.CDLL('libzstd.so.1')
    for name in ('ZSTD_findFrameCompressedSize', 'ZSTD_decompress'):
        getattr(library, name).restype = ctypes.c_size_t
    content, at, done = ctypes.create_string_buffer(size), 0, 0
    while done < size:
        rest = stream[at:]
        length = library.ZSTD_findFrameCompressedSize(
            rest, ctypes.c_size_t(len(rest)))
        if library.ZSTD_isError(ctypes.c_size_t(length)):
            raise judges.Unreadable('no frame of zstd')
        found = library.ZSTD_decompress(
            ctypes.byref(content, done), ctypes.c_size_t(size - done), rest,
            ctypes.c_size_t(length))
        if library.ZSTD_isError(ctypes.c_size_t(found)):
            raise judges.Unreadable('a frame of zstd is damaged')
        at, done = at + length, done + found
    return content.raw
