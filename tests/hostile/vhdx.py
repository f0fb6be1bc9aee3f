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



"""VHDX images, and what is wrong with some of them."""

import functools
import struct
from typing import NamedTuple
import uuid

from glance_conversion_plugins import errors
from tests.hostile import build
from tests.hostile.build import case
from tests.hostile.build import KIB
from tests.hostile.build import le32
from tests.hostile.build import le64
from tests.hostile.build import MIB

HEADERS = 64 * KIB, 128 * KIB
REGIONS = 192 * KIB
LOG = b'L' * 16

GUIDS = {
    'blocks': '2dc27766-f623-4200-9d64-115e9bfd4a08',
    'metadata': '8b7ca206-4790-4b9a-b8fe-575f050f886e',
    'parameters': 'caa16737-fa36-4d43-b3b6-33f0aa44e76b',
    'size': '2fa54224-cd1b-4876-b211-5dbed83bf4b8',
    'sector': '8141bf1d-a96f-4709-ba47-f233a8faab5f',
}

DAMAGED = errors.DamagedImage
UNSAFE = errors.UnsafeImage


@functools.cache
def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82f63b78 if value & 1 else 0)
        table.append(value)
    return table


def crc32c(data: bytes) -> int:
    table, crc = _crc_table(), 0xffffffff
    for byte in data:
        crc = table[(crc ^ byte) & 0xff] ^ crc >> 8
    return crc ^ 0xffffffff


def plain(**kwargs) -> bytes:
    return build.image('vhdx', 'block_size=1M', **kwargs)


def number(data: bytes, at: int, length: int = 8) -> int:
    return int.from_bytes(data[at:at + length], 'little')


def entry(data: bytes, name: str) -> int:
    """Where the entry of a region or of a property begins."""
    guid = uuid.UUID(GUIDS[name]).bytes_le
    start = (REGIONS if name in ('blocks', 'metadata')
             else region(data, 'metadata'))
    return data.index(guid, start)


def region(data: bytes, name: str) -> int:
    return number(data, entry(data, name) + 16)


def item(data: bytes, name: str) -> int:
    """Where a property stands."""
    return region(data, 'metadata') + number(data, entry(data, name) + 16, 4)


def summed(data: bytes, *changes: tuple[int, bytes]) -> bytes:
    """Change the headers or the table of regions, and their checksums."""
    data = build.patched(data, *changes)
    for start, length in (*((h, 4 * KIB) for h in HEADERS),
                          (REGIONS, 64 * KIB)):
        if any(start <= at < start + length for at, _ in changes):
            blank = build.patched(data[start:start + length], (4, bytes(4)))
            data = build.patched(data, (start + 4, le32(crc32c(blank))))
    return data


def region_changed(name: str, at: int, new: bytes) -> bytes:
    data = plain()
    return summed(data, (entry(data, name) + at, new))


def item_changed(name: str, new: bytes, at: int = 0) -> bytes:
    data = plain()
    return build.patched(data, (item(data, name) + at, new))


def property_changed(name: str, at: int, new: bytes) -> bytes:
    data = plain()
    return build.patched(data, (entry(data, name) + at, new))


def block_changed(block: int, new: int) -> bytes:
    data = plain()
    return build.patched(data, (region(data, 'blocks') + block * 8,
                                le64(new)))


def both(data: bytes, at: int, new: bytes) -> bytes:
    """Change both headers."""
    return summed(data, *((h + at, new) for h in HEADERS))


def named(data: bytes) -> bytes:
    """Give the log a name, as while an image is in use."""
    return both(data, 48, LOG)


class Entry(NamedTuple):
    """What one entry of a log says."""

    sectors: tuple[tuple[int, bytes], ...]          # place, 4 KiB
    zeros: tuple[tuple[int, int], ...] = ()         # place, length
    last: int = 0           # size that the file has to have; 0: what it has


def with_log(data: bytes, *entries: Entry, guid: bytes = LOG, first: int = 0,
             old: tuple[Entry, ...] = ()) -> bytes:
    """Give an image a log that waits to be replayed.

    :param first: where in it the first entry begins; whatever goes beyond its
        end goes on at its beginning
    :param old: entries that follow, and were replayed long ago
    """
    data = named(data)
    start, length = number(data, HEADERS[0] + 72), number(
        data, HEADERS[0] + 68, 4)
    at = first
    for sequence, entry in (*enumerate(entries, 7), *enumerate(old, 1)):
        packed = _packed(entry, sequence, first, guid, len(data))
        for sector in range(0, len(packed), 4096):
            data = build.patched(data, (start + at, packed[sector:][:4096]))
            at = (at + 4096) % length
    return data


def _packed(entry: Entry, sequence: int, tail: int, guid: bytes, size: int
            ) -> bytes:
    descriptors = [struct.pack('<4sIQQQ', b'zero', 0, length, place, sequence)
                   for place, length in entry.zeros]
    body = b''
    for place, sector in entry.sectors:
        descriptors.append(
            b'desc' + sector[-4:] + sector[:8]
            + struct.pack('<QQ', place, sequence))
        body += (b'data' + struct.pack('<I', sequence >> 32) + sector[8:-4]
                 + struct.pack('<I', sequence & 0xffffffff))
    length = 4096 + len(body)
    head = struct.pack('<4sIIIQI4x16sQQ', b'loge', 0, length, tail, sequence,
                       len(descriptors), guid, size, entry.last or size)
    packed = (head + b''.join(descriptors)).ljust(4096, b'\0') + body
    return build.patched(packed, (4, le32(crc32c(packed))))


def _valid():
    # An entry that the table has after every so many blocks is none of one.
    yield case('vhdx-of-several-chunks', 'vhdx', lambda: build.image(
        'vhdx', 'block_size=256M', size=20 * MIB))
    for state, name in enumerate(
            ('not-present', 'undefined', 'zero', 'unmapped')):
        yield case(f'vhdx-block-{name}', 'vhdx',
                   lambda s=state: block_changed(0, s))
    yield case('vhdx-with-one-header', 'vhdx', lambda: build.patched(
        plain(), (HEADERS[0], bytes(4))))
    yield case('vhdx-with-an-empty-log', 'vhdx', lambda: named(plain()))
    yield case('vhdx-with-an-empty-log-in-its-younger-header', 'vhdx',
               lambda: summed(plain(), (HEADERS[0] + 8, le64(1)),
                              (HEADERS[1] + 8, le64(2)),
                              (HEADERS[1] + 48, LOG)))
    yield case('vhdx-with-two-equal-blocks', 'vhdx', lambda: block_changed(
        1, number(plain(), region(plain(), 'blocks'))))


def _hostile():
    yield case('vhdx-with-a-parent', 'vhdx', lambda: item_changed(
        'parameters', le32(2), 4), UNSAFE, 'changes')
    yield case('vhdx-log-for-a-place-outside', 'vhdx', lambda: with_log(
        plain(), Entry(((1 << 40, b'x' * 4096),))), DAMAGED,
        'can not be replayed')
    yield case('vhdx-log-that-makes-a-huge-file', 'vhdx', lambda: with_log(
        plain(), Entry(((3 * MIB, bytes(4096)),), last=1 << 40)), DAMAGED,
        'can not be replayed')
    yield case('vhdx-log-of-endless-zeros', 'vhdx', lambda: with_log(
        plain(), Entry((), zeros=((MIB, 1 << 50),))), DAMAGED,
        'can not be replayed')
    yield case('vhdx-log-outside', 'vhdx', lambda: summed(
        named(plain()), *((h + 72, le64(1 << 40)) for h in HEADERS)),
        DAMAGED, 'truncated')
    yield case('vhdx-of-4096-byte-sectors', 'vhdx', lambda: item_changed(
        'sector', le32(4096)), errors.ImageRefused, '512')
    yield case('vhdx-disk-too-large', 'vhdx', lambda: item_changed(
        'size', le64(1 << 50)), errors.TooLarge, 'too large')
    yield from _senseless()
    yield from _outside()


def _senseless():
    for name, data in {
        'no-header': lambda: build.patched(
            plain(), *((h, bytes(4)) for h in HEADERS)),
        'wrong-checksums': lambda: build.patched(
            plain(), *((h + 4, bytes(4)) for h in HEADERS)),
        'no-regions': lambda: summed(plain(), (REGIONS + 8, le32(0))),
        'no-blocks': lambda: region_changed('blocks', 0, bytes(16)),
        'short-metadata': lambda: region_changed('metadata', 24, le32(4096)),
        'block-of-zero': lambda: item_changed('parameters', le32(0)),
        'block-of-64-kib': lambda: item_changed('parameters', le32(1 << 16)),
        'block-of-no-power': lambda: item_changed('parameters',
                                                  le32(3 * MIB)),
        'block-of-2-gib': lambda: item_changed('parameters', le32(1 << 31)),
        'disk-of-no-whole-sector': lambda: item_changed('size',
                                                        le64(5 * MIB + 1)),
        'disk-beyond-its-table': lambda: build.patched(
            region_changed('blocks', 24, le32(4096)),
            (item(plain(), 'size'), le64(1 << 30))),
        'size-of-4-bytes': lambda: property_changed('size', 20, le32(4)),
        'no-parameters': lambda: property_changed('parameters', 0,
                                                  bytes(16)),
        'no-sector-size': lambda: property_changed('sector', 0, bytes(16)),
        'block-of-unknown-state': lambda: block_changed(0, 4),
        'block-partially-present': lambda: block_changed(0, 7),
        'block-at-the-beginning': lambda: block_changed(0, 6),
    }.items():
        yield case(f'vhdx-{name}', 'vhdx', data, DAMAGED, 'makes no sense')
    yield case('vhdx-regions-in-each-other', 'vhdx', lambda: region_changed(
        'blocks', 16, le64(region(plain(), 'metadata'))), DAMAGED,
        'makes no sense|damaged')
    yield case('vhdx-block-in-a-table', 'vhdx', lambda: block_changed(
        0, region(plain(), 'blocks') | 6), DAMAGED, 'damaged')
    yield case('vhdx-too-many-regions', 'vhdx', lambda: summed(
        plain(), (REGIONS + 8, le32(2048))), DAMAGED, 'makes no sense')
    yield case('vhdx-metadata-elsewhere', 'vhdx', lambda: region_changed(
        'metadata', 16, le64(1 << 40)), DAMAGED, 'truncated')
    yield case('vhdx-no-metadata', 'vhdx', lambda: region_changed(
        'metadata', 0, bytes(16)), DAMAGED, 'makes no sense')
    yield case('vhdx-wrong-checksum-of-regions', 'vhdx',
               lambda: build.patched(plain(), (REGIONS + 60_000, b'x')),
               DAMAGED, 'damaged')


def _outside():
    for name, data in {
        'table-elsewhere': lambda: region_changed('blocks', 16,
                                                  le64(1 << 40)),
        'table-at-the-end-of-numbers': lambda: region_changed(
            'blocks', 16, le64((1 << 64) - (1 << 20))),
        'table-beyond-all-sense': lambda: region_changed(
            'blocks', 24, le32((1 << 32) - 1)),
        'block-elsewhere': lambda: block_changed(0, 1 << 40 | 6),
        'block-just-outside': lambda: block_changed(
            0, len(plain()) // MIB * MIB | 6),
        'size-elsewhere': lambda: property_changed('size', 16,
                                                   le32(1 << 31)),
        'last-block-cut': lambda: plain()[:-1],
    }.items():
        yield case(f'vhdx-{name}', 'vhdx', data, DAMAGED, 'truncated')


CASES = [*_valid(), *_hostile()]
