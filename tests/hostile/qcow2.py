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



"""qcow2 images, and what is wrong with some of them."""

import pathlib
import struct
import subprocess

from glance_conversion_plugins import errors
from tests.contract import images
from tests.hostile import build
from tests.hostile.build import be32
from tests.hostile.build import be64
from tests.hostile.build import Case
from tests.hostile.build import case
from tests.hostile.build import KIB
from tests.hostile.build import MIB

# Where the fields of a header are.
VERSION, BACKING, BITS, SIZE, CRYPT, L1_SIZE, L1, REFCOUNTS = (
    4, 8, 20, 24, 32, 36, 40, 48)
REFCOUNT_CLUSTERS, SNAPSHOTS, SNAPSHOT_TABLE, FEATURES, REFCOUNT_ORDER = (
    56, 60, 64, 72, 96)
HEADER_LENGTH = 100
OFFSET = 0x00fffffffffffe00
COPIED = 1 << 63
COMPRESSED = 1 << 62

DAMAGED = errors.DamagedImage
UNSAFE = errors.UnsafeImage


def plain() -> bytes:
    return build.image('qcow2')


def changed(*changes: tuple[int, bytes]) -> bytes:
    return build.patched(plain(), *changes)


def number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at:at + 8], 'big')


def l1() -> int:
    return number(plain(), L1)


def l2() -> int:
    return number(plain(), l1()) & OFFSET


def refcounts() -> int:
    """Where the first block of reference counts is."""
    return number(plain(), number(plain(), REFCOUNTS))


def _encrypted(kind: str):
    def make(folder: pathlib.Path) -> pathlib.Path:
        path = folder / 'disk'
        options = f'encrypt.format={kind},encrypt.key-secret=s'
        if kind == 'luks':
            options += ',encrypt.iter-time=10'
        _retried('qemu-img', 'create', '-q', '-f', 'qcow2', '--object',
                 'secret,id=s,data=abc', '-o', options, path, '1M')
        return path
    return make


def luks(folder: pathlib.Path) -> pathlib.Path:
    path = folder / 'disk'
    _retried('qemu-img', 'create', '-q', '-f', 'luks', '--object',
             'secret,id=s,data=abc', '-o', 'key-secret=s,iter-time=10', path,
             '1M')
    return path


def _retried(*argv: object) -> None:
    """qemu-img gives up where it can not time itself well."""
    for _ in range(50):
        try:
            images.run(*argv)
            return
        except subprocess.CalledProcessError as e:
            if 'accurate CPU usage' not in e.stdout:
                raise
    raise AssertionError('qemu-img can not time itself here')


def _backed(folder: pathlib.Path) -> pathlib.Path:
    images.raw(folder / 'base', 'AB')
    images.run('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'raw', '-b',
               folder / 'base', folder / 'disk')
    return folder / 'disk'


def _data_file(raw: str):
    def make(folder: pathlib.Path) -> pathlib.Path:
        return build.create('qcow2', '1M', f'data_file={folder}/data',
                            f'data_file_raw={raw}')(folder)
    return make


def _snapshots(folder: pathlib.Path) -> pathlib.Path:
    path = folder / 'disk'
    path.write_bytes(plain())
    images.run('qemu-img', 'snapshot', '-c', 'one', path)
    images.run('qemu-io', '-f', 'qcow2', '-c', 'write -P 238 0 64k', path)
    return path


def _valid():
    yield Case('qcow2-with-snapshots', 'qcow2', _snapshots)
    yield case('qcow2-not-closed', 'qcow2', lambda: build.patched(
        build.image('qcow2', 'lazy_refcounts=on'), (FEATURES, be64(1))))
    yield case('qcow2-with-unknown-compatible-features', 'qcow2',
               lambda: changed((FEATURES + 8, be64(1 << 40))))
    yield case('qcow2-and-more', 'qcow2', lambda: plain() + bytes(1000))
    yield case('qcow2-refcounts-of-zero', 'qcow2', lambda: changed(
        (refcounts(), bytes(64))))


def _outside():
    yield Case('qcow2-backing-file', 'qcow2', _backed, UNSAFE, 'backing file')
    yield case('qcow2-backing-file-by-hand', 'qcow2', lambda: changed(
        (BACKING, be64(1000)), (BACKING + 8, be32(11)),
        (1000, b'/etc/passwd')), UNSAFE, 'backing file')
    for raw in ('on', 'off'):
        yield Case(f'qcow2-data-file-raw-{raw}', 'qcow2', _data_file(raw),
                   UNSAFE, 'another file')
    yield case('qcow2-data-file-by-hand', 'qcow2', lambda: changed(
        (FEATURES, be64(4))), UNSAFE, 'another file')
    for bit in (5, 7, 8, 31, 32, 62, 63):
        yield case(f'qcow2-unknown-feature-{bit}', 'qcow2',
                   lambda b=bit: changed((FEATURES, be64(1 << b))), UNSAFE,
                   'unknown')
    for kind in ('luks', 'aes'):
        yield Case(f'qcow2-encrypted-with-{kind}', 'qcow2',
                   _encrypted(kind), UNSAFE, 'encrypted')
    yield case('qcow2-encrypted-by-hand', 'qcow2', lambda: changed(
        (CRYPT, be32(1))), UNSAFE, 'encrypted')
    # Of a kind that has to say more, and says nothing: qemu 7.2 dies of it.
    yield case('qcow2-encrypted-with-nothing', 'qcow2', lambda: changed(
        (CRYPT, be32(2))), UNSAFE, 'encrypted')
    for version in (0, 1, 4):
        yield case(f'qcow2-version-{version}', 'qcow2',
                   lambda v=version: changed((VERSION, be32(v))),
                   UNSAFE, 'unknown')


def _headers():
    for bits in (0, 8, 22, 31, 63, 1 << 31):
        yield case(f'qcow2-clusters-of-{bits}-bits', 'qcow2',
                   lambda b=bits: changed((BITS, be32(b))), DAMAGED,
                   'can not be opened')
    for name, *changes in (
            ('l1-too-long', (L1_SIZE, be32((1 << 32) - 1))),
            ('l1-of-nothing', (L1_SIZE, be32(0))),
            ('l1-in-between', (L1, be64(513))),
            ('l1-beyond-all-sense', (L1, be64(1 << 63))),
            ('refcounts-in-between', (REFCOUNTS, be64(7))),
            ('refcounts-too-long', (REFCOUNT_CLUSTERS, be32(1 << 31))),
            ('refcounts-of-nothing', (REFCOUNT_CLUSTERS, be32(0))),
            ('refcounts-of-256-bits', (REFCOUNT_ORDER, be32(8))),
            ('snapshots-beyond-all-sense', (SNAPSHOTS, be32(1 << 31))),
            ('header-of-8-bytes', (HEADER_LENGTH, be32(8))),
            ('header-beyond-a-cluster', (HEADER_LENGTH, be32(1 << 20))),
            ('unknown-encryption', (CRYPT, be32(3)))):
        yield case(f'qcow2-{name}', 'qcow2', lambda c=changes: changed(*c),
                   DAMAGED, 'can not be opened')
    yield case('qcow2-marked-as-corrupt', 'qcow2', lambda: changed(
        (FEATURES, be64(2))), DAMAGED, 'corrupt')
    yield case('qcow2-disk-too-large', 'qcow2', lambda: changed(
        (SIZE, be64(1 << 50))), errors.TooLarge, 'too large')
    yield case('qcow2-disk-beyond-all-sense', 'qcow2', lambda: changed(
        (SIZE, be64((1 << 64) - 1))), errors.TooLarge, 'too large')
    for lost in (1, 100, 511):
        yield case(f'qcow2-disk-of-{lost}-bytes-less-than-a-sector', 'qcow2',
                   lambda n=lost: changed((SIZE, be64(5 * MIB - n))),
                   DAMAGED, 'makes no sense')
    yield case('qcow2-disk-beyond-its-tables', 'qcow2', lambda: changed(
        (SIZE, be64(2 << 30))), DAMAGED, 'can not be opened')
    yield Case('qcow2-disk-too-large-by-qemu', 'qcow2',
               build.create('qcow2', '1T'), errors.TooLarge, 'too large')
    yield Case('qcow2-disk-of-nothing', 'qcow2', build.create('qcow2', 0),
               DAMAGED, 'empty')


def _tables():
    far = COPIED | 1 << 40
    for name, data in {
        'l1-outside': lambda: changed((L1, be64(1 << 40))),
        'l2-outside': lambda: changed((l1(), be64(far))),
        'l2-in-between': lambda: changed((l1(), be64(COPIED | l2() + 512))),
        'cluster-outside': lambda: changed((l2(), be64(far))),
        'cluster-in-between': lambda: changed(
            (l2(), be64(number(plain(), l2()) + 512))),
        'l2-that-is-the-header': lambda: changed((l1(), be64(COPIED))),
        'shared-clusters': lambda: changed(
            (l2() + 8, plain()[l2():l2() + 8])),
        'shared-tables': lambda: build.patched(
            build.image('qcow2', 'cluster_size=4k'),
            (number(build.image('qcow2', 'cluster_size=4k'), L1) + 8,
             build.image('qcow2', 'cluster_size=4k')[
                 number(build.image('qcow2', 'cluster_size=4k'), L1):][:8])),
        'entries-of-16-bytes-that-are-not': lambda: changed(
            (FEATURES, be64(1 << 4))),
        'refcount-table-outside': lambda: changed((REFCOUNTS, be64(1 << 40))),
        'refcount-block-outside': lambda: changed(
            (number(plain(), REFCOUNTS), be64(1 << 40))),
        'compressed-cluster-outside': lambda: changed(
            (l2(), be64(COMPRESSED | 1 << 40))),
    }.items():
        yield case(f'qcow2-{name}', 'qcow2', data, DAMAGED,
                   'damaged|truncated')
    for kind in ('zlib', 'zstd'):
        yield case(f'qcow2-{kind}-that-is-not', 'qcow2',
                   lambda k=kind: _mangled(k), DAMAGED, 'can not be decoded')
        yield case(f'qcow2-{kind}-cut', 'qcow2', lambda k=kind: _packed(k)[
            :-3000], DAMAGED, 'truncated|damaged')


def _packed(kind: str) -> bytes:
    """Compressed clusters; noise would not be compressed."""
    return build.image('qcow2', f'compression_type={kind}', size=300 * KIB,
                       compress=True, text=True)


def _mangled(kind: str) -> bytes:
    data = _packed(kind)
    table = number(data, number(data, L1)) & OFFSET
    start = number(data, table) & (1 << 54) - 1
    return build.patched(data, (start, struct.pack('<Q', (1 << 64) - 1) * 8))


CASES = [*_valid(), *_outside(), *_headers(), *_tables()]
