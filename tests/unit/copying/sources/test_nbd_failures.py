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


"""What an NBD source says when reading goes wrong, with real damage."""

from concurrent import futures
import os
import signal
import socket
import subprocess
import threading

import pytest

from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import pipeline
from glance_conversion_plugins.copying.sources import nbd as nbd_source
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.external import qemu_nbd
from tests.contract import images
from tests.unit import fakes

PATTERN = 'ABCDEFGH' * 8
SIZE = len(PATTERN) * images.BLOCK
EXPECTED = images.content(PATTERN)


def _qcow2(path):
    return qemu_img.Image(str(path), 'qcow2')


def _read(source, offset, length=images.BLOCK):
    return bytes(source.read(offset, length))


class NbdkitServer(qemu_nbd.NbdServer):
    """nbdkit in the place of qemu-nbd, with filters that make trouble."""

    arguments = ()

    def __init__(self, image, connections, virtual_size):
        self._sockets = [socket.socketpair() for _ in range(connections)]
        self.sockets = [ours for ours, _ in self._sockets]
        # One nbdkit for each connection: -s serves what stdin is.
        self._processes = []
        for _, theirs in self._sockets:
            self._processes.append(subprocess.Popen(
                ['nbdkit', '-s', '--exit-with-parent', *self.arguments],
                stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL))
            theirs.close()
        self._process = self._processes[0]

    def see_readable(self, unwanted):
        """Its disk is well."""

    def kill(self):
        for process in self._processes:
            process.kill()
            process.wait()

    def close(self):
        self.kill()


@pytest.fixture
def nbdkit(monkeypatch):
    """Open a source that nbdkit serves, with the given arguments."""
    opened = []

    def open_source(*arguments, connections=1):
        class Server(NbdkitServer):
            pass

        Server.arguments = arguments
        monkeypatch.setattr(qemu_nbd, 'NbdServer', Server)
        opened.append(nbd_source.NbdSource(
            qemu_img.Image('no path', 'raw'), SIZE, connections))
        return opened[-1]

    yield open_source
    for source in opened:
        source.close()


@pytest.fixture
def path(tmp_path):
    return images.qcow2(tmp_path / 'disk', PATTERN)


@pytest.fixture
def source(path):
    found = nbd_source.NbdSource(_qcow2(path), SIZE)
    yield found
    found.close()


@pytest.mark.parametrize('kind', ['zlib', 'zstd'])
def test_corrupt_compressed_cluster(tmp_path, kind):
    path = images.damaged(tmp_path / 'disk', kind)
    source = nbd_source.NbdSource(_qcow2(path), 4 * images.BLOCK)
    try:
        for block, char in ((0, 'A'), (1, 'B'), (3, 'D')):
            assert _read(source, block * images.BLOCK) == images.content(char)
        # After this one, qemu-nbd 7.2 closes the connection that it came on.
        with pytest.raises(errors.DamagedImage) as caught:
            _read(source, 2 * images.BLOCK)
        assert f'offset {2 * images.BLOCK} ' in str(caught.value)
    finally:
        source.close()


def test_not_the_format_that_was_claimed(tmp_path):
    path = images.raw(tmp_path / 'disk', 'AB')
    with pytest.raises(errors.DamagedImage, match='can not be opened'):
        nbd_source.NbdSource(_qcow2(path), 1 << 20)


def test_file_that_is_gone(tmp_path):
    with pytest.raises(FileNotFoundError):
        nbd_source.NbdSource(_qcow2(str(tmp_path / 'gone')), 1 << 20)


def test_server_that_died_before_a_read(source):
    os.kill(source._server.pid, signal.SIGKILL)
    with pytest.raises(errors.SourceFailed, match='stopped'):
        _read(source, 0)
    with pytest.raises(errors.SourceFailed, match='stopped'):
        list(source.extents(0, SIZE))


def _ended_by(stop, source):
    """How reads of many threads end that go on until something stops them."""
    reading = threading.Semaphore(0)

    def read_on():
        while True:
            assert _read(source, 0) == EXPECTED[:images.BLOCK]
            reading.release()

    with futures.ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read_on) for _ in range(8)]
        for _ in range(16):
            assert reading.acquire(timeout=60)
        stop()
        return {type(reader.exception(60)) for reader in readers}


def test_server_that_dies_while_many_read(source):
    assert _ended_by(lambda: os.kill(source._server.pid, signal.SIGKILL),
                     source) == {errors.SourceFailed}


def test_interrupt_while_many_read(source):
    assert _ended_by(source.interrupt, source) == {errors.Cancelled}


def test_extents_after_interrupt(source):
    source.interrupt()
    with pytest.raises(errors.Cancelled):
        list(source.extents(0, SIZE))


def test_interrupt_frees_a_read_that_hangs(nbdkit):
    """The server answers in an hour; nobody waits for it."""
    source = nbdkit('--filter=delay', 'pattern', f'size={SIZE}',
                    'rdelay=3600')
    with futures.ThreadPoolExecutor(2) as pool:
        # The second waits for the only connection.
        readers = [pool.submit(_read, source, 0) for _ in range(2)]
        assert not futures.wait(readers, 0.5).done
        source.interrupt()
        ended = [r.exception(60) for r in readers]
    assert [type(e) for e in ended] == [errors.Cancelled] * 2


def test_read_error_of_a_server_that_lives(nbdkit):
    source = nbdkit('--filter=error', 'pattern', f'size={SIZE}',
                    'error-pread=EIO', 'error-pread-rate=100%')
    with pytest.raises(errors.DamagedImage, match='offset 65536'):
        _read(source, 65536)
    assert source.size == SIZE


def test_no_read_error_is_lost(nbdkit, tmp_path):
    """Once one has failed, all later ones do: qemu-nbd may have gone."""
    plain = images.raw(tmp_path / 'plain', PATTERN)
    broken = tmp_path / 'broken'
    source = nbdkit('--filter=error', 'file', plain, 'error-pread=EIO',
                    'error-pread-rate=100%', f'error-pread-file={broken}',
                    connections=4)

    def outcomes():
        """What four readers get, each of its own block."""
        with futures.ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(_read, source, n * images.BLOCK)
                       for n in range(4)]
            return [r.exception() or r.result() for r in readers]

    right = [images.content(c) for c in PATTERN[:4]]
    assert outcomes() == right
    broken.touch()
    assert [type(o) for o in outcomes()] == [errors.DamagedImage] * 4
    broken.unlink()
    assert [type(o) for o in outcomes()] == [errors.DamagedImage] * 4


def test_error_while_extents_are_listed(nbdkit, tmp_path):
    plain = images.raw(tmp_path / 'plain', PATTERN)
    source = nbdkit('--filter=error', 'file', plain, 'error-extents=EIO',
                    'error-extents-rate=100%')
    with pytest.raises(errors.ConversionError):
        list(source.extents(0, SIZE))


def test_connection_that_is_cut(nbdkit, tmp_path):
    plain = images.raw(tmp_path / 'plain', PATTERN)
    source = nbdkit('file', plain)
    for process in source._server._processes:
        process.kill()
    with pytest.raises(errors.SourceFailed):
        _read(source, 0)


def test_image_without_extents_is_all_data(nbdkit):
    source = nbdkit('--filter=noextents', 'memory', f'size={SIZE}')
    assert list(extent.merge(source.extents(0, SIZE))) == [
        (0, SIZE, extent.Kind.DATA)]


def test_copy_of_a_damaged_image_stops_with_the_reason(tmp_path):
    path = images.compressed(tmp_path / 'disk', PATTERN)
    l2 = images.number_at(path, images.number_at(path, 40))
    l2 &= 0x00fffffffffffe00
    entry = images.number_at(path, l2 + 40 * 8)
    images.patch(path, entry & (1 << 54) - 1, b'\xff' * 16)
    source = nbd_source.NbdSource(_qcow2(path), SIZE)
    sink = fakes.FakeSink()
    try:
        with pytest.raises(errors.DamagedImage):
            pipeline.copy(source, sink)
    finally:
        source.close()
    assert sink.interrupted.is_set()
