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

"""Files in staging: whether they can be read, and how they go.

qemu has one word, EIO, for a stream that does not decode and for a disk that
does not answer. So once an image seems to be damaged, its file is read before
the image is blamed.
"""

from collections.abc import Callable
import errno
import os
import threading
import time

from glance_conversion_plugins import errors

UNREADABLE = 'The data of the image could not be read.'
_PIECE = 1 << 20
# A disk fails early, if it does: errors of its own take it seconds each. Who
# watches the conversion gives up after some minutes.
_SECONDS = 120


def see_readable(path: str, unwanted: Callable[[], bool]) -> None:
    """Read a file, which costs less than to have copied it there.

    :param unwanted: says whether nobody waits for the answer any more
    :raises errors.SourceFailed: if the file can not be read
    """
    buffer = bytearray(_PIECE)
    deadline = time.monotonic() + _SECONDS
    try:
        with open(path, 'rb', buffering=0) as f:
            end, at = os.fstat(f.fileno()).st_size, 0
            while (at < end and not unwanted()
                   and time.monotonic() < deadline):
                # Holes cost nothing here, and may be most of it.
                at = _data(f.fileno(), at, end)
                if not (count := os.preadv(f.fileno(), [buffer], at)):
                    return
                at += count
    except OSError as e:
        raise errors.SourceFailed(UNREADABLE) from e


def _data(fd: int, at: int, end: int) -> int:
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as e:
        # None up to the end; or the file system can not tell.
        return end if e.errno == errno.ENXIO else at


def unlink(path: str) -> None:
    """Remove a file, without a wait for what it holds to be freed.

    That is when the last who has it open closes it, and takes the kernel 0.9 s
    where 4 GiB are cached.

    :raises OSError: as ``os.unlink`` does
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.unlink(path)
    finally:
        try:
            threading.Thread(target=os.close, args=(fd,), daemon=True,
                             name='free-staging').start()
        # Where no thread can be had it takes its time.
        except RuntimeError:
            os.close(fd)
