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

"""The headers of a vhdx image, and the log that they name.

Of two headers the younger counts. The log holds changes of tables that may
not have come to their place, where the image was not closed. The layout is
that of Microsoft's [MS-VHDX].
"""

from collections.abc import Iterator
import struct
from typing import BinaryIO
from typing import NamedTuple

from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import binary

_KIB = 1024
_COOKIE = b'vhdxfile'
_HEADERS = 64 * _KIB, 128 * _KIB
_HEADER_SIZE = 4 * _KIB
_HEADER = struct.Struct('<4sIQ16s16s16sHHIQ')
_ENTRY = struct.Struct('<4sIIIQI4x16s')
_SECTOR = 4 * _KIB              # of the log
_STEP = 1024 * _KIB


class _Header(NamedTuple):
    magic: bytes
    checksum: int
    sequence: int
    file_guid: bytes
    data_guid: bytes
    log_guid: bytes             # of the entries that count; zeros: of none
    log_version: int
    version: int
    log_length: int             # in bytes
    log_offset: int             # in bytes


def check(path: str) -> None:
    """Refuse an image whose log may have to be replayed before it is read.

    One that was closed may keep its log's name, and has no entry of it. Of
    entries that are there qemu decides whether they are whole.

    :raises errors.LogNotReplayed: if so
    """
    with open(path, 'rb') as f:
        header = _younger(f)
        if any(header.log_guid) and any(_entries(f, header)):
            raise errors.LogNotReplayed(
                'The image was not closed properly: its log waits to be '
                'replayed; "qemu-img check -r all FILE" does that.')


def _younger(f: BinaryIO) -> _Header:
    if binary.read(f, 0, len(_COOKIE)) != _COOKIE:
        raise binary.senseless('header')
    valid = []
    for offset in _HEADERS:
        data = binary.read(f, offset, _HEADER_SIZE)
        header = _Header(*_HEADER.unpack_from(data))
        blank = data[:4] + bytes(4) + data[8:]
        if header.magic == b'head' and _crc32c(blank) == header.checksum:
            valid.append(header)
    if not valid:
        raise binary.senseless('header')
    return max(valid, key=lambda header: header.sequence)


def _entries(f: BinaryIO, header: _Header) -> Iterator[bool]:
    """For each sector of the log whether an entry begins there."""
    end = header.log_offset + header.log_length
    for at in range(header.log_offset, end, _STEP):
        data = binary.read(f, at, min(_STEP, end - at))
        for start in range(0, len(data) - _SECTOR + 1, _SECTOR):
            magic, *_, guid = _ENTRY.unpack_from(data, start)
            yield magic == b'loge' and guid == header.log_guid


def _crc32c(data: bytes) -> int:
    crc = 0xffffffff
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xff] ^ crc >> 8
    return crc ^ 0xffffffff


def _crc_table() -> Iterator[int]:
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82f63b78 if value & 1 else 0)
        yield value


_CRC = tuple(_crc_table())
