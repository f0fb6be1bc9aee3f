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


import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from glance_conversion_plugins.copying.sources import nbd as nbd_source
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.external import qemu_nbd
from glance_conversion_plugins.external import sandbox
from glance_conversion_plugins.external import sandbox_exec
from tests.contract import images
from tests.unit import conftest
from tests.unit import processes

LIMITS = sandbox.Limits(77)

# Turns a hang into a failure; nothing waits for so long.
_HANG = 30

# What a confined program answers when the kernel keeps it from something.
NO_FILE = 'EACCES'      # Landlock
NO_CALL = 'EPERM'       # seccomp


def _qcow2(path):
    return qemu_img.Image(str(path), 'qcow2')


@pytest.fixture
def secret(tmp_path):
    found = tmp_path / 'secret'
    found.write_text('secret')
    return str(found)


@pytest.fixture
def landlock():
    """Whoever needs it fails where the kernel has none."""
    assert sandbox_exec.landlock_version(), 'this kernel offers no Landlock'


@pytest.fixture
def seccomp():
    assert sandbox_exec.libseccomp(), 'this machine has no libseccomp'


def _run(*argv, limits=LIMITS, **files):
    """Run a program to its end: its status, and what it says."""
    with sandbox.start(argv, limits, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, **files) as process:
        try:
            out, err = process.communicate(timeout=_HANG)
        finally:
            process.kill()
    return process.returncode, out, err


def _python(code, *arguments, **kwargs):
    """Run a confined Python and return what it says."""
    status, out, err = _run('python3', '-I', '-S', '-c', code, *arguments,
                            **kwargs)
    assert not status, err
    return out.strip()


_ATTEMPT = """
import ctypes, errno, os, signal, socket, sys
path = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), '')
try:
    %s
except OSError as e:
    print(errno.errorcode[e.errno])
else:
    print('done')
"""


def _attempt(statement, path='', **files):
    """Let a confined program try something: 'done', or why not."""
    return _python(_ATTEMPT % statement, str(path), **files)


# What it may use

def _limits(pid):
    """{name: soft and hard limit}"""
    return {line[:26].strip(): line[26:].split()[:2]
            for line in processes.proc(pid, 'limits').splitlines()[1:]}


def test_limits_of_a_running_server(server):
    limits = _limits(server.pid)
    assert limits['Max address space'] == [str(1 << 30)] * 2
    assert limits['Max core file size'] == ['0', '0']
    assert limits['Max file size'] == ['0', '0']
    # A minute, and nothing more for so small an image.
    assert limits['Max cpu time'] == ['60', '60']


def test_cpu_time_follows_the_size(path):
    server = qemu_nbd.NbdServer(_qcow2(path), 1, 640 << 20)
    try:
        processes.wait_for_comm(server.pid, 'qemu-nbd')
        assert _limits(server.pid)['Max cpu time'] == ['70', '70']
    finally:
        server.close()


def test_every_program_runs_under_limits():
    said = _python('import resource as r\n'
                   'for what in (r.RLIMIT_CPU, r.RLIMIT_AS, r.RLIMIT_FSIZE,'
                   ' r.RLIMIT_CORE):\n'
                   '    print(*r.getrlimit(what))',
                   limits=sandbox.Limits(77, 1 << 29, 1 << 20))
    assert said.splitlines() == [
        '77 77', f'{1 << 29} {1 << 29}', f'{1 << 20} {1 << 20}', '0 0']


def test_memory_beyond_the_limit_is_not_given():
    status, _, said = _run('python3', '-I', '-S', '-c', 'bytearray(2 << 30)')
    assert status == 1
    assert 'MemoryError' in said


def test_cpu_time_beyond_the_limit_is_not_given():
    status, _, _ = _run('python3', '-I', '-S', '-c', 'while True: pass',
                        limits=sandbox.Limits(1))
    assert status in (-signal.SIGKILL, -signal.SIGXCPU)


def test_no_file_grows_beyond_the_limit(path, tmp_path):
    target = tmp_path / 'target'
    target.touch()
    argv = ['qemu-img', 'convert', '-O', 'raw', _qcow2(path).node,
            str(target)]
    files = {'readable': [path], 'writable': [str(target)]}
    status, _, said = _run(
        *argv, limits=sandbox.Limits(60, file_size=3 * images.BLOCK),
        **files)
    assert status, said
    assert target.stat().st_size <= 3 * images.BLOCK
    status, _, said = _run(
        *argv, limits=sandbox.Limits(60, file_size=6 * images.BLOCK),
        **files)
    assert not status, said
    assert target.read_bytes() == images.content(conftest.PATTERN)


def test_no_privileges_to_gain(server):
    status = dict(line.split(':', 1) for line in
                  processes.proc(server.pid, 'status').splitlines())
    assert status['NoNewPrivs'].strip() == '1'


def test_environment_holds_nothing_of_ours(path, monkeypatch):
    monkeypatch.setenv('OS_PASSWORD', 'secret')
    server = qemu_nbd.NbdServer(_qcow2(path), 1, 1 << 20)
    try:
        processes.wait_for_comm(server.pid, 'qemu-nbd')
        environ = processes.proc(server.pid, 'environ').split('\0')
    finally:
        server.close()
    assert {e.partition('=')[0] for e in environ if e} == {
        'PATH', 'LC_ALL', 'MALLOC_ARENA_MAX', 'LISTEN_PID', 'LISTEN_FDS',
        sandbox.OWNER_VARIABLE}
    owner = sandbox.identity(os.getpid())
    assert f'{sandbox.OWNER_VARIABLE}={owner}' in environ
    assert f'LISTEN_PID={server.pid}' in environ


def test_environment_of_a_program_without_a_socket(monkeypatch):
    monkeypatch.setenv('LISTEN_FDS', '1')
    said = _python('import os; print(*sorted(os.environ))')
    assert said.split() == [sandbox.OWNER_VARIABLE, 'LC_ALL',
                            'MALLOC_ARENA_MAX', 'PATH']


def test_server_inherits_no_file_of_ours(path, tmp_path):
    with open(tmp_path / 'ours', 'w') as ours:
        os.set_inheritable(ours.fileno(), True)
        server = qemu_nbd.NbdServer(_qcow2(path), 1, 1 << 20)
        try:
            processes.wait_for(lambda: processes.flags(server.pid, path),
                               'the image')
            assert not processes.flags(server.pid, ours.name)
        finally:
            server.close()


_DESCRIPTORS = """
import os
for fd in range(1024):
    try:
        os.fstat(fd)
    except OSError:
        continue
    print(fd)
"""


def test_no_descriptor_but_the_three(secret):
    with open(secret) as ours:
        os.set_inheritable(ours.fileno(), True)
        assert _python(_DESCRIPTORS, readable=[secret]) == '0\n1\n2'


def test_stdin_is_empty():
    assert _python('import sys; print(len(sys.stdin.read()))') == '0'


# How it ends, and how it does not begin

_OWNER = """
import sys
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.external import qemu_nbd
server = qemu_nbd.NbdServer(qemu_img.Image(sys.argv[1], 'qcow2'), 1, 1 << 20)
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
            processes.wait_for_comm(pid, 'qemu-nbd')
            assert not processes.is_gone(pid)
        finally:
            parent.kill()
    assert parent.returncode == -signal.SIGKILL
    processes.wait_for(lambda: processes.is_gone(pid), 'the end of qemu-nbd')


def test_dies_with_the_thread_that_started_it(path):
    servers = []

    def start():
        servers.append(qemu_nbd.NbdServer(_qcow2(path), 1, 1 << 20))
        processes.wait_for_comm(servers[0].pid, 'qemu-nbd')

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert servers[0]._process.wait(_HANG) == -signal.SIGKILL
    servers[0].close()


def test_does_not_begin_when_its_parent_is_gone_already(secret):
    spec = sandbox_exec.SandboxSpec(['touch', secret], 1 << 30, 1 << 30, 60, 0,
                                    [], [], False)
    script = (f'from glance_conversion_plugins.external import sandbox_exec\n'
              f'sandbox_exec.main(sandbox_exec.{spec!r})')
    found = subprocess.run([sys.executable, '-c', script], check=False)
    assert found.returncode == sandbox_exec.NOT_STARTED


@pytest.fixture
def bin_folder(tmp_path, monkeypatch):
    """The only folder where programs are looked for, with nothing in it."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    monkeypatch.setattr(sandbox, '_PATH', str(folder))
    return folder


@pytest.fixture
def no_python(bin_folder, monkeypatch):
    monkeypatch.setattr(sys, 'exec_prefix', str(bin_folder))


def _source(path):
    nbd_source.NbdSource(_qcow2(path), 1 << 20)


def _convert(path):
    qemu_img.convert(_qcow2(path), 1 << 20, qemu_img.Output(path, 'raw', ()),
                 lambda percent: None)


def _info(path):
    qemu_img.info(_qcow2(path))


def _check(path):
    qemu_img.check(_qcow2(path))


def _extents(path):
    list(qemu_img.extents(_qcow2(path), 1 << 20))


USES = [_info, _check, _extents, _source, _convert]


@pytest.mark.parametrize('use', USES)
def test_a_missing_program_is_the_fault_of_the_deployment(path, bin_folder,
                                                          use):
    """Neither the image's nor a crash."""
    with pytest.raises(errors.Misconfigured):
        use(path)


@pytest.mark.parametrize('use', USES)
def test_a_missing_python_is_the_fault_of_the_deployment(path, no_python,
                                                         caplog, use):
    with pytest.raises(errors.Misconfigured):
        use(path)
    assert 'no python3' in caplog.text


def test_python_is_found_where_sys_executable_is_none(no_python, bin_folder):
    """Under uWSGI it is uwsgi, and its prefix need not have a Python."""
    for name in ('python3', 'true'):
        (bin_folder / name).symlink_to(f'/usr/bin/{name}')
    assert _run('true')[0] == 0


def test_identity_tells_processes_apart():
    with subprocess.Popen(['sleep', '60']) as other:
        found = sandbox.identity(other.pid)
        assert found.startswith(f'{other.pid} ')
        assert found == sandbox.identity(other.pid)
        assert found != sandbox.identity(os.getpid())
        other.kill()
    assert sandbox.identity(other.pid) == ''


# Which files it may open

def test_reads_what_is_named_and_nothing_else(landlock, tmp_path, secret):
    named, link = tmp_path / 'named', tmp_path / 'link'
    named.write_text('x')
    link.symlink_to(secret)
    for path, expected in ((named, 'done'), (secret, NO_FILE),
                           (link, NO_FILE), ('/etc/passwd', NO_FILE),
                           ('/proc/self/environ', NO_FILE)):
        assert _attempt('open(path).read()', path,
                        readable=[str(named)]) == expected, path


def test_reads_no_folder(landlock, tmp_path, secret):
    assert _attempt('os.listdir(path)', tmp_path,
                    readable=[secret]) == NO_FILE


@pytest.mark.parametrize('statement', [
    "open(path, 'a')", "open(path, 'r+')", "open(path, 'w')",
    "os.ftruncate(os.open(path, os.O_RDWR), 0)"])
@pytest.mark.parametrize('named', ['readable', 'writable', None])
def test_writes_only_what_is_named(landlock, secret, statement, named):
    if 'truncate' in statement or "'w'" in statement:
        assert sandbox_exec.landlock_version() >= 3, (
            'Landlock controls truncation only from Linux 6.2 on')
    files = {named: [secret]} if named else {}
    found = _attempt(statement, secret, **files)
    assert found == ('done' if named == 'writable' else NO_FILE)
    with open(secret) as f:
        assert f.read() == ('' if found == 'done' and (
            'truncate' in statement or "'w'" in statement) else 'secret')


@pytest.mark.parametrize('statement', [
    "open(path + '/new', 'w')", "os.mkdir(path + '/new')",
    "os.symlink('/', path + '/new')", "os.mkfifo(path + '/new')",
    "os.link(path + '/secret', path + '/new')",
    "os.rename(path + '/secret', path + '/new')",
    "os.unlink(path + '/secret')"])
def test_makes_and_removes_nothing(landlock, tmp_path, secret, statement):
    assert _attempt(statement, tmp_path, writable=[secret],
                    limits=sandbox.Limits(60, file_size=1 << 20)
                    ) == NO_FILE
    assert os.listdir(tmp_path) == ['secret']


def test_a_named_file_that_is_gone_is_no_error(tmp_path):
    assert _attempt('open(path)', tmp_path / 'gone',
                    readable=[str(tmp_path / 'gone')]) == 'ENOENT'


def test_runs_no_other_program(landlock, secret):
    status, out, said = _run('sh', '-c', f'exec cat {secret}',
                             readable=[secret])
    assert status == 126
    assert not out
    assert 'Permission denied' in said
    # The shell itself may read it.
    status, out, _ = _run('sh', '-c', f'read -r x < {secret}; echo "$x"',
                          readable=[secret])
    assert out == 'secret\n'


def test_runs_no_file_that_it_may_write(landlock, tmp_path):
    script = tmp_path / 'script'
    script.write_text('#!/bin/sh\necho ran\n')
    script.chmod(0o755)
    assert _attempt('os.execv(path, [path])', script,
                    writable=[str(script)]) == NO_FILE


@pytest.mark.parametrize('address', [
    '{path}', 'file:{path}', 'json:{{"driver": "raw", "file": '
    '{{"driver": "file", "filename": "{path}"}}}}'])
def test_qemu_opens_no_other_file(landlock, tmp_path, path, address):
    other = images.raw(tmp_path / 'other', 'A')
    argv = ['qemu-img', 'info', '--output=json', address.format(path=other)]
    status, out, said = _run(*argv, readable=[path])
    assert status == 1
    assert not out
    assert 'Permission denied' in said
    assert _run(*argv, readable=[other])[0] == 0


def test_qemu_follows_no_reference_out_of_the_image(landlock, tmp_path):
    secret = images.raw(tmp_path / 'secret', 'SSSS')
    path = str(tmp_path / 'disk')
    images.run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', secret, '-F',
               'raw', path)
    argv = ['qemu-img', 'compare', path, path]
    status, _, said = _run(*argv, readable=[path])
    assert status > 1
    assert 'Permission denied' in said
    assert _run(*argv, readable=[path, secret])[0] == 0


# What it may not do

@pytest.mark.parametrize('statement', [
    'socket.socket(socket.AF_INET)', 'socket.socket(socket.AF_INET6)',
    'socket.socket(socket.AF_UNIX)', 'socket.socket(socket.AF_NETLINK)',
    'socket.socket(socket.AF_INET, socket.SOCK_DGRAM)',
    'socket.socketpair()', 'call("syscall", 425, 8, 0)'],
    ids=['inet', 'inet6', 'unix', 'netlink', 'udp', 'pair', 'io_uring'])
def test_makes_no_socket(seccomp, statement):
    assert _attempt(statement) == NO_CALL


@pytest.fixture
def listener(request, tmp_path):
    """A socket that others may connect to, and its address for qemu."""
    if request.param == 'nbd':
        with socket.create_server(('127.0.0.1', 0)) as found:
            found.settimeout(60)
            yield found, f'nbd://127.0.0.1:{found.getsockname()[1]}'
    else:
        with socket.socket(socket.AF_UNIX) as found:
            found.bind(str(tmp_path / 'socket'))
            found.listen()
            found.settimeout(60)
            yield found, f'nbd+unix:///?socket={tmp_path}/socket'


@pytest.mark.parametrize('listener', ['nbd', 'nbd+unix'], indirect=True)
def test_qemu_reaches_no_server(seccomp, listener):
    server, address = listener
    argv = ['qemu-img', 'info', address]
    # Left alone, it does.
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as process:
        server.accept()[0].close()
        process.communicate()
    status, _, said = _run(*argv)
    assert status == 1
    assert 'Operation not permitted' in said
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.accept()


@pytest.fixture
def victim():
    with subprocess.Popen(['sleep', '600']) as found:
        yield found
        found.kill()


def test_signals_nobody(seccomp, victim):
    assert _attempt('os.kill(os.getppid(), 0)') == NO_CALL
    assert _attempt('os.kill(int(path), signal.SIGKILL)',
                    victim.pid) == NO_CALL
    assert victim.poll() is None


@pytest.mark.parametrize('statement', [
    # PTRACE_SEIZE, which would not stop it.
    'call("ptrace", 0x4206, int(path), None, None)',
    'call("process_vm_readv", int(path), None, 0, None, 0, 0)'],
    ids=['ptrace', 'process_vm_readv'])
def test_reaches_into_no_process(seccomp, victim, statement):
    assert _attempt(statement, victim.pid) == NO_CALL


def test_reads_no_memory_of_others(landlock):
    assert _attempt("open(f'/proc/{os.getppid()}/mem')") == NO_FILE


@pytest.mark.parametrize('statement', [
    'os.chroot("/")', 'call("unshare", 0x10000000)',
    'call("mount", b"none", b"/tmp", b"tmpfs", 0, None)'],
    ids=['chroot', 'unshare', 'mount'])
def test_leaves_no_namespace(seccomp, statement):
    assert _attempt(statement) == NO_CALL


# Where the host does not offer it

def test_nothing_is_missing_here():
    assert sandbox.missing_layers() == []


def test_says_that_landlock_is_missing(monkeypatch):
    monkeypatch.setattr(sandbox_exec, 'landlock_version', lambda: 0)
    found, = sandbox.missing_layers()
    assert 'Landlock' in found


def test_says_that_libseccomp_is_missing(monkeypatch):
    monkeypatch.setattr(sandbox_exec, 'libseccomp', lambda: None)
    found, = sandbox.missing_layers()
    assert 'libseccomp' in found


# A kernel without Landlock: its first call is unknown (ENOSYS).
_OLD_KERNEL = """
import sys
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.external import sandbox
from glance_conversion_plugins.external import sandbox_exec
library = sandbox_exec.libseccomp()
context = library.seccomp_init(0x7fff0000)
library.seccomp_rule_add(context, 0x00050026, 444, 0)
assert not library.seccomp_load(context)
for layer in sandbox.missing_layers():
    print(layer.split()[0])
image = qemu_img.Image(sys.argv[1], 'qcow2')
print(qemu_img.info(image)['virtual-size'])
qemu_img.check(image)
"""


def test_runs_on_a_kernel_without_landlock(seccomp, path):
    found = subprocess.run([sys.executable, '-c', _OLD_KERNEL, path],
                           check=True, capture_output=True, text=True)
    assert found.stdout.split() == ['Landlock',
                                    str(len(conftest.PATTERN) * images.BLOCK)]
    # The operator is told, once.
    assert found.stderr.count('want of Landlock') == 1
