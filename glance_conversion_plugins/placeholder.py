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

"""The file that stands in staging for an image that is elsewhere.

It has the length of the converted image and no content but its first 4 KiB:
a magic, by which our drivers refuse to store it, and who made it. The process
that converts the image holds a lock on it, so whoever can take the lock knows
that the process is gone.
"""

import contextlib
import fcntl
import json
import os
from typing import NamedTuple

# Glance's own clean-up knows files in staging by IMAGE_ID.ANYTHING.
SUFFIX = '.converted'

_MAGIC = b'glance-conversion-plugins placeholder, not image data\n'
_HEAD = 4096

# An image of fewer bytes has no placeholder: the magic would not fit.
SMALLEST = _HEAD


class Maker(NamedTuple):
    """Who made a placeholder, and what its image was declared as."""

    image_id: str
    task_id: str
    disk_format: str
    container_format: str


class Placeholder:
    """Created when a conversion begins, of full length when it ends."""

    def __init__(self, folder: str, maker: Maker) -> None:
        self.path = os.path.join(folder, maker.image_id + SUFFIX)
        # Not O_TRUNC: it would take the magic out of one that is in use.
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                           | os.O_NOFOLLOW, 0o640)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write(_MAGIC + json.dumps(maker._asdict()).encode())
        except BaseException:
            self.release()
            raise

    def _write(self, head: bytes) -> None:
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, head.ljust(_HEAD), 0)
        except OSError:
            os.unlink(self.path)
            raise

    def extend(self, size: int) -> None:
        """Give it the length of the image, in bytes, all of it a hole."""
        os.ftruncate(self._fd, size)

    def remove(self) -> None:
        """Remove the file, if it is still there and this one; let go of it.

        May be called twice.
        """
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(self._fd),
                                    os.lstat(self.path)):
                    os.unlink(self.path)
        self.release()

    def release(self) -> None:
        """Let go of the lock; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


MAGIC_LENGTH = len(_MAGIC)


def is_placeholder(head: bytes) -> bool:
    """Say whether data that begins like this is one."""
    return head[:len(_MAGIC)] == _MAGIC


def read_abandoned(path: str) -> Maker | None:
    """Who made a placeholder whose maker is gone; None for any other file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        head = os.pread(fd, _HEAD, 0)
        if not is_placeholder(head):
            return None
        return Maker(**json.loads(head.removeprefix(_MAGIC)))
    except (OSError, ValueError, TypeError):
        # Locked, or nothing of ours.
        return None
    finally:
        os.close(fd)
