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

"""A ``qemu-nbd`` that serves one image to this process alone."""

from collections.abc import Callable
import contextlib
import logging
import os
import socket
import subprocess
import tempfile
from typing import Any

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import program
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.external import sandbox
from glance_conversion_plugins.external import sandbox_exec
from glance_conversion_plugins.external import staged

LOG = logging.getLogger(__name__)


class NbdServer:
    """A read-only ``qemu-nbd`` for one image, and connected sockets to it.

    The clients connect to the listening socket before qemu starts, so there
    is nothing to wait for, no path that others could open, and nothing to
    remove when this process is killed. Without ``-t`` the server ends when
    its last client leaves.
    """

    def __init__(self, image: qemu_img.Image, connections: int,
                 virtual_size: int) -> None:
        """Start the server.

        :param connections: how many clients it serves at once
        :param virtual_size: in bytes
        """
        with _listener() as (listener, address):
            self.sockets = [_connect(address) for _ in range(connections)]
        argv = ['qemu-nbd', '--read-only', f'--shared={connections}',
                image.node]
        self._path = image.path
        self._said = ''
        self._stderr, stderr = os.pipe()
        # What it says beyond what fits into a pipe is lost, and nothing waits:
        # neither it for us, nor we for what it may have left behind.
        for end in (self._stderr, stderr):
            os.set_blocking(end, False)
        try:
            with listener:
                self._process = sandbox.start(
                    argv,
                    sandbox.Limits(image.decoding_seconds(virtual_size)),
                    readable=[image.path], stdin=listener,
                    stdout=subprocess.DEVNULL, stderr=stderr)
        except BaseException:
            os.close(self._stderr)
            raise
        finally:
            os.close(stderr)

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
        if status == sandbox_exec.NOT_STARTED:
            return errors.Misconfigured(sandbox.MISSING)
        if (status is None or status < 0
                or program.lacked_memory(self._hear())):
            return errors.SourceFailed(qemu_img.STOPPED)
        self.see_readable(lambda: False)
        return errors.DamagedImage('The image can not be opened: '
                                   'its header or its tables are damaged.')

    def see_readable(self, unwanted: Callable[[], bool]) -> None:
        """See that it is not the file of the image that can not be read.

        :param unwanted: says whether nobody waits for the answer any more
        :raises errors.SourceFailed: if it is
        """
        staged.see_readable(self._path, unwanted)

    def kill(self) -> None:
        """End the server now; its clients see the connection close."""
        sandbox.end(self._process)

    def close(self) -> None:
        """End the server and log what it had to say. May be called twice."""
        self.kill()
        said = self._hear()
        fd, self._stderr = self._stderr, -1
        if fd < 0:
            return
        os.close(fd)
        if said:
            LOG.warning('qemu-nbd said: %s', said)

    def _hear(self) -> str:
        """The beginning of what it has said, for the log."""
        if not self._said and self._stderr >= 0:
            with contextlib.suppress(BlockingIOError):
                self._said = program.shorten(os.read(self._stderr, 4096))
        return self._said


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
