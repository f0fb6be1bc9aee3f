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



"""VHD images, and what is wrong with some of them."""

import struct

from glance_conversion_plugins import errors
from tests.hostile import build
from tests.hostile.build import be32
from tests.hostile.build import be64
from tests.hostile.build import case
from tests.hostile.build import MIB

DYNAMIC_HEADER = 512
TABLE = 1536

DAMAGED = errors.DamagedImage
UNSAFE = errors.UnsafeImage


def summed(data: bytes, at: int) -> bytes:
    """Set the checksum that stands at some place of a structure."""
    blank = build.patched(data, (at, bytes(4)))
    return build.patched(data, (at, be32(~sum(blank) & 0xffffffff)))


def footer(size: int, kind: int = 2, creator: bytes = b'win ',
           geometry: tuple[int, int, int] = (10, 16, 63),
           following: int = (1 << 64) - 1) -> bytes:
    data = struct.pack('>8sIIQI4sI4sQQHBBII16sB', b'conectix', 2, 0x10000,
                       following, 1, creator, 0x50003, b'Wi2k', size, size,
                       *geometry, kind, 0, b'u' * 16, 0)
    return summed(data.ljust(512, b'\0'), 64)


def fixed(size: int = 5 * MIB, disk: bytes = b'', **kwargs) -> bytes:
    return (disk or build.content(size)) + footer(size, **kwargs)


def dynamic_disk(size: int = 5 * MIB) -> bytes:
    """What dynamic() is an image of by default."""
    block = 2 * MIB
    return b''.join((build.noise(block, 0), bytes(block),
                     build.noise(block, 1)))[:size]


def _blocks(disk: bytes, block: int, start: int) -> tuple[list[int], bytes]:
    """A table and its blocks, for those of a disk that are not zeros."""
    bitmap = b'\xff' * (-(-block // 4096 // 512) * 512)
    numbers, body = [], bytearray()
    for at in range(0, len(disk), block):
        piece = disk[at:at + block].ljust(block, b'\0')
        used = any(piece)
        numbers.append(start + len(body) // 512 if used else 0xffffffff)
        body += bitmap + piece if used else b''
    return numbers, bytes(body)


def _dynamic_of(disk: bytes, block: int, **kwargs) -> bytes:
    """A dynamic image of a disk."""
    count = -(-len(disk) // block)
    table = -(-count * 4 // 512)
    numbers, body = _blocks(disk, block, TABLE // 512 + table)
    data = dynamic(entries=count, block=block, size=len(disk),
                   numbers=tuple(numbers), **kwargs)
    head = data[:TABLE] + b''.join(map(be32, numbers)).ljust(
        table * 512, b'\xff')
    return head + body + data[-512:]


def dynamic(kind: int = 3, entries: int = 3, block: int = 2 * MIB,
            table: int = TABLE, numbers: tuple[int, ...] = (),
            size: int = 5 * MIB, parent: bytes = b'', disk: bytes = b'',
            **kwargs) -> bytes:
    """A dynamic image whose blocks are sectors of the file."""
    if disk:
        return _dynamic_of(disk, block, **kwargs)
    head = footer(size, kind, following=DYNAMIC_HEADER, **kwargs)
    header = struct.pack('>8sQQIIII', b'cxsparse', (1 << 64) - 1, table,
                         0x10000, entries, block, 0)
    header = summed(header.ljust(1024, b'\0')[:64] + parent.ljust(960, b'\0'),
                    36)
    numbers = numbers or (4, 0xffffffff, 4 + 1 + block // 512)
    blocks = b''.join(map(be32, numbers)).ljust(512, b'\xff')
    body = b''.join(b'\xff' * 512 + build.noise(block, seed)
                    for seed in range(2))
    return head + header + blocks + body + head


def _changed(at: int, new: bytes, total: int = 0, length: int = 0,
             where: int = 0) -> bytes:
    """Change a structure of an image by qemu-img, and its checksum."""
    data = build.image('vhd', 'force_size=on')
    if length:
        part = build.patched(data[where:where + length], (at, new))
        return build.patched(data, (where, summed(part, total)))
    return build.patched(data, (where + at, new))


def _footers(at: int, new: bytes) -> bytes:
    """Change the footer and its copy."""
    part = _changed(at, new, 64, 512)[:512]
    data = build.image('vhd', 'force_size=on')
    return part + data[512:-512] + part


def _header(at: int, new: bytes) -> bytes:
    return _changed(at, new, 36, 1024, DYNAMIC_HEADER)


def _valid():
    yield case('vhd-with-a-footer-of-511-bytes', 'vhd',
               lambda: dynamic()[:-1])
    yield case('vhd-with-small-blocks', 'vhd', lambda: dynamic(
        block=512 * 1024, entries=10, numbers=(
            4, *[0xffffffff] * 8, 4 + 1 + 1024)))
    yield case('vhd-with-a-larger-table', 'vhd', lambda: dynamic(entries=100))
    yield case('vhd-fixed-of-the-largest-geometry', 'vhd', lambda: fixed(
        creator=b'vpc ', geometry=(65535, 16, 255)))
    yield case('vhd-fixed-of-a-disk-with-partitions', 'vhd',
               lambda: build.patched(fixed(), (446, bytes(64) + b'\x55\xaa'),
                                     (446, b'\x80\1\1\0\x83\1\1\1')))
    yield case('vhd-of-equal-blocks', 'vhd',
               lambda: dynamic(numbers=(4, 4, 4)))


def _hostile():
    yield case('vhd-of-changes', 'vhd', lambda: dynamic(
        kind=4, parent='/etc/passwd'.encode('utf-16-be')), UNSAFE, 'changes')
    yield case('vhd-fixed-with-a-header', 'vhd',
               lambda: _footers(60, be32(2)), DAMAGED, 'makes no sense')
    yield case('vhd-of-unknown-type', 'vhd', lambda: _footers(60, be32(5)),
               DAMAGED, 'makes no sense')
    yield case('vhd-with-two-types', 'vhd', lambda: build.image(
        'vhd', 'force_size=on')[:-512] + footer(5 * MIB),
        DAMAGED, 'makes no sense')
    yield case('vhd-with-two-sizes', 'vhd', lambda: build.patched(
        dynamic(), (-512, footer(6 * MIB, 3))), DAMAGED, 'makes no sense')
    yield case('vhd-fixed-of-a-dynamic-one', 'vhd', lambda: build.image(
        'vhd', 'force_size=on') + footer(5 * MIB), DAMAGED, 'no sense')
    for name, data in {
        'header-elsewhere': lambda: _footers(16, be64(1 << 40)),
        'header-beyond-all-sense': lambda: _footers(16, be64(1 << 63)),
        'header-beyond-all-files': lambda: _footers(16, be64(1 << 62)),
        'table-elsewhere': lambda: _header(16, be64(1 << 40)),
        'table-at-the-end-of-numbers': lambda: _header(16, be64(
            (1 << 64) - 1)),
        'block-elsewhere': lambda: _changed(TABLE, be32(1 << 30)),
        'block-just-outside': lambda: dynamic(numbers=(4, 4102, 5)),
        'no-footer': lambda: dynamic()[:-512],
        'last-block-cut': lambda: dynamic()[:-513] + dynamic()[-512:],
    }.items():
        yield case(f'vhd-{name}', 'vhd', data, DAMAGED, 'truncated')
    for name, data in {
        'checksum': lambda: _changed(64, be32(1)),
        'header-checksum': lambda: _changed(
            36, be32(1), where=DYNAMIC_HEADER),
    }.items():
        yield case(f'vhd-wrong-{name}', 'vhd', data, DAMAGED, 'checksum')
    for name, data in {
        'no-cookie': lambda: _header(0, b'cxsparsf'),
        'huge-table': lambda: _header(28, be32(0xffffffff)),
        'huge-table-of-small-blocks': lambda: build.patched(
            dynamic(entries=1 << 31, block=4096)),
        'small-table': lambda: _header(28, be32(1)),
        'block-of-512-bytes': lambda: _header(32, be32(512)),
        'block-of-no-power': lambda: _header(32, be32(3 * MIB)),
        'block-of-zero': lambda: _header(32, be32(0)),
        'block-of-2-gib': lambda: _header(32, be32(1 << 31)),
        'disk-beyond-its-table': lambda: _footers(48, be64(1 << 30)),
    }.items():
        yield case(f'vhd-{name}', 'vhd', data, DAMAGED, 'makes no sense')
    yield from _hostile_fixed()


def _hostile_fixed():
    yield case('vhd-fixed-cut-inside', 'vhd',
               lambda: fixed()[:MIB] + footer(5 * MIB), DAMAGED, 'truncated')
    yield case('vhd-fixed-cut-at-its-end', 'vhd', lambda: fixed()[:-512],
               errors.FormatMismatch, 'footer at its end is missing')
    yield case('vhd-fixed-with-a-wrong-checksum', 'vhd',
               lambda: build.patched(fixed(), (-1, b'x')),
               errors.FormatMismatch, 'footer at its end is missing')
    yield case('vhd-of-changes-without-a-header', 'vhd',
               lambda: fixed(kind=4), errors.FormatMismatch,
               'footer at its end is missing')


CASES = [*_valid(), *_hostile()]
