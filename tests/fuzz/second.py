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

"""What libqcow, libvhdi and libvmdk say of a mutant, if they say anything.

They run in a process of their own: one may crash, or never end.
"""

import pathlib
import resource
import select
import struct
import subprocess
import sys

from tests.fuzz.disks import MIB
from tests.judges import libraries
from tests.judges import qcow2

FORMATS = ('qcow2', 'vhd', 'vmdk')
_SECONDS = 20
# Below what a tool may use, for it counts as one once it has ended.
_MOST_MEMORY = 200 * MIB
_LENGTH = struct.Struct('<q')
_NO_OPINION = -1


class Opinion:
    """Asks a process of libraries, and replaces it when it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, disk_format: str, path: pathlib.Path) -> bytes | None:
        """The disk of an image; None if nothing can be said of it."""
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, '-m', __name__], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdin
        self._process.stdin.write(f'{disk_format} {path}\n'.encode())
        self._process.stdin.flush()
        length, = _LENGTH.unpack(
            self._heard(_LENGTH.size) or _LENGTH.pack(_NO_OPINION))
        return None if length == _NO_OPINION else self._heard(length)

    def _heard(self, length: int) -> bytes | None:
        """So many bytes of its answer, unless it dies or takes too long."""
        process = self._process
        if process is None or process.stdout is None:
            return None
        ready, _, _ = select.select([process.stdout], [], [], _SECONDS)
        said = process.stdout.read(length) if ready else b''
        if len(said) == length:
            return said
        self.close()
        return None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        self.kill()
        process, self._process = self._process, None
        if process is not None:
            process.communicate()


def agrees(disk_format: str, data: bytes, disk: bytes, found: bytes) -> bool:
    """Whether a library reads what an import gave, or is known to be wrong.

    libvmdk takes the size of a disk from the descriptor, whatever the header
    says of the capacity of its one extent; libvhdi takes it from the footer,
    where for some creators the geometry counts.
    """
    length = min(len(found), len(disk))
    if found[:length] == disk[:length]:
        return True
    # libqcow 20201213 takes bit 0 of an entry for a part of an offset. From
    # version 3 on the cluster reads as zeros: qcow2.txt, "Standard Cluster
    # Descriptor".
    if disk_format != 'qcow2':
        return False
    marked = qcow2.read(data, flagged=1)
    return all(one == other or mark != other for one, other, mark in zip(
        found, disk, marked, strict=False))


def _answer(disk_format: str, path: str) -> None:
    try:
        disk = getattr(libraries, disk_format)(pathlib.Path(path).read_bytes())
    # They have OSError for nearly everything, and MemoryError.
    except Exception:
        sys.stdout.buffer.write(_LENGTH.pack(_NO_OPINION))
    else:
        sys.stdout.buffer.write(_LENGTH.pack(len(disk)) + disk)
    sys.stdout.buffer.flush()


if __name__ == '__main__':
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    for line in sys.stdin:
        _answer(*line.split())
