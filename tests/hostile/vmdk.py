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



"""VMDK images, and what is wrong with some of them."""

import functools
import struct
import zlib

from glance_conversion_plugins import errors
from tests.hostile import build
from tests.hostile.build import case
from tests.hostile.build import KIB
from tests.hostile.build import le32
from tests.hostile.build import le64
from tests.hostile.build import MIB

AT_END = (1 << 64) - 1
GRAIN = 128                     # in sectors
TABLE = 512                     # entries

DAMAGED = errors.DamagedImage
UNSAFE = errors.UnsafeImage

TEXT = '''# Disk DescriptorFile
version=1
CID=7e5b80a7
parentCID=ffffffff
createType="{kind}"

# Extent description
{extents}

# The Disk Data Base
ddb.adapterType = "lsilogic"
ddb.geometry.heads = "255"
'''

# Where the fields of a header are.
CAPACITY, GRAIN_SIZE, DESCRIPTOR, TABLE_SIZE, DIRECTORY, COMPRESSION = (
    12, 20, 28, 44, 56, 77)


def text(kind: str = 'streamOptimized',
         extents: str = 'RDONLY 10240 SPARSE "disk.vmdk"',
         **changes: str) -> bytes:
    data = TEXT.format(kind=kind, extents=extents)
    for old, new in changes.items():
        data = data.replace(old, new)
    return data.encode()


def header(capacity: int, directory: int = AT_END, flags: int = 0x30001,
           version: int = 3, compression: int = 1, entries: int = TABLE,
           grain: int = GRAIN) -> bytes:
    data = struct.pack('<4sIIQQQQIQQQB4sH', b'KDMV', version, flags, capacity,
                       grain, 1, 20, entries, 0, directory, GRAIN, 0,
                       b'\n \r\n', compression)
    return data.ljust(512, b'\0')


def marker(sectors: int, kind: int) -> bytes:
    return struct.pack('<QII', sectors, 0, kind).ljust(512, b'\0')


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def stream(size: int = 5 * MIB, descriptor: bytes = b'', at_end: bool = True,
           **footer: int) -> bytes:
    """A stream as VMware's tools write it, with its footer at the end."""
    disk = build.content(size)
    capacity = size // 512
    out = bytearray(header(capacity))
    out += (descriptor or text()).ljust((GRAIN - 1) * 512, b'\0')
    directory = []
    span = TABLE * GRAIN * 512
    for first in range(0, size, span):
        grains = [_grain(out, disk, at) for at in
                  range(first, min(size, first + span), GRAIN * 512)]
        out += marker(TABLE * 4 // 512, 1)
        directory.append(len(out) // 512)
        out += struct.pack('<512I', *grains, *[0] * (TABLE - len(grains)))
    out += marker(1, 2)
    place = len(out) // 512
    out += _padded(struct.pack(f'<{len(directory)}I', *directory))
    if not at_end:
        return build.patched(bytes(out), (DIRECTORY, le64(place)))
    out += marker(1, 3)
    out += header(**{'capacity': capacity, 'directory': place} | footer)
    out += marker(0, 0)
    return bytes(out)


def _grain(out: bytearray, disk: bytes, at: int) -> int:
    """Append a compressed grain, and tell where it is."""
    data = disk[at:at + GRAIN * 512]
    if not any(data):
        return 0
    place = len(out) // 512
    packed = zlib.compress(data)
    out += _padded(struct.pack('<QI', at // 512, len(packed)) + packed)
    return place


@functools.cache
def places() -> tuple[int, int]:
    """Where the directory and the first table of sparse() are."""
    data = sparse()
    directory = int.from_bytes(data[DIRECTORY:DIRECTORY + 8], 'little') * 512
    return directory, number(data, directory) * 512


def number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at:at + 4], 'little')


def sparse() -> bytes:
    return build.image('vmdk')


def described(new: bytes) -> bytes:
    """Give the sparse image by qemu-img another descriptor."""
    return build.patched(sparse(), (512, new.ljust(20 * 512, b'\0')))


def _valid():
    yield case('vmdk-stream-with-a-footer', 'vmdk', stream)
    yield case('vmdk-stream-without-a-footer', 'vmdk',
               lambda: stream(at_end=False))
    yield case('vmdk-stream-of-several-tables', 'vmdk',
               lambda: stream(70 * MIB))
    yield case('vmdk-stream-of-an-odd-size', 'vmdk',
               lambda: stream(5 * MIB + 512))
    yield case('vmdk-stream-of-a-sector', 'vmdk', lambda: stream(512))
    yield case('vmdk-with-unused-tables', 'vmdk', lambda: build.patched(
        stream(70 * MIB, at_end=False),
        (-512, le32(0))))
    yield case('vmdk-of-version-3', 'vmdk', lambda: build.patched(
        sparse(), (4, le32(3))))


def _hostile():
    for name, extents in {
        'flat': 'RW 10240 FLAT "disk-flat.vmdk" 0',
        'vmfs': 'RW 10240 VMFS "passwd"',
        'two-extents': 'RW 10240 SPARSE "a.vmdk"\nRW 10240 SPARSE "b.vmdk"',
        'flat-besides': 'RW 1 SPARSE "a.vmdk"\nRW 1 FLAT "passwd" 0',
        'zero': 'RW 10240 ZERO',
        'no-extent': '',
    }.items():
        yield case(f'vmdk-extent-{name}', 'vmdk', lambda e=extents: described(
            text('monolithicSparse', e)), UNSAFE, 'names other files')
        yield case(f'vmdk-text-only-{name}', 'vmdk', lambda e=extents: text(
            'monolithicSparse', e), UNSAFE, 'names other files')
    for kind in ('monolithicFlat', 'vmfs', 'twoGbMaxExtentFlat',
                 'twoGbMaxExtentSparse', 'vmfsSparse', 'seSparse', 'custom'):
        yield case(f'vmdk-text-only-of-type-{kind}', 'vmdk', lambda k=kind:
                   text(k, 'RW 10240 FLAT "/etc/passwd" 0').ljust(
                       2000, b'\n'), UNSAFE, 'names other files')
        yield case(f'vmdk-of-type-{kind}', 'vmdk', lambda k=kind: described(
            text(k)), UNSAFE, 'its type is not that of')
        yield case(f'vmdk-without-a-size-of-type-{kind}', 'vmdk',
                   lambda k=kind: build.patched(described(text(
                       k, 'RW 10240 FLAT "passwd" 0')),
                       (CAPACITY, le64(0))), UNSAFE, 'no size of its own')
    yield case('vmdk-of-two-types', 'vmdk', lambda: described(text(
        'monolithicSparse', CID='createType = "vmfs"\nCID')), UNSAFE,
        'its type is not that of')
    yield case('vmdk-of-no-type', 'vmdk', lambda: described(text(
        'monolithicSparse', createType='kind')), UNSAFE,
        'its type is not that of')
    yield case('vmdk-extent-absolute-path', 'vmdk', lambda: described(text(
        'monolithicSparse', 'RW 10240 SPARSE "/etc/passwd"')), UNSAFE,
        'in another folder')
    yield case('vmdk-of-version-4', 'vmdk', lambda: build.patched(
        sparse(), (4, le32(4))), DAMAGED, 'makes no sense')
    yield case('vmdk-descriptor-elsewhere', 'vmdk', lambda: build.patched(
        sparse(), (DESCRIPTOR, le64(2))), DAMAGED, 'makes no sense')
    yield case('vmdk-text-only-declared-as-raw', 'raw', lambda: text(
        'monolithicFlat', 'RW 1 FLAT "/etc/passwd" 0'), UNSAFE, 'names other')
    yield case('vmdk-without-a-size', 'vmdk', lambda: build.patched(
        described(text('monolithicSparse', 'RW 9 SPARSE "passwd"')),
        (CAPACITY, le64(0))), UNSAFE, 'no size of its own')
    yield case('vmdk-with-a-parent', 'vmdk', lambda: described(text(
        'monolithicSparse', ffffffff='12345678')), UNSAFE, 'changes')
    yield case('vmdk-with-the-name-of-a-parent', 'vmdk', lambda: described(
        text('monolithicSparse',
             CID='parentFileNameHint="/etc/passwd"\nCID')), UNSAFE, 'changes')
    # The inspectors read one sector, qemu reads 20.
    yield case('vmdk-with-a-parent-behind-its-descriptor', 'vmdk',
               lambda: build.patched(described(
                   text('monolithicSparse').ljust(512, b'\n')
                   + b'parentFileNameHint="/etc/passwd"\n'),
                   (36, le64(1))), UNSAFE, 'changes')
    yield from _footers()
    yield from _tables()


def _footers():
    for name, footer in {
        'capacity': {'capacity': 20480}, 'no-capacity': {'capacity': 0},
        'grain': {'grain': 64}, 'table': {'entries': 256},
        'compression': {'compression': 0},
    }.items():
        yield case(f'vmdk-footer-of-another-{name}', 'vmdk',
                   lambda f=footer: stream(**f), DAMAGED, 'footer')
    yield case('vmdk-footer-names-a-footer', 'vmdk',
               lambda: stream(directory=AT_END), DAMAGED, 'footer')
    yield case('vmdk-footer-of-another-version', 'vmdk',
               lambda: stream(version=1), DAMAGED, 'footer')
    yield case('vmdk-footer-names-a-place-outside', 'vmdk',
               lambda: stream(directory=1 << 30), DAMAGED, 'truncated')
    yield case('vmdk-footer-names-no-place', 'vmdk',
               lambda: stream(directory=0), DAMAGED, 'truncated')
    for name, cut in (('sector', 512), ('footer', 1536), ('all', 3 * MIB)):
        yield case(f'vmdk-stream-without-its-last-{name}', 'vmdk',
                   lambda c=cut: stream(70 * MIB)[:-c]
                   if c < MIB else stream()[:100_000], DAMAGED, 'footer')
    yield case('vmdk-stream-and-a-footer-that-differs', 'vmdk',
               lambda: stream() + stream(grain=64)[-1536:], DAMAGED,
               'footer')
    yield case('vmdk-stream-and-too-much', 'vmdk',
               lambda: stream() + bytes(5 * MIB), DAMAGED, 'footer')


def _tables():
    for name, at, new in (
            ('grain-of-nothing', GRAIN_SIZE, le64(0)),
            ('grain-of-a-sector', GRAIN_SIZE, le64(1)),
            ('grain-of-no-power', GRAIN_SIZE, le64(100)),
            ('grain-beyond-all-sense', GRAIN_SIZE, le64(1 << 40)),
            ('table-of-nothing', TABLE_SIZE, le32(0)),
            ('table-beyond-all-sense', TABLE_SIZE, le32(1 << 31)),
            ('table-of-one-more', TABLE_SIZE, le32(513)),
            ('unknown-compression', COMPRESSION, b'\2\0')):
        yield case(f'vmdk-{name}', 'vmdk', lambda a=at, n=new: build.patched(
            sparse(), (a, n)), DAMAGED, 'makes no sense')
    yield case('vmdk-directory-beyond-all-sense', 'vmdk',
               lambda: build.patched(
                   sparse(), (CAPACITY, le64(1 << 23)), (GRAIN_SIZE, le64(8)),
                   (TABLE_SIZE, le32(1))), DAMAGED, 'truncated')
    for name, at in (('directory', lambda: DIRECTORY),
                     ('table', lambda: places()[0]),
                     ('grain', lambda: places()[1])):
        for where, place in (('outside', 1 << 30), ('just-outside', None)):
            yield case(f'vmdk-{name}-{where}', 'vmdk',
                       lambda a=at, p=place: build.patched(
                           sparse(), (a(), le32(p or len(sparse()) // 512))),
                       DAMAGED, 'truncated')
    yield case('vmdk-directory-at-the-end-of-numbers', 'vmdk',
               lambda: build.patched(sparse(), (DIRECTORY, le64(
                   (1 << 64) - 2))), DAMAGED, 'truncated')
    yield case('vmdk-one-table-a-thousand-times', 'vmdk', lambda: (
        header(1000 * 512 * 8, 200, 1, 1, 0, grain=8)
        + text('monolithicSparse')).ljust(200 * 512, b'\0')
        + le32(210) * 1000 + bytes(8 * KIB), DAMAGED, 'makes no sense')
    yield case('vmdk-no-directory', 'vmdk', lambda: build.patched(
        sparse(), (DIRECTORY, le64(0))), DAMAGED, 'truncated')
    yield case('vmdk-last-grain-cut', 'vmdk', lambda: sparse()[:-1],
               DAMAGED, 'truncated')
    yield case('vmdk-compressed-grain-that-is-not', 'vmdk',
               lambda: build.patched(stream(), (GRAIN * 512 + 20, b'\0' * 99)),
               DAMAGED, 'can not be decoded')
    yield case('vmdk-compressed-grain-beyond-all-sense', 'vmdk',
               lambda: build.patched(stream(), (GRAIN * 512 + 8, le32(
                   (1 << 32) - 1))), DAMAGED, 'can not be decoded')
    yield case('vmdk-compressed-grain-outside', 'vmdk', lambda: build.patched(
        stream(), (-4608, le32(1 << 30))), DAMAGED, 'truncated')
    yield case('vmdk-disk-too-large', 'vmdk', lambda: build.patched(
        sparse(), (CAPACITY, le64(1 << 40))), errors.TooLarge, 'too large')


CASES = [*_valid(), *_hostile()]
