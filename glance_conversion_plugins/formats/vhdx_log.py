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
import os
import struct
from typing import BinaryIO
from typing import NamedTuple

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.formats import binary

_KIB = 1024
_COOKIE = b'vhdxfile'
_HEADERS = 64 * _KIB, 128 * _KIB
_HEADER_SIZE = 4 * _KIB
_HEADER = struct.Struct('<4sIQ16s16s16sHHIQ')
_ENTRY = struct.Struct('<4sIIIQI4x16sQ')
_ENTRY_SIZE = 64
_DESCRIPTOR = struct.Struct('<4s4xQQQ')
_DATA = struct.Struct('<4xI4084xI')     # the two halves of a number
_SECTOR = 4 * _KIB              # of the log
_STEP = 1024 * _KIB
_VERSION = 1
_LAST = (1 << 64) - 1           # number of a header
# Where in a header that is what straighten() changes.
_SEQUENCE, _LOG = 8, 68
# Hyper-V's logs have 1 MiB.
_MOST_LOG = 64 * _STEP


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


class _Entry(NamedTuple):
    start: int                  # in the log, in bytes
    length: int                 # in bytes
    tail: int                   # where the oldest is that it depends on
    sequence: int
    file_size: int              # that was certain by then, in bytes


def check(path: binary.Where) -> None:
    """Refuse an image whose log may have to be replayed before it is read.

    One that was closed may keep its log's name, and has no entry of it.
    Whether entries that are there are whole shows when they are replayed.

    :raises errors.LogNotReplayed: if so
    """
    with binary.opened(path) as f:
        header = _younger(f)
        if any(header.log_guid) and any(_entries(f, header)):
            raise errors.LogNotReplayed(
                'The image was not closed properly: its log waits to be '
                'replayed; open it and close it with the program that made '
                'it.')


def straighten(path: str, cancel: cancel_.Cancel = cancel_.NEVER) -> None:
    """Give an image a log that holds what is to be replayed, and no more.

    qemu does not heed what the newest entry says of the oldest one: it takes
    what follows it, however old, and leaves out what is before it where a log
    goes on at its beginning. The new log stands at the end of the file, so
    that until the header names it there is the other one.

    :raises errors.DamagedImage: if the newest entries are not all there, or
        the file was longer by then
    """
    with binary.opened(path, cancel) as f:
        header = _younger(f)
        entries = _active(f, header)
        size = f.seek(0, os.SEEK_END)
        if entries and entries[-1].file_size > size:
            raise binary.truncated()
        log = b''.join(_content(f, header, entry.start, entry.length)
                       for entry in entries)
        old = next((at for at in _HEADERS if _read_header(f, at) != header),
                   _HEADERS[0])
        data = bytearray(binary.read(f, sum(_HEADERS) - old, _HEADER_SIZE))
    end = -(-size // _STEP) * _STEP
    # What follows the last entry is none.
    length = (len(log) // _STEP + 1) * _STEP
    struct.pack_into('<Q', data, _SEQUENCE, header.sequence + 1)
    struct.pack_into('<IQ', data, _LOG, length, end)
    struct.pack_into('<I', data, 4, _sum(data))
    with open(path, 'r+b') as f:
        f.truncate(end + length)
        f.seek(end)
        f.write(log)
        f.flush()
        f.seek(old)
        f.write(data)


def _younger(f: BinaryIO) -> _Header:
    if binary.read(f, 0, len(_COOKIE)) != _COOKIE:
        raise binary.senseless('header')
    valid = [header for header in (_read_header(f, at) for at in _HEADERS)
             if header]
    if not valid:
        raise binary.senseless('header')
    header = max(valid, key=lambda header: header.sequence)
    # There is always a younger one to come.
    if header.version != _VERSION or header.sequence >= _LAST:
        raise binary.senseless('header')
    return header


def _read_header(f: BinaryIO, offset: int) -> _Header | None:
    """A header; None if it is not whole."""
    data = binary.read(f, offset, _HEADER_SIZE)
    header = _Header(*_HEADER.unpack_from(data))
    if header.magic != b'head' or _sum(data) != header.checksum:
        return None
    return header


def _active(f: BinaryIO, header: _Header) -> list[_Entry]:
    """The entries that are to be replayed, the oldest first.

    They end with the newest one whose tail is there, and all between them;
    entries follow one another if they are numbered so.
    """
    if header.log_length > _MOST_LOG:
        raise errors.DamagedImage(qemu_img.NOT_REPLAYED)
    found = {at: entry for at in range(0, header.log_length, _SECTOR)
             if (entry := _entry(f, header, at))}
    newest: dict[int, _Entry] = {}      # where a sequence leads that is here
    for entry in sorted(found.values(), key=lambda e: -e.sequence):
        after = _next(found, header, entry)
        newest[entry.start] = newest[after.start] if after else entry
    whole = [head for head in newest.values()
             if newest.get(head.tail) == head]
    if not whole:
        if found:
            raise errors.DamagedImage(qemu_img.NOT_REPLAYED)
        return []
    entries = [found[max(whole, key=lambda e: e.sequence).tail]]
    while after := _next(found, header, entries[-1]):
        entries.append(after)
    if sum(entry.length for entry in entries) > header.log_length:
        raise errors.DamagedImage(qemu_img.NOT_REPLAYED)
    return entries


def _next(found: dict[int, _Entry], header: _Header, entry: _Entry
          ) -> _Entry | None:
    after = found.get((entry.start + entry.length) % header.log_length)
    if after and after.sequence == entry.sequence + 1:
        return after
    return None


def _entry(f: BinaryIO, header: _Header, start: int) -> _Entry | None:
    """The entry that begins at some place of the log; None if it is none."""
    magic, checksum, length, tail, sequence, count, guid, file_size = (
        _ENTRY.unpack(_content(f, header, start, _ENTRY.size)))
    if (magic != b'loge' or guid != header.log_guid or not sequence
            or length % _SECTOR or not 0 < length <= header.log_length):
        return None
    crc = _ONES
    for at in range(0, length, _SECTOR):
        data = _content(f, header, (start + at) % header.log_length, _SECTOR)
        crc = _crc32c(data if at else data[:4] + bytes(4) + data[8:], crc)
    if crc ^ _ONES != checksum or not _agrees(
            _content(f, header, start, length), count, sequence):
        return None
    return _Entry(start, length, tail, sequence, file_size)


def _agrees(content: bytes, count: int, sequence: int) -> bool:
    """Say whether an entry has what its header says, and of the same number.

    Of what has not qemu would replay a part.
    """
    first = -(-(_ENTRY_SIZE + count * _DESCRIPTOR.size) // _SECTOR) * _SECTOR
    data = range(first, len(content), _SECTOR)
    if first > len(content):
        return False
    left = len(data)
    for at in range(count):
        kind, zeros, place, number = _DESCRIPTOR.unpack_from(
            content, _ENTRY_SIZE + at * _DESCRIPTOR.size)
        if (kind not in (b'desc', b'zero') or number != sequence
                or place % _SECTOR or kind == b'zero' and zeros % _SECTOR):
            return False
        left -= kind == b'desc'
    return not left and all(
        _DATA.unpack_from(content, at) == divmod(sequence, 1 << 32)
        for at in data)


def _content(f: BinaryIO, header: _Header, start: int, length: int) -> bytes:
    """A part of the log, which goes on at its beginning."""
    first = min(length, header.log_length - start)
    return (binary.read(f, header.log_offset + start, first)
            + binary.read(f, header.log_offset, length - first))


def _entries(f: BinaryIO, header: _Header) -> Iterator[bool]:
    """For each sector of the log whether an entry begins there."""
    end = header.log_offset + header.log_length
    for at in range(header.log_offset, end, _STEP):
        data = binary.read(f, at, min(_STEP, end - at))
        for start in range(0, len(data) - _SECTOR + 1, _SECTOR):
            magic, *_, guid, _ = _ENTRY.unpack_from(data, start)
            yield magic == b'loge' and guid == header.log_guid


def _sum(data: bytes | bytearray) -> int:
    """The checksum of a header, in which it counts as zeros itself."""
    return _crc32c(data[:4] + bytes(4) + data[8:], _ONES) ^ _ONES


def _crc32c(data: bytes | bytearray, crc: int) -> int:
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xff] ^ crc >> 8
    return crc


def _crc_table() -> Iterator[int]:
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82f63b78 if value & 1 else 0)
        yield value


_ONES = 0xffffffff
_CRC = tuple(_crc_table())
