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

"""Confines a process, then becomes the program that it is to run.

Or goes on with a script of ours, which stands for one.

Run as a script, by a Python of its own and without this package: code between
fork and exec in a process of many threads may deadlock, and under uWSGI
sys.executable is no Python. What is asked for comes as JSON in the first
argument, see ``SandboxSpec``; the process then

- dies with the thread that started it,
- has limits on memory, CPU time and the size of files,
- can gain no privileges,
- can open no file but those that are named and the system's libraries, and
  run no other program (Landlock, Linux 5.13),
- can make no socket and no process, and do nothing to other processes nor to
  modes and owners of files (seccomp).

The last two need no privileges, but a kernel that offers them; where it does
not, the program runs without them. Where it does, and they can not be had all
the same, nothing runs.
"""

import errno
import functools
import glob
import importlib.util
import json
import os
import resource
import signal
import struct
import sys
from typing import Any
from typing import NamedTuple

# Exit status for a program that could not be started, as shells have it.
NOT_STARTED = 127

try:
    import ctypes
except ImportError:
    # A Python that was built without. Its own status, 1, is one of qemu's.
    if __name__ == '__main__':
        print('launcher: this Python has no ctypes', file=sys.stderr)
        sys.exit(NOT_STARTED)
    raise

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38

# linux/landlock.h; the numbers of the calls are the same on all machines.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
_EXECUTE, _WRITE, _READ, _READ_DIR, _TRUNCATE = 1, 2, 4, 8, 1 << 14
# How many rights there are in each version, from the first on.
_FS_RIGHTS = (13, 14, 15, 15, 16)
_TCP, _SCOPES = 0b11, 0b11

# Where libraries are, and the loader that the kernel runs a program by.
_LIBRARIES = ('/lib', '/lib64', '/usr/lib', '/usr/lib64', '/usr/local/lib')
_LOADERS = ('/lib/ld-*.so*', '/lib64/ld-*.so*', '/lib/*/ld-*.so*')
_READABLE = ('/etc/ld.so.cache',)

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_SCMP_ALLOW, _SCMP_ERRNO = 0x7fff0000, 0x00050000


class SandboxSpec(NamedTuple):
    """What to run, and what it may do."""

    argv: list[str]
    parent: int                 # pid of who asks
    memory: int                 # address space in bytes
    cpu_seconds: int
    file_size: int              # largest file it may write, in bytes
    readable: list[str]         # files
    writable: list[str]         # files, which exist
    listen: bool                # stdin is a socket for socket activation
    # Calls that fail: name, conditions, error, number; see calls.Rule.
    forbidden: list[list[Any]] = []
    # Python, whose main() is given argv and returns the exit status.
    script: str = ''


def landlock_version() -> int:
    """The version of Landlock that the kernel offers; 0: none."""
    return max(0, int(_LIBC.syscall(_CREATE_RULESET, None, 0, _VERSION)))


@functools.lru_cache(maxsize=1)
def libseccomp() -> Any:
    """What makes filters for system calls; None where there can be none."""
    try:
        library = ctypes.CDLL('libseccomp.so.2')
    except OSError:
        return None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_load.argtypes = (ctypes.c_void_p,)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint,
        ctypes.c_void_p)
    # The kernel has filters if it looks for one where there is none.
    _LIBC.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, None, 0, 0)
    return library if ctypes.get_errno() == errno.EFAULT else None


def _die_with(parent: int) -> None:
    if _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), 'PR_SET_PDEATHSIG')
    if os.getppid() != parent:
        sys.exit(NOT_STARTED)


def _limit(spec: SandboxSpec) -> None:
    for what, most in ((resource.RLIMIT_AS, spec.memory),
                       (resource.RLIMIT_CPU, spec.cpu_seconds),
                       (resource.RLIMIT_FSIZE, spec.file_size),
                       # qemu starts up to 64 threads, and the address space
                       # of their stacks counts: 8 MiB each by default.
                       (resource.RLIMIT_STACK, 1 << 20),
                       (resource.RLIMIT_CORE, 0)):
        # An operator may have set less for all of Glance.
        _, hard = resource.getrlimit(what)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(what, (most, most))


def _restrict_files(spec: SandboxSpec, program: str) -> None:
    version = landlock_version()
    if not version:
        return
    rights = (1 << _FS_RIGHTS[min(version, len(_FS_RIGHTS)) - 1]) - 1
    attributes = struct.pack('QQQ', rights, _TCP if version >= 4 else 0,
                             _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _LIBC.syscall(_CREATE_RULESET, attributes, size, 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), 'landlock_create_ruleset')
    loaders = [path for pattern in _LOADERS for path in glob.glob(pattern)]
    for paths, allowed in (
            (_LIBRARIES, _READ | _READ_DIR),
            ((program, *loaders), _EXECUTE | _READ),
            (_READABLE, _READ),
            (('/dev/null',), _READ | _WRITE),
            (spec.readable, _READ),
            (spec.writable, _READ | _WRITE | _TRUNCATE)):
        for path in paths:
            _allow(ruleset, path, allowed & rights)
    if _LIBC.syscall(_RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), 'landlock_restrict_self')
    os.close(ruleset)


def _allow(ruleset: int, path: str, allowed: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    rule = struct.pack('=Qi', allowed, fd)
    if _LIBC.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0):
        raise OSError(ctypes.get_errno(), 'landlock_add_rule')
    os.close(fd)


class _Comparison(ctypes.Structure):
    _fields_ = (('argument', ctypes.c_uint), ('comparison', ctypes.c_int),
                ('value', ctypes.c_uint64), ('masked', ctypes.c_uint64))


def _restrict_calls(forbidden: list[list[Any]]) -> None:
    library = libseccomp()
    if library is None:
        return
    context = library.seccomp_init(_SCMP_ALLOW)
    if not context:
        raise OSError('seccomp_init')
    for name, conditions, error, number in forbidden:
        known = library.seccomp_syscall_resolve_name(name.encode())
        if known == -1:
            # Younger than the library.
            known = number
        # Negative: this machine has no such call.
        if known >= 0 and library.seccomp_rule_add_array(
                context, _SCMP_ERRNO | error, known, len(conditions),
                _comparisons(conditions)):
            raise OSError(f'seccomp_rule_add {name}')
    if library.seccomp_load(context):
        raise OSError('seccomp_load')


def _comparisons(conditions: list[list[int]]) -> Any:
    found = [_Comparison(argument, comparison,
                         os.getpid() if value < 0 else value, masked)
             for argument, comparison, value, masked in conditions]
    return (_Comparison * len(found))(*found)


def _find(name: str) -> str:
    for folder in os.environ['PATH'].split(':'):
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK):
            return os.path.realpath(path)
    raise FileNotFoundError(name)


def _load(script: str) -> Any:
    """A module, with all that it imports: it can open no file later."""
    found = importlib.util.spec_from_file_location('script', script)
    assert found and found.loader       # noqa: S101
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _activate() -> None:
    """Move the socket from stdin to where socket activation expects it."""
    os.dup2(0, 3)
    os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')


def main(spec: SandboxSpec) -> None:
    """Become the program, or run the script."""
    _die_with(spec.parent)
    module = _load(spec.script) if spec.script else None
    program = '' if module else _find(spec.argv[0])
    if spec.listen:
        _activate()
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), 'PR_SET_NO_NEW_PRIVS')
    _restrict_files(spec, program)
    _restrict_calls(spec.forbidden)
    # Last: what runs until here has other needs.
    _limit(spec)
    if module:
        sys.exit(module.main(spec.argv))
    os.execv(program, spec.argv)     # noqa: S606


if __name__ == '__main__':
    try:
        main(SandboxSpec(**json.loads(sys.argv[1])))
    # Whatever it is, qemu has not run, and nothing is wrong with the image.
    except Exception as e:
        print(f'launcher: {e!r}', file=sys.stderr)
        sys.exit(NOT_STARTED)
