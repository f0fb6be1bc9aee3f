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
import io
import logging
import os

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import locks
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.external import os_errors

LOG = logging.getLogger(__name__)

# What file systems say that know no second names.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)

# How long one who cleans a folder waits for another one.
_TURN_SECONDS = 120


def name_of(mark: marks.Mark, state: str) -> str:
    """What a file is called that bears a mark; hidden from listings."""
    return '.' + mark.name(state)


class Folder:
    """An open folder, the same one whatever is mounted or unmounted there."""

    def __init__(self, path: str, marker: str = '') -> None:
        """Open a folder.

        :param marker: name of what lies in it while it is mounted; '': it
            is not looked for
        :raises errors.SinkFailed: if it is not there
        """
        self.path = path
        with os_errors.translated(self.path):
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
        with (os_errors.translated(self.path),
              contextlib.suppress(FileNotFoundError)):
            return os.lstat(name, dir_fd=self._fd)
        return None

    def create(self, mark: marks.Mark) -> io.FileIO:
        """Begin an image; the file is locked while its writer lives."""
        if self.holds(mark.image_id):
            raise errors.AlreadyStored
        with os_errors.translated(self.path):
            file = open(name_of(mark, marks.PARTIAL),   # noqa: SIM115
                        'xb', buffering=0, opener=self._opener)
        # Somebody may look just now whether it is locked.
        locks.wait(file.fileno(), 1)
        return file

    def _opener(self, name: str, flags: int) -> int:
        return os.open(name, flags, 0o666, dir_fd=self._fd)

    def publish(self, mark: marks.Mark) -> None:
        """Give a complete file the name of its image, and keep a mark.

        :raises errors.AlreadyStored: if the name is taken
        :raises errors.Fenced: if the file was taken from its writer
        """
        with os_errors.translated(self.path):
            if not os.path.samestat(os.stat(self.path), os.fstat(self._fd)):
                raise errors.SinkFailed('The store is no longer mounted.')
            try:
                os.link(name_of(mark, marks.PARTIAL), mark.image_id,
                        src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except FileExistsError as e:
                raise errors.AlreadyStored from e
            except FileNotFoundError as e:
                raise errors.Fenced from e
            except OSError as e:
                if e.errno not in _NO_LINKS:
                    raise
                self._publish_without_links(mark)
            self.sync()

    def _publish_without_links(self, mark: marks.Mark) -> None:
        self._touch(name_of(mark, marks.SEALED))
        try:
            self._touch(mark.image_id)
            try:
                if not self._rename(name_of(mark, marks.PARTIAL),
                                    mark.image_id):
                    raise errors.Fenced
            except BaseException:
                self._unlink(mark.image_id)
                raise
        except BaseException:
            self._unlink(name_of(mark, marks.SEALED))
            raise

    def _touch(self, name: str) -> None:
        try:
            os.close(self._opener(name, os.O_CREAT | os.O_EXCL
                                  | os.O_CLOEXEC))
        except FileExistsError as e:
            raise errors.AlreadyStored from e

    def _rename(self, name: str, to: str) -> bool:
        """Rename a file, unless somebody else has taken it."""
        try:
            os.rename(name, to, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except FileNotFoundError:
            return False
        return True

    def sync(self) -> None:
        """Make what was linked, renamed or removed durable."""
        os.fsync(self._fd)

    def hand_over(self, mark: marks.Mark) -> bool:
        """Take our mark off; the file is as if Glance had written it.

        :returns: whether it was there. Whoever takes it off first has the
            file, the writer or who takes the writer for dead.
        """
        with os_errors.translated(self.path):
            found = [self._unlink(name_of(mark, state))
                     for state in (marks.PARTIAL, marks.SEALED)]
        return any(found)

    def mark_again(self, mark: marks.Mark) -> None:
        """Mark a file that Glance has recorded, unless somebody writes it."""
        if self._is_locked(mark.image_id):
            raise errors.Busy('The image changes at the moment.')
        if self.holds(mark.image_id):
            with os_errors.translated(self.path):
                self._touch(name_of(mark, marks.SEALED))

    def bears(self, mark: marks.Mark) -> bool:
        """Say whether what was begun still has its mark."""
        return any(self.holds(name_of(mark, state))
                   for state in (marks.PARTIAL, marks.SEALED))

    def _unlink(self, name: str) -> bool:
        try:
            os.unlink(name, dir_fd=self._fd)
        except FileNotFoundError:
            return False
        return True

    def fence(self, mark: marks.Mark) -> bool:
        """Take a file from its writer, who can not have it recorded then.

        :returns: whether it was still the writer's, or taken before
        """
        with os_errors.translated(self.path):
            found = [self._rename(name_of(mark, state), name_of(mark, taken))
                     or self.holds(name_of(mark, taken))
                     for state, taken in ((marks.SEALED, marks.UNSEALED),
                                          (marks.PARTIAL, marks.REMOVED))]
        return any(found)

    def take_turn(self) -> None:
        """Be the only one that cleans the folder, until it is closed.

        :raises errors.Busy: if another one does so for long
        """
        locks.wait(self._fd, _TURN_SECONDS)

    @contextlib.contextmanager
    def claimed(self, mark: marks.Mark) -> Iterator[None]:
        """Be the only one that removes what a writer has left.

        Another writer may publish under the name of the image as soon as it
        is free: who frees it must not do so twice.

        :raises errors.Busy: if somebody else is, or the writer lives
        """
        with contextlib.ExitStack() as stack:
            names = [name_of(mark, state) for state in (
                marks.PARTIAL, marks.REMOVED, marks.SEALED, marks.UNSEALED)]
            if any(map(self.holds, names[2:])):
                names.append(mark.image_id)
            for name in names:
                with (os_errors.translated(self.path),
                      contextlib.suppress(FileNotFoundError)):
                    fd = self._opener(name, os.O_RDONLY | os.O_CLOEXEC
                                      | os.O_NOFOLLOW)
                    stack.callback(os.close, fd)
                    locks.wait(fd)
            yield

    def discard(self, mark: marks.Mark) -> None:
        """Remove what is one's own, or claimed, and nothing else."""
        if not self.fence(mark):
            return
        with os_errors.translated(self.path):
            taken = self._stat(name_of(mark, marks.REMOVED))
            image = self._stat(mark.image_id)
            if taken and image and os.path.samestat(taken, image):
                self._unlink(mark.image_id)
            elif self.holds(name_of(mark, marks.UNSEALED)):
                if not taken:
                    self._rename(mark.image_id, name_of(mark, marks.REMOVED))
                elif image and not image.st_size:
                    self._unlink(mark.image_id)
            # Last: what is left of it tells that something is.
            for state in (marks.UNSEALED, marks.REMOVED):
                self._unlink(name_of(mark, state))

    def give_back(self, mark: marks.Mark) -> None:
        """Take the mark off a file that was fenced and is Glance's after all.
        """
        with os_errors.translated(self.path):
            for state in (marks.REMOVED, marks.UNSEALED):
                self._unlink(name_of(mark, state))

    def is_open(self, mark: marks.Mark) -> bool:
        """Say whether a living process may be writing what a task began.

        Where a file system knows no locks, everything may be.
        """
        return (any(self._is_locked(name_of(mark, state))
                    for state in (marks.PARTIAL, marks.REMOVED))
                or any(self.holds(name_of(mark, state))
                       for state in (marks.SEALED, marks.UNSEALED))
                and self._is_locked(mark.image_id))

    def _is_locked(self, name: str) -> bool:
        with (os_errors.translated(self.path),
              contextlib.suppress(FileNotFoundError)):
            fd = self._opener(name, os.O_RDONLY | os.O_CLOEXEC
                              | os.O_NOFOLLOW)
            try:
                return locks.is_held(fd)
            finally:
                os.close(fd)
        return False

    def marked(self) -> Iterator[marks.Found]:
        """All that is ours and not yet Glance's."""
        with os_errors.translated(self.path):
            names = [name[1:] for name in os.listdir(self._fd)
                     if name.startswith('.')]
        for name in names:
            if mark := marks.parse(name, marks.SEALED, marks.UNSEALED):
                yield marks.Found(mark, self.holds(mark.image_id) and not (
                    self.holds(name_of(mark, marks.PARTIAL))
                    or self.holds(name_of(mark, marks.REMOVED))))
            elif mark := marks.parse(name, marks.PARTIAL, marks.REMOVED):
                yield marks.Found(mark, self._is_published(name, mark))

    def _is_published(self, name: str, mark: marks.Mark) -> bool:
        file, image = self._stat('.' + name), self._stat(mark.image_id)
        return bool(file and image and os.path.samestat(file, image))
