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
"""A sparse file that appears under its name when it is complete."""

from collections.abc import Callable
import contextlib
import io
import logging
import os
from typing import NamedTuple

from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import room as room_
from glance_conversion_plugins.copying.sources import file as file_source
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import folder
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.external import os_errors

LOG = logging.getLogger(__name__)


class Datadir(NamedTuple):
    """A folder, and what is to know of it."""

    path: str
    mode: int = 0       # of the files in it; 0: as the umask says
    marker: str = ''    # what lies in it while it is mounted; '': nothing


class FileSink:
    """Writes data only; what is not written is a hole."""

    def __init__(self, choose: Callable[[int], Datadir], mark: marks.Mark, *,
                 zero_block_size: int) -> None:
        """Describe the file; nothing is made yet.

        :param choose: finds a folder for so many bytes
        :param mark: whose image it is
        :param zero_block_size: of zeros that are left out, in bytes
        """
        self._choose = choose
        self._mark = mark
        self._zero_block_size = zero_block_size
        self._size = 0
        self._folder: folder.Folder | None = None
        self._file: io.FileIO | None = None
        # Keeps the lock of the file when that is closed.
        self._lease = -1
        self._begun = self._stopped = False

    def room(self, size: int) -> list[room_.Place]:
        path = self._choose(size).path
        with os_errors.translated(path):
            return [room_.of_folder(path)]

    def create(self, size: int) -> None:
        datadir = self._choose(size)
        self._size = size
        self._folder = folder.Folder(datadir.path, datadir.marker)
        self._file = self._folder.create(self._mark)
        self._begun = True
        with os_errors.translated(self._path):
            self._lease = os.dup(self._fileno())
        try:
            if datadir.mode:
                os.fchmod(self._file.fileno(), datadir.mode)
        except OSError as e:
            # Some file systems have one mode for all files.
            LOG.warning('The mode of %s stays as it is: %s', self._names, e)
        with os_errors.translated(self._path):
            os.ftruncate(self._fileno(), size)

    @property
    def _names(self) -> tuple[str, str]:
        return self._mark.image_id, self._mark.task_id

    @property
    def _path(self) -> str:
        return self._folder.path if self._folder else ''

    def _fileno(self) -> int:
        assert self._file   # noqa: S101
        return self._file.fileno()

    def write(self, view: memoryview, offset: int) -> int:
        written = 0
        for start, stop in extent.data_runs(view, offset,
                                            self._zero_block_size):
            self._write(view[start:stop], offset + start)
            written += stop - start
        if written:
            # What is dirty here goes to the disk from now on, and little is
            # left for the last fsync to wait for.
            with os_errors.translated(self._path):
                os.posix_fadvise(self._fileno(), offset, len(view),
                                 os.POSIX_FADV_DONTNEED)
        return written

    def _write(self, view: memoryview, offset: int) -> None:
        while len(view):
            if self._stopped:
                raise errors.Cancelled('The copy was stopped.')
            with os_errors.translated(self._path):
                count = os.pwrite(self._fileno(), view, offset)
            view, offset = view[count:], offset + count

    def zero(self, offset: int, length: int) -> None:
        """Do nothing: a new file is a hole."""

    def resize(self, size: int) -> None:
        # A file that grows by being written gets room in advance, on XFS.
        # One without holes is filled with zeros when it grows.
        with os_errors.translated(self._path):
            if size < self._size or self._has_holes():
                os.ftruncate(self._fileno(), size)
        self._size = size

    def _has_holes(self) -> bool:
        found = os.fstat(self._fileno())
        return not self._size or found.st_blocks * 512 < found.st_size

    def seal(self) -> None:
        if self._stopped:
            raise errors.Cancelled('The copy was stopped.')
        with os_errors.translated(self._path):
            os.ftruncate(self._fileno(), self._size)
            os.fsync(self._fileno())
            self._close()

    def _close(self) -> None:
        # Also one that fails, as of a full file server, has closed it.
        file, self._file = self._file, None
        if file:
            file.close()

    def read_back(self) -> file_source.FileSource:
        try:
            # What is in memory says nothing of the disk.
            os.posix_fadvise(self._lease, 0, 0, os.POSIX_FADV_DONTNEED)
            return file_source.FileSource(f'/proc/self/fd/{self._lease}',
                                          follow=True)
        except OSError as e:
            LOG.warning('%s can not be read back', self._names, exc_info=True)
            raise errors.SourceFailed(
                'The stored image could not be read.') from e

    def publish(self) -> None:
        assert self._folder     # noqa: S101
        self._folder.publish(self._mark)

    def hand_over(self) -> None:
        assert self._folder     # noqa: S101
        try:
            if not (self._folder.hand_over(self._mark)
                    or self._is_handed_over(self._folder)):
                raise errors.Fenced
        finally:
            self.release()

    def _is_handed_over(self, where: folder.Folder) -> bool:
        """Say whether a clean-up has done it, which saw the image recorded."""
        if any(where.holds(folder.name_of(self._mark, state))
               for state in (marks.REMOVED, marks.UNSEALED)):
            return False
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(self._lease), os.stat(
                os.path.join(where.path, self._mark.image_id)))
        return False

    def is_held(self) -> bool:
        try:
            if not self._begun or not self._folder:
                return True
            with self._folder.reopened() as here:
                return here.bears(self._mark)
        except errors.SinkFailed:
            return True

    def release(self) -> None:
        lease, self._lease = self._lease, -1
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            if lease >= 0:
                os.close(lease)
        if self._folder:
            self._folder.close()

    def interrupt(self) -> None:
        self._stopped = True

    def abort(self) -> None:
        self._stopped = True
        try:
            with contextlib.suppress(OSError):
                self._close()
            if self._folder:
                with self._folder.reopened() as here:
                    here.discard(self._mark)
            self._folder = None
        except Exception:
            LOG.exception('%s was not removed; the clean-up will find it',
                          self._names)
        finally:
            self.release()
