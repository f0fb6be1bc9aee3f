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

"""zip, as PKWARE's APPNOTE says: the one file of an archive.

Its directory says what there is, and each local header where the data begins.
What has two directories at its end is read by each reader as another archive.
"""

import bz2
import struct
from typing import Any
import zlib

from tests import judges
from tests.judges import streams

_END, _ENTRY, _LOCAL = (struct.Struct(layout) for layout in (
    '<4sHHHHIIH', '<4sHHHHHHIIIHHHHHII', '<4sHHHHHIIIHH'))
_NARROW = 0xffffffff


def read(data: bytes) -> bytes:
    count, at = _directory(data)
    files = []
    for _ in range(min(count, 1000)):
        fields = _ENTRY.unpack(judges.part(data, at, _ENTRY.size))
        name = judges.part(data, at + _ENTRY.size, fields[10])
        at += _ENTRY.size + fields[10]
        content = _file(data, fields, judges.part(data, at, fields[11]))
        at += fields[11] + fields[12]
        # macOS adds what it knows of a file; a folder has no content.
        if not name.startswith(b'__MACOSX/') and (
                content or not name.endswith(b'/')):
            files.append(content)
    if count > 1000 or len(files) != 1:
        raise judges.Unreadable(f'{len(files)} files')
    return files[0]


def _file(data: bytes, fields: tuple[Any, ...], extra: bytes) -> bytes:
    magic, _, _, flags, method, _, _, crc, packed, size = fields[:10]
    if magic != b'PK\1\2' or flags & 0x2041:
        raise judges.Unreadable('no entry that can be read')
    packed, size, place = _large(extra, [size, packed, fields[16]])
    content = _content(data, place, method, packed)
    if (len(content), zlib.crc32(content)) != (size, crc):
        raise judges.Unreadable('a wrong sum')
    return content


def _directory(data: bytes) -> tuple[int, int]:
    ends = [at for at in range(max(0, len(data) - _END.size - 65535),
                               len(data) - _END.size + 1)
            if data.startswith(b'PK\5\6', at)
            and at + _END.size + _END.unpack_from(data, at)[7] == len(data)]
    if len(ends) != 1:
        raise judges.Unreadable(f'{len(ends)} directories')
    *_, count, _, at, _ = _END.unpack_from(data, ends[0])
    if count != 0xffff and at != _NARROW:
        return count, at
    magic, _, at, _ = struct.unpack('<4sIQI', judges.part(
        data, ends[0] - 20, 20))
    large = struct.unpack('<4sQHHIIQQQQ', judges.part(data, at, 56))
    if (magic, large[0]) != (b'PK\6\7', b'PK\6\6'):
        raise judges.Unreadable('no large directory')
    return large[7], large[9]


def _large(extra: bytes, narrow: list[int]) -> tuple[int, int, int]:
    """The numbers, of which some are in the extra field, in this order."""
    at, wide = 0, b''
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from('<HH', extra, at)
        if kind == 1:
            wide = judges.part(extra, at + 4, length)
            break
        at += 4 + length
    found = []
    for number in narrow:
        if number == _NARROW:
            number, wide = struct.unpack('<Q', judges.part(
                wide, 0, 8))[0], wide[8:]
        found.append(number)
    return found[1], found[0], found[2]


def _content(data: bytes, at: int, method: int, packed: int) -> bytes:
    fields = _LOCAL.unpack(judges.part(data, at, _LOCAL.size))
    if fields[0] != b'PK\3\4':
        raise judges.Unreadable('no local header')
    at += _LOCAL.size + fields[9] + fields[10]
    content = judges.part(data, at, packed)
    if method == 0:
        return content
    # Of deflate64 the same, but for its longest matches.
    if method in (8, 9):
        return streams.inflated(content)[0]
    if method != 12:
        raise judges.Unreadable(f'method {method}')
    try:
        return bz2.BZ2Decompressor().decompress(content, streams.MOST)
    except OSError as e:
        raise judges.Unreadable(str(e)) from e
