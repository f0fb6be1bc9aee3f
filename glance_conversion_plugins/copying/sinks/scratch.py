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

"""A sparse file in staging, for what has to be a file for a while."""

import contextlib
import errno
import os

from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import room as room_
from glance_conversion_plugins import errors

# Blocks of most file systems are as large, and holes at least so.
_BLOCK = 4096
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ScratchSink:
    """Writes data only; the file is there once it was created.

    Nobody needs it after a crash of this node, so nothing is flushed.
    """

    def __init__(self, path: str, keep_free: int = 0) -> None:
        """Describe the file, which must not exist; nothing is made yet.

        :param keep_free: how many bytes have to stay free beside it
        """
        self._path = path
        self._keep_free = keep_free
        self._fd = -1
        self._created = self._stopped = False

    def room(self, size: int) -> list[room_.Place]:
        return [room_.of_folder(os.path.dirname(self._path),
                                self._keep_free)]

    def create(self, size: int) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL
                           | os.O_CLOEXEC, 0o640)
        self._created = True
        self.resize(size)

    def write(self, view: memoryview, offset: int) -> int:
        written = 0
        room_.see_free(os.path.dirname(self._path), self._keep_free)
        for start, stop in extent.data_runs(view, offset, _BLOCK):
            self._write(view[start:stop], offset + start)
            written += stop - start
        return written

    def _write(self, view: memoryview, offset: int) -> None:
        while len(view):
            if self._stopped:
                raise errors.Cancelled('The copy was stopped.')
            try:
                count = os.pwrite(self._fd, view, offset)
            except OSError as e:
                if e.errno not in _NO_ROOM:
                    raise
                raise errors.StagingFull(
                    'The node that converts the image has no room for what '
                    'is in its archive.') from e
            view, offset = view[count:], offset + count

    def zero(self, offset: int, length: int) -> None:
        """Do nothing: a new file is a hole."""

    def resize(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def seal(self) -> None:
        if self._stopped:
            raise errors.Cancelled('The copy was stopped.')
        self._close()

    def publish(self) -> None:
        """Do nothing: it has its name already."""

    def interrupt(self) -> None:
        self._stopped = True

    def abort(self) -> None:
        self._stopped = True
        self._close()
        if self._created:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            self._created = False

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
