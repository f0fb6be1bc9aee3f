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

"""VDI: a header and one table."""

import random
import struct

from tests.fuzz import disks
from tests.fuzz.disks import KIB
from tests.fuzz.disks import MIB
from tests.fuzz import structure
from tests.fuzz.structure import Field
from tests.fuzz.structure import Subject
from tests.hostile import build

_HEADER = (
    ('signature', 64, 4), ('version', 68, 4), ('header-size', 72, 4),
    ('type', 76, 4), ('flags', 80, 4), ('map', 340, 4), ('data', 344, 4),
    ('cylinders', 348, 4), ('heads', 352, 4), ('sectors', 356, 4),
    ('sector', 360, 4), ('unused', 364, 4), ('size', 368, 8),
    ('block', 376, 4), ('extra', 380, 4), ('blocks', 384, 4),
    ('allocated', 388, 4), ('uuid', 392, 8), ('snapshot', 408, 8),
    ('link', 424, 8), ('parent', 440, 8))


def _fields(data: bytes) -> list[Field]:
    table, = struct.unpack_from('<I', data, 340)
    blocks, = struct.unpack_from('<I', data, 384)
    links = (*range(blocks + 2), 0xfffffffd, 0xfffffffe, 0xffffffff)
    # The entries behind the last block belong to nothing.
    return structure.fields('header', 0, *_HEADER) + [
        Field('map', table + number * 4, 4, links)
        for number in range(blocks + 2)]


def _move(data: bytearray, rng: random.Random) -> None:
    """Put the table, or the data, elsewhere, with all that is in it."""
    if rng.random() < .5:
        new = rng.choice((512, 1024, 1536, len(data) // 512 * 512))
        data[new:new + 512] = data[512:1024]
        structure.put(data, Field('', 340, 4), new, 'little')
    else:
        gap = 512 * rng.randrange(1, 9)
        data[1024:1024] = bytes(gap)
        structure.put(data, Field('', 344, 4), 1024 + gap, 'little')


def _shrink(data: bytearray, rng: random.Random) -> None:
    """Let the disk be smaller than its table, by a little or a lot."""
    size, = struct.unpack_from('<Q', data, 368)
    structure.put(data, Field('', 368, 8), max(0, size - rng.choice(
        (1, 100, 511, 512, MIB, MIB + 1, rng.randrange(size + 1)))),
        'little')


def _image(*options: str) -> bytes:
    disk = disks.noise(3 * MIB + 512, 300 * KIB)
    disk = disk[:MIB] + bytes(MIB) + disk[2 * MIB:]
    # A mutant is to be the same each time, and names are not.
    return build.patched(build.converted(disk, 'vdi', options),
                         (392, b'V' * 32))


def _subject(*options: str) -> Subject:
    return Subject('vdi', lambda: _image(*options), _fields, 'little',
                   changes=(_move, _shrink))


SUBJECTS = {'vdi': _subject(), 'vdi-static': _subject('static=on')}
