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



"""Images by qemu-img of every format, kind and size; nothing is wrong."""

import pathlib

from tests.contract import images
from tests.hostile import build
from tests.hostile.build import Case
from tests.hostile.build import case
from tests.hostile.build import DRIVERS
from tests.hostile.build import KIB
from tests.hostile.build import MIB

KINDS = {
    'qcow2': ['', 'compat=0.10', 'cluster_size=512', 'cluster_size=2M',
              'preallocation=metadata', 'lazy_refcounts=on',
              'refcount_bits=1'],
    'vdi': ['', 'static=on'],
    'vhd': ['', 'force_size=on', 'subformat=fixed',
            'subformat=fixed,force_size=on'],
    'vhdx': ['', 'block_size=1M', 'block_size=32M', 'block_size=256M',
             'log_size=4M', 'subformat=fixed,block_size=1M',
             'block_state_zero=off'],
    'vmdk': ['', 'subformat=streamOptimized', 'compat6=on',
             'zeroed_grain=on'],
}
SIZES = [512, 64 * KIB, MIB, 3 * MIB + 512, 10 * MIB - 512,
         33 * MIB + 4 * KIB]


def _written(disk_format: str):
    """An image into which a guest has written, here and there."""
    def make(folder: pathlib.Path) -> pathlib.Path:
        path = build.create(disk_format, '1100M')(folder)
        commands = [a for at in ('0', '700M', '1024M', '37k', '1099M')
                    for a in ('-c', f'write -P 238 {at} 5k')]
        images.run('qemu-io', '-f', DRIVERS[disk_format], *commands, path)
        return path
    return make


def _cases():
    for disk_format, kinds in KINDS.items():
        for kind in kinds:
            name = f'{disk_format}-{kind or "plain"}'
            yield case(f'good-{name}', disk_format,
                       lambda d=disk_format, k=kind: build.image(
                           d, *filter(None, [k])))
        for size in SIZES:
            yield case(f'good-{disk_format}-of-{size}', disk_format,
                       lambda d=disk_format, s=size: build.image(d, size=s))
        # Of a vhdx all is read, for qemu does not tell what is a hole.
        size = '1G' if disk_format == 'vhdx' else '3G'
        yield Case(f'good-{disk_format}-of-{size}', disk_format,
                   build.create(disk_format, size))
        yield Case(f'good-{disk_format}-written', disk_format,
                   _written(disk_format))
    for kind in ('zlib', 'zstd'):
        yield case(f'good-qcow2-{kind}', 'qcow2', lambda k=kind: build.image(
            'qcow2', f'compression_type={k}', compress=True, text=True))
    yield case('good-vmdk-of-several-tables', 'vmdk', lambda: build.image(
        'vmdk', size=70 * MIB))


CASES: list[Case] = list(_cases())
