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

"""VHD: a footer, its copy, a header, a table and bitmaps; two checksums."""

import random
import struct

from tests.fuzz import disks
from tests.fuzz.disks import KIB
from tests.fuzz import structure
from tests.fuzz.structure import Field
from tests.fuzz.structure import Subject
from tests.hostile import vhd

_FOOTER = (
    ('cookie', 0, 8), ('features', 8, 4), ('version', 12, 4),
    ('next', 16, 8), ('time', 24, 4), ('creator', 28, 4),
    ('creator-version', 32, 4), ('host', 36, 4), ('original', 40, 8),
    ('size', 48, 8), ('cylinders', 56, 2), ('heads', 58, 1),
    ('sectors', 59, 1), ('type', 60, 4), ('checksum', 64, 4),
    ('uuid', 68, 8), ('saved', 84, 1))
_HEADER = (
    ('cookie', 0, 8), ('next', 8, 8), ('table', 16, 8), ('version', 24, 4),
    ('entries', 28, 4), ('block', 32, 4), ('checksum', 36, 4),
    ('parent', 40, 8), ('parent-name', 64, 8), ('locator', 576, 8))
_SIZE = 400 * KIB
_BLOCK = 64 * KIB


def _footers(data: bytes) -> list[int]:
    """Where footers are, also where a mutant has moved them to."""
    found, at = [], data.find(b'conectix')
    while at >= 0:
        found.append(at)
        at = data.find(b'conectix', at + 1)
    return found


def _fields(data: bytes) -> list[Field]:
    found = structure.fields('last', len(data) - 512, *_FOOTER)
    if not data.startswith(b'conectix'):
        return found
    found += structure.fields('first', 0, *_FOOTER)
    found += structure.fields('header', 512, *_HEADER)
    count = _SIZE // _BLOCK + 1
    used = [number for number in struct.unpack_from(f'>{count}I', data, 1536)
            if number != 0xffffffff]
    links = (*used, *(n + 1 for n in used), 0, 1, 3, 0xffffffff,
             len(data) // 512, len(data) // 512 - 1)
    found += [Field('table', 1536 + number * 4, 4, links)
              for number in range(count + 2)]
    return found + [Field('bitmap', number * 512 + at, 4)
                    for number in used for at in range(0, 16, 4)]


def _mend(data: bytearray, rng: random.Random) -> None:
    if data.startswith(b'cxsparse', 512) and len(data) >= 1536:
        data[512:1536] = vhd.summed(bytes(data[512:1536]), 36)
    places = [at for at in _footers(data) if at + 511 <= len(data)]
    for at in places:
        length = min(512, len(data) - at)
        data[at:at + length] = vhd.summed(bytes(data[at:at + length]), 64)
    # The two of them agree in most mutants, or none would go on.
    if len(places) > 1 and rng.random() < .8:
        source = rng.choice((places[0], places[-1]))
        for at in (places[0], places[-1]):
            length = min(512, len(data) - at)
            data[at:at + length] = data[source:source + length].ljust(
                length, b'\0')


def _move_footer(data: bytearray, rng: random.Random) -> None:
    """Leave a gap before the footer, or put something behind it."""
    at = len(data) - rng.choice((0, 512))
    data[at:at] = rng.choice((b'\0', b'\xff', b'conectix')) * rng.choice(
        (1, 64, 512, 513, 4096))


def _regrid(data: bytearray, rng: random.Random) -> None:
    """Give blocks another size, with a table that is right for the disk."""
    if data.startswith(b'conectix'):
        structure.put(data, Field('', 544, 4), 1 << rng.randrange(9, 30),
                      'big')
        structure.put(data, Field('', 540, 4), rng.choice(
            (1, 7, 100, 128, 1 << 16)), 'big')


def _reshape(data: bytearray, rng: random.Random) -> None:
    """A geometry that is a little smaller or larger than the disk."""
    cylinders = _SIZE // 512 // 16 // 17 + rng.choice((-1, 0, 0, 1))
    geometry = struct.pack('>HBB', cylinders, 16, 17)
    for at in _footers(data):
        if at + 60 <= len(data):
            data[at + 56:at + 60] = geometry


def _dynamic(creator: bytes) -> Subject:
    return Subject(
        'vhd', lambda: vhd.dynamic(
            disk=disks.noise(_SIZE, _BLOCK), block=_BLOCK, creator=creator,
            geometry=(2, 16, 17)),
        _fields, 'big', _mend, (_move_footer, _regrid, _reshape))


def _fixed(creator: bytes) -> Subject:
    return Subject(
        'vhd', lambda: vhd.fixed(
            _SIZE, disks.noise(_SIZE, 16 * KIB), creator=creator,
            geometry=(2, 16, 17)),
        _fields, 'big', _mend, (_move_footer, _reshape))


SUBJECTS = {
    'vhd': _dynamic(b'win '), 'vhd-geometry': _dynamic(b'vpc '),
    'vhd-fixed': _fixed(b'win '), 'vhd-fixed-geometry': _fixed(b'qemu'),
}
