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

"""Reading tables of files that mean harm."""

from collections.abc import Callable
import io
import os
import time
from typing import Any
from typing import BinaryIO
from typing import cast
from typing import NamedTuple

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors


class Part(NamedTuple):
    """A range of a file that is an image by itself."""

    path: str
    offset: int
    length: int         # in bytes


# A file, or a part of one.
Where = str | Part


def size(where: Where) -> int:
    """How large a file, or a part of one, is in bytes."""
    return os.path.getsize(where) if isinstance(where, str) else where.length


class _Window(io.RawIOBase):
    """A part of a file, read as if there were no more."""

    def __init__(self, part: Part, go_on: Callable[[], None]) -> None:
        self._fd = -1
        self._part = part
        self._at = 0
        self._go_on = go_on
        self._fd = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at,
                os.SEEK_END: self._part.length}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        self._go_on()
        left = max(0, self._part.length - self._at)
        view = memoryview(buffer)[:left]
        count = os.preadv(self._fd, [view], self._part.offset + self._at)
        self._at += count
        return count

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        super().close()


class _Guarded(io.FileIO):
    """A file that asks before each read whether to go on."""

    def __init__(self, path: str, go_on: Callable[[], None]) -> None:
        super().__init__(path)
        self._go_on = go_on

    # Named as in its base.
    def readinto(self, buffer: bytearray | memoryview,  # type: ignore
                 /) -> int | None:
        self._go_on()
        return super().readinto(buffer)


def opened(where: Where, cancel: cancel_.Cancel = cancel_.NEVER) -> BinaryIO:
    """Open what has tables, to walk them for as long as its size is worth.

    A second for each 16 MiB is what qemu may take too, and several times of
    what a file takes that consists of tables.

    :returns: a file; its reads raise errors.Cancelled when ``cancel`` is set,
        and errors.TooLarge when all that time is spent
    """
    # Of this thread: that others want the processor is nobody's fault.
    end = time.thread_time() + seconds(size(where))

    def go_on() -> None:
        if cancel.is_set():
            raise errors.Cancelled('The conversion was stopped.')
        if time.thread_time() > end:
            raise errors.TooLarge(
                'The image takes too long to look at: its tables are far too '
                'large.')

    if isinstance(where, str):
        return io.BufferedReader(_Guarded(where, go_on))
    return cast(BinaryIO, io.BufferedReader(_Window(where, go_on)))


def seconds(length: int) -> int:
    """CPU seconds that the tables of a file of so many bytes are worth."""
    return 60 + length // (16 << 20)


def read(f: BinaryIO, offset: int, length: int) -> bytes:
    """Read exactly so many bytes.

    :raises errors.DamagedImage: if the file does not have them
    """
    # Beyond what the file system could hold seek() has errors of its own.
    if offset > f.seek(0, os.SEEK_END):
        raise truncated()
    f.seek(offset)
    data = f.read(length)
    if len(data) < length:
        raise truncated()
    return data


def truncated() -> errors.DamagedImage:
    """The error for an image that refers to what it does not have."""
    return errors.DamagedImage(
        'The image is truncated: it refers to content beyond its end.')


def senseless(table: str) -> errors.DamagedImage:
    """The error for a table that no tool would write."""
    return errors.DamagedImage(
        f'The image is damaged: its {table} makes no sense.')
