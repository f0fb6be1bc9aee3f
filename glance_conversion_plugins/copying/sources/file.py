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

"""A raw image in a local file."""

from collections.abc import Iterator
from collections.abc import Sequence
import errno
import os
import threading

from glance_conversion_plugins.copying import extent
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import staged

_SHORTER = 'The data of the image became shorter while it was read.'


# So much memory comes anew from the system each time, which takes longer than
# to read zeros into it, of which nothing is kept. Whether there are any is
# likely to show at once.
_LEAST, _BUFFER, _SAMPLE = 128 << 10, 1 << 20, 512
_own = threading.local()


def _buffer() -> memoryview:
    """Memory of the thread that asks."""
    try:
        found: memoryview = _own.buffer
    except AttributeError:
        found = _own.buffer = memoryview(bytearray(_BUFFER))
    return found


class FileSource:
    """Reads a raw file, holes known from SEEK_DATA and SEEK_HOLE."""

    def __init__(self, path: str, follow: bool = False) -> None:
        """Open a file.

        :param follow: whether it may be a link; staging is written by
            Glance, not by links
        """
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC
                           | (0 if follow else os.O_NOFOLLOW))
        self.size = os.fstat(self._fd).st_size
        self._stopped = False

    def extents(self, start: int, length: int) -> Iterator[extent.Extent]:
        end = start + length
        while start < end:
            data = min(end, self._seek(start, os.SEEK_DATA))
            if data > start:
                yield extent.Extent(start, data - start, extent.Kind.HOLE)
            start = data
            if start < end:
                hole = min(end, self._seek(start, os.SEEK_HOLE))
                yield extent.Extent(start, hole - start, extent.Kind.DATA)
                start = hole

    def _seek(self, offset: int, whence: int) -> int:
        try:
            return os.lseek(self._fd, offset, whence)
        except OSError as e:
            if e.errno != errno.ENXIO:
                raise errors.SourceFailed(staged.UNREADABLE) from e
        # No data up to the end, unless that is no longer where it was.
        if os.fstat(self._fd).st_size < self.size:
            raise errors.SourceFailed(_SHORTER)
        return self.size

    def read(self, offset: int, length: int) -> bytes:
        if not _LEAST <= length <= _BUFFER or self._read(
                offset, _SAMPLE).strip(b'\0'):
            return self._read_all(offset, length)
        view = _buffer()[:length]
        self.scatter([view], offset)
        return extent.zeros(length) if extent.is_zero(view) else bytes(view)

    def _read_all(self, offset: int, length: int) -> bytes:
        found = b''
        # The kernel may give less, of a remote file or one of over 2 GiB.
        while len(found) < length:
            found += self._read(offset + len(found), length - len(found))
        return found

    def _read(self, offset: int, length: int) -> bytes:
        if self._stopped:
            raise errors.Cancelled('Reading the image was stopped.')
        try:
            found = os.pread(self._fd, length, offset)
        except OSError as e:
            raise errors.SourceFailed(staged.UNREADABLE) from e
        if not found:
            raise errors.SourceFailed(_SHORTER)
        return found

    def scatter(self, views: Sequence[memoryview], offset: int) -> None:
        """Fill several views, at most 1024, with what lies in a row."""
        if self._stopped:
            raise errors.Cancelled('Reading the image was stopped.')
        try:
            count = os.preadv(self._fd, views, offset)
        except OSError as e:
            raise errors.SourceFailed(staged.UNREADABLE) from e
        for view in views:
            had = max(count, 0)
            if had < len(view):     # the kernel may give less
                view[had:] = self._read_all(offset + had, len(view) - had)
            count, offset = count - len(view), offset + len(view)

    def interrupt(self) -> None:
        self._stopped = True

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
