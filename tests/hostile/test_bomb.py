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

"""Small files that stand for much: for data, and for work.

One of half a MiB stands for 3 GiB of data, and is no damage: every cluster of
the disk is the same compressed one, and is counted as often.
"""

import os
import struct
import subprocess
import sys

import pytest

from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import convert
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying.sinks import discard
from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.formats import qcow2
from tests.contract import images
from tests.hostile import bombs

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
    run = conversion_.Conversion()
    with pytest.raises(errors.TooLarge, match='far too small'):
        convert.convert(info, POLICY, CountingSink(), NONE, run)
    # Not all of it was done first.
    assert run.progress.position()[1] < 1.1 * GIB


def test_is_refused_in_staging_too(bomb, tmp_path):
    info = inspection.inspect(bomb, 'qcow2', POLICY)
    with pytest.raises(errors.TooLarge, match='far too small'):
        convert.stage(info, POLICY, str(tmp_path / 'target'), 'raw', (),
                         conversion_.Conversion())
    assert list(tmp_path.iterdir()) == []


# Tables that are shared: what they say has nothing to do with the file's size

_MEASURE = """
import resource, sys
from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.formats import qcow2
info = inspection.inspect(sys.argv[1], 'qcow2', detection.Policy(1 << 40))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
try:
    inspection.check_intact(info)
except errors.DamagedImage as e:
    print(peak() - before)
"""


def test_complaints_without_an_end_take_no_memory(tmp_path):
    """One for each of 16 million entries, of a file of 400 KiB."""
    path = bombs.shared_tables(tmp_path / 'disk', 2048, 16, lambda data: data)
    assert os.path.getsize(path) < 512 << 10
    done = subprocess.run([sys.executable, '-c', _MEASURE, path],
                          check=True, capture_output=True, text=True)
    assert int(done.stdout) < 16 << 10
    assert len(done.stderr) < 1000


def _read_of(path, monkeypatch):
    """Count what is read of a file to walk its tables."""
    read = []
    original = binary._Guarded.readinto

    def readinto(self, buffer):
        read.append(original(self, buffer))
        return read[-1]

    monkeypatch.setattr(binary._Guarded, 'readinto', readinto)
    assert not qcow2.ends_early(path)
    return sum(read)


@pytest.mark.parametrize('count', [1, 2000])
def test_a_shared_table_is_read_once(tmp_path, monkeypatch, count):
    """Of 2 MiB, however often it is named."""
    path = bombs.shared_tables(tmp_path / 'disk', count, 21,
                          lambda data: 1 << 62 | data, reference_bits=6)
    assert _read_of(path, monkeypatch) < 3 << 20


def test_shared_tables_are_no_damage(tmp_path):
    path = bombs.shared_tables(tmp_path / 'disk', 16, 21,
                          lambda data: 1 << 62 | data, reference_bits=6)
    inspection.check_intact(inspection.inspect(path, 'qcow2', POLICY._replace(
        max_virtual_size=1 << 50)))
