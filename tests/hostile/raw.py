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



"""Raw disks, and what is not one; and every format under another name."""

import struct

from glance_conversion_plugins import errors
from tests.hostile import build
from tests.hostile.build import Case
from tests.hostile.build import case
from tests.hostile.build import KIB
from tests.hostile.build import MIB
from tests.hostile import qcow2

DAMAGED = errors.DamagedImage
UNSAFE = errors.UnsafeImage
MISMATCH = errors.FormatMismatch

FORMATS = ('qcow2', 'raw', 'vdi', 'vhd', 'vhdx', 'vmdk')


def mbr(*, protective: bool = False, extra: bool = False) -> bytes:
    """A first sector with one partition, or with what stands for a GPT."""
    usual = struct.pack('<B3BB3BII', 0x80, 0, 2, 0, 0x83, 1, 1, 1, 64, 64)
    guard = struct.pack('<B3BB3BII', 0, 0, 2, 0, 0xEE, 255, 255, 255, 1, 2047)
    table = guard + (usual if extra else bytes(16)) if protective else (
        usual + bytes(16))
    return bytes(446) + table + bytes(32) + b'\x55\xaa'


def gpt(**kwargs: bool) -> bytes:
    return (mbr(protective=True, **kwargs) + b'EFI PART'.ljust(512, b'\0')
            + build.noise(100_000))


def iso(start: bytes = b'') -> bytes:
    volume = bytearray(2 * KIB)
    volume[:7] = b'\1CD001\1'
    volume[80:84] = struct.pack('<I', 200)
    volume[128:130] = struct.pack('<H', 2048)
    return start.ljust(32 * KIB, b'\0') + bytes(volume) + bytes(100 * KIB)


def wrapped(inner: bytes, disk_format: str) -> bytes:
    """Make an image whose guest sees another image."""
    return build.converted(inner + bytes(-len(inner) % (1 << 16)),
                           disk_format, ())


def _valid():
    for name, data in {
        'noise': lambda: build.noise(MIB), 'one-byte': lambda: b'A',
        '511-bytes': lambda: build.noise(511),
        '512-bytes': lambda: build.noise(512),
        '513-bytes': lambda: build.noise(513),
        'zeros': lambda: bytes(MIB),
        'mbr': lambda: mbr() + build.noise(100_000), 'gpt': gpt,
        'holes': lambda: build.content(5 * MIB),
        'text-of-an-odd-size': lambda: b'A\n' * 50_001,
        # Nobody looks there.
        'qcow2-inside': lambda: build.noise(64 * KIB) + qcow2.plain(),
    }.items():
        yield case(f'raw-{name}', 'raw', data)


def _hostile():
    yield case('raw-gpt-with-more-partitions', 'raw',
               lambda: gpt(extra=True), UNSAFE, 'master boot record')
    yield case('raw-qed', 'raw', lambda: build.image('qed'), UNSAFE,
               'not allowed')
    yield Case('raw-luks', 'raw', qcow2.luks, MISMATCH, 'content is luks')
    yield case('raw-iso', 'raw', iso, MISMATCH, 'content is iso')
    yield case('raw-iso-and-mbr', 'raw', lambda: iso(mbr()), UNSAFE,
               'hybrid ISO')
    yield case('raw-iso-and-gpt', 'raw', lambda: iso(gpt()[:1024]), UNSAFE,
               'hybrid ISO')
    yield case('raw-iso-and-qcow2', 'raw', lambda: iso(
        qcow2.plain()[:32 * KIB]), UNSAFE, 'iso and qcow2')
    yield case('qcow2-and-mbr', 'qcow2', lambda: build.patched(
        qcow2.plain(), (446, mbr()[446:])), UNSAFE, 'gpt and qcow2')
    yield case('vmdk-and-vdi', 'vmdk', lambda: build.patched(
        build.image('vmdk'), (64, build.image('vdi')[64:512])),
        UNSAFE, 'not certain')
    yield case('vdi-and-vhd', 'vdi', lambda: build.patched(
        build.image('vdi'), (0, b'conectix')), UNSAFE, 'not certain')
    yield case('vhdx-and-iso', 'vhdx', lambda: build.patched(
        build.image('vhdx'), (32 * KIB + 1, b'CD001')), UNSAFE, 'not certain')
    yield from _declared()
    yield from _nested()
    yield from _little()


def _declared():
    """Each format under each other's name."""
    for found in FORMATS:
        for claimed in FORMATS:
            if found != claimed:
                yield case(f'{found}-declared-as-{claimed}', claimed,
                           lambda f=found: build.image(f), MISMATCH,
                           f'declared as {claimed}, but its content is '
                           f'{found}')


def _nested():
    """Each format inside each other, where a guest would see it."""
    for inner in ('qcow2', 'vdi', 'vhd', 'vhdx', 'vmdk', 'qed'):
        for outer in ('qcow2', 'vdi', 'vhdx', 'vmdk'):
            yield case(f'{inner}-inside-{outer}', outer,
                       lambda i=inner, o=outer: wrapped(build.image(i), o),
                       UNSAFE, 'hides|not allowed')
    for outer in ('qcow2', 'vdi', 'vhdx', 'vmdk', 'vhd'):
        yield case(f'iso-inside-{outer}', outer, lambda o=outer: wrapped(
            iso(), o), UNSAFE, 'hides')
        yield case(f'bad-gpt-inside-{outer}', outer, lambda o=outer: wrapped(
            gpt(extra=True), o), UNSAFE, 'master boot record')
    yield case('qcow2-inside-a-fixed-vhd', 'vhd', lambda: build.converted(
        qcow2.plain(), 'vhd', ('subformat=fixed',)), MISMATCH,
        'content is qcow2')
    yield case('raw-that-is-a-fixed-vhd', 'raw', lambda: build.image(
        'vhd', 'subformat=fixed'), MISMATCH, 'content is vhd')
    yield case('vhd-inside-a-fixed-vhd', 'vhd', lambda: build.converted(
        build.image('vhd', 'force_size=on'), 'vhd', ('subformat=fixed',)),
        DAMAGED, 'makes no sense')


def _little():
    """Of every format nothing, a little, and noise."""
    for claimed in FORMATS:
        yield case(f'{claimed}-of-nothing', claimed, lambda: b'', DAMAGED,
                   'empty')
        if claimed == 'raw':
            continue
        for size in (1, 511, 512, 100_000):
            yield case(f'{claimed}-of-{size}-bytes-of-noise', claimed,
                       lambda s=size: build.noise(s), MISMATCH,
                       'content is raw')


CASES = [*_valid(), *_hostile()]
