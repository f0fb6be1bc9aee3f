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


"""Every source, held to the contract in sources/__init__.py."""

import pathlib

import pytest

from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import convert
from glance_conversion_plugins.copying.sources import file as file_source
from glance_conversion_plugins.copying.sources import layout as layout_source
from glance_conversion_plugins.copying.sources import nbd as nbd_source
from glance_conversion_plugins.copying.sources import patient as patient_source
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import inspection
from tests.contract import checks
from tests.contract import images


def _file(folder):
    path = images.raw(folder / 'disk.raw', checks.PATTERN)
    return lambda: file_source.FileSource(path)


def _patient(folder):
    open_file = _file(folder)
    return lambda: patient_source.PatientSource(open_file, 'files')


def _nbd(folder, connections, driver='qcow2', make=images.qcow2):
    path = make(folder / 'disk.img', checks.PATTERN)
    return lambda: nbd_source.NbdSource(
        qemu_img.Image(path, driver), len(checks.EXPECTED), connections)


MIB = 1 << 20

# Their smallest block, in bytes, is larger than that of the pattern.
SCALED = {'vhdx-by-layout': MIB, 'vdi-by-layout': MIB,
          'vhd-by-layout': 2 * MIB}


def _by_layout(folder, disk_format, make, before=b''):
    """An image, or a part of a file, as it is opened once it is checked."""
    path = make(folder / f'disk.{disk_format}', checks.PATTERN)
    where = path
    if before:
        image = pathlib.Path(path).read_bytes()
        where = binary.Part(path, len(before), len(image))
        pathlib.Path(path).write_bytes(before + image + before)
    image = convert.check(
        inspection.inspect(where, disk_format, detection.Policy(1 << 40)),
        conversion_.Conversion())
    assert image.layout.is_plain == (make is not images.compressed)

    def open_source():
        source = convert.open_source(image)
        assert isinstance(source, layout_source.LayoutSource)
        return source

    return open_source


def _converted(disk_format, driver, *options, block=images.BLOCK):
    def make(path, pattern):
        raw = images.raw(f'{path}.raw', pattern, block)
        images.run('qemu-img', 'convert', '-f', 'raw', '-O', driver, *options,
                   raw, path)
        return str(path)

    return lambda folder: _by_layout(folder, disk_format, make)


FACTORIES = {
    'qcow2-by-layout': lambda folder: _by_layout(folder, 'qcow2',
                                                 images.qcow2),
    'qcow2-compressed-by-layout': lambda folder: _by_layout(
        folder, 'qcow2', images.compressed),
    'qcow2-part-by-layout': lambda folder: _by_layout(
        folder, 'qcow2', images.qcow2, b'x' * 512),
    'qcow2-subclusters-by-layout': _converted(
        'qcow2', 'qcow2', '-o', 'extended_l2=on'),
    'vdi-by-layout': _converted('vdi', 'vdi', block=MIB),
    'vhd-by-layout': _converted('vhd', 'vpc', '-o', 'force_size=on',
                                block=2 * MIB),
    'vhd-fixed-by-layout': _converted('vhd', 'vpc', '-o',
                                      'subformat=fixed,force_size=on'),
    'vhdx-by-layout': _converted('vhdx', 'vhdx', '-o', 'block_size=1M',
                                 block=MIB),
    'vmdk-by-layout': _converted('vmdk', 'vmdk'),
    'file': _file,
    'file-patient': _patient,
    'qcow2': lambda folder: _nbd(folder, 4),
    'qcow2-1-connection': lambda folder: _nbd(folder, 1),
    'qcow2-compressed': lambda folder: _nbd(folder, 4,
                                            make=images.compressed),
    'raw-over-nbd': lambda folder: _nbd(folder, 4, 'raw', images.raw),
}


@pytest.fixture(scope='module', params=FACTORIES)
def source(request, tmp_path_factory):
    """What opens a source, and what is in it."""
    folder = tmp_path_factory.mktemp('source')
    block = SCALED.get(request.param)
    expected = (images.content(checks.PATTERN, block) if block
                else checks.EXPECTED)
    return FACTORIES[request.param](folder), expected


@pytest.mark.parametrize('check', checks.SOURCE_CHECKS, ids=checks.name)
def test_source(check, source):
    check(*source)
