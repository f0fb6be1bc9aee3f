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

"""VHDs of every tool, beside the disk that they were made from.

qemu-img is no reference: it takes the size of most of them from cylinders,
heads and sectors, which round down, and loses the end of the disk with the
second partition table. libvhdi, which takes the footer's, is.
"""

import functools

import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.formats import remarks
from tests.hostile import build
from tests.hostile.build import MIB
from tests.hostile import path as path_
from tests.hostile import vhd
from tests.judges import libraries

SIZE = 5 * MIB
_convert = functools.partial(path_.converted, disk_format='vhd')
ROUNDED = 10 * 16 * 63 * 512    # by the geometry that vhd.footer() writes
KINDS = {
    'dynamic': (vhd.dynamic, vhd.dynamic_disk),
    'fixed': (vhd.fixed, build.content),
}
CREATORS = [b'win ', b'qem2', b'd2v ', b'tap\0', b'CTXS', b'wa\0\0', b'vbox',
            b'vs  ', b'elem', b'SIMH', b'pvhd', b'pyvh', b'w2ru', bytes(4)]

kinds = pytest.mark.parametrize('kind', KINDS)


def _read_by_libvhdi(path):
    return libraries.vhd(path.read_bytes())


@kinds
@pytest.mark.parametrize('creator', CREATORS)
def test_all_of_the_disk_is_converted(tmp_path, kind, creator):
    make, disk = KINDS[kind]
    found, said = _convert(tmp_path, make(creator=creator))
    assert found == disk(SIZE)
    assert found == _read_by_libvhdi(tmp_path / 'disk.vhd')
    assert not said


@kinds
def test_qemu_alone_would_cut_it(tmp_path, kind):
    """Once no qemu that we support does, it need not be told any more."""
    path = tmp_path / 'disk.vhd'
    path.write_bytes(KINDS[kind][0](creator=b'elem'))
    found = qemu_img.info(qemu_img.Image(str(path), 'vpc'))['virtual-size']
    assert found == (ROUNDED if path_.qemu_major() < 10 else SIZE)


@kinds
@pytest.mark.parametrize('creator', [b'vpc ', b'qemu'])
def test_geometry_counts_where_it_is_meant(tmp_path, kind, creator):
    """Virtual PC shows its guest no more than that."""
    make, disk = KINDS[kind]
    content = disk(SIZE)[:ROUNDED].ljust(SIZE, b'\0')
    found, _ = _convert(tmp_path, make(creator=creator, disk=content))
    assert found == content[:ROUNDED]


@kinds
@pytest.mark.parametrize('creator', [b'vpc ', b'qemu'])
def test_nothing_is_lost_to_geometry(tmp_path, kind, creator):
    """Who writes behind it has a tool that only calls itself Virtual PC."""
    make, _ = KINDS[kind]
    content = bytes(SIZE - 1) + b'!'
    found, _ = _convert(tmp_path, make(creator=creator, disk=content))
    assert found == content


@kinds
@pytest.mark.parametrize('geometry', [
    (0, 0, 0), (1, 1, 1), (100, 16, 63), (65535, 16, 255), (65535, 255, 255)])
@pytest.mark.parametrize('creator', [b'vpc ', b'win ', b'elem'])
def test_geometry_that_says_nothing(tmp_path, kind, geometry, creator):
    make, disk = KINDS[kind]
    content = bytes(SIZE)
    found, _ = _convert(tmp_path, make(creator=creator, geometry=geometry,
                                       disk=content))
    assert found == content


@pytest.mark.parametrize('gap', [512, 2 * MIB, MIB - 512])
def test_gap_before_the_footer(tmp_path, gap):
    data = vhd.fixed()
    found, said = _convert(tmp_path, data[:-512] + bytes(gap) + data[-512:])
    assert found == build.content(SIZE)
    assert said == [remarks.BEYOND]


@kinds
@pytest.mark.parametrize('more', [
    b'\n', bytes(512), bytes(MIB), b'x' * 10240, bytes(511)],
    ids=lambda more: f'{more[:1]}-{len(more)}')
def test_things_after_the_footer(tmp_path, kind, more):
    make, disk = KINDS[kind]
    found, said = _convert(tmp_path, make() + more)
    assert found == disk(SIZE)
    assert said == [remarks.BEYOND]


def test_much_after_the_footer_of_a_dynamic_one(tmp_path):
    found, _ = _convert(tmp_path, vhd.dynamic() + bytes(9 * MIB))
    assert found == vhd.dynamic_disk(SIZE)


def test_gap_before_the_footer_of_a_dynamic_one(tmp_path):
    data = vhd.dynamic()
    found, _ = _convert(tmp_path, data[:-512] + bytes(9 * MIB) + data[-512:])
    assert found == vhd.dynamic_disk(SIZE)


@kinds
def test_footer_of_511_bytes(tmp_path, kind):
    make, disk = KINDS[kind]
    found, said = _convert(tmp_path, make()[:-1])
    assert found == disk(SIZE)
    assert not said


@pytest.mark.parametrize('block', [
    4096, 64 << 10, 512 << 10, 4 * MIB, 32 * MIB])
def test_blocks_of_every_size(tmp_path, block):
    disk = build.content(SIZE)
    data = vhd.dynamic(block=block, disk=disk)
    found, _ = _convert(tmp_path, data)
    assert found == disk
    if block >= 64 << 10:
        assert found == _read_by_libvhdi(tmp_path / 'disk.vhd')


def _unwritten(disk):
    """An image that says of the disk's first sectors that nobody wrote them.

    "Block Allocation Table and Data Blocks" of the specification: the bit of
    a sector that has never been modified is 0.
    """
    data = vhd.dynamic(disk=disk)
    block = int.from_bytes(data[vhd.TABLE:vhd.TABLE + 4]) * 512
    return build.patched(data, (block, b'\x0f\x7f'))


def test_zeros_that_were_never_written(tmp_path):
    disk = bytearray(build.content(SIZE))
    disk[:4 * 512] = bytes(4 * 512)
    disk[8 * 512:9 * 512] = bytes(512)
    found, said = _convert(tmp_path, _unwritten(bytes(disk)))
    assert found == disk
    assert found == _read_by_libvhdi(tmp_path / 'disk.vhd')
    assert not said


@pytest.mark.parametrize('sector', [0, 3, 8])
def test_content_that_was_never_written(tmp_path, sector):
    """To qemu it is content, to libvhdi and the specification zeros."""
    disk = bytearray(SIZE)
    disk[sector * 512 + 511] = 1
    with pytest.raises(errors.UnsafeImage, match='never written it has old'):
        _convert(tmp_path, _unwritten(bytes(disk)))
    assert not any(_read_by_libvhdi(tmp_path / 'disk.vhd'))


@pytest.mark.parametrize('data', [vhd.fixed(), vhd.fixed()[:-1]],
                         ids=['512', '511'])
def test_fixed_one_declared_as_raw(tmp_path, data):
    path = tmp_path / 'disk'
    path.write_bytes(data)
    with pytest.raises(errors.FormatMismatch, match='declare it as vhd'):
        inspection.inspect(str(path), 'raw', path_.POLICY)
    assert inspection.find_format(str(path), path_.POLICY).name == 'vhd'


def test_disk_that_ends_with_a_vhd_file_is_raw(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(vhd.fixed() + bytes(512))
    assert inspection.inspect(str(path), 'raw', path_.POLICY)
