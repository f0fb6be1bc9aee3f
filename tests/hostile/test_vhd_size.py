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

"""VHDs by VirtualBox, whose size qemu < 10 would take from their geometry."""

import re
import subprocess

import pytest

from glance_conversion_plugins.formats import inspection
from tests.hostile.build import MIB
from tests.hostile import path as path_
from tests.hostile import vhd

SIZE = 5 * MIB


@pytest.mark.parametrize('make', [vhd.dynamic, vhd.fixed],
                         ids=['dynamic', 'fixed'])
def test_all_of_the_disk_is_converted(tmp_path, make):
    path = tmp_path / 'disk.vhd'
    path.write_bytes(make(creator=b'vbox'))
    expected = tmp_path / 'expected'
    # What qemu makes of the same disk if Hyper-V says that it has this size.
    known = tmp_path / 'known.vhd'
    known.write_bytes(make(creator=b'win '))
    assert path_.reference(known, 'vhd', expected)
    assert expected.stat().st_size == SIZE
    sink = path_.FileSink(tmp_path / 'result')
    path_.convert(path, 'vhd', sink)
    assert path_.same(sink.path, expected)


def test_qemu_alone_would_cut_it_before_version_10(tmp_path):
    """Once none that we support does, there is nothing to tell it any more."""
    path = tmp_path / 'disk.vhd'
    path.write_bytes(vhd.dynamic(creator=b'vbox'))
    assert path_.reference(path, 'vhd', tmp_path / 'raw')
    is_cut = (tmp_path / 'raw').stat().st_size < SIZE
    assert is_cut == (_qemu_major() < 10)
    assert inspection.inspect(str(path), 'vhd', path_.POLICY
                              ).virtual_size == SIZE


def _qemu_major():
    said = subprocess.run(['qemu-img', '--version'], check=True, text=True,
                          stdout=subprocess.PIPE).stdout
    return int(re.search(r'version (\d+)', said)[1])
