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

"""Starts programs that handle what strangers made.

Every one of them runs under limits, with an empty environment, confined as
far as the kernel allows, and dies with the thread that started it.
"""

from collections.abc import Sequence
import functools
import json
import logging
import os
import shutil
import subprocess
import sys
from typing import Any
from typing import NamedTuple

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import calls
from glance_conversion_plugins.external import sandbox_exec

LOG = logging.getLogger(__name__)

# Names a process of ours to those who look for strays: "PID STARTTIME" of the
# owner is in its environment.
OWNER_VARIABLE = 'GLANCE_CONVERSION_OWNER'

_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

# How long a program that was killed is waited for.
_END_SECONDS = 5

MISSING = 'This cloud can not convert images: a program is missing.'


class Limits(NamedTuple):
    """What a program may use."""

    cpu_seconds: int
    # qemu-nbd needs 0.25 GiB of address space for any image; caches of tables
    # add tens of MiB, and qemu-img check 2 bytes for each cluster of the file.
    memory: int = 1 << 30       # address space in bytes
    file_size: int = 0          # largest file it may write, in bytes


def start(argv: Sequence[str], limits: Limits, *,
          readable: Sequence[str] = (), writable: Sequence[str] = (),
          stdin: Any = None, script: str = '',
          **kwargs: Any) -> subprocess.Popen[str]:
    """Start a program, or a script of ours.

    :param readable: the files that it may read
    :param writable: the files that it may write; they exist
    :param stdin: a listening socket, handed over by socket activation
    :param script: a Python file whose ``main`` is to be given ``argv``
    :raises errors.Misconfigured: if nothing can be started here
    """
    _warn_once()
    spec = sandbox_exec.SandboxSpec(
        list(argv), os.getpid(), limits.memory, limits.cpu_seconds,
        limits.file_size, list(readable), list(writable), stdin is not None,
        [list(rule) for rule in calls.rules()], script)
    # Isolated and without site: none of it is needed, and it takes 10 ms.
    command = [_python(), '-I', '-S', sandbox_exec.__file__,
               json.dumps(spec._asdict())]
    # Without it every thread of qemu reserves 64 MiB of address space.
    env = {'PATH': _PATH, 'LC_ALL': 'C', 'MALLOC_ARENA_MAX': '1',
           OWNER_VARIABLE: identity(os.getpid())}
    try:
        # What it says may be bytes of an image.
        return subprocess.Popen(command, env=env, text=True, encoding='utf-8',
                                errors='replace',
                                stdin=stdin or subprocess.DEVNULL, **kwargs)
    except OSError as e:
        LOG.error('Could not start %s: %s', script or argv[0], e)
        raise errors.Misconfigured(MISSING) from e


def end(process: 'subprocess.Popen[str]') -> None:
    """Kill a program and close its pipes, without waiting for others.

    The kernel may not let go of a process that waits for a file server.
    """
    process.kill()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        LOG.error('Process %d does not end although it was killed',
                  process.pid)
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


@functools.cache
def _warn_once() -> None:
    for layer in missing_layers():
        LOG.warning('qemu is less confined here than it could be, for want '
                    'of %s', layer)


def _python() -> str:
    """A Python to run the launcher; sys.executable is uwsgi under uWSGI."""
    own = os.path.join(sys.exec_prefix, 'bin', 'python3')
    found = own if os.access(own, os.X_OK) else shutil.which('python3',
                                                             path=_PATH)
    if not found:
        LOG.error('There is no python3 in %s', _PATH)
        raise errors.Misconfigured(MISSING)
    return found


def identity(pid: int) -> str:
    """Name a process beyond the reuse of its pid; '' if there is none.

    Field 22 of /proc/PID/stat is the start time in clock ticks since boot.
    """
    try:
        with open(f'/proc/{pid}/stat', encoding='utf-8') as f:
            return f"{pid} {f.read().rpartition(')')[2].split()[19]}"
    except OSError:
        return ''


def missing_layers() -> list[str]:
    """Which layers of confinement this host does not offer, for people."""
    missing = []
    if not sandbox_exec.landlock_version():
        missing.append('Landlock (Linux 5.13 or newer, enabled): qemu may '
                       'open other files of the user that runs Glance')
    if sandbox_exec.libseccomp() is None:
        missing.append('libseccomp, or of filters in the kernel: qemu may use '
                       'the network, start processes and signal others')
    return missing
