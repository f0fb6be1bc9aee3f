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

"""What a zip archive says that it holds.

Its directory is at the end, and says how much there is of the one file that
is read here. The layout is that of PKWARE's APPNOTE, with its large numbers.
"""

from collections.abc import Iterator
import os
import struct
from typing import Any
from typing import BinaryIO

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import decompressor
from glance_conversion_plugins.formats import binary

_END = struct.Struct('<4sHHHHIIH')
_LARGE_END = struct.Struct('<4sQHHIIQQQQ')
_LOCATOR = struct.Struct('<4sIQI')
_ENTRY_MAGIC = b'PK\1\2'
_ENTRY = struct.Struct('<4sHHHHHHIIIHHHHHII')
_LOCAL = struct.Struct('<4sHHHHHIIIHH')
_LONGEST_COMMENT = 0xffff
_NARROW, _NARROW_COUNT = 0xffffffff, 0xffff     # for what is said elsewhere
_ENCRYPTED = 1 | 1 << 6 | 1 << 13               # flags
_TOLD_LATER = 1 << 3                            # another: behind the data
_LARGE = 1                                      # of the extra fields
# Stored, deflated, and by Windows: what unzip knows, but for bzip2. Where the
# end of that is missing it waits for more, and never ends.
_METHODS = {0, 8, 9}
# Of folders and of what is beside the disk there may be some.
_MOST = 100
# Nothing, deflated; with more bytes there may be something.
_EMPTY = 2


def member_size(path: str) -> int:
    """How large the only file in an archive is, in bytes.

    Folders do not count, nor does what is ``decompressor.BESIDE`` it.

    :raises errors.UnsafeImage: if there is another number of files, or it
        can not be read
    :raises errors.DamagedImage: if the archive is not whole
    """
    size = os.path.getsize(path)
    with open(path, 'rb') as f:
        count, offset = _directory(f, size)
        if count <= _MOST:
            sizes = [*_sizes(f, offset, count)]
            if len(sizes) == 1:
                return sizes[0]
            count = len(sizes)
    raise errors.UnsafeImage(
        f'The image is refused: its archive has {count} files, and an image '
        'is one disk; compress that alone.')


def _directory(f: BinaryIO, size: int) -> tuple[int, int]:
    """How many files there are, and where the directory begins."""
    start = max(0, size - _END.size - _LONGEST_COMMENT)
    tail = binary.read(f, start, size - start)
    at = len(tail)
    while (at := tail.rfind(b'PK\5\6', 0, at)) >= 0:
        if len(tail) - at >= _END.size:
            *_, count, _, offset, comment = _END.unpack_from(tail, at)
            if at + _END.size + comment == len(tail):
                break
    else:
        raise errors.DamagedImage(
            'The image is damaged or truncated: the directory at the end of '
            'its archive is missing.')
    if count == _NARROW_COUNT or offset == _NARROW:
        return _large_directory(f, start + at)
    return count, offset


def _large_directory(f: BinaryIO, end: int) -> tuple[int, int]:
    magic, _, at, _ = _LOCATOR.unpack(
        binary.read(f, max(0, end - _LOCATOR.size), _LOCATOR.size))
    if magic != b'PK\6\7':
        raise binary.senseless('archive')
    fields = _LARGE_END.unpack(binary.read(f, at, _LARGE_END.size))
    if fields[0] != b'PK\6\6':
        raise binary.senseless('archive')
    return fields[7], fields[9]


def _sizes(f: BinaryIO, directory: int, count: int) -> Iterator[int]:
    """Of each file that counts."""
    offset = directory
    for _ in range(count):
        fields = _ENTRY.unpack(binary.read(f, offset, _ENTRY.size))
        length, extra, comment = fields[10:13]
        offset += _ENTRY.size
        name = binary.read(f, offset, length)
        size, packed = _member(fields, binary.read(f, offset + length, extra),
                               f, directory)
        offset += length + extra + comment
        # unzip, for which a name ends there.
        if b'\0' in name:
            raise binary.senseless('archive')
        # Of a folder unzip would give what it has, whatever its size is.
        is_folder = name.endswith(b'/') and packed <= _EMPTY and not size
        if not is_folder and not name.startswith(decompressor.BESIDE.encode()):
            yield size
    # unzip reads on as long as there are more, whatever their count is.
    if binary.read(f, offset, len(_ENTRY_MAGIC)) == _ENTRY_MAGIC:
        raise binary.senseless('archive')


def _member(fields: tuple[Any, ...], extra: bytes, f: BinaryIO,
            directory: int) -> tuple[int, int]:
    """How large a file is, and how large in the archive."""
    magic, flags, method = fields[0], *fields[3:5]
    if magic != _ENTRY_MAGIC:
        raise binary.senseless('archive')
    if flags & _ENCRYPTED:
        raise errors.UnsafeImage(
            'The image is refused: its archive is encrypted.')
    if method not in _METHODS:
        raise errors.UnsafeImage(
            'The image is refused: its archive is compressed by a method '
            f'that is not read here ({method}); use that of every zip '
            '("deflate").')
    size, packed, place = _large(extra, (fields[9], fields[8], fields[16]))
    # Between them are the header and the data.
    if place + _LOCAL.size + packed > directory:
        raise binary.senseless('archive')
    _see_local(f, place, (flags, method, fields[7], packed, size))
    return size, packed


def _see_local(f: BinaryIO, place: int, told: tuple[int, ...]) -> None:
    """See that in front of the data there is what the directory says.

    unzip believes the one, and other readers the other.
    """
    magic, _, flags, method, _, _, *sums, _, _ = _LOCAL.unpack(
        binary.read(f, place, _LOCAL.size))
    if (magic != b'PK\3\4' or method != told[1]
            or (flags ^ told[0]) & (_ENCRYPTED | _TOLD_LATER)):
        raise binary.senseless('archive')
    if not flags & _TOLD_LATER and any(
            number not in (other, _NARROW)
            for number, other in zip(sums, told[2:], strict=True)):
        raise binary.senseless('archive')


def _large(extra: bytes, numbers: tuple[int, ...]) -> list[int]:
    """The same numbers; those that are large are in a field, in this order."""
    at, wide = 0, b''
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from('<HH', extra, at)
        if kind == _LARGE:
            wide = extra[at + 4:at + 4 + length]
            break
        at += 4 + length
    found = []
    for number in numbers:
        if number == _NARROW:
            if len(wide) < 8:
                raise binary.senseless('archive')
            number, wide = int.from_bytes(wide[:8], 'little'), wide[8:]
        found.append(number)
    return found
