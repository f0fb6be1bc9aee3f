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

"""What gzip, xz, bzip2 and zstd make, as their specifications say.

RFC 1952, the .xz file format, what bzip2 reads, and RFC 8878. What follows the
last member is no part of any of them: of gzip zeros are passed over, as of
tapes, and of xz its padding.
"""

import bz2
import ctypes
import lzma
import struct
import zlib

from tests import judges

# More than this no mutant holds that is imported.
MOST = 32 << 20


def gzip(data: bytes) -> bytes:
    found, at = bytearray(), 0
    while not at or any(data[at:]):
        content, rest = inflated(data[_after_header(data, at):])
        at = len(data) - len(rest)
        if struct.unpack('<II', judges.part(data, at, 8)) != (
                zlib.crc32(content), len(content) & 0xffffffff):
            raise judges.Unreadable('a wrong sum')
        found += content
        at += 8
    return bytes(found)


def inflated(data: bytes) -> tuple[bytes, bytes]:
    """What a deflated stream holds, and what follows it."""
    reader = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = reader.decompress(data, MOST)
    except zlib.error as e:
        raise judges.Unreadable(str(e)) from e
    if not reader.eof:
        raise judges.Unreadable('no end')
    return content, reader.unused_data


def _after_header(data: bytes, start: int) -> int:
    """Where the data of a member begins."""
    magic, flags = struct.unpack('<3sB6x', judges.part(data, start, 10))
    if magic != b'\x1f\x8b\x08' or flags & 0xe0:
        raise judges.Unreadable('no member')
    at = start + 10
    if flags & 4:
        at += 2 + int.from_bytes(judges.part(data, at, 2), 'little')
    for flag in (8, 16):
        if flags & flag:
            at = data.find(b'\0', at) + 1
            if not at:
                raise judges.Unreadable('a name without an end')
    if flags & 2:
        found = zlib.crc32(data[start:at]) & 0xffff
        if judges.part(data, at, 2) != found.to_bytes(2, 'little'):
            raise judges.Unreadable('a wrong sum of a header')
        at += 2
    return at


def bzip2(data: bytes) -> bytes:
    found = bytearray()
    while data or not found:
        reader = bz2.BZ2Decompressor()
        content, data = _read(reader, data)
        found += content
        if not content and not data:
            break
    return bytes(found)


def xz(data: bytes) -> bytes:
    found, at = bytearray(), 0
    while at < len(data) or not at:
        content, rest = _read(lzma.LZMADecompressor(lzma.FORMAT_XZ),
                              data[at:])
        found += content
        padding = len(rest) - len(rest.lstrip(b'\0'))
        if padding % 4:
            raise judges.Unreadable('padding of no whole words')
        at = len(data) - len(rest) + padding
    return bytes(found)


def _read(reader: bz2.BZ2Decompressor | lzma.LZMADecompressor, data: bytes
          ) -> tuple[bytes, bytes]:
    """One stream, and what follows it."""
    try:
        content = reader.decompress(data, MOST)
    except (OSError, lzma.LZMAError) as e:
        raise judges.Unreadable(str(e)) from e
    if not reader.eof:
        raise judges.Unreadable('no end')
    return content, reader.unused_data


def zstd(data: bytes) -> bytes:
    found, at = bytearray(), 0
    while at < len(data):
        magic, length = struct.unpack('<II', judges.part(data, at, 8))
        if magic >> 4 == 0x184d2a5:
            judges.part(data, at, 8 + length)
            at += 8 + length
        elif magic == 0xfd2fb528:
            content, length = _frame(data[at:])
            found += content
            at += length
        else:
            raise judges.Unreadable('no frame')
    return bytes(found)


def _frame(data: bytes) -> tuple[bytes, int]:
    """A frame, and how long it is; libzstd knows no other formats."""
    library = ctypes.CDLL('libzstd.so.1')
    for name in ('ZSTD_findFrameCompressedSize', 'ZSTD_decompress'):
        getattr(library, name).restype = ctypes.c_size_t
    length = library.ZSTD_findFrameCompressedSize(
        data, ctypes.c_size_t(len(data)))
    if library.ZSTD_isError(ctypes.c_size_t(length)):
        raise judges.Unreadable('half a frame')
    content = (ctypes.c_char * MOST)()
    size = library.ZSTD_decompress(content, ctypes.c_size_t(MOST), data,
                                   ctypes.c_size_t(length))
    if library.ZSTD_isError(ctypes.c_size_t(size)):
        raise judges.Unreadable('a damaged frame')
    return content[:size], length
