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

"""Walking the tables of a file ends: when it is told to, and by itself."""

import os
import time

import pytest

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.formats import qcow2
from glance_conversion_plugins.formats import tables
from tests.contract import images
from tests.hostile import build

FORMATS = ('vdi', 'vhd', 'vhdx', 'vmdk')
POLICY = detection.Policy(1 << 40)


@pytest.fixture
def stopped():
    found = cancel_.Cancel()
    found.set()
    return found


def _image(tmp_path, disk_format):
    path = tmp_path / 'disk'
    path.write_bytes(build.image(disk_format, *(
        ['force_size=on'] if disk_format == 'vhd' else [])))
    return str(path), path.stat().st_size


@pytest.mark.parametrize('disk_format', FORMATS)
def test_cancel_is_heard_in_the_tables(tmp_path, stopped, disk_format):
    path, size = _image(tmp_path, disk_format)
    tables.check(path, disk_format, size)
    with pytest.raises(errors.Cancelled):
        tables.check(path, disk_format, size, stopped)


def test_cancel_is_heard_in_the_tables_of_a_qcow2(tmp_path, stopped):
    path = images.compressed(tmp_path / 'disk', 'AB')
    assert not qcow2.ends_early(path)
    with pytest.raises(errors.Cancelled):
        qcow2.ends_early(path, stopped)


@pytest.mark.parametrize('disk_format', ['raw', *FORMATS])
def test_cancel_is_heard_when_the_format_is_looked_for(
        tmp_path, stopped, disk_format):
    path, _ = _image(tmp_path, disk_format)
    with pytest.raises(errors.Cancelled):
        inspection.inspect(path, disk_format, POLICY, stopped)


def test_cancel_is_heard_between_two_reads(tmp_path):
    path, _ = _image(tmp_path, 'vhdx')
    cancel = cancel_.Cancel()
    with binary.opened(path, cancel) as f:
        assert binary.read(f, 0, 8) == b'vhdxfile'
        cancel.set()
        with pytest.raises(errors.Cancelled):
            binary.read(f, 1 << 20, 8)


def test_cancel_is_heard_while_blocks_are_looked_for(tmp_path, stopped):
    path, _ = _image(tmp_path, 'vhdx')
    assert tables.layout(path, 'vhdx').size == 5 << 20
    with pytest.raises(errors.Cancelled):
        tables.layout(path, 'vhdx', stopped)


@pytest.mark.parametrize('disk_format', FORMATS)
def test_what_takes_too_long_is_refused(tmp_path, monkeypatch, disk_format):
    path, size = _image(tmp_path, disk_format)
    monkeypatch.setattr(binary, 'seconds', lambda size: 0)
    with pytest.raises(errors.TooLarge, match='takes too long'):
        tables.check(path, disk_format, size)


def test_time_follows_the_size():
    assert binary.seconds(0) == 60
    assert binary.seconds(1 << 30) == 124


def test_time_is_that_of_the_thread(tmp_path, monkeypatch):
    """That others want the processor is no reason to refuse an image."""
    path, size = _image(tmp_path, 'vdi')
    monkeypatch.setattr(time, 'monotonic', lambda: 1e9)
    tables.check(path, 'vdi', size)


def test_a_part_of_a_file(tmp_path):
    """Read as if there were nothing around it."""
    path, data = tmp_path / 'file', bytes(range(256)) * 200
    path.write_bytes(data)
    part = binary.Part(str(path), 1000, 30_000)
    whole = data[1000:31_000]
    assert binary.size(part) == 30_000
    with binary.opened(part) as f:
        assert f.seek(0, os.SEEK_END) == 30_000
        assert f.read() == b''
        assert f.seek(29_990) == 29_990
        assert f.read(100) == whole[-10:]
        assert f.seek(5) == 5
        assert f.seek(7, os.SEEK_CUR) == 12
        assert f.read(20_000) == whole[12:20_012]
        assert f.tell() == 20_012
        f.seek(0)
        assert f.read() == whole
        assert binary.read(f, 29_000, 1000) == whole[-1000:]
        for offset, length in ((29_001, 1000), (30_001, 1), (1 << 70, 1)):
            with pytest.raises(errors.DamagedImage):
                binary.read(f, offset, length)


def test_a_part_of_a_file_is_read_no_longer_than_it_is_worth(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(bytes(30_000))
    cancel = cancel_.Cancel()
    with binary.opened(binary.Part(str(path), 0, 20_000), cancel) as f:
        cancel.set()
        with pytest.raises(errors.Cancelled):
            f.read(1)
