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

"""gzip, xz, bzip2 and zstd: headers, sums, and what follows what."""

import bz2
from collections.abc import Callable
import functools
import lzma
import random
import struct
import zlib

from tests.contract import packages
from tests.fuzz import contents
from tests.fuzz import disks
from tests.fuzz.disks import KIB
from tests.fuzz.disks import MIB
from tests.fuzz import structure
from tests.fuzz.structure import Field
from tests.fuzz.structure import Subject
from tests.hostile import build

_SIZE = 48 * KIB
_MORE = b'more of a disk. ' * 256
_FEW = b'few'
_LZMA = lzma.compress(_MORE, lzma.FORMAT_ALONE)


def _disk() -> bytes:
    return disks.noise(_SIZE, 4 * KIB)


def gzipped(data: bytes, flags: int = 0, options: bytes = b'', *,
            level: int = 6, size: int | None = None) -> bytes:
    """A member, as RFC 1952 says."""
    packer = zlib.compressobj(level, wbits=-zlib.MAX_WBITS)
    return (b'\x1f\x8b\x08' + bytes([flags]) + bytes(5) + b'\xff' + options
            + packer.compress(data) + packer.flush()
            + struct.pack('<II', zlib.crc32(data),
                          len(data) if size is None else size))


def skippable(length: int, content: bytes = b'', kind: int = 0) -> bytes:
    """A frame of zstd that is no data."""
    return struct.pack('<II', 0x184d2a50 + kind, length) + content


def frame(*blocks: tuple[int, int, bytes], head: bytes = b'\0\x58') -> bytes:
    """A frame of zstd: the kind of each block, its length and what it has.

    :param head: without a size or a sum, and with a window of 2 MiB
    """
    made = b'\x28\xb5\x2f\xfd' + head
    for number, (kind, length, content) in enumerate(blocks, 1):
        last = number == len(blocks)
        made += (length << 3 | kind << 1 | last).to_bytes(3, 'little')
        made += content
    return made


def _xz(data: bytes, **options: object) -> bytes:
    return lzma.compress(data, lzma.FORMAT_XZ, **options)


_ZEROS = (bytes(1), bytes(4), bytes(7), bytes(4096))
_GARBAGE = (b'garbage', b'\n', b'\xff' * 600)
_RLE, _STORED = 1, 0

# What may come before and after, in so many ways.
PIECES: dict[str, Callable[[], tuple[bytes, ...]]] = {
    'gzip': lambda: (
        gzipped(_MORE), gzipped(b''), gzipped(_FEW, level=0),
        gzipped(_MORE)[:-3], gzipped(_MORE, size=7), gzipped(bytes(MIB)),
        gzipped(_MORE, 8, b'a name\0'), gzipped(_MORE, 8, b'no end'),
        gzipped(_MORE, 4, b'\4\0abcd'), gzipped(_MORE, 4, b'\xff\xffabcd'),
        gzipped(_MORE, 16, b'a comment\0'), gzipped(_MORE, 2, b'??'),
        gzipped(_MORE, 2, (zlib.crc32(b'\x1f\x8b\x08\2' + bytes(5) + b'\xff')
                           & 0xffff).to_bytes(2, 'little')),
        gzipped(_MORE, 0x20, bytes(12)), gzipped(_MORE, 0xc0),
        gzipped(bytes(20 * MIB)), b'\x1f\x8b', bz2.compress(_MORE)),
    'bzip2': lambda: (
        bz2.compress(_MORE), bz2.compress(b''), bz2.compress(_FEW, 1),
        bz2.compress(_MORE)[:-3], bz2.compress(bytes(20 * MIB)), b'BZh',
        b'BZh9', b'BZh0' + bz2.compress(_MORE)[4:], gzipped(_MORE),
        b'BZh1' + bz2.compress(disks.noise(400 * KIB, KIB), 9)[4:]),
    'xz': lambda: (
        _xz(_MORE), _xz(b''), _xz(_MORE)[:-5], _xz(bytes(20 * MIB)),
        *(_xz(_MORE, check=check) for check in (
            lzma.CHECK_NONE, lzma.CHECK_CRC32, lzma.CHECK_SHA256)),
        _xz(_MORE, filters=[{'id': lzma.FILTER_DELTA, 'dist': 7},
                            {'id': lzma.FILTER_LZMA2, 'preset': 1}]),
        _xz(_MORE, filters=[{'id': lzma.FILTER_X86},
                            {'id': lzma.FILTER_LZMA2,
                             'dict_size': 4 * KIB}]),
        b'\xfd7zXZ\0', _LZMA, gzipped(_MORE)),
    'zstd': lambda: (
        frame((_STORED, 3, _FEW)), frame((_STORED, 0, b'')),
        frame((_RLE, 9000, b'x')), frame((_RLE, 128 * KIB, b'\0')),
        frame((_RLE, 128 * KIB + 1, b'\0')), frame((3, 3, _FEW)),
        frame(*[(_RLE, 128 * KIB, b'y')] * 200), frame((2, 3, _FEW)),
        frame((_STORED, 3, _FEW))[:-1], frame((_STORED, 4, _FEW)),
        *(frame((_STORED, 3, _FEW), head=head) for head in (
            b'\x20\3', b'\x20\4', b'\x24\3', b'\0\xff', b'\0\xa0', b'\0\x98',
            b'\1\x58\7', b'\1\x58\0', b'\3\x58\1\2\3\4', b'\x28\3', b'\x30\3',
            b'\xe0' + b'\xff' * 8, b'\xc0\x58' + struct.pack('<Q', 3))),
        skippable(0), skippable(4, b'abcd', 15), skippable(5, b'abcd'),
        skippable(1 << 31), skippable(0xffffffff, b'x'),
        b'\x28\xb5\x2f\xfd', b'\x27\xb5\x2f\xfd' + bytes(20), _LZMA,
        gzipped(_MORE), _xz(_MORE), b'\x04"M\x18' + bytes(12)),
}


@functools.cache
def _pieces(kind: str) -> tuple[bytes, ...]:
    return PIECES[kind]()


def joined(kind: str) -> structure.Change:
    """Put a piece after what there is, or before it."""
    def change(data: bytearray, rng: random.Random) -> None:
        piece = rng.choice((*_pieces(kind), *_ZEROS, *_GARBAGE))
        if rng.random() < .75:
            data += piece
        else:
            data[:0] = piece
    return change


def _only(kind: str) -> structure.Change:
    """Begin with a piece, and nothing that is known to be right."""
    def change(data: bytearray, rng: random.Random) -> None:
        data[:] = b''.join(rng.choices(_pieces(kind), k=rng.randrange(1, 4)))
    return change


def _frames(data: bytes) -> bytes:
    """A frame that holds data as it is; compressing it takes longer."""
    return frame(*((_STORED, len(data[at:at + 128 * KIB]),
                    data[at:at + 128 * KIB])
                   for at in range(0, len(data) or 1, 128 * KIB)))


_PACKERS: dict[str, Callable[[bytes], bytes]] = {
    'gzip': functools.partial(gzipped, level=1),
    'bzip2': functools.partial(bz2.compress, compresslevel=1),
    'xz': functools.partial(_xz, preset=0), 'zstd': _frames}


def _filled(kind: str) -> structure.Change:
    """Have something else in it."""
    def change(data: bytearray, rng: random.Random) -> None:
        data[:] = _PACKERS[kind](rng.choice(contents.contents()))
    return change


def _anywhere(data: bytes) -> list[Field]:
    """Numbers in the packed data, which are of any size there."""
    return [Field('packed', at, 4) for at in range(
        16, len(data) - 16, max(1, len(data) // 60))]


def _gzip_fields(data: bytes) -> list[Field]:
    second = data.index(b'\x1f\x8b\x08\x08')
    found = _anywhere(data)
    for at in (0, second):
        found += structure.fields(
            'member', at, ('method', 2, 1), ('flags', 3, 1), ('time', 4, 4),
            ('extra', 8, 1), ('system', 9, 1))
    for end in (second, len(data)):
        found += structure.fields('end', end - 8, ('sum', 0, 4),
                                  ('size', 4, 4))
    return found


def _bzip2_fields(data: bytes) -> list[Field]:
    return _anywhere(data) + structure.fields(
        'stream', 0, ('level', 3, 1), ('magic', 4, 6), ('sum', 10, 4),
        ('origin', 14, 3), ('map', 17, 2), ('maps', 19, 4), ('tables', 23, 4)
        ) + structure.fields('end', len(data) - 10, ('magic', 0, 6),
                             ('sum', 6, 4))


def _xz_fields(data: bytes) -> list[Field]:
    index = len(data) - 12 - 4 * (1 + int.from_bytes(data[-8:-4], 'little'))
    return _anywhere(data) + structure.fields(
        'stream', 0, ('flags', 6, 2), ('sum', 8, 4)) + structure.fields(
        'block', 12, ('size', 0, 1), ('flags', 1, 1), ('filter', 2, 1),
        ('filter-size', 3, 1), ('dictionary', 4, 1), ('padding', 5, 3),
        ('sum', 8, 4), ('chunk', 12, 1), ('chunk-size', 13, 2),
        ('chunk-packed', 15, 2)) + structure.fields(
        'index', index, ('mark', 0, 1), ('count', 1, 1), ('unpadded', 2, 2),
        ('unpacked', 4, 3)) + structure.fields(
        'footer', len(data) - 12, ('sum', 0, 4), ('backward', 4, 4),
        ('flags', 8, 2), ('magic', 10, 2)) + structure.fields(
        'check', index - 8, ('check', 0, 8))


def _xz_sums(data: bytearray, rng: random.Random) -> None:
    """Those of the first header, of a block's, and of the last footer."""
    end, block = len(data), 12 + 4 * data[12]
    index = end - 12 - 4 * (1 + int.from_bytes(data[-8:-4], 'little'))
    for start, stop, at in ((6, 8, 8), (12, block, block),
                            (index, end - 16, end - 16),
                            (end - 8, end - 2, end - 12)):
        if 0 < start < stop < end:
            data[at:at + 4] = zlib.crc32(data[start:stop]).to_bytes(
                4, 'little')


def _zstd_fields(data: bytes) -> list[Field]:
    return _anywhere(data) + structure.fields(
        'frame', 0, ('magic', 0, 4), ('descriptor', 4, 1), ('size', 5, 2),
        ('block', 7, 3), ('literals', 10, 3)) + structure.fields(
        'end', len(data) - 4, ('sum', 0, 4))


def _gzip() -> bytes:
    disk = _disk()
    return gzipped(disk[:20 * KIB]) + gzipped(disk[20 * KIB:], 8, b'disk\0')


def _qcow2() -> bytes:
    return build.converted(_disk(), 'qcow2', ('cluster_size=4k',))


def _subject(kind: str, image: Callable[[], bytes],
             fields: Callable[[bytes], list[Field]],
             mend: structure.Change = structure.nothing,
             disk_format: str = 'raw') -> Subject:
    return Subject(disk_format, image, fields, 'little', mend,
                   (joined(kind), joined(kind), _only(kind),
                    _filled(kind)), .4,
                   'compressed')


SUBJECTS = {
    'gzip': _subject('gzip', _gzip, _gzip_fields),
    'bzip2': _subject('bzip2', lambda: bz2.compress(_disk(), 1),
                      _bzip2_fields),
    'xz': _subject('xz', lambda: _xz(_disk()), _xz_fields, _xz_sums),
    'zstd': _subject('zstd', lambda: packages.compressed('zstd', _disk()),
                     _zstd_fields),
    'zstd-qcow2': _subject(
        'zstd', lambda: packages.compressed('zstd', _qcow2()), _zstd_fields,
        disk_format='qcow2'),
}
