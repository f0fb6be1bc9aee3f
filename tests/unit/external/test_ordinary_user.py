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

"""What confines a program does so for the user that runs Glance.

root may do things that an ordinary user may not, and hides what is wrong. All
of this is tried with Landlock, and as on a kernel that has none.
"""

import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

from glance_conversion_plugins.external import sandbox_exec
from tests.contract import images

_NOBODY = 65534

# Runs as an ordinary user from here on.
_PREAMBLE = """
import json, os, resource, signal, subprocess, sys
from glance_conversion_plugins.copying.sources import nbd as nbd_source
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.external import sandbox
from glance_conversion_plugins.external import sandbox_exec
if not os.getuid():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
library = sandbox_exec.libseccomp()
if sys.argv[1] == 'without':
    context = library.seccomp_init(0x7fff0000)
    # Its first call is unknown (ENOSYS).
    assert not library.seccomp_rule_add_array(context, 0x00050026, 444, 0,
                                              None)
    assert not library.seccomp_load(context)
"""

_READ = """
image = qemu_img.Image(sys.argv[2], 'qcow2')
size = qemu_img.info(image)['virtual-size']
qemu_img.check(image)
assert list(qemu_img.extents(image, size))
source = nbd_source.NbdSource(image, size)
buffer = source.read(0, size)
source.close()
with open(sys.argv[3], 'w'):
    pass
qemu_img.convert(image, size, qemu_img.Output(sys.argv[3], 'raw', ()), int)
with open(sys.argv[3], 'rb') as f:
    assert f.read() == buffer
print(bytes(buffer[::65536]).decode())
"""

# Runs confined, and tries one call after the other.
_CALLS = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
path, buffer = sys.argv[2].encode(), ctypes.create_string_buffer(4096)
known = {'self': os.getpid(), 'victim': int(sys.argv[3]), 'path': path,
         'buffer': buffer, 'name': b'user.x', 'queue': b'/x'}
def attempt(number, arguments):
    values = [known[a] if isinstance(a, str) else a for a in arguments]
    ctypes.set_errno(0)
    found = libc.syscall(ctypes.c_long(number), *(
        ctypes.c_long(v) if isinstance(v, int) else v for v in values))
    if found < 0:
        return errno.errorcode[ctypes.get_errno()]
    return 'done'
def opened():
    try:
        open(path).close()
    except OSError as e:
        return errno.errorcode[e.errno]
    return 'done'
found = {key: attempt(*call) for key, call in json.loads(sys.argv[1]).items()}
found['open'] = opened()
found['stat'] = os.stat(path).st_size
print(json.dumps(found))
"""

_ATTEMPT = """
victim = subprocess.Popen(['sleep', '600'])
calls = {key: (library.seccomp_syscall_resolve_name(name.encode()), arguments)
         for key, (name, arguments) in json.loads(sys.argv[3]).items()}
calls = {key: call for key, call in calls.items() if call[0] >= 0}
program = sandbox.start(
    ['python3', '-I', '-S', '-c', sys.argv[4], json.dumps(calls), sys.argv[2],
     str(victim.pid)], sandbox.Limits(60), stdout=subprocess.PIPE)
out, _ = program.communicate(timeout=60)
assert victim.poll() is None
victim.kill()
victim.wait()
print(out)
"""

# {what: (call, its arguments)}; each of them fails with EPERM.
FORBIDDEN = {
    'fork': ('fork', []),
    'clone of a process': ('clone', [17, 0, 0, 0, 0]),
    'clone of a user namespace': ('clone', [0x10000011, 0, 0, 0, 0]),
    'unshare': ('unshare', [0x10000000]),
    'setns': ('setns', [0, 0]),
    'limits of others': ('prlimit64', ['victim', 7, 0, 'buffer']),
    'affinity of others': ('sched_setaffinity', ['victim', 8, 'buffer']),
    'scheduler of others': ('sched_setscheduler', ['victim', 0, 'buffer']),
    'parameters of others': ('sched_setparam', ['victim', 'buffer']),
    'attributes of others': ('sched_setattr', ['victim', 'buffer', 0]),
    'priority of others': ('setpriority', [0, 'victim', 5]),
    'priority of a group': ('setpriority', [1, 0, 5]),
    'priority of input of others': ('ioprio_set', [1, 'victim', 0]),
    'priority of input of a group': ('ioprio_set', [2, 0, 0]),
    'kill': ('kill', ['victim', 0]),
    'kill of a group': ('kill', [0, 0]),
    'kill of all': ('kill', [-1, 0]),
    'tkill': ('tkill', ['victim', 0]),
    'tgkill': ('tgkill', ['victim', 'victim', 0]),
    'sigqueue': ('rt_sigqueueinfo', ['victim', 0, 'buffer']),
    'sigqueue to a thread': ('rt_tgsigqueueinfo',
                             ['victim', 'victim', 0, 'buffer']),
    'pidfd': ('pidfd_open', ['victim', 0]),
    'signals for input': ('fcntl', [0, 8, 'victim']),
    'signals for input, disguised': ('fcntl', [0, 1 << 32 | 8, 'victim']),
    'another signal for input': ('fcntl', [0, 10, 9]),
    'signals by ioctl': ('ioctl', [0, 0x8901, 'buffer']),
    'signals by ioctl, disguised': ('ioctl', [0, 1 << 32 | 0x8901, 'buffer']),
    'to outlive its parent': ('prctl', [1, 0, 0, 0, 0]),
    'to outlive its parent, disguised': ('prctl', [1 << 32 | 1, 0, 0, 0, 0]),
    'ptrace': ('ptrace', [0x4206, 'victim', 0, 0]),
    'memory of others': ('process_vm_readv', ['victim', 0, 0, 0, 0, 0]),
    'kcmp': ('kcmp', ['self', 'victim', 0, 0, 0]),
    'chmod': ('chmod', ['path', 0o666]),
    'fchmod': ('fchmod', [1, 0o666]),
    'fchmodat': ('fchmodat', [-100, 'path', 0o666]),
    'chown': ('chown', ['path', -1, -1]),
    'fchownat': ('fchownat', [-100, 'path', -1, -1, 0]),
    'utimes': ('utimensat', [-100, 'path', 0, 0]),
    'setxattr': ('setxattr', ['path', 'name', 'name', 4, 0]),
    'removexattr': ('removexattr', ['path', 'name']),
    'truncate': ('truncate', ['path', 0]),
    'shared memory': ('shmget', [0, 4096, 0o1600]),
    'messages': ('msgget', [0, 0o1600]),
    'semaphores': ('semget', [0, 1, 0o1600]),
    'queues': ('mq_open', ['queue', 0o102, 0o600, 0]),
    'personality': ('personality', [0xffffffff]),
    'memfd': ('memfd_create', ['name', 0]),
    'inotify': ('inotify_init1', [0]),
    'sockets': ('socket', [1, 1, 0]),
    'io_uring': ('io_uring_setup', [8, 'buffer']),
}
ALLOWED = {
    'its own limits': ('prlimit64', [0, 7, 0, 'buffer']),
    'its own priority': ('setpriority', [0, 0, 19]),
    'a signal to itself': ('kill', ['self', 0]),
    'a signal to its thread': ('tgkill', ['self', 'self', 0]),
    'its own name': ('prctl', [15, 'name', 0, 0, 0]),
    'flags of a descriptor': ('fcntl', [0, 1, 0]),
}


@pytest.fixture
def folder():
    """One that an ordinary user may use, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix='ordinary-user-') as found:
        os.chmod(found, 0o755)     # noqa: S103
        yield pathlib.Path(found)


def _given(path):
    """Let a file or a folder belong to who will use it."""
    if not os.getuid():
        os.chown(path, _NOBODY, _NOBODY)
    return str(path)


def _run(code, *arguments, limits=''):
    done = subprocess.run(
        [sys.executable, '-c', _PREAMBLE + limits + code, *arguments],
        capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout.strip()


@pytest.fixture(params=['with', 'without'])
def landlock(request):
    assert sandbox_exec.landlock_version(), 'this kernel offers no Landlock'
    assert sandbox_exec.libseccomp(), 'this machine has no libseccomp'
    return request.param


@pytest.fixture
def image(folder):
    return _given(images.qcow2(folder / 'image', 'AB-D'))


def _target(folder):
    (folder / 'out').mkdir()
    return os.path.join(_given(folder / 'out'), 'target')


def test_images_are_read(folder, landlock, image):
    assert _run(_READ, landlock, image, _target(folder)) == 'AB\0D'


@pytest.fixture
def attempts(folder, landlock):
    path = folder / 'victim'
    path.write_text('content')
    calls = FORBIDDEN | ALLOWED | {'clone3': ('clone3', [0, 0])}
    found = json.loads(_run(_ATTEMPT, landlock, _given(path),
                            json.dumps(calls), _CALLS))
    assert path.read_text() == 'content'
    assert len(found) > len(calls) - 5
    return found


def test_calls(attempts, landlock):
    assert {key: error for key, error in attempts.items()
            if key in FORBIDDEN and error != 'EPERM'} == {}
    assert {key: error for key, error in attempts.items()
            if key in ALLOWED and error != 'done'} == {}
    # The C library is to try clone() instead.
    assert attempts['clone3'] == errno.errorcode[errno.ENOSYS]
    # As the documentation says.
    assert attempts['open'] == ('EACCES' if landlock == 'with' else 'done')
    assert attempts['stat'] == len('content')


# Where an operator has set lower limits for all of Glance

@pytest.mark.parametrize('name, most', [
    ('CPU', 30), ('AS', 900 << 20), ('STACK', 512 << 10),
    ('FSIZE', 32 << 20), ('CORE', 0)])
def test_lower_limits_are_kept(folder, image, name, most):
    limits = (f'resource.setrlimit(resource.RLIMIT_{name}, '
              f'({most}, {most}))')
    assert _run(_READ, 'with', image, _target(folder),
                limits=limits) == 'AB\0D'


_BLAME = """
start, most = sandbox.start, 0
sandbox.start = lambda argv, limits, **kwargs: start(
    argv, limits._replace(memory=most), **kwargs)
image = qemu_img.Image(sys.argv[2], 'qcow2')
def nbd():
    nbd_source.NbdSource(image, 1 << 18).close()
for most in json.loads(sys.argv[3]):
    found = []
    for question in (lambda: qemu_img.info(image),
                     lambda: qemu_img.check(image),
                     lambda: list(qemu_img.extents(image, 1 << 18)), nbd):
        try:
            question()
        except errors.ConversionError as e:
            found.append(type(e).__name__)
    print(json.dumps(found))
"""


def test_too_little_memory_is_not_the_fault_of_the_image(image):
    """The loader of libraries fails, or qemu itself, in one place or another.

    How much is too little differs by more than a factor of two between
    releases of qemu and its libraries.
    """
    most = [10 << 20, *range(16 << 20, 36 << 20, 512 << 10)]
    said = [json.loads(line) for line in
            _run(_BLAME, 'with', image, json.dumps(most)).splitlines()]
    assert len(said) == len(most)
    assert len(said[0]) == 4
    assert {error for found in said for error in found} == {
        'SourceFailed', 'Misconfigured'}


def test_a_python_without_ctypes_is_not_the_fault_of_the_image(folder):
    copy = folder / 'sandbox_exec.py'
    shutil.copy(sandbox_exec.__file__, copy)
    text = copy.read_text()
    assert '    import ctypes\n' in text
    copy.write_text(text.replace('    import ctypes\n',
                                 '    import no_such_ctypes\n'))
    done = subprocess.run(['python3', '-I', '-S', copy, '{}'],
                          capture_output=True, check=False)
    assert done.returncode == sandbox_exec.NOT_STARTED
