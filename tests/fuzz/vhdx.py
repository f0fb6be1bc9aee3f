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

"""VHDX: two headers, regions, metadata, a table, a log; each with its sum."""

import random
import struct
import uuid

from tests.fuzz import disks
from tests.fuzz.disks import KIB
from tests.fuzz.disks import MIB
from tests.fuzz import structure
from tests.fuzz.structure import Field
from tests.fuzz.structure import Subject
from tests.hostile import build
from tests.hostile import vhdx
from tests.judges.vhdx import crc32c

_REGIONS = 192 * KIB, 256 * KIB
# Of the item that names a disk.
_NAME = uuid.UUID('beca12ab-b2e6-4523-93ef-c309e000c746').bytes_le
_HEADER = (
    ('signature', 0, 4), ('checksum', 4, 4), ('sequence', 8, 8),
    ('file-guid', 16, 8), ('data-guid', 32, 8), ('log-guid', 48, 8),
    ('log-version', 64, 2), ('version', 66, 2), ('log-length', 68, 4),
    ('log', 72, 8))
_ENTRY = (
    ('signature', 0, 4), ('checksum', 4, 4), ('length', 8, 4),
    ('tail', 12, 4), ('sequence', 16, 8), ('descriptors', 24, 4),
    ('guid', 32, 8), ('flushed', 48, 8), ('last', 56, 8))
_DESCRIPTOR = (
    ('signature', 0, 4), ('trailing', 4, 4), ('leading', 8, 8),
    ('place', 16, 8), ('sequence', 24, 8))
_DATA = (('signature', 0, 4), ('high', 4, 4), ('content', 8, 8),
         ('low', 4092, 4))


def _fields(data: bytes) -> list[Field]:
    found = structure.fields('file', 0, ('signature', 0, 8))
    for number, at in enumerate(vhdx.HEADERS):
        found += structure.fields(f'header-{number}', at, *_HEADER)
    for number, at in enumerate(_REGIONS):
        found += structure.fields(
            f'regions-{number}', at, ('signature', 0, 4), ('checksum', 4, 4),
            ('count', 8, 4))
        found += _rows(f'region-{number}', at + 16, 3, 32, data, (
            ('guid', 0, 8), ('offset', 16, 8), ('length', 24, 4),
            ('required', 28, 4)))
    metadata = vhdx.region(data, 'metadata')
    found += structure.fields('metadata', metadata, ('signature', 0, 8),
                              ('count', 10, 2))
    found += _rows('item', metadata + 32, 6, 32, data, (
        ('guid', 0, 8), ('offset', 16, 4), ('length', 20, 4),
        ('flags', 24, 4)))
    for name, width in (('parameters', 4), ('size', 8), ('sector', 4)):
        found.append(Field(name, vhdx.item(data, name), width))
    found.append(Field('flags', vhdx.item(data, 'parameters') + 4, 4))
    table = vhdx.region(data, 'blocks')
    links = tuple(at | state for at in range(0, len(data) + MIB, MIB)
                  for state in range(8))
    found += [Field('table', table + number * 8, 8, links)
              for number in range(5)]
    return found + _log_fields(data)


def _rows(group: str, at: int, count: int, step: int, data: bytes,
          rows: tuple[tuple[str, int, int], ...]) -> list[Field]:
    """Entries of a table: their columns are groups."""
    links = tuple(range(0, len(data) + 1, MIB))
    return [Field(f'{group}.{name}', at + number * step + place, width, links)
            for number in range(count) for name, place, width in rows]


def _log(data: bytes) -> tuple[int, int]:
    length, offset = struct.unpack_from('<IQ', data, vhdx.HEADERS[0] + 68)
    return offset, length


def _entries(data: bytes) -> list[tuple[int, int]]:
    """Where entries of a log begin, and how long each says it is."""
    start, length = _log(data)
    found = []
    for at in range(start, min(start + min(length, MIB), len(data) - 64),
                    4096):
        if data.startswith(b'loge', at):
            found.append((at, int.from_bytes(data[at + 8:at + 12],
                                             'little')))
    return found


def _log_fields(data: bytes) -> list[Field]:
    found = []
    for at, length in _entries(data):
        found += structure.fields('entry', at, *_ENTRY)
        for place in range(at + 64, at + 192, 32):
            found += structure.fields('descriptor', place, *_DESCRIPTOR)
        for place in range(at + 4096, at + length, 4096):
            found += structure.fields('data', place, *_DATA)
    return found


def _sum(data: bytearray, at: int, length: int) -> None:
    if at + length <= len(data):
        blank = bytes(data[at:at + 4]) + bytes(4) + bytes(
            data[at + 8:at + length])
        data[at + 4:at + 8] = crc32c(blank).to_bytes(4, 'little')


def _mend(data: bytearray, rng: random.Random) -> None:
    for at in vhdx.HEADERS:
        _sum(data, at, 4 * KIB)
    if rng.random() < .8:
        data[_REGIONS[1]:_REGIONS[1] + 64 * KIB] = (
            data[_REGIONS[0]:_REGIONS[0] + 64 * KIB])
    for at in _REGIONS:
        _sum(data, at, 64 * KIB)
    for at, length in _entries(data):
        if 0 < length <= 64 * KIB and not length % 4096:
            _sum(data, at, length)


def _again(data: bytearray, rng: random.Random) -> None:
    """Let the log go on with a copy of one of its entries."""
    if entries := _entries(data):
        at, length = rng.choice(entries)
        last, size = entries[-1]
        copy = bytearray(data[at:at + min(length, 16 * KIB)])
        if len(copy) >= 64:
            sequence = int.from_bytes(copy[16:24], 'little')
            structure.put(copy, Field('', 16, 8), sequence + rng.choice(
                (0, 1, 1, 2)), 'little')
            place = last + size
            data[place:place + len(copy)] = copy


def _wrap(data: bytearray, rng: random.Random) -> None:
    """Begin an entry at the end of the log, and go on at its beginning."""
    start, length = _log(data)
    if (entries := _entries(data)) and len(entries) == 1:
        at, size = entries[0]
        if size <= min(64 * KIB, length) and start + length <= len(data):
            content = bytes(data[at:at + size])
            data[at:at + size] = bytes(size)
            split = 4096 * rng.randrange(1, max(2, size // 4096))
            place = start + length - split
            data[place:place + split] = content[:split]
            data[start:start + size - split] = content[split:]
            structure.put(data, Field('', place + 12, 4), length - split,
                          'little')
            blank = bytearray(content)
            blank[12:16] = (length - split).to_bytes(4, 'little')
            _sum(blank, 0, size)
            data[place + 4:place + 8] = blank[4:8]


def _disk() -> bytes:
    """A block of data, one of zeros, and a sector."""
    return disks.noise(2 * MIB + 512, 300 * KIB)[:MIB] + bytes(MIB) + (
        b'x' * 512)


def _plain() -> bytes:
    data = build.converted(_disk(), 'vhdx', ('block_size=1M', 'log_size=1M'))
    # A mutant is to be the same each time, and names are not.
    for number, at in enumerate(vhdx.HEADERS, 1):
        data = vhdx.summed(data, (at + 8, build.le64(number)),
                           (at + 16, b'V' * 32))
    item = vhdx.region(data, 'metadata') + data.index(_NAME) % MIB
    start = vhdx.region(data, 'metadata') + int.from_bytes(
        data[item + 16:item + 20], 'little')
    # What qemu has logged while it made the image is of no use either.
    return build.patched(data, (start, b'V' * 16), (_log(data)[0],
                                                    bytes(64 * KIB)))


def _logged() -> bytes:
    data = _plain()
    table = vhdx.region(data, 'blocks')
    sector = data[table:table + 4 * KIB]
    return vhdx.with_log(
        build.patched(data, (table, bytes(4 * KIB))),
        vhdx.Entry(((table, b'x' * 4 * KIB),), zeros=((table, 4 * KIB),)),
        vhdx.Entry(((table, sector),)))


def _one_entry() -> bytes:
    data = _plain()
    table = vhdx.region(data, 'blocks')
    sector = data[table:table + 4 * KIB]
    return vhdx.with_log(build.patched(data, (table, bytes(4 * KIB))),
                         vhdx.Entry(((table, sector),)))


SUBJECTS = {
    'vhdx': Subject('vhdx', _plain, _fields, 'little', _mend),
    'vhdx-log': Subject('vhdx', _logged, _fields, 'little', _mend,
                        (_again,)),
    'vhdx-log-wrapped': Subject('vhdx', _one_entry, _fields, 'little', _mend,
                                (_wrap, _again)),
}
