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
from typing import BinaryIO

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors


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


def opened(path: str, cancel: cancel_.Cancel) -> BinaryIO:
    """Open a file to walk its tables, for as long as its size is worth.

    A second for each 16 MiB is what qemu may take too, and several times of
    what a file takes that consists of tables.

    :returns: a file; its reads raise errors.Cancelled when ``cancel`` is set,
        and errors.TooLarge when all that time is spent
    """
    # Of this thread: that others want the processor is nobody's fault.
    end = time.thread_time() + seconds(os.path.getsize(path))

    def go_on() -> None:
        if cancel.is_set():
            raise errors.Cancelled('The conversion was stopped.')
        if time.thread_time() > end:
            raise errors.TooLarge(
                'The image takes too long to look at: its tables are far too '
                'large.')

    return io.BufferedReader(_Guarded(path, go_on))


def seconds(size: int) -> int:
    """CPU seconds that the tables of a file of so many bytes are worth."""
    return 60 + size // (16 << 20)


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
