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

"""A sparse file that appears under its name when it is complete.

Until then it has a name that tells what it is. That name stays beside the
final one, as a second link, until Glance has recorded the image: whoever
finds it knows that the file is not Glance's yet.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import errno
import logging
import os
import re
from typing import NamedTuple

from glance_conversion_plugins import errors
from glance_conversion_plugins import extent

LOG = logging.getLogger(__name__)

_PARTIAL = re.compile(r'\.(?P<image_id>[0-9a-f-]{36})'
                      r'\.(?P<task_id>[0-9a-f-]+)\.partial')
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Place(NamedTuple):
    """A folder, and the mode of the files in it (0: as the umask says)."""

    folder: str
    mode: int = 0


def partial_path(folder: str, image_id: str, task_id: str) -> str:
    """Where an image is while it is not yet Glance's."""
    return os.path.join(folder, f'.{image_id}.{task_id}.partial')


def leftovers(folder: str) -> Iterator[tuple[str, str]]:
    """(image id, task id) of all files of ours that are not yet Glance's."""
    with translated():
        names = os.listdir(folder)
    for name in names:
        if match := _PARTIAL.fullmatch(name):
            yield match['image_id'], match['task_id']


def hand_over(folder: str, image_id: str, task_id: str) -> None:
    """Take our name off, so that the file is as if Glance had written it."""
    with translated(), contextlib.suppress(FileNotFoundError):
        os.unlink(partial_path(folder, image_id, task_id))


def discard(folder: str, image_id: str, task_id: str) -> None:
    """Remove what a task wrote, and nothing that another one wrote."""
    partial = partial_path(folder, image_id, task_id)
    final = os.path.join(folder, image_id)
    with translated(), contextlib.suppress(FileNotFoundError):
        mark = os.lstat(partial)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(mark, os.lstat(final)):
                os.unlink(final)
        os.unlink(partial)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn what the system raises into our errors."""
    try:
        yield
    except OSError as e:
        LOG.error('The file store failed: %s', e)
        raise _failure(e) from e


def _failure(error: OSError) -> errors.SinkFailed:
    if error.errno in _NO_ROOM:
        return errors.StoreFull('The store has no room for the image.')
    return errors.SinkFailed('The store could not take the image.')


class FileSink:
    """Writes data only; what is not written is a hole."""

    def __init__(self, choose: Callable[[int], Place], image_id: str,
                 task_id: str, *, zero_block_size: int) -> None:
        """Describe the file; nothing is made yet.

        :param choose: finds a place for so many bytes
        :param zero_block_size: grain at which zeros are left out, in bytes
        """
        self._choose = choose
        self._image_id = image_id
        self._task_id = task_id
        self._zero_block_size = zero_block_size
        self._folder: str | None = None
        self._fd = -1
        self._stopped = False

    def create(self, size: int) -> None:
        place = self._choose(size)
        with translated():
            if os.path.lexists(self._final(place.folder)):
                raise errors.AlreadyStored(
                    'The store already holds data of this image.')
            path = partial_path(place.folder, self._image_id, self._task_id)
            self._folder = place.folder
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL
                               | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            if place.mode:
                os.fchmod(self._fd, place.mode)
            os.ftruncate(self._fd, size)

    def _final(self, folder: str) -> str:
        return os.path.join(folder, self._image_id)

    def write(self, view: memoryview, offset: int) -> int:
        written = 0
        for start, stop in extent.data_runs(view, offset,
                                            self._zero_block_size):
            self._write(view[start:stop], offset + start)
            written += stop - start
        return written

    def _write(self, view: memoryview, offset: int) -> None:
        while len(view):
            if self._stopped:
                raise errors.Cancelled('The copy was stopped.')
            with translated():
                count = os.pwrite(self._fd, view, offset)
            view, offset = view[count:], offset + count

    def zero(self, offset: int, length: int) -> None:
        """Do nothing: a new file is a hole."""

    def seal(self) -> None:
        if self._stopped:
            raise errors.Cancelled('The copy was stopped.')
        assert self._folder     # noqa: S101
        with translated():
            os.fsync(self._fd)
            self._close()
            try:
                os.link(partial_path(self._folder, self._image_id,
                                     self._task_id),
                        self._final(self._folder))
            except FileExistsError as e:
                raise errors.AlreadyStored(
                    'The store already holds data of this image.') from e
            sync_folder(self._folder)

    def _close(self) -> None:
        # Also one that fails, as of a full file server, has closed it.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def interrupt(self) -> None:
        self._stopped = True

    def abort(self) -> None:
        self._stopped = True
        try:
            with contextlib.suppress(OSError):
                self._close()
            if self._folder:
                discard(self._folder, self._image_id, self._task_id)
        except Exception:
            LOG.exception('%s was not removed from %s; the clean-up will find '
                          'it', self._image_id, self._folder)


def sync_folder(folder: str) -> None:
    """Make what was renamed or linked in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
