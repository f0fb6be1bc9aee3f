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

"""The images to measure with, and what there is to know of each."""

import fractions
import json
import pathlib
import typing

from cloud import debian_image
from cloud import processes
from cloud import settings
from cloud import synthetic_image

GIB = 2 ** 30
TITLES = {
    'a': 'Debian image',
    'b': 'incompressible data',
    'c': 'scattered data',
    'd': 'Debian image, sparse raw, no conversion',
    'f': '4 KiB in every 64 KiB',
    'g': 'pieces of 1 MiB in 1 TiB',
    'h': 'dense data, uncompressed',
    'h-raw': 'dense data, raw',
    'xz': 'Debian image, raw, compressed by xz',
    'zst': 'Debian image, raw, compressed by zstd',
    'vmdk': 'Debian image as streamOptimized vmdk',
    'vhdx': 'Debian image as vhdx',
}
# By the suffix of what they read.
DECOMPRESSORS = {'xz': ('xz', '-dc', '-T1'), 'zst': ('zstd', '-dcq')}


class Case(typing.NamedTuple):
    """One image: its file, its format, its sizes in bytes."""

    key: str
    title: str
    path: pathlib.Path
    disk_format: str
    virtual: int
    data: int
    container: str = 'bare'
    disk: pathlib.Path | None = None    # what is in a package


def case(key):
    """One of the cases, made first if it is not in the cache."""
    path = {'a': _debian, 'b': _random, 'c': _scattered, 'd': _raw,
            'f': _fragmented, 'g': _large, 'h': _dense, 'h-raw': _dense_raw,
            'xz': _raw, 'zst': _raw,
            'vmdk': _stream_optimized, 'vhdx': _vhdx}[key]()
    found = describe(key, TITLES[key], path)
    if key not in DECOMPRESSORS:
        return found
    return found._replace(path=_cached(f'debian.raw.{key}', _compress, key),
                          container='compressed', disk=path)


def small_data(virtual_gib):
    """256 MiB of data in a disk of any size, for the use of memory."""
    path = _cached(
        f'small-{virtual_gib}.qcow2', synthetic_image.scattered_image,
        virtual_gib, fractions.Fraction(1, 4))
    return describe(f'{virtual_gib} GiB', '256 MiB of data', path)


def dense():
    """2 GiB in which there is no zero to find."""
    path = _cached('random-2.raw', _convert, _random())
    return describe('dense', TITLES['b'], path)


def first_gib():
    """The first GiB of the Debian image."""
    path = _cached('debian-1.raw', _cut)
    return describe('first', 'start of the Debian image', path)


def describe(key, title, path):
    """Look up the sizes of an image."""
    disk_format = path.suffix[1:]
    info = _qemu_img('info', disk_format, path)
    extents = _qemu_img('map', disk_format, path)
    # qemu tells no holes in a vhdx.
    data = sum(extent['length'] for extent in extents if extent['data'])
    if disk_format == 'vhdx':
        data = describe(key, title, _debian()).data
    virtual = info['virtual-size']
    title = f'{title}: {virtual / GIB:.0f} GiB, {data / GIB:.2f} GiB of data'
    return Case(key, title, path, disk_format, virtual, data)


def _qemu_img(command, disk_format, path):
    return json.loads(processes.run(
        'qemu-img', command, '-f', disk_format, '--output=json',
        path).stdout)


def _debian():
    return debian_image.debian_image().qcow2


def _random():
    return _cached('random-2.qcow2', synthetic_image.random_image, 2)


def _scattered():
    return _cached('scattered-100.qcow2', synthetic_image.scattered_image,
                   100, 1)


def _fragmented():
    return _cached('fragmented.qcow2', synthetic_image.fragmented_image)


def _large():
    return _cached('large-1024.qcow2', synthetic_image.large_image)


def _dense():
    return _cached('random-4.qcow2', synthetic_image.random_image, 4)


def _dense_raw():
    return _cached('random-4.raw', _convert, _dense())


def _raw():
    return _cached('debian.raw', _convert_debian)


def _compress(path, key):
    with open(path, 'wb') as file:
        processes.run(DECOMPRESSORS[key][0], '-qc', '-T0', _raw(),
                      stdout=file)


def _stream_optimized():
    return _cached('debian.vmdk', _convert_debian, '-o',
                   'subformat=streamOptimized')


def _vhdx():
    return _cached('debian.vhdx', _convert_debian)


def _cut(path):
    processes.run('dd', f'if={_raw()}', f'of={path}', 'bs=1M', 'count=1024',
                  'conv=sparse')


def _convert_debian(path, *options):
    _convert(path, _debian(), *options)


def _convert(path, source, *options):
    processes.run('qemu-img', 'convert', '-f', 'qcow2', '-O',
                  path.suffix[1:], *options, source, path)


def _cached(name, make, *args):
    """A file of the cache, which holds whole files only."""
    path = settings.cache_dir() / 'bench' / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f'new-{name}')
        make(new, *args)
        new.rename(path)
    return path
