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

"""qcow2 images that are not as qemu leaves them, beside their disk.

What is read of them is right or is refused; how often each cluster is in use
concerns nobody who reads.
"""

import signal
import subprocess

import pytest

from glance_conversion_plugins import cancel
from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.formats import qcow2 as tables
from glance_conversion_plugins.formats import remarks
from tests.contract import images
from tests.hostile import build
from tests.hostile.build import be64
from tests.hostile.build import KIB
from tests.hostile.build import MIB
from tests.hostile import path as path_
from tests.hostile import qcow2
from tests.judges import libraries

SIZE = 5 * MIB
# Of each place of the disk what was written there: offset, length, byte.
WRITES = ((0, 64 * KIB, 5), (2 * MIB - 4096, 8192, 6), (SIZE - 512, 512, 7))


def _disk():
    disk = bytearray(SIZE)
    for at, length, byte in WRITES:
        disk[at:at + length] = bytes([byte]) * length
    return bytes(disk)


def _kill(path, *options):
    """Write to an image by a qemu that does not come to close it."""
    images.run('qemu-img', 'create', '-q', '-f', 'qcow2',
               *(a for option in options for a in ('-o', option)), path, SIZE)
    commands = [f'write -P {byte} {at} {length}'
                for at, length, byte in WRITES]
    commands += ['flush', 'sigraise 9']
    done = subprocess.run(
        ['qemu-io', '-f', 'qcow2',
         *(a for command in commands for a in ('-c', command)), str(path)],
        check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL


def _corruptions(path):
    return subprocess.run(
        ['qemu-img', 'check', '-q', '-f', 'qcow2', str(path)], check=False,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 2


def _convert(path):
    sink = path_.FileSink(path.parent / 'result')
    conversion = path_.convert(path, 'qcow2', sink)
    return sink.path.read_bytes(), conversion.remarks


@pytest.mark.parametrize('options', [
    (), ('cluster_size=4k',), ('extended_l2=on', 'cluster_size=128k')])
def test_image_that_was_not_closed(tmp_path, options):
    path = tmp_path / 'disk'
    _kill(path, 'lazy_refcounts=on', *options)
    assert _corruptions(path)
    found, said = _convert(path)
    assert found == _disk()
    assert said == [remarks.REFCOUNTS]


def test_copy_of_a_disk_in_use(tmp_path):
    """Metadata that qemu keeps back, and the file as it is by then."""
    path = tmp_path / 'disk'
    _kill(path)
    found, _ = _convert(path)
    assert found == _disk()


REFCOUNTS = {
    'none': lambda data: build.patched(
        data, (qcow2.number(data, qcow2.REFCOUNTS), bytes(8))),
    'zeros': lambda data: build.patched(data, (qcow2.refcounts(), bytes(99))),
    'too-many': lambda data: build.patched(
        data, (qcow2.refcounts() + 12, b'\0\2\0\2')),
    'too-few': lambda data: build.patched(
        data, (qcow2.refcounts() + 12, bytes(2))),
}


@pytest.mark.parametrize('kind', REFCOUNTS)
def test_wrong_counts(tmp_path, kind):
    path = tmp_path / 'disk'
    path.write_bytes(REFCOUNTS[kind](qcow2.plain()))
    found, said = _convert(path)
    assert found == build.content(SIZE)
    assert said == [remarks.REFCOUNTS]
    if kind != 'none':
        assert found == libraries.qcow2(path.read_bytes())


def test_wrong_counts_of_compressed_clusters(tmp_path):
    data = build.image('qcow2', compress=True, text=True)
    first = qcow2.number(data, qcow2.number(data, qcow2.REFCOUNTS))
    path = tmp_path / 'disk'
    path.write_bytes(build.patched(data, (first, bytes(100))))
    found, said = _convert(path)
    assert found == build.content(SIZE).hex().encode()[:SIZE]
    assert said == [remarks.REFCOUNTS]


def test_wrong_counts_do_not_hide_wrong_tables(tmp_path):
    broken = build.patched(REFCOUNTS['zeros'](qcow2.plain()),
                           (qcow2.l2() + 8, be64(qcow2.l2())))
    path = tmp_path / 'disk'
    path.write_bytes(broken)
    with pytest.raises(errors.DamagedImage, match='the same place'):
        _convert(path)


def test_snapshots_do_not_count(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(qcow2.plain())
    images.run('qemu-img', 'snapshot', '-c', 'one', path)
    images.run('qemu-io', '-f', 'qcow2', '-c', 'write -P 238 0 64k', path)
    data = path.read_bytes()
    first = qcow2.number(data, qcow2.number(data, qcow2.REFCOUNTS))
    path.write_bytes(build.patched(data, (first, bytes(100))))
    found, said = _convert(path)
    assert found == b'\xee' * 64 * KIB + build.content(SIZE)[64 * KIB:]
    assert said == [remarks.REFCOUNTS]


@pytest.mark.parametrize('options', [
    ('cluster_size=128k',), ('cluster_size=16k',), ('cluster_size=2M',)])
def test_entries_of_16_bytes(tmp_path, options):
    path = tmp_path / 'disk'
    images.run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o',
               'extended_l2=on', '-o', options[0], path, SIZE)
    images.run('qemu-io', '-f', 'qcow2', *(
        a for at, length, byte in WRITES
        for a in ('-c', f'write -P {byte} {at} {length}')), path)
    found, said = _convert(path)
    assert found == _disk()
    assert not said
    assert not inspection.inspect(str(path), 'qcow2',
                                  path_.POLICY).keeps_rules


def test_entries_of_16_bytes_by_convert(tmp_path):
    """Its file ends within a cluster, where the data in that does."""
    path = tmp_path / 'disk'
    disk = build.content(SIZE)[:SIZE - 130_000] + bytes(130_000)
    path.write_bytes(build.converted(disk, 'qcow2', ('extended_l2=on',)))
    assert path.stat().st_size % (64 * KIB)
    found, said = _convert(path)
    assert found == disk
    assert not said


@pytest.mark.parametrize('lost', [1, 513, 5000, 70_000, 200_000])
def test_entries_of_16_bytes_cut(tmp_path, lost):
    path = tmp_path / 'disk'
    path.write_bytes(build.image('qcow2', 'extended_l2=on')[:-lost])
    with pytest.raises(errors.DamagedImage):
        _convert(path)


def test_entries_of_16_bytes_compressed(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(build.image('qcow2', 'extended_l2=on', compress=True,
                                 text=True))
    found, _ = _convert(path)
    assert found == build.content(SIZE).hex().encode()[:SIZE]
    path.write_bytes(path.read_bytes()[:-70_000])
    with pytest.raises(errors.DamagedImage):
        inspection.check_intact(inspection.inspect(
            str(path), 'qcow2', path_.POLICY))


def test_looking_at_tables_can_be_cancelled(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(qcow2.plain())
    asked = cancel.Cancel()
    asked.set()
    with pytest.raises(errors.Cancelled):
        tables.check_tables(str(path), asked)
