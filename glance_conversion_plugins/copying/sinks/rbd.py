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

"""An RBD image, written as the stock driver would leave it."""

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import functools
import logging
from typing import Any

from glance_conversion_plugins.copying import courtesy
from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import room as room_
from glance_conversion_plugins.copying.sinks import window
from glance_conversion_plugins.copying.sources import rbd as rbd_source
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import bindings
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.external import rbd_index
from glance_conversion_plugins.external import rbd_marks
from glance_conversion_plugins.external import rbd_names
from glance_conversion_plugins.external import rbd_pool

rbd = bindings.load('rbd')

LOG = logging.getLogger(__name__)

# How long abort() waits for writes under way before it leaves the image to
# the clean-up: a cluster that hangs must not hang the import's thread.
_ABORT_SECONDS = 30

# How often a cluster is asked how it is.
_HEALTH_SECONDS = 10


class RbdSink:
    """Writes data only, asynchronously, never across an object.

    Until it is published, the image has a name that tells what it is; until
    Glance has recorded it, it carries a mark, and is kept open.
    """

    def __init__(self, pool: rbd_pool.Pool, mark: marks.Mark, *, order: int,
                 zero_block_size: int, data_pool: str | None = None) -> None:
        """Describe the image; nothing is made yet.

        :param mark: whose image it is
        :param order: log2 of the object size in bytes
        :param zero_block_size: of zeros that are left out, in bytes
        :param data_pool: where its data goes, if not into the same pool
        """
        self._pool = pool
        self._mark = mark
        self._order = order
        self._object_size = 1 << order
        self._zero_block_size = min(zero_block_size, self._object_size)
        self._data_pool = data_pool
        self._name = mark.image_id
        self._partial = mark.name(marks.PARTIAL)
        self._window = window.Window()
        self._resources = contextlib.ExitStack()
        self._created = self._begun = False
        self._strain: Callable[[], set[str]] = set
        self._image: Any = None
        self._cluster: Any = None
        self._ioctx: Any = None

    def room(self, size: int) -> list[room_.Place]:
        self._connect()
        name = self._data_pool or self._pool.name
        with rbd_pool.translated():
            free = rbd_pool.free(self._cluster, name)
            place = f'{self._cluster.get_fsid()}/{name}'
        return [] if free is None else [room_.Place(place, free)]

    def _connect(self) -> None:
        if not self._ioctx:
            self._cluster, self._ioctx = self._resources.enter_context(
                rbd_pool.connect(self._pool))

    def create(self, size: int) -> None:
        self._connect()
        with rbd_pool.translated():
            self._check_name()
            # As the stock driver does, so that clones behave the same.
            configured = self._cluster.conf_get('rbd_default_features')
            features = int(configured or 0) or rbd.RBD_FEATURE_LAYERING
            self._created = True
            # Of one that dies at once, its name may be listed nowhere else.
            rbd_index.add(self._ioctx, self._mark)
            rbd.RBD().create(self._ioctx, self._partial, size, self._order,
                             old_format=False, features=features,
                             data_pool=self._data_pool)
            self._begun = True
            self._image = rbd.Image(self._ioctx, self._partial)
            rbd_marks.write(self._image, self._mark)
            self._strain = courtesy.Lately(
                self._told(rbd_pool.strain(self._cluster), set()), self._ask,
                _HEALTH_SECONDS)

    def _ask(self, former: set[str]) -> set[str]:
        # By a connection of its own: this one may be closed meanwhile.
        with rbd_pool.connect(self._pool) as (cluster, _):
            return self._told(rbd_pool.strain(cluster), former)

    def _told(self, strain: set[str] | None, former: set[str]) -> set[str]:
        if strain is None:
            return former
        if strain != former:
            LOG.info('Ceph says %s: image %s is written with %s at once',
                     ', '.join(sorted(strain)) or 'that it is well again',
                     self._name, 'little' if strain else 'more')
        return strain

    def _check_name(self) -> None:
        """See that nothing has the name that this will have."""
        if rbd_names.is_taken(self._ioctx, self._name):
            raise rbd.ImageExists('name taken')

    def write(self, view: memoryview, offset: int) -> int:
        self._window.spare(bool(self._strain()))
        runs = extent.data_runs(view, offset, self._zero_block_size)
        parts = [part for start, stop in runs
                 for part in extent.split(
                     extent.Extent(offset + start, stop - start,
                                   extent.Kind.DATA), self._object_size)]
        written = sum(part.length for part in parts)
        if parts:
            batch = self._window.begin(written, len(parts))
            self._submit(view, offset, parts, batch)
        return written

    def _submit(self, view: memoryview, offset: int,
                parts: Sequence[extent.Extent], batch: window.Batch) -> None:
        with rbd_pool.translated():
            for number, part in enumerate(parts):
                try:
                    data = _content(view, part.start - offset, part.length)
                    # librbd reads from it until it calls back.
                    self._image.aio_write(data, part.start, functools.partial(
                        _completed, batch, data, part.start))
                except Exception as e:
                    batch.end(e, len(parts) - number)
                    raise

    def zero(self, offset: int, length: int) -> None:
        """Do nothing: a new image reads as zeros."""

    def resize(self, size: int) -> None:
        with rbd_pool.translated():
            self._window.drain()
            self._image.resize(size)

    def seal(self) -> None:
        with rbd_pool.translated():
            self._window.drain()
            self._image.flush()
            self._image.create_snap(rbd_pool.SNAPSHOT)
            self._image.protect_snap(rbd_pool.SNAPSHOT)

    def read_back(self) -> rbd_source.RbdSource:
        # By a connection of its own, whose cache has nothing of it.
        return rbd_source.RbdSource(self._pool, self._partial)

    def publish(self) -> None:
        with rbd_pool.translated():
            try:
                self._take_name()
            except (rbd.ImageNotFound, rbd.ConnectionShutdown) as e:
                raise errors.Fenced from e

    def _take_name(self) -> None:
        rbd_marks.publish(self._ioctx, self._mark, self._image)

    def hand_over(self) -> None:
        with rbd_pool.translated():
            try:
                self._take_mark_off()
            except (rbd.ImageNotFound, rbd.ConnectionShutdown) as e:
                raise errors.Fenced from e
            finally:
                self.release()

    def _take_mark_off(self) -> None:
        try:
            rbd_marks.erase(self._image, self._mark)
        except errors.Fenced:
            # A clean-up that saw the image recorded has done so.
            if not rbd_marks.is_handed_over(self._ioctx, self._image,
                                            self._name):
                raise
        try:
            rbd_marks.strike_out(self._ioctx, self._mark)
        except Exception:
            LOG.warning('Image %s: its entry is left to the clean-up',
                        self._name, exc_info=True)

    def is_held(self) -> bool:
        if not self._begun:
            return True
        try:
            # Not by the connection that may have been shut out.
            with rbd_pool.connect(self._pool) as (_, ioctx):
                found = rbd_marks.name_of(ioctx, self._mark)
        except errors.SinkFailed:
            return True
        return found in (self._partial, self._name)

    def release(self) -> None:
        image, self._image = self._image, None
        try:
            with self._resources:
                if image:
                    image.close()
        except Exception:
            LOG.warning('%s was not closed', self._name, exc_info=True)

    def interrupt(self) -> None:
        self._window.fail(errors.Cancelled('The copy was stopped.'))

    def abort(self) -> None:
        try:
            self._abort()
        except Exception:
            LOG.exception('%s was not removed from pool %s; the clean-up will '
                          'find it', self._partial, self._pool.name)

    def _abort(self) -> None:
        self.interrupt()
        if not self._window.settle(_ABORT_SECONDS):
            raise errors.SinkFailed('The store does not answer.')
        self.release()
        if self._created:
            with rbd_pool.connect(self._pool) as (_, ioctx):
                self._discard(ioctx)
            self._created = False

    def _discard(self, ioctx: Any) -> None:
        rbd_marks.discard(ioctx, self._mark)


def _completed(batch: window.Batch, data: bytes, offset: int,
               completion: Any) -> None:
    status = completion.get_return_value()
    if status < 0:
        LOG.error('Write of %d bytes at %d failed: %d', len(data), offset,
                  status)
        batch.end(rbd_pool.failure_of(-status))
    else:
        batch.end()


def _content(view: memoryview, start: int, length: int) -> bytes:
    """A part of a view; librbd takes nothing but bytes."""
    whole = view.obj
    if isinstance(whole, bytes) and len(whole) == length:
        return whole
    return bytes(view[start:start + length])
