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

import pytest

from glance_conversion_plugins.copying.sources import file as file_source
from glance_conversion_plugins.copying.sources import nbd as nbd_source
from glance_conversion_plugins.copying.sources import patient as patient_source
from glance_conversion_plugins.copying.sources import vhdx as vhdx_source
from glance_conversion_plugins.external import qemu_img
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


# The smallest block of a vhdx is larger than that of the pattern.
SCALED = images.content(checks.PATTERN, 1 << 20)


def _vhdx(folder):
    raw, path = folder / 'disk.raw', folder / 'disk.vhdx'
    images.raw(raw, checks.PATTERN, 1 << 20)
    images.run('qemu-img', 'convert', '-f', 'raw', '-O', 'vhdx', '-o',
               'block_size=1M', raw, path)
    return lambda: vhdx_source.VhdxSource(
        qemu_img.Image(str(path), 'vhdx'), len(SCALED))


FACTORIES = {
    'file': _file,
    'file-patient': _patient,
    'qcow2': lambda folder: _nbd(folder, 4),
    'qcow2-1-connection': lambda folder: _nbd(folder, 1),
    'qcow2-compressed': lambda folder: _nbd(folder, 4,
                                            make=images.compressed),
    'vhdx': _vhdx,
    'raw-over-nbd': lambda folder: _nbd(folder, 4, 'raw', images.raw),
}


@pytest.fixture(scope='module', params=FACTORIES)
def source(request, tmp_path_factory):
    """What opens a source, and what is in it."""
    folder = tmp_path_factory.mktemp('source')
    expected = SCALED if request.param == 'vhdx' else checks.EXPECTED
    return FACTORIES[request.param](folder), expected


@pytest.mark.parametrize('check', checks.SOURCE_CHECKS, ids=checks.name)
def test_source(check, source):
    check(*source)
