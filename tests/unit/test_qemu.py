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


import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time

import nbd
import pytest

from glance_conversion_plugins import cancel
from glance_conversion_plugins import errors
from glance_conversion_plugins import qemu
from glance_conversion_plugins.sources import nbd as nbd_source
from tests.contract import images

PATTERN = 'A0-BCD'


@pytest.fixture
def path(tmp_path):
    return images.qcow2(tmp_path / 'disk.qcow2', PATTERN)


@pytest.fixture
def server(path):
    found = qemu.NbdServer(path, 'qcow2', 1, len(PATTERN) * images.BLOCK)
    _await_comm(found.pid, 'qemu-nbd')
    yield found
    found.close()


def _proc(pid, name):
    try:
        with open(f'/proc/{pid}/{name}') as f:
            return f.read()
    except (FileNotFoundError, ProcessLookupError):
        return ''


def _await(condition, what):
    """Wait for something that another process does."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail(f'waited in vain for {what}')


def _await_comm(pid, name):
    _await(lambda: _proc(pid, 'comm').strip() == name, name)


def _is_gone(pid):
    """Ended; nobody may be there to reap it in a container."""
    stat = _proc(pid, 'stat')
    return not stat or stat.rpartition(')')[2].split()[0] == 'Z'


def _limits(pid):
    """{name: soft and hard limit}"""
    return {line[:26].strip(): line[26:].split()[:2]
            for line in _proc(pid, 'limits').splitlines()[1:]}


def test_limits_of_a_running_server(server):
    limits = _limits(server.pid)
    assert limits['Max address space'] == [str(1 << 30)] * 2
    assert limits['Max core file size'] == ['0', '0']
    # A minute, and nothing more for so small an image.
    assert limits['Max cpu time'] == ['60', '60']


def test_cpu_time_follows_the_size(path):
    server = qemu.NbdServer(path, 'qcow2', 1, 640 << 20)
    try:
        _await_comm(server.pid, 'qemu-nbd')
        assert _limits(server.pid)['Max cpu time'] == ['70', '70']
    finally:
        server.close()


def test_no_privileges_to_gain(server):
    status = dict(line.split(':', 1) for line in
                  _proc(server.pid, 'status').splitlines())
    assert status['NoNewPrivs'].strip() == '1'


def test_environment_holds_nothing_of_ours(path, monkeypatch):
    monkeypatch.setenv('OS_PASSWORD', 'secret')
    server = qemu.NbdServer(path, 'qcow2', 1, 1 << 20)
    try:
        _await_comm(server.pid, 'qemu-nbd')
        environ = _proc(server.pid, 'environ')
    finally:
        server.close()
    names = {e.partition('=')[0] for e in environ.split('\0') if e}
    assert names - {'PWD', 'OLDPWD', '_', 'SHLVL'} == {
        'PATH', 'LC_ALL', 'LISTEN_PID', 'LISTEN_FDS', qemu.OWNER_VARIABLE}
    assert (f'{qemu.OWNER_VARIABLE}={qemu.identity(os.getpid())}'
            in environ.split('\0'))


def test_server_inherits_no_file_of_ours(path, tmp_path):
    with open(tmp_path / 'ours', 'w') as ours:
        os.set_inheritable(ours.fileno(), True)
        server = qemu.NbdServer(path, 'qcow2', 1, 1 << 20)
        try:
            _await(lambda: _flags(server.pid, path), 'the image')
            assert not _flags(server.pid, ours.name)
        finally:
            server.close()


def test_image_is_opened_read_only(server, path):
    _await(lambda: _flags(server.pid, path), 'the image')
    assert all(f & os.O_ACCMODE == os.O_RDONLY
               for f in _flags(server.pid, path))


def _flags(pid, path):
    """How a process has opened a file."""
    found = []
    for fd in os.listdir(f'/proc/{pid}/fd'):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f'/proc/{pid}/fd/{fd}') == path:
                info = dict(line.split(':', 1) for line in
                            _proc(pid, f'fdinfo/{fd}').splitlines())
                found.append(int(info['flags'], 8))
    return found


def test_no_socket_path_left(path, tmp_path, monkeypatch):
    folder = tmp_path / 'tmp'
    folder.mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(folder))
    server = qemu.NbdServer(path, 'qcow2', 3, 1 << 20)
    try:
        assert os.listdir(folder) == []
        assert len(server.sockets) == 3
    finally:
        server.close()
    assert os.listdir(folder) == []


_OWNER = """
import sys, threading
from glance_conversion_plugins import qemu
server = qemu.NbdServer(sys.argv[1], 'qcow2', 1, 1 << 20)
print(server.pid, flush=True)
sys.stdin.read()
"""


def test_dies_with_its_parent(path):
    parent = subprocess.Popen([sys.executable, '-c', _OWNER, path],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True)
    with parent:
        pid = int(parent.stdout.readline())
        try:
            _await_comm(pid, 'qemu-nbd')
            assert not _is_gone(pid)
        finally:
            parent.kill()
    assert parent.returncode == -signal.SIGKILL
    _await(lambda: _is_gone(pid), 'the end of qemu-nbd')


def test_dies_with_the_thread_that_started_it(path):
    servers = []

    def start():
        servers.append(qemu.NbdServer(path, 'qcow2', 1, 1 << 20))
        _await_comm(servers[0].pid, 'qemu-nbd')

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert servers[0]._process.wait(60) == -signal.SIGKILL
    servers[0].close()


def test_ends_when_its_last_client_leaves(server):
    handle = nbd.NBD()
    handle.connect_socket(server.sockets[0].detach())
    assert server._process.poll() is None
    handle.shutdown()
    assert server._process.wait(60) == 0


def test_close_ends_it_and_may_be_called_twice(path):
    server = qemu.NbdServer(path, 'qcow2', 1, 1 << 20)
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
    source = nbd_source.NbdSource(path, 'qcow2', 1 << 20)
    assert _descriptors() > before
    source.close()
    assert _descriptors() == before


def test_what_it_says_is_logged(tmp_path, caplog):
    path = tmp_path / 'junk'
    path.write_bytes(b'x' * 100_000)
    server = qemu.NbdServer(str(path), 'qcow2', 1, 1 << 20)
    server._process.wait(60)
    server.close()
    assert 'not in qcow2 format' in caplog.text.lower()


def test_it_may_say_something(tmp_path, caplog):
    """qemu prints a line when it meets the first corruption."""
    path = _with_misaligned_cluster(tmp_path / 'disk.qcow2')
    source = nbd_source.NbdSource(path, 'qcow2', 4 * images.BLOCK)
    view = memoryview(bytearray(images.BLOCK))
    try:
        with pytest.raises(errors.DamagedImage):
            source.readinto(view, 0)
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
    source = nbd_source.NbdSource(str(path), 'qcow2', 4 * images.BLOCK)
    buffer = bytearray(b'x' * 4 * images.BLOCK)
    try:
        source.readinto(memoryview(buffer), 0)
    finally:
        source.close()
    assert buffer == images.content('----')


def test_format_is_not_guessed(tmp_path):
    """A qcow2 file that is called raw is served as it is."""
    path = images.qcow2(tmp_path / 'disk', 'A')
    source = nbd_source.NbdSource(path, 'raw', os.path.getsize(path))
    buffer = bytearray(4)
    try:
        assert source.size == os.path.getsize(path)
        source.readinto(memoryview(buffer), 0)
    finally:
        source.close()
    assert buffer == b'QFI\xfb'


def test_protocol_is_not_guessed(tmp_path, monkeypatch):
    """A name is a name, whatever it looks like to qemu."""
    monkeypatch.chdir(tmp_path)
    path = images.qcow2(tmp_path / 'disk', 'A')
    os.rename(path, tmp_path / 'nbd:localhost:1,file.driver=x')
    assert qemu.info('nbd:localhost:1,file.driver=x',
                     'qcow2')['virtual-size'] == images.BLOCK


def test_server_needs_no_lock_on_the_image(server, path):
    handle = nbd.NBD()
    handle.connect_socket(server.sockets[0].detach())
    assert handle.get_size() == len(PATTERN) * images.BLOCK
    assert qemu.info(path, 'qcow2')['virtual-size'] == handle.get_size()


def test_info(path):
    found = qemu.info(path, 'qcow2')
    assert found['virtual-size'] == len(PATTERN) * images.BLOCK
    assert found['cluster-size'] == 65536


def test_info_of_something_else(tmp_path):
    with pytest.raises(errors.DamagedImage, match='as qcow2'):
        qemu.info(images.raw(tmp_path / 'disk', 'A'), 'qcow2')


def test_check_of_a_sound_image(path):
    report = qemu.check(path, 'qcow2')
    assert not report.get('corruptions')
    assert report['image-end-offset'] == os.path.getsize(path)


def test_check_counts_corruptions(tmp_path):
    path = _with_misaligned_cluster(tmp_path / 'disk.qcow2')
    assert qemu.check(path, 'qcow2')['corruptions'] > 0


def test_check_does_not_repair(tmp_path):
    path = _with_misaligned_cluster(tmp_path / 'disk.qcow2')
    with open(path, 'rb') as f:
        before = f.read()
    qemu.check(path, 'qcow2')
    with open(path, 'rb') as f:
        assert f.read() == before


def test_queries_run_under_limits_too():
    with qemu._launch(['cat', '/proc/self/limits', '/proc/self/status'], 77,
                      stdout=subprocess.PIPE) as process:
        said, _ = process.communicate()
    lines = [line.split() for line in said.splitlines()]
    assert ['Max', 'cpu', 'time', '77', '77', 'seconds'] in lines
    assert ['Max', 'address', 'space', str(1 << 30), str(1 << 30),
            'bytes'] in lines
    assert ['NoNewPrivs:', '1'] in lines


def test_memory_beyond_the_limit_is_not_given():
    with qemu._launch(
            [sys.executable, '-c', 'bytearray(2 << 30)'], 60,
            stderr=subprocess.PIPE) as process:
        _, said = process.communicate()
    assert process.returncode == 1
    assert 'MemoryError' in said


def test_nothing_can_be_written(tmp_path):
    target = tmp_path / 'target'
    with qemu._launch(['sh', '-c', f'echo more > {target}'], 60,
                      stderr=subprocess.PIPE) as process:
        process.communicate()
    assert process.returncode
    assert not target.read_bytes()


@pytest.mark.parametrize('present', [[], ['setpriv']])
def test_a_missing_program_is_the_fault_of_the_deployment(
        path, tmp_path, monkeypatch, present):
    """Neither the image's nor a crash: no setpriv, or no qemu-img."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name in present:
        (folder / name).symlink_to(f'/usr/bin/{name}')
    monkeypatch.setattr(qemu, '_PATH', str(folder))
    with pytest.raises(errors.Misconfigured):
        qemu.info(path, 'qcow2')


def test_missing_server_is_the_fault_of_the_deployment(path, tmp_path,
                                                       monkeypatch):
    folder = tmp_path / 'bin'
    folder.mkdir()
    (folder / 'setpriv').symlink_to('/usr/bin/setpriv')
    monkeypatch.setattr(qemu, '_PATH', str(folder))
    with pytest.raises(errors.Misconfigured):
        nbd_source.NbdSource(path, 'qcow2', 1 << 20)


def test_identity_tells_processes_apart():
    with subprocess.Popen(['sleep', '60']) as other:
        found = qemu.identity(other.pid)
        assert found.startswith(f'{other.pid} ')
        assert found == qemu.identity(other.pid)
        assert found != qemu.identity(os.getpid())
        other.kill()
    assert qemu.identity(other.pid) == ''


def test_cancel_ends_a_query(path):
    stop = cancel.Cancel()
    stop.set()
    with pytest.raises(errors.Cancelled):
        qemu.info(path, 'qcow2', stop)
    with pytest.raises(errors.Cancelled):
        list(qemu.extents(path, 'qcow2', stop))
