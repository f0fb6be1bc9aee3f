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


import gc
import os
import signal

import nbd
import pytest

from glance_conversion_plugins import cancel
from glance_conversion_plugins.copying.sources import nbd as nbd_source
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.external import qemu_nbd
from tests.contract import images
from tests.unit import conftest
from tests.unit import processes


def _qcow2(path):
    return qemu_img.Image(str(path), 'qcow2')


def test_image_is_opened_read_only(server, path):
    processes.wait_for(lambda: processes.flags(server.pid, path),
                       'the image')
    assert all(f & os.O_ACCMODE == os.O_RDONLY
               for f in processes.flags(server.pid, path))


def test_image_that_is_only_a_part_of_its_file(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(b'A' * 1024 + b'B' * 1024)
    image = qemu_img.Image(str(path), 'raw', length=1024)
    assert qemu_img.info(image)['virtual-size'] == 1024


@pytest.mark.parametrize('kind', ['qcow2', 'vhdx'])
def test_nothing_to_replay(tmp_path, kind):
    path = tmp_path / 'disk'
    images.run('qemu-img', 'create', '-q', '-f', kind, path, '1M')
    before = path.read_bytes()
    qemu_img.replay(qemu_img.Image(str(path), kind))
    assert path.stat().st_size == len(before)


def test_what_can_not_be_replayed(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(b'vhdxfile' + bytes(1 << 20))
    with pytest.raises(errors.DamagedImage, match='can not be replayed'):
        qemu_img.replay(qemu_img.Image(str(path), 'vhdx'))


def test_replaying_can_be_cancelled(tmp_path):
    path = tmp_path / 'disk'
    images.run('qemu-img', 'create', '-q', '-f', 'vhdx', path, '1M')
    asked = cancel.Cancel()
    asked.set()
    with pytest.raises(errors.Cancelled):
        qemu_img.replay(qemu_img.Image(str(path), 'vhdx'), asked)


def test_no_socket_path_left(path, tmp_path, monkeypatch):
    folder = tmp_path / 'tmp'
    folder.mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(folder))
    server = qemu_nbd.NbdServer(_qcow2(path), 3, 1 << 20)
    try:
        assert os.listdir(folder) == []
        assert len(server.sockets) == 3
    finally:
        server.close()
    assert os.listdir(folder) == []


def test_ends_when_its_last_client_leaves(server):
    handle = nbd.NBD()
    handle.connect_socket(server.sockets[0].detach())
    assert server._process.poll() is None
    handle.shutdown()
    assert server._process.wait(60) == 0


def test_close_ends_it_and_may_be_called_twice(path):
    server = qemu_nbd.NbdServer(_qcow2(path), 1, 1 << 20)
    assert server._process.poll() is None
    server.close()
    assert server._process.returncode is not None
    server.close()


def test_status(server):
    assert server.status() is None
    os.kill(server.pid, signal.SIGKILL)
    assert server.status() == -signal.SIGKILL


def _descriptors():
    gc.collect()
    return len(os.listdir('/proc/self/fd'))


def test_close_of_a_source_leaves_no_descriptor_open(path):
    before = _descriptors()
    source = nbd_source.NbdSource(_qcow2(path), 1 << 20)
    assert _descriptors() > before
    source.close()
    assert _descriptors() == before


def test_what_it_says_is_logged(tmp_path, caplog):
    path = tmp_path / 'junk'
    path.write_bytes(b'x' * 100_000)
    server = qemu_nbd.NbdServer(_qcow2(path), 1, 1 << 20)
    server._process.wait(60)
    server.close()
    assert 'not in qcow2 format' in caplog.text.lower()


def test_it_may_say_something(tmp_path, caplog):
    """qemu prints a line when it meets the first corruption."""
    path = _with_misaligned_cluster(tmp_path / 'disk.qcow2')
    source = nbd_source.NbdSource(_qcow2(path), 4 * images.BLOCK)
    try:
        with pytest.raises(errors.DamagedImage):
            source.read(0, images.BLOCK)
    finally:
        source.close()
    assert 'Image is corrupt' in caplog.text


def _with_misaligned_cluster(path):
    """The table entry of the first cluster is no multiple of a cluster."""
    images.qcow2(path, 'ABCD')
    l1 = images.number_at(path, 40)
    l2 = images.number_at(path, l1) & 0x00fffffffffffe00
    entry = images.number_at(path, l2)
    images.patch(path, l2, (entry | 512).to_bytes(8, 'big'))
    return str(path)


def test_backing_file_is_not_opened(tmp_path):
    images.raw(tmp_path / 'secret', 'SSSS')
    path = tmp_path / 'disk.qcow2'
    images.run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b',
               tmp_path / 'secret', '-F', 'raw', path)
    source = nbd_source.NbdSource(_qcow2(path), 4 * images.BLOCK)
    try:
        found = source.read(0, 4 * images.BLOCK)
    finally:
        source.close()
    assert found == images.content('----')


def test_format_is_not_guessed(tmp_path):
    """A qcow2 file that is called raw is served as it is."""
    path = images.qcow2(tmp_path / 'disk', 'A')
    source = nbd_source.NbdSource(qemu_img.Image(path, 'raw'),
                                  os.path.getsize(path))
    try:
        assert source.size == os.path.getsize(path)
        found = source.read(0, 4)
    finally:
        source.close()
    assert found == b'QFI\xfb'


def test_protocol_is_not_guessed(tmp_path, monkeypatch):
    """A name is a name, whatever it looks like to qemu."""
    monkeypatch.chdir(tmp_path)
    path = images.qcow2(tmp_path / 'disk', 'A')
    os.rename(path, tmp_path / 'nbd:localhost:1,file.driver=x')
    image = _qcow2('nbd:localhost:1,file.driver=x')
    assert qemu_img.info(image)['virtual-size'] == images.BLOCK


def test_server_needs_no_lock_on_the_image(server, path):
    handle = nbd.NBD()
    handle.connect_socket(server.sockets[0].detach())
    assert handle.get_size() == len(conftest.PATTERN) * images.BLOCK
    assert qemu_img.info(_qcow2(path))['virtual-size'] == handle.get_size()


def test_info(path):
    found = qemu_img.info(_qcow2(path))
    assert found['virtual-size'] == len(conftest.PATTERN) * images.BLOCK
    assert found['cluster-size'] == 65536


def test_info_of_something_else(tmp_path):
    with pytest.raises(errors.DamagedImage, match='as qcow2'):
        qemu_img.info(_qcow2(images.raw(tmp_path / 'disk', 'A')))


def test_check_of_a_sound_image(path):
    report = qemu_img.check(_qcow2(path))
    assert not report.get('corruptions')
    assert report['image-end-offset'] == os.path.getsize(path)


def test_check_counts_corruptions(tmp_path):
    path = _with_misaligned_cluster(tmp_path / 'disk.qcow2')
    assert qemu_img.check(_qcow2(path))['corruptions'] > 0


def test_check_does_not_repair(tmp_path):
    path = _with_misaligned_cluster(tmp_path / 'disk.qcow2')
    with open(path, 'rb') as f:
        before = f.read()
    qemu_img.check(_qcow2(path))
    with open(path, 'rb') as f:
        assert f.read() == before


def test_cancel_ends_a_query(path):
    stop = cancel.Cancel()
    stop.set()
    with pytest.raises(errors.Cancelled):
        qemu_img.info(_qcow2(path), stop)
    with pytest.raises(errors.Cancelled):
        list(qemu_img.extents(_qcow2(path), 1 << 20, stop))
    with pytest.raises(errors.Cancelled):
        qemu_img.check(_qcow2(path), stop)


@pytest.fixture
def output(tmp_path):
    """A file for qemu-img to fill, as raw."""
    found = tmp_path / 'output'
    found.touch()
    return qemu_img.Output(str(found), 'raw', ())


SIZE = len(conftest.PATTERN) * images.BLOCK


def test_convert(path, output):
    told = []
    qemu_img.convert(_qcow2(path), SIZE, output, told.append)
    with open(output.path, 'rb') as f:
        assert f.read() == images.content(conftest.PATTERN)
    assert told == sorted(told)
    assert told[0] == 0
    assert told[-1] == 100


def test_convert_passes_options_on(path, output):
    qemu_img.convert(_qcow2(path), SIZE, output._replace(
        driver='qcow2', options=('-o', 'cluster_size=4096')), print)
    assert qemu_img.info(_qcow2(output.path))['cluster-size'] == 4096


def test_convert_leaves_the_image_alone(path, output):
    with open(path, 'rb') as f:
        before = f.read()
    qemu_img.convert(_qcow2(path), SIZE, output, print)
    with open(path, 'rb') as f:
        assert f.read() == before


def test_convert_of_something_else(tmp_path, output):
    with pytest.raises(errors.DamagedImage):
        qemu_img.convert(_qcow2(images.raw(tmp_path / 'disk', 'A')), 1 << 16,
                     output, print)


def test_convert_does_not_follow_a_backing_file(tmp_path, output):
    images.raw(tmp_path / 'secret', 'SSSS')
    path = str(tmp_path / 'disk')
    images.run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b',
               tmp_path / 'secret', '-F', 'raw', path)
    qemu_img.convert(_qcow2(path), 4 * images.BLOCK, output, print)
    with open(output.path, 'rb') as f:
        assert f.read() == images.content('----')


def test_what_advance_raises_ends_the_conversion(path, output):
    def advance(percent):
        raise errors.TooLarge('enough')

    with pytest.raises(errors.TooLarge, match='enough'):
        qemu_img.convert(_qcow2(path), SIZE, output, advance)
    assert not processes.children('qemu-img')


def test_cancel_ends_a_conversion(path, output):
    stop = cancel.Cancel()
    with pytest.raises(errors.Cancelled):
        qemu_img.convert(_qcow2(path), SIZE, output, lambda _: stop.set(),
                         stop)
    assert not processes.children('qemu-img')


def test_convert_that_is_killed_is_not_the_fault_of_the_image(big, output):
    def advance(percent):
        for pid in processes.children('qemu-img'):
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(errors.SourceFailed, match='stopped'):
        qemu_img.convert(_qcow2(big.path), big.virtual_size, output, advance)


def test_convert_runs_under_limits(big, output):
    limits = []

    def advance(percent):
        pid, = processes.children('qemu-img')
        limits.extend(line.split() for line in
                      processes.proc(pid, 'limits').splitlines())
        raise errors.Cancelled('seen')

    with pytest.raises(errors.Cancelled):
        qemu_img.convert(_qcow2(big.path), big.virtual_size, output, advance)
    most = str(big.virtual_size * 5 // 4 + (64 << 20))
    assert ['Max', 'file', 'size', most, most, 'bytes'] in limits
    seconds = str(60 + big.virtual_size // (64 << 20))
    assert ['Max', 'cpu', 'time', seconds, seconds, 'seconds'] in limits
