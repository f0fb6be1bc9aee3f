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
"""A folder of images, and the names that tell what is not yet Glance's.

An image has a name of its own while it is written. That name stays beside the
final one, as a second link, until Glance has recorded the image: whoever
finds it knows that the file is not Glance's yet. Where a file system knows no
links, an empty file stands for the second one.
"""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import io
import logging
import os

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import marks

LOG = logging.getLogger(__name__)

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
# What file systems say that know no second names.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn what the system raises into our errors.

    :param path: of the folder, for the log
    """
    try:
        yield
    except OSError as e:
        LOG.error('The file store in %s failed: %s', path, e)
        raise _failure(e) from e


def _failure(error: OSError) -> errors.SinkFailed:
    if error.errno in _NO_ROOM:
        return errors.StoreFull('The store has no room for the image.')
    if error.errno in _DENIED:
        return errors.WriteDenied('The store can not be written to.')
    return errors.SinkFailed('The store could not take the image.')


def partial_name(image_id: str, task_id: str) -> str:
    """Name an image while it is not yet Glance's."""
    return '.' + marks.Mark(image_id, task_id).name(marks.PARTIAL)


def _sealed_name(image_id: str, task_id: str) -> str:
    return '.' + marks.Mark(image_id, task_id).name(marks.SEALED)


class Folder:
    """An open folder, the same one whatever is mounted or unmounted there."""

    def __init__(self, path: str, marker: str = '') -> None:
        """Open a folder.

        :param marker: name of what lies in it while it is mounted; '': it
            is not looked for
        :raises errors.SinkFailed: if it is not there
        """
        self.path = path
        with translated(self.path):
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY
                               | os.O_CLOEXEC)
        try:
            if marker and not self.holds(marker):
                LOG.error('%s is not mounted: there is no %s in it', path,
                          marker)
                raise errors.WriteDenied('The store is not mounted.')
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> 'Folder':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reopened(self) -> 'Folder':
        """The same folder if it is open, or what is there by now."""
        return self if self._fd >= 0 else Folder(self.path)

    def close(self) -> None:
        """Close it; may be done twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def holds(self, name: str) -> bool:
        return self._stat(name) is not None

    def _stat(self, name: str) -> os.stat_result | None:
        with (translated(self.path),
              contextlib.suppress(FileNotFoundError)):
            return os.lstat(name, dir_fd=self._fd)
        return None

    def create(self, image_id: str, task_id: str) -> io.FileIO:
        """Begin an image; the file is locked while its writer lives."""
        if self.holds(image_id):
            raise _taken()
        with translated(self.path):
            file = open(partial_name(image_id, task_id),  # noqa: SIM115
                        'xb', buffering=0, opener=self._opener)
        with contextlib.suppress(OSError):      # a file server may not know
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file

    def _opener(self, name: str, flags: int) -> int:
        return os.open(name, flags, 0o666, dir_fd=self._fd)

    def publish(self, image_id: str, task_id: str) -> None:
        """Give a complete file the name of its image, and keep a mark.

        :raises errors.AlreadyStored: if the name is taken
        """
        partial = partial_name(image_id, task_id)
        with translated(self.path):
            if not os.path.samestat(os.stat(self.path), os.fstat(self._fd)):
                raise errors.SinkFailed('The store is no longer mounted.')
            try:
                os.link(partial, image_id, src_dir_fd=self._fd,
                        dst_dir_fd=self._fd)
            except FileExistsError as e:
                raise _taken() from e
            except OSError as e:
                if e.errno not in _NO_LINKS:
                    raise
                self._rename(image_id, task_id)
            self.sync()

    def _rename(self, image_id: str, task_id: str) -> None:
        self._touch(image_id)
        try:
            self._touch(_sealed_name(image_id, task_id))
            os.rename(partial_name(image_id, task_id), image_id,
                      src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            self._unlink(image_id)
            raise

    def _touch(self, name: str) -> None:
        try:
            os.close(self._opener(name, os.O_CREAT | os.O_EXCL
                                  | os.O_CLOEXEC))
        except FileExistsError as e:
            raise _taken() from e

    def sync(self) -> None:
        """Make what was linked, renamed or removed durable."""
        os.fsync(self._fd)

    def hand_over(self, image_id: str, task_id: str) -> None:
        """Take our mark off; the file is as if Glance had written it."""
        with translated(self.path):
            self._unlink(partial_name(image_id, task_id))
            self._unlink(_sealed_name(image_id, task_id))

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def discard(self, image_id: str, task_id: str) -> None:
        """Remove what a task wrote, and nothing that another one wrote."""
        with translated(self.path):
            mark = self._stat(partial_name(image_id, task_id))
            image = self._stat(image_id)
            if (self.holds(_sealed_name(image_id, task_id))
                    or mark and image and os.path.samestat(mark, image)):
                self._unlink(image_id)
            self.hand_over(image_id, task_id)

    def is_open(self, image_id: str, task_id: str) -> bool:
        """Say whether a living process may be writing what a task began.

        Where a file system knows no locks, everything may be.
        """
        with (translated(self.path),
              contextlib.suppress(FileNotFoundError)):
            fd = self._opener(partial_name(image_id, task_id),
                              os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
            finally:
                os.close(fd)
        return False

    def marked(self) -> Iterator[marks.Mark]:
        """All that is ours and not yet Glance's."""
        with translated(self.path):
            names = os.listdir(self._fd)
        for name in names:
            if name.startswith('.'):
                if mark := marks.parse(name[1:], marks.PARTIAL, marks.SEALED):
                    yield mark


def _taken() -> errors.AlreadyStored:
    return errors.AlreadyStored('The store already holds data of this image.')
