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

"""A snapshot of an RBD image, read sparsely."""

from collections.abc import Iterator
import contextlib

from glance_conversion_plugins.copying import extent
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import bindings
from glance_conversion_plugins.external import rbd_pool

rbd = bindings.load('rbd')

# How much of an image is asked for at once: each object is looked at, and
# nobody hears of the first ones, nor to stop, before all of them were.
_WINDOW = 16 << 30


class RbdSource:
    """Reads what is allocated; the rest is known to be zeros."""

    def __init__(self, pool: rbd_pool.Pool, name: str,
                 snapshot: str | None = rbd_pool.SNAPSHOT) -> None:
        self._resources = contextlib.ExitStack()
        self._stopped = False
        try:
            _, ioctx = self._resources.enter_context(rbd_pool.connect(pool))
            self._image = self._resources.enter_context(
                rbd.Image(ioctx, name, snapshot=snapshot, read_only=True))
            self.size: int = self._image.size()
        except (rbd.Error, errors.SinkFailed) as e:
            self._resources.close()
            raise errors.SourceFailed(
                'The stored image could not be read.') from e

    def extents(self, start: int, length: int) -> Iterator[extent.Extent]:
        end = start + length
        for at in range(start, end, _WINDOW):
            if self._stopped:
                raise errors.Cancelled('Reading the stored image was stopped.')
            yield from self._window(at, min(_WINDOW, end - at))

    def _window(self, start: int, length: int) -> Iterator[extent.Extent]:
        found: list[tuple[int, int]] = []

        def collect(offset: int, size: int, exists: bool) -> None:
            if exists:
                found.append((offset, size))

        try:
            self._image.diff_iterate(start, length, None, collect)
        except rbd.Error as e:
            raise errors.SourceFailed(
                'The stored image could not be read.') from e
        at = start
        for offset, size in found:
            if offset > at:
                yield extent.Extent(at, offset - at, extent.Kind.HOLE)
            yield extent.Extent(offset, size, extent.Kind.DATA)
            at = offset + size
        if at < start + length:
            yield extent.Extent(at, start + length - at, extent.Kind.HOLE)

    def read(self, offset: int, length: int) -> bytes:
        if self._stopped:
            raise errors.Cancelled('Reading the stored image was stopped.')
        try:
            return self._image.read(offset, length)     # type: ignore
        except rbd.Error as e:
            raise errors.SourceFailed(
                'The stored image could not be read.') from e

    def interrupt(self) -> None:
        self._stopped = True

    def close(self) -> None:
        self._resources.close()
