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

from collections.abc import Iterator
import contextlib
import fcntl
import json
import os
import time
from typing import NamedTuple

# Glance's own clean-up knows files in staging by IMAGE_ID.ANYTHING.
SUFFIX = '.converted'

_MAGIC = b'glance-conversion-plugins placeholder, not image data\n'
_HEADER_SIZE = 4096

# Who removes one holds it for a moment.
_PATIENCE_SECONDS = 2

# An image of fewer bytes has no placeholder: the magic would not fit.
SMALLEST = _HEADER_SIZE


class Header(NamedTuple):
    """Who made a placeholder, and what its image was declared as."""

    image_id: str
    task_id: str
    disk_format: str
    container_format: str
    host: str = ''          # where its process lives, or lived


class Placeholder:
    """Created when a conversion begins, of full length when it ends."""

    def __init__(self, folder: str, header: Header) -> None:
        """Describe the file; nothing is made yet."""
        self.path = os.path.join(folder, header.image_id + SUFFIX)
        self._header = header
        self._fd = -1
        # What Glance is given to store.
        self._handed_on: str | None = None

    def create(self) -> None:
        """Make the file, and hold its lock.

        :raises BlockingIOError: if another task of this node does
        """
        self._fd = _lock(self.path)
        try:
            self._write(_MAGIC
                        + json.dumps(self._header._asdict()).encode())
        except BaseException:
            self.release()
            raise

    def _write(self, head: bytes) -> None:
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, head.ljust(_HEADER_SIZE), 0)
        except OSError:
            os.unlink(self.path)
            raise

    def hand_on(self, path: str, size: int) -> None:
        """Note what Glance is given to store, of so many bytes.

        Another file, for which this one only holds the lock; or this one,
        which gets the length of the image, all of it a hole.
        """
        self._handed_on = path
        if path == self.path:
            os.ftruncate(self._fd, size)

    def is_consumed(self) -> bool:
        """Say whether Glance has what it was given.

        Then it has removed that from staging.
        """
        return bool(self._handed_on) and not os.path.exists(
            str(self._handed_on))

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


def _lock(path: str) -> int:
    """Open the file, made if need be, and lock it while it has its name.

    :raises BlockingIOError: if others hold it for longer than a clean-up does
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            if (fd := _try_lock(path)) is not None:
                return fd
        # A clean-up may be root's.
        except (BlockingIOError, PermissionError):
            if time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _try_lock(path: str) -> int | None:
    """The locked file, or None if its name is another one's by now."""
    # Not O_TRUNC: it would take the magic out of one that is in use.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                 | os.O_NOFOLLOW, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.lstat(path)):
                return os.dup(fd)
        return None
    finally:
        os.close(fd)


@contextlib.contextmanager
def taken(folder: str, image_id: str) -> Iterator[None]:
    """Hold the lock of a placeholder, whether there is one or not.

    So that nobody begins to convert the image meanwhile: who removes what a
    dead import has staged would remove that of a new one.

    :raises BlockingIOError: if a living import has it
    """
    path = os.path.join(folder, image_id + SUFFIX)
    fd = _lock(path)
    try:
        yield
    finally:
        # It was made here: whoever else makes one writes at once.
        with contextlib.suppress(FileNotFoundError):
            found = os.fstat(fd)
            if not found.st_size and os.path.samestat(found, os.lstat(path)):
                os.unlink(path)
        os.close(fd)


MAGIC_LENGTH = len(_MAGIC)


def is_placeholder(head: bytes) -> bool:
    """Say whether data that begins like this is one."""
    return head[:len(_MAGIC)] == _MAGIC


def read_abandoned(path: str) -> Header | None:
    """The header of a placeholder whose process is gone; None of any other."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        head = os.pread(fd, _HEADER_SIZE, 0)
        if not is_placeholder(head):
            return None
        return Header(**json.loads(head.removeprefix(_MAGIC)))
    except (OSError, ValueError, TypeError):
        # Locked, or nothing of ours.
        return None
    finally:
        os.close(fd)
