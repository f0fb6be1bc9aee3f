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

"""VHDX, as Microsoft's [MS-VHDX] says, with its log."""

from collections.abc import Iterator
import functools
import struct
from typing import NamedTuple
import uuid

from tests import judges

_KIB, _MIB = 1 << 10, 1 << 20
_HEADERS = 64 * _KIB, 128 * _KIB
_REGIONS = 192 * _KIB
_SECTOR = 4096                  # of the log
# So much a file may have grown; a block that is further away is not read.
_MOST_MORE = 64 * _MIB
_PRESENT = 6


def _guid(text: str) -> bytes:
    return uuid.UUID(text).bytes_le


_BAT = _guid('2dc27766-f623-4200-9d64-115e9bfd4a08')
_METADATA = _guid('8b7ca206-4790-4b9a-b8fe-575f050f886e')
_PARAMETERS = _guid('caa16737-fa36-4d43-b3b6-33f0aa44e76b')
_SIZE = _guid('2fa54224-cd1b-4876-b211-5dbed83bf4b8')
_SECTOR_SIZE = _guid('8141bf1d-a96f-4709-ba47-f233a8faab5f')
_ITEMS = (
    _PARAMETERS, _SIZE, _SECTOR_SIZE,
    _guid('beca12ab-b2e6-4523-93ef-c309e000c746'),      # the disk's number
    _guid('cda348c7-445d-4471-9cc9-e9885251c556'),      # physical sectors
    _guid('a8d35f2d-b30b-454d-abf7-d3d84834ab0c'))      # where a parent is
# Who does not know what these are set for has to refuse the file.
_REGION_REQUIRED, _ITEM_REQUIRED = 1, 1 << 2


@functools.cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82f63b78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


# Of a table of 64 KiB it takes milliseconds, and most are the same.
@functools.lru_cache(maxsize=64)
def crc32c(data: bytes) -> int:
    """The checksum of all structures, their own field being zeros."""
    table, crc = _crc_table(), 0xffffffff
    for byte in data:
        crc = table[(crc ^ byte) & 0xff] ^ crc >> 8
    return crc ^ 0xffffffff


def _sum_is_right(data: bytes) -> bool:
    return (crc32c(data[:4] + bytes(4) + data[8:])
            == int.from_bytes(data[4:8], 'little'))


def read(data: bytes) -> bytes:
    """What the guest sees."""
    if data[:8] != b'vhdxfile':
        raise judges.Unreadable('no vhdx')
    data = _replayed(data)
    regions = _regions(data)
    items = _items(data, regions[_METADATA])
    block, flags = struct.unpack('<II', items[_PARAMETERS])
    size, = struct.unpack('<Q', items[_SIZE])
    sector, = struct.unpack('<I', items[_SECTOR_SIZE])
    if flags & 2:
        raise judges.Unreadable('it has a parent')
    count, chunk = -(-size // block), (1 << 23) * sector // block
    disk = bytearray(size)
    for number in range(count):
        # After each chunk is the entry of a bitmap.
        entry, = struct.unpack('<Q', judges.part(
            data, regions[_BAT] + (number + number // chunk) * 8, 8))
        if entry & 7 == _PRESENT:
            at = number * block
            length = min(block, size - at)
            disk[at:at + length] = judges.part(
                data, entry >> 20 << 20, length)
    return bytes(disk)


def _regions(data: bytes) -> dict[bytes, int]:
    table = judges.part(data, _REGIONS, 64 * _KIB)
    count, = struct.unpack_from('<I', table, 8)
    if table[:4] != b'regi' or not _sum_is_right(table):
        raise judges.Unreadable('no table of regions')
    found = {}
    for at in range(16, 16 + count * 32, 32):
        guid, offset, _, flags = struct.unpack_from('<16sQII', table, at)
        if flags & _REGION_REQUIRED and guid not in (_BAT, _METADATA):
            raise judges.Unreadable('a region that has to be known')
        found[guid] = offset
    return found


def _items(data: bytes, start: int) -> dict[bytes, bytes]:
    table = judges.part(data, start, 64 * _KIB)
    count, = struct.unpack_from('<H', table, 10)
    if table[:8] != b'metadata':
        raise judges.Unreadable('no table of metadata')
    found = {}
    for at in range(32, 32 + count * 32, 32):
        guid, offset, length, flags = struct.unpack_from('<16sIII', table, at)
        if flags & _ITEM_REQUIRED and guid not in _ITEMS:
            raise judges.Unreadable('an item that has to be known')
        found[guid] = judges.part(data, start + offset, length)
    return found


class _Entry(NamedTuple):
    at: int                 # in the log, in bytes
    length: int
    tail: int               # where the oldest entry is that counts
    sequence: int
    descriptors: int
    flushed: int            # what the file had then, at least, in bytes
    size: int               # that the file has to have, in bytes
    content: bytes


def _replayed(data: bytes) -> bytes:
    """The file once its log was replayed, section 2.3.3."""
    header = _header(data)
    guid = header[48:64]
    if not any(guid):
        return data
    length, offset = struct.unpack_from('<IQ', header, 68)
    log = judges.part(data, offset, length)
    entries = _active(log, guid)
    if not entries and any(_entry(log, guid, at)
                           for at in range(0, length, _SECTOR)):
        raise judges.Unreadable('a log without a complete sequence')
    if entries:
        if entries[-1].flushed > len(data):
            raise judges.Unreadable('the file was cut after its log')
        # It was so long when the log was written, and ends in zeros.
        length = min(entries[-1].size, len(data) + _MOST_MORE)
        file = bytearray(data).ljust(length, b'\0')
        for entry in entries:
            for place, content in _changes(entry, len(file)):
                file[place:place + len(content)] = content
        return bytes(file)
    return data


def _header(data: bytes) -> bytes:
    """Of two the one that is valid and younger, section 2.2.2."""
    valid = []
    for start in _HEADERS:
        header = judges.part(data, start, 4 * _KIB)
        if header[:4] == b'head' and _sum_is_right(header):
            valid.append(header)
    if not valid:
        raise judges.Unreadable('no header')
    header = max(valid, key=lambda header: header[8:16][::-1])
    log_version, version = struct.unpack_from('<HH', header, 64)
    if version != 1 or any(header[48:64]) and log_version:
        raise judges.Unreadable('of an unknown version')
    return header


def _active(log: bytes, guid: bytes) -> list[_Entry]:
    """The sequence of entries that ends with the youngest, 2.3.3."""
    best: list[_Entry] = []
    for start in range(0, len(log), _SECTOR):
        sequence = list(_sequence(log, guid, start))
        if sequence and (not best or sequence[-1].sequence
                         > best[-1].sequence):
            places = [entry.at for entry in sequence]
            if sequence[-1].tail in places:
                best = sequence[places.index(sequence[-1].tail):]
    return best


def _sequence(log: bytes, guid: bytes, at: int) -> Iterator[_Entry]:
    """Entries that follow one another, each numbered one higher."""
    last, total = None, 0
    while (entry := _entry(log, guid, at)) and total < len(log):
        if last is not None and entry.sequence != last + 1:
            return
        yield entry
        last, total = entry.sequence, total + entry.length
        at = (at + entry.length) % len(log)


def _entry(log: bytes, guid: bytes, at: int) -> _Entry | None:
    head = log[at:at + 64]
    if head[:4] != b'loge' or head[32:48] != guid:
        return None
    length, tail, sequence, count = struct.unpack_from('<IIQI', head, 8)
    flushed, size = struct.unpack_from('<QQ', head, 48)
    content = (log + log)[at:at + length]
    entry = _Entry(at, length, tail, sequence, count, flushed, size, content)
    if (length % _SECTOR or not 0 < length <= len(log) or not sequence
            or not _sum_is_right(content) or not _agrees(entry)):
        return None
    return entry


def _agrees(entry: _Entry) -> bool:
    """Whether descriptors and data are those of this entry, 2.3.1.

    By their numbers; 2.3.3 does not ask for the signature of data.
    """
    first = _first_data(entry)
    if first > entry.length:
        return False
    sectors = 0
    for descriptor in _descriptors(entry):
        kind, length, place, sequence = struct.unpack('<4s4xQQQ', descriptor)
        sectors += kind == b'desc'
        if (kind not in (b'desc', b'zero') or sequence != entry.sequence
                or place % _SECTOR or kind == b'zero' and length % _SECTOR):
            return False
    data = range(first, entry.length, _SECTOR)
    high, low = divmod(entry.sequence, 1 << 32)
    return len(data) == sectors and all(
        struct.unpack_from('<4xI4084xI', entry.content, at) == (high, low)
        for at in data)


def _first_data(entry: _Entry) -> int:
    return -(-(64 + entry.descriptors * 32) // _SECTOR) * _SECTOR


def _descriptors(entry: _Entry) -> Iterator[bytes]:
    for at in range(64, 64 + entry.descriptors * 32, 32):
        yield entry.content[at:at + 32]


def _changes(entry: _Entry, end: int) -> Iterator[tuple[int, bytes]]:
    """What an entry says: a place of the file, and its content, 2.3.1."""
    first = _first_data(entry)
    for descriptor in _descriptors(entry):
        kind, length, place = struct.unpack('<4s4xQQ8x', descriptor)
        if place + (length if kind == b'zero' else _SECTOR) > end:
            raise judges.Unreadable('a log for a place outside')
        if kind == b'zero':
            yield place, bytes(length)
        else:
            sector = entry.content[first:first + _SECTOR]
            first += _SECTOR
            yield place, descriptor[8:16] + sector[8:-4] + descriptor[4:8]
