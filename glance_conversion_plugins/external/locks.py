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

"""Files that are locked for as long as something lives, however it ends."""

import fcntl
import logging
import os
import stat
import tempfile
import time

from glance_conversion_plugins import errors

LOG = logging.getLogger(__name__)


def folder(path: str | None) -> str:
    """Where lock files of this node live.

    :param path: None: a folder of this user in the system's folder for
        temporary files
    :raises errors.Misconfigured: if that is somebody else's
    """
    path = path or _own_folder()
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def _own_folder() -> str:
    """A folder for temporary files that no other user can have made."""
    path = os.path.join(tempfile.gettempdir(),
                        f'glance-conversion-slots-{os.getuid()}')
    os.makedirs(path, mode=0o700, exist_ok=True)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        LOG.error('%s belongs to someone else; set [oslo_concurrency] '
                  'lock_path', path)
        raise errors.Misconfigured(
            'This cloud can not convert images: a folder is not safe.')
    return path


def acquire(path: str) -> int | None:
    """Lock a file, which is made if need be.

    :returns: a descriptor that holds the lock while it is open; None if
        somebody else has it
    """
    fd = _open(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def hold(path: str, seconds: float = 60) -> int:
    """Lock a file of one's own, at which others may be looking just now.

    :param seconds: for which others may hold it meanwhile
    :returns: a descriptor that holds the lock while it is open
    :raises errors.Busy: if somebody else does for longer
    """
    fd = _open(path)
    try:
        wait(fd, seconds)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                   | os.O_NOFOLLOW, 0o600)


def is_free(path: str) -> bool:
    """Say whether a file is there and nobody holds its lock."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return not is_held(fd)
    finally:
        os.close(fd)


def is_held(fd: int) -> bool:
    """Say whether somebody else has locked an open file, or may have."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def wait(fd: int, seconds: float = 0) -> None:
    """Lock an open file, where its file system knows locks.

    :param seconds: for which others may hold it meanwhile
    :raises errors.Busy: if somebody else does for longer
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            if time.monotonic() >= deadline:
                raise errors.Busy('Another process has the file.') from e
            time.sleep(0.01)
        except OSError as e:
            LOG.debug('A file can not be locked: %s', e)
            return
        else:
            return
