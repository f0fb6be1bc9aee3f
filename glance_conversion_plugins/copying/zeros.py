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
"""Zeros that take room in a store, and how to give it back."""

from collections.abc import Iterator
import ctypes
import errno
import os

from glance_conversion_plugins.copying import download
from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import os_errors

_CHUNK = 1024 * 1024

# linux/falloc.h; the os module has no such call.
_KEEP_SIZE = 1
_PUNCH_HOLE = 2

_libc = ctypes.CDLL(None, use_errno=True)


def stored_zeros(source: download.Readable, gap: int,
                 progress: progress_.Progress) -> Iterator[extent.Extent]:
    """Find what is stored and holds nothing but zeros.

    :param gap: how many bytes of zeros between data count, up to 1 MiB
    """
    progress.enter('Looking for zeros', source.size)
    at = 0
    for run in extent.data(source.extents(0, source.size), 0):
        progress.advance(run.start - at)
        for part in extent.split(run, _CHUNK):
            view = memoryview(source.read(part.start, part.length))
            yield from _zeros(view, part.start, gap)
            progress.advance(part.length)
        at = run.end
    progress.advance(source.size - at)


def _zeros(view: memoryview, offset: int, gap: int
           ) -> Iterator[extent.Extent]:
    """What extent.data_runs() leaves out of a view."""
    at = 0
    for start, stop in (*extent.data_runs(view, offset, gap),
                        (len(view), len(view))):
        if start > at:
            yield extent.Extent(offset + at, start - at, extent.Kind.ZERO)
        at = stop


def punch(path: str, source: download.Readable, gap: int,
          progress: progress_.Progress) -> None:
    """Turn the zeros of a file into holes, in place.

    Whoever reads the file meanwhile sees no difference, and neither does one
    who finds it half done.

    :param source: reads the same file
    :raises errors.SinkFailed: if the file system knows no holes
    """
    with os_errors.translated(os.path.dirname(path)):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for run in stored_zeros(source, gap, progress):
                _punch(fd, run)
                progress.wrote(run.length)
            os.fsync(fd)
        finally:
            os.close(fd)


def _punch(fd: int, run: extent.Extent) -> None:
    if _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE,
                       ctypes.c_int64(run.start),
                       ctypes.c_int64(run.length)):
        error = ctypes.get_errno()
        if error == errno.EOPNOTSUPP:
            raise errors.SinkFailed('The file system of the store can not '
                                    'make holes in files.')
        raise OSError(error, os.strerror(error))
