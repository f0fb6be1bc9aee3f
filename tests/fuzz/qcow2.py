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

"""qcow2: a header, extensions, two levels of tables, counts, snapshots."""

import pathlib
import random
import struct
import tempfile

from tests.contract import images
from tests.fuzz import disks
from tests.fuzz.disks import KIB
from tests.fuzz import structure
from tests.fuzz.structure import Field
from tests.fuzz.structure import Subject
from tests.hostile import build

_OFFSET = 0x00fffffffffffe00
_COPIED, _COMPRESSED = 1 << 63, 1 << 62
_MOST = 300                 # entries of each table

_HEADER = (
    ('magic', 0, 4), ('version', 4, 4), ('backing', 8, 8),
    ('backing-length', 16, 4), ('bits', 20, 4), ('size', 24, 8),
    ('encryption', 32, 4), ('l1-size', 36, 4), ('l1', 40, 8),
    ('refcounts', 48, 8), ('refcount-clusters', 56, 4), ('snapshots', 60, 4),
    ('snapshot-table', 64, 8))
_HEADER_3 = (
    ('incompatible', 72, 8), ('compatible', 80, 8), ('autoclear', 88, 8),
    ('refcount-order', 96, 4), ('length', 100, 4), ('compression', 104, 1))


def _table(group: str, at: int, count: int, width: int = 8,
           links: tuple[int, ...] = ()) -> list[Field]:
    return [Field(group, at + number * width, width, links)
            for number in range(min(count, _MOST))]


def _fields(data: bytes) -> list[Field]:
    version, bits = data[7], data[23]
    l1_size, l1, refcounts = struct.unpack_from('>IQQ', data, 36)
    cluster = 1 << bits
    places = range(0, len(data), max(cluster, len(data) // 40))
    links = tuple(at | flags for at in (*places, len(data), len(data) - 512)
                  for flags in (0, _COPIED, _COMPRESSED, 1))
    found = structure.fields('header', 0, *_HEADER)
    if version == 3:
        found += structure.fields('header', 0, *_HEADER_3)
    found += _extensions(data, struct.unpack_from('>I', data, 100)[0]
                         if version == 3 else 72)
    found += _table('l1', l1, l1_size, links=links)
    for at in range(l1, l1 + l1_size * 8, 8):
        if table := int.from_bytes(data[at:at + 8]) & _OFFSET:
            found += _table('l2', table, cluster // 8, links=links)
    found += _table('refcounts', refcounts, 4, links=links)
    block = int.from_bytes(data[refcounts:refcounts + 8])
    found += _table('counts', block, cluster // 2, 2)
    return found + _snapshots(data)


def _extensions(data: bytes, at: int) -> list[Field]:
    found = []
    while True:
        found += structure.fields('extension', at, ('kind', 0, 4),
                                  ('length', 4, 4), ('content', 8, 8))
        kind, length = struct.unpack_from('>II', data, at)
        if not kind:
            return found
        at += 8 + -(-length // 8) * 8


def _snapshots(data: bytes) -> list[Field]:
    count, at = struct.unpack_from('>IQ', data, 60)
    return structure.fields(
        'snapshot', at, ('l1', 0, 8), ('l1-size', 8, 4), ('id', 12, 2),
        ('name', 14, 2), ('extra', 36, 4)) if count else []


def _harden(data: bytearray, rng: random.Random) -> None:
    """Change a stream within a compressed cluster."""
    for field in rng.sample(_fields_of_l2(data), 3):
        entry = structure.get(data, field, 'big')
        start = entry & (1 << 40) - 1
        if entry & _COMPRESSED and start + 64 < len(data):
            at = start + rng.randrange(64)
            data[at:at + 4] = rng.randbytes(4)


def _fields_of_l2(data: bytes) -> list[Field]:
    l1 = int.from_bytes(data[40:48])
    table = int.from_bytes(data[l1:l1 + 8]) & _OFFSET
    return _table('l2', table, 64)


def _pack(data: bytearray, rng: random.Random) -> None:
    """Say of a cluster that it is compressed, or for how many sectors."""
    bits = data[23]
    shift = 62 - max(min(bits, 21) - 8, 1)
    field = rng.choice(_fields_of_l2(data))
    entry = structure.get(data, field, 'big') & (1 << shift) - 1
    structure.put(data, field, _COMPRESSED | rng.randrange(
        1 << 62 - shift) << shift | entry, 'big')


def _share(data: bytearray, rng: random.Random) -> None:
    """Let a table of the first level be its own, or one of counts."""
    l1, refcounts = struct.unpack_from('>QQ', data, 40)
    place = rng.choice((l1, refcounts, 0, int.from_bytes(
        data[refcounts:refcounts + 8])))
    structure.put(data, rng.choice(
        (Field('', l1, 8), *_fields_of_l2(data)[:20])), _COPIED | place,
        'big')


def _with_more() -> bytes:
    """Snapshots, a bitmap, and entries of which the snapshot has others."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, 'disk')
        path.write_bytes(_image('cluster_size=4k')())
        images.run('qemu-img', 'snapshot', '-c', 'one', path)
        images.run('qemu-img', 'bitmap', '--add', path, 'dirty')
        images.run('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 12k 20k', '-c',
                   'write -z 60k 8k', path)
        data = path.read_bytes()
    # A mutant is to be the same each time, and clocks are not.
    table, = struct.unpack_from('>Q', data, 64)
    return build.patched(data, (table + 16, bytes(8)))


def _extended() -> bytes:
    """Subclusters of every kind."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, 'disk')
        images.run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o',
                   'extended_l2=on,cluster_size=16k', path, 200 * KIB)
        images.run('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 1k 3k', '-c',
                   'write -P 8 30k 40k', '-c', 'write -z 34k 2k', '-c',
                   'write -c -P 9 96k 16k', '-c', 'discard 48k 1k', path)
        return path.read_bytes()


def _image(*options: str, compress: bool = False):
    size = 200 * KIB
    disk = disks.text(size) if compress else disks.noise(size, 4 * KIB)
    return lambda: build.converted(disk, 'qcow2', options, compress)


def _subject(image, *changes: structure.Change) -> Subject:
    return Subject('qcow2', image, _fields, 'big',
                   changes=(_pack, _share, *changes))


SUBJECTS = {
    'qcow2': _subject(_image('cluster_size=512')),
    'qcow2-v2': _subject(_image('cluster_size=4k', 'compat=0.10')),
    'qcow2-64k': _subject(_image()),
    'qcow2-zlib': _subject(_image('cluster_size=4k', compress=True), _harden),
    'qcow2-zstd': _subject(_image('cluster_size=4k', 'compression_type=zstd',
                                  compress=True), _harden),
    'qcow2-extended': _subject(_extended, _harden),
    'qcow2-snapshot': _subject(_with_more),
}
