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

"""Mutants of an image whose structures are known.

What changes is a number that means something, and most of what it is changed
to means something too: another number of its kind, a place where something
is, the end of the file, a limit. Checksums are made right again, or nothing
behind them would ever be looked at.
"""

from collections.abc import Callable
import contextlib
import functools
import random
import struct
from typing import NamedTuple

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 9, 12, 15, 16, 20, 21, 22, 31, 32, 63, 64,
           127, 128, 255, 256, 511, 512, 513, 4095, 4096, 65535, 65536,
           1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40,
           1 << 56, (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63,
           (1 << 64) - 512, (1 << 64) - 2, (1 << 64) - 1)


class Field(NamedTuple):
    """A number in an image."""

    group: str                      # of those that mean the same
    at: int                         # in bytes
    width: int                      # in bytes
    links: tuple[int, ...] = ()     # what it says to name a place


Change = Callable[[bytearray, random.Random], None]


def nothing(data: bytearray, rng: random.Random) -> None:
    pass


class Subject(NamedTuple):
    """An image, and what is known of it."""

    disk_format: str
    image: Callable[[], bytes]
    fields: Callable[[bytes], list[Field]]
    order: str
    # Makes checksums right, and copies what stands twice.
    mend: Change = nothing
    # What can be wrong with this format and with no other.
    changes: tuple[Change, ...] = ()
    # How often it is one of these that changes an image.
    share: float = .2
    # As Glance names it: the image may be the one in a package.
    container: str = 'bare'


class _Known(NamedTuple):
    image: bytes
    groups: dict[str, list[Field]]


@functools.cache
def _known(subject: Subject) -> _Known:
    image = subject.image()
    groups: dict[str, list[Field]] = {}
    for field in subject.fields(image):
        groups.setdefault(field.group, []).append(field)
    return _Known(image, groups)


def original(subject: Subject) -> bytes:
    """The image that all mutants come from."""
    return _known(subject).image


def mutant(subject: Subject, rng: random.Random) -> bytes:
    """Make a mutant; the same for the same state of the generator."""
    image, groups = _known(subject)
    data = bytearray(image)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 6))):
        kind = rng.random()
        # What it would change may have been cut off before.
        with contextlib.suppress(IndexError, struct.error, ValueError):
            if subject.changes and kind < subject.share:
                rng.choice(subject.changes)(data, rng)
            elif kind < subject.share + .08:
                _resize(data, groups, rng)
            else:
                _renumber(data, groups, subject.order, rng)
    if rng.random() < .95:
        with contextlib.suppress(IndexError, struct.error, ValueError):
            subject.mend(data, rng)
    return bytes(data)


def get(data: bytes, field: Field, order: str) -> int:
    return int.from_bytes(data[field.at:field.at + field.width], order)


def put(data: bytearray, field: Field, number: int, order: str) -> None:
    """Set a number, if the file still goes so far."""
    if field.at + field.width <= len(data):
        number &= (1 << 8 * field.width) - 1
        data[field.at:field.at + field.width] = number.to_bytes(field.width,
                                                                order)


def _renumber(data: bytearray, groups: dict[str, list[Field]], order: str,
              rng: random.Random) -> None:
    group = groups[rng.choice(list(groups))]
    field = rng.choice(group)
    number = get(data, field, order)
    kind = rng.randrange(8)
    if kind == 0:
        number = rng.choice(NUMBERS)
    elif kind == 1:
        number ^= 1 << rng.randrange(8 * field.width)
    elif kind == 2:
        number += rng.choice((-512, -1, 1, 512, number, -(number // 2)))
    elif kind == 3 and field.links:
        number = rng.choice(field.links) + rng.choice((0, 0, 0, 1, -1, 512))
    elif kind == 4:
        number = rng.getrandbits(8 * field.width)
    elif kind == 5:
        # A whole run says the same, or counts up.
        first, step = group.index(field), rng.choice((0, 1, 512, 65536))
        for place, other in enumerate(group[first:first + 16]):
            put(data, other, number + place * step, order)
        return
    else:
        number = get(data, rng.choice(group), order)
    put(data, field, number, order)


def _resize(data: bytearray, groups: dict[str, list[Field]],
            rng: random.Random) -> None:
    """Cut a file, also where a structure begins; or let it go on."""
    kind = rng.randrange(4)
    if kind == 0:
        del data[rng.choice(groups[rng.choice(list(groups))]).at:]
    elif kind == 1:
        del data[len(data) - min(len(data), rng.choice(
            (1, 2, 511, 512, 513, 1024, 4096, rng.randrange(1, 65536)))):]
    elif kind == 2:
        data += bytes(rng.choice((1, 511, 512, 4096, 1 << 20)))
    else:
        data += data[-rng.choice((1, 512, 1024, 4096)):]


def fields(group: str, base: int, *rows: tuple[str, int, int]
           ) -> list[Field]:
    """Numbers of a header, each of a kind of its own: name, place, width."""
    return [Field(f'{group}.{name}', base + at, width)
            for name, at, width in rows]
