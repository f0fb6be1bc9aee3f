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

"""A file of half a MiB that stands for 3 GiB of data, and is no damage.

Every cluster of the disk is the same compressed one, and is counted as often.
"""

import struct

import pytest

from glance_conversion_plugins.copying import convert
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying.sinks import discard
from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import inspection
from tests.contract import images

GIB = 1 << 30
CLUSTER = 64 * 1024
SIZE = 3 * GIB
# What one table of the second level describes.
REACH = CLUSTER // 8 * CLUSTER
POLICY = detection.Policy(4 * GIB, max_expansion=200)
NONE = digest.DigestSpec(None, False)


class CountingSink(discard.DiscardSink):
    """Takes it all, and says that it wrote it."""

    def write(self, view, offset):
        return len(view)


@pytest.fixture(scope='module')
def bomb(tmp_path_factory):
    path = tmp_path_factory.mktemp('bomb') / 'bomb.qcow2'
    images.run('qemu-img', 'create', '-q', '-f', 'qcow2', path, SIZE)
    images.run('qemu-io', '-f', 'qcow2', *(
        word for at in range(0, SIZE, REACH)
        for word in ('-c', f'write -c -P 65 {at} {CLUSTER}')), path)
    data = bytearray(path.read_bytes())
    l1, = struct.unpack_from('>Q', data, 40)
    l2 = [offset & 0x00fffffffffffe00 for offset in struct.unpack_from(
        f'>{SIZE // REACH}Q', data, l1)]
    entry = data[l2[0]:l2[0] + 8]
    for offset in l2:
        data[offset:offset + CLUSTER] = entry * (CLUSTER // 8)
    # All of them lie in the same cluster of the file.
    host = (int.from_bytes(entry, 'big') & (1 << 54) - 1) // CLUSTER
    counts, = struct.unpack_from('>Q', data, 48)
    block, = struct.unpack_from('>Q', data, counts)
    struct.pack_into('>H', data, block + host * 2, SIZE // CLUSTER)
    path.write_bytes(data)
    images.run('qemu-img', 'check', '-f', 'qcow2', path)
    assert len(data) < 1 << 20
    return str(path)


def test_is_refused_for_what_it_expands_to(bomb):
    info = inspection.inspect(bomb, 'qcow2', POLICY)
    run = convert.Conversion()
    with pytest.raises(errors.TooLarge, match='far too small'):
        convert.convert(info, POLICY, CountingSink(), NONE, run)
    # Not all of it was done first.
    assert run.progress.position()[1] < 1.1 * GIB


def test_is_refused_in_staging_too(bomb, tmp_path):
    info = inspection.inspect(bomb, 'qcow2', POLICY)
    with pytest.raises(errors.TooLarge, match='far too small'):
        convert.stage(info, POLICY, str(tmp_path / 'target'), 'raw', (),
                         convert.Conversion())
    assert list(tmp_path.iterdir()) == []
