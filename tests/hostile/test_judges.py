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

"""Valid images, and what readers say of them that are neither qemu's nor ours.

The right content is that of the disk which an image was made from. qemu-img
made most images, and also decodes them for an import: if both its writer and
its reader were wrong, only somebody else would tell.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.contract import images
from tests.hostile import build
from tests.hostile.build import KIB
from tests.hostile.build import MIB
from tests.hostile import path as path_
from tests.hostile import vhd
from tests.hostile import vhdx
from tests.hostile import vmdk
from tests.judges import libraries
from tests.judges import qcow2 as qcow2_judge
from tests.judges import vdi as vdi_judge
from tests.judges import vhd as vhd_judge
from tests.judges import vhdx as vhdx_judge
from tests.judges import vmdk as vmdk_judge

SIZE = 5 * MIB
SIZES = (512, 64 * KIB, 3 * MIB + 512, 33 * MIB + 4 * KIB)

JUDGES = {
    'qcow2': (qcow2_judge.read, libraries.qcow2),
    'vdi': (vdi_judge.read,),
    'vhd': (vhd_judge.read, libraries.vhd),
    'vhdx': (vhdx_judge.read,),
    'vmdk': (vmdk_judge.read, libraries.vmdk),
}
ALONE = {
    # libqcow 20201213 refuses the incompatible features of bits 3 and 4
    # (qcow2.txt, "Header": compression type; extended L2 entries).
    'qcow2': ('compression_type=zstd', 'extended_l2=on',
              'extended_l2=on,cluster_size=16k'),
}


class Subject(NamedTuple):
    """An image, and the disk that it was made from."""

    image: Callable[[], bytes]
    disk: Callable[[], bytes]


def _by_qemu(disk_format: str, options: str = '', size: int = SIZE,
             compress: bool = False) -> Subject:
    return Subject(
        lambda: build.image(disk_format, *filter(None, [options]), size=size,
                            compress=compress, text=compress),
        lambda: (build.content(size).hex().encode()[:size] if compress
                 else build.content(size)))


def _stream(size: int, **kwargs) -> Subject:
    text = vmdk.text(extents=f'RDONLY {size // 512} SPARSE "disk.vmdk"')
    return Subject(lambda: vmdk.stream(size, text, **kwargs),
                   lambda: build.content(size))


def _qcow2():
    for options in ('', 'compat=0.10', 'cluster_size=512', 'cluster_size=4k',
                    'cluster_size=2M', 'lazy_refcounts=on', 'refcount_bits=1',
                    'refcount_bits=64', 'preallocation=metadata',
                    'extended_l2=on', 'extended_l2=on,cluster_size=16k'):
        yield options, _by_qemu('qcow2', options)
    for options in ('compression_type=zlib', 'compression_type=zstd',
                    'compat=0.10', 'cluster_size=512', 'cluster_size=2M',
                    'extended_l2=on'):
        yield f'{options}-compressed', _by_qemu('qcow2', options,
                                                compress=True)


def _vhd():
    yield 'by-qemu', _by_qemu('vhd', 'force_size=on')
    yield 'fixed-by-qemu', _by_qemu('vhd', 'force_size=on,subformat=fixed')
    for creator in (b'win ', b'qem2', b'd2v ', b'tap\0', b'CTXS', b'wa\0\0',
                    b'vbox', b'vs  ', b'elem', b'pvhd', bytes(4)):
        for name, make in (('fixed', vhd.fixed), ('dynamic', vhd.dynamic)):
            yield f'{name}-{creator}', Subject(
                lambda m=make, c=creator: m(creator=c,
                                            disk=build.content(SIZE)),
                lambda: build.content(SIZE))
    for block in (64 * KIB, 512 * KIB, 32 * MIB):
        yield f'block-{block}', Subject(
            lambda b=block: vhd.dynamic(block=b, disk=build.content(SIZE)),
            lambda: build.content(SIZE))


def _vmdk():
    for options in ('', 'subformat=streamOptimized', 'compat6=on',
                    'zeroed_grain=on'):
        yield options, _by_qemu('vmdk', options)
    for size in (512, SIZE, SIZE + 512, 70 * MIB):
        yield f'stream-{size}', _stream(size)
    yield 'stream-without-a-footer', _stream(SIZE, at_end=False)


def _others(disk_format: str, *kinds: str):
    for options in kinds:
        yield options, _by_qemu(disk_format, options)


def _replayed() -> bytes:
    """One whose table of blocks is in its log, and zeros in its place."""
    data = vhdx.plain()
    table = vhdx.region(data, 'blocks')
    entry = vhdx.Entry(((table, data[table:table + 4 * KIB]),))
    return vhdx.with_log(build.patched(data, (table, bytes(4 * KIB))), entry)


def _all():
    yield from (('qcow2', *row) for row in _qcow2())
    yield from (('vhd', *row) for row in _vhd())
    yield from (('vmdk', *row) for row in _vmdk())
    yield from (('vdi', *row) for row in _others('vdi', '', 'static=on'))
    yield from (('vhdx', *row) for row in _others(
        'vhdx', '', 'block_size=1M', 'block_size=256M', 'log_size=4M',
        'subformat=fixed,block_size=1M', 'block_state_zero=off'))
    yield 'vhdx', 'log', Subject(_replayed, lambda: build.content(SIZE))
    for disk_format in JUDGES:
        options = 'force_size=on' if disk_format == 'vhd' else ''
        for size in SIZES:
            yield (disk_format, f'of-{size}',
                   _by_qemu(disk_format, options, size))


SUBJECTS = list(_all())


@pytest.mark.parametrize(
    ('disk_format', 'name', 'subject'), SUBJECTS,
    ids=[f'{disk_format}-{name}' for disk_format, name, _ in SUBJECTS])
def test_everybody_reads_the_same(tmp_path, disk_format, name, subject):
    image, disk = subject.image(), subject.disk()
    found, _ = path_.converted(tmp_path, image, disk_format)
    assert found == disk
    own, *others = JUDGES[disk_format]
    assert own(image) == disk
    if name.removesuffix('-compressed') not in ALONE.get(disk_format, ()):
        for read in others:
            assert read(image) == disk


def test_flat_file_is_the_disk_of_its_description(tmp_path):
    """Who declares it as raw gets what libvmdk reads of the two files."""
    disk = build.content(SIZE)
    (tmp_path / 'raw').write_bytes(disk)
    images.run('qemu-img', 'convert', '-q', '-f', 'raw', '-O', 'vmdk', '-o',
               'subformat=monolithicFlat', tmp_path / 'raw',
               tmp_path / 'made.vmdk')
    flat = (tmp_path / 'made-flat.vmdk').read_bytes()
    found, _ = path_.converted(tmp_path, flat, 'raw')
    assert found == libraries.vmdk((tmp_path / 'made.vmdk').read_bytes(),
                                   flat)
    assert found == disk


@pytest.mark.parametrize(('kind', 'creator'), [
    (kind, creator) for kind in ('fixed', 'dynamic')
    for creator in (b'vpc ', b'qemu')])
def test_only_zeros_are_cut_off_by_geometry(tmp_path, kind, creator):
    """Judges take "Current Size", and an import what the guest has seen.

    The specification's "Hard Disk Footer Format" has both "Current Size" and
    "Disk Geometry", and says that a virtual machine computes the one from the
    other; these creators show their guests what it comes to.
    """
    geometry = (10, 16, 63)
    seen = 10 * 16 * 63 * 512
    disk = build.content(SIZE)[:seen].ljust(SIZE, b'\0')
    image = getattr(vhd, kind)(disk=disk, creator=creator, geometry=geometry)
    found, _ = path_.converted(tmp_path, image, 'vhd')
    assert found == disk[:seen]
    for read in JUDGES['vhd']:
        assert read(image) == disk
