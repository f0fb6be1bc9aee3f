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

"""The qemu processes: what they may do, and what they say.

Every process runs without privileges to gain, with an empty environment, with
limits on memory and time, and dies with the thread that started it. Formats
and protocols are always given, never probed; nothing but the named file is
ever opened.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import json
import logging
import os
import socket
import subprocess
import tempfile
from typing import Any

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors

LOG = logging.getLogger(__name__)

# Names a process of ours to those who look for strays: "PID STARTTIME" of the
# owner is in its environment.
OWNER_VARIABLE = 'GLANCE_CONVERSION_OWNER'

_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

# qemu-nbd needs 0.25 GiB of address space for any image; caches of tables
# add tens of MiB, and qemu-img check 2 bytes for each cluster of the file.
_MEMORY_KIB = 1024 * 1024

# setpriv arranges death with the parent; if the parent was gone before that,
# the shell sees a stranger as its parent and ends. Then it sets the limits,
# moves the listening socket to where socket activation expects it, and
# becomes qemu.
_LAUNCH = """
[ "$PPID" = "$1" ] || exit 126
ulimit -v "$2" && ulimit -t "$3" && ulimit -f 0 && ulimit -c 0 || exit 126
action=$4
shift 4
if [ "$action" = listen ]
then export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&0 </dev/null
else exec "$@"
fi
"""

# What a shell says when it could not start a program.
_NOT_STARTED = (126, 127)
STOPPED = 'The program that decodes the image stopped before the end.'
_MISSING = 'This cloud can not convert images: a program is missing.'


def _launch(argv: Sequence[str], cpu_seconds: int, stdin: Any = None,
            **kwargs: Any) -> subprocess.Popen[str]:
    """Start a qemu program under its limits."""
    command = ['setpriv', '--no-new-privs', '--pdeathsig', 'KILL',
               '/bin/sh', '-c', _LAUNCH, 'sh', str(os.getpid()),
               str(_MEMORY_KIB), str(cpu_seconds),
               'listen' if stdin else 'plain', *argv]
    env = {'PATH': _PATH, 'LC_ALL': 'C', OWNER_VARIABLE: identity(os.getpid())}
    try:
        return subprocess.Popen(command, env=env, text=True,
                                stdin=stdin or subprocess.DEVNULL, **kwargs)
    except OSError as e:
        LOG.error('Could not start %s: %s', argv[0], e)
        raise errors.Misconfigured(_MISSING) from e


def identity(pid: int) -> str:
    """Name a process beyond the reuse of its pid; '' if there is none.

    Field 22 of /proc/PID/stat is the start time in clock ticks since boot.
    """
    try:
        with open(f'/proc/{pid}/stat', encoding='utf-8') as f:
            return f"{pid} {f.read().rpartition(')')[2].split()[19]}"
    except OSError:
        return ''


def node(path: str, driver: str) -> str:
    """Describe an image to qemu, leaving nothing for it to guess."""
    tree: dict[str, Any] = {
        'driver': driver,
        'read-only': True,
        'file': {'driver': 'file', 'filename': path, 'locking': 'off'},
    }
    if driver == 'qcow2':
        tree['backing'] = None
    return 'json:' + json.dumps(tree)


def _cpu_seconds(path: str) -> int:
    """Allow a minute, and a second more for each 16 MiB of the file."""
    return 60 + os.path.getsize(path) // (16 << 20)


@contextlib.contextmanager
def _qemu_img(command: str, path: str, driver: str, cancel: cancel_.Cancel
              ) -> Iterator[subprocess.Popen[str]]:
    argv = ['qemu-img', command, '--output=json', node(path, driver)]
    with _launch(argv, _cpu_seconds(path), stdout=subprocess.PIPE,
                 stderr=subprocess.PIPE) as process:
        with cancel.interrupting(process.kill):
            try:
                yield process
            finally:
                process.kill()
    if cancel.is_set():
        raise errors.Cancelled('The conversion was stopped.')


def _query(command: str, path: str, driver: str, cancel: cancel_.Cancel
           ) -> tuple[int, dict[str, Any], str]:
    with _qemu_img(command, path, driver, cancel) as process:
        out, err = process.communicate()
    if process.returncode in _NOT_STARTED:
        LOG.error('Could not run qemu-img: %s', err)
        raise errors.Misconfigured(_MISSING)
    try:
        answer = json.loads(out)
    except ValueError:
        answer = {}
    return process.returncode, answer, err.strip()


def info(path: str, driver: str, cancel: cancel_.Cancel = cancel_.NEVER
         ) -> Mapping[str, Any]:
    """What ``qemu-img info`` says.

    :raises errors.DamagedImage: if it can not open the image
    """
    status, answer, err = _query('info', path, driver, cancel)
    if status or not answer:
        LOG.warning('qemu-img info failed with %s: %s', status, err)
        raise errors.DamagedImage(
            f'The image can not be opened as {driver}: '
            'its header or its tables are damaged.')
    return answer


def check(path: str, driver: str, cancel: cancel_.Cancel = cancel_.NEVER
          ) -> Mapping[str, Any]:
    """What ``qemu-img check`` says.

    :raises errors.DamagedImage: if it can not finish
    """
    status, answer, err = _query('check', path, driver, cancel)
    # 2: corruptions found, 3: only leaked clusters found; both are reported.
    if status not in (0, 2, 3) or answer.get('check-errors', 1):
        LOG.warning('qemu-img check failed with %s: %s', status, err)
        raise errors.DamagedImage(
            'The image is damaged: its tables can not be read to the end.')
    return answer


def extents(path: str, driver: str, cancel: cancel_.Cancel = cancel_.NEVER
            ) -> Iterator[Mapping[str, Any]]:
    """What ``qemu-img map`` says, one extent after the other.

    :raises errors.DamagedImage: if it can not finish
    """
    with _qemu_img('map', path, driver, cancel) as process:
        assert process.stdout and process.stderr    # noqa: S101
        # One extent a line, so that memory does not grow with their number.
        for line in process.stdout:
            if '{' in line:
                yield json.loads(line.strip('[],\n '))
        err = process.stderr.read().strip()
        process.wait()
    if process.returncode:
        LOG.warning('qemu-img map failed with %s: %s', process.returncode, err)
        raise errors.DamagedImage(
            'The image is damaged: its tables can not be read to the end.')


class NbdServer:
    """A read-only ``qemu-nbd`` for one image, and connected sockets to it.

    The clients connect to the listening socket before qemu starts, so there
    is nothing to wait for, no path that others could open, and nothing to
    remove when this process is killed. Without ``-t`` the server ends when
    its last client leaves.
    """

    def __init__(self, path: str, driver: str, connections: int,
                 virtual_size: int) -> None:
        """Start the server.

        :param driver: qemu's name of the image's format
        :param connections: how many clients it serves at once
        :param virtual_size: in bytes; allows a CPU second for each 64 MiB
        """
        with _listener() as (listener, address):
            self.sockets = [_connect(address) for _ in range(connections)]
        argv = ['qemu-nbd', '--read-only', f'--shared={connections}',
                node(path, driver)]
        with listener:
            self._process = _launch(
                argv, _cpu_seconds(path) + virtual_size // (64 << 20),
                stdin=listener, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE)

    @property
    def pid(self) -> int:
        return self._process.pid

    def status(self) -> int | None:
        """How it ended, negative for a signal; None while it runs.

        Waits a moment, for sockets close first.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        return self._process.returncode

    def why_unusable(self) -> errors.ConversionError:
        """The error for a server that does not even begin to serve."""
        status = self.status()
        if status in _NOT_STARTED:
            return errors.Misconfigured(_MISSING)
        if status is None or status < 0:
            return errors.SourceFailed(STOPPED)
        return errors.DamagedImage('The image can not be opened: '
                                   'its header or its tables are damaged.')

    def kill(self) -> None:
        """End the server now; its clients see the connection close."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the server and log what it had to say."""
        self.kill()
        stderr = self._process.stderr
        if stderr and not stderr.closed:
            with stderr:
                if said := stderr.read(4096).strip():
                    LOG.warning('qemu-nbd said: %s', said)


@contextlib.contextmanager
def _listener() -> Any:
    """A listening Unix socket whose name is gone when the block ends."""
    listener = socket.socket(socket.AF_UNIX)
    with tempfile.TemporaryDirectory(prefix='glance-conversion-') as folder:
        address = os.path.join(folder, 'nbd')
        listener.bind(address)
        listener.listen(64)
        yield listener, address


def _connect(address: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(address)
    return client
