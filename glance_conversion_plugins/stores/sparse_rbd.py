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

"""The ``sparse_rbd`` store: stock RBD, without the zeros."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import logging
import math
import time
from typing import Any

from glance_store import capabilities
from glance_store import exceptions

from glance_conversion_plugins.copying import pipeline
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying.sinks import rbd as rbd_sink
from glance_conversion_plugins.copying import sources
from glance_conversion_plugins.copying.sources import rbd as rbd_source
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import bindings
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.external import rbd_fence
from glance_conversion_plugins.external import rbd_index
from glance_conversion_plugins.external import rbd_marks
from glance_conversion_plugins.external import rbd_pool
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.stores import driver
from glance_conversion_plugins.stores import sparsify_rbd

LOG = logging.getLogger(__name__)

rbd = bindings.load('rbd')

# glance_store looks for the location class in the driver's module.
StoreLocation = compat.rbd_driver.StoreLocation

_TIMEOUT = 30   # seconds

# How long the process that wrote an image may take to see it recorded.
_LEASE_SECONDS = 10

# One chunk, of 8 MiB by default, is read while one is on its way to a client.
# With two, reading dense images took twice the CPU time and was slower.
_AHEAD = 1


class Store(driver.SparseDriver, compat.rbd_driver.Store):
    """Stock RBD store that neither writes nor reads zeros.

    Its images may also be written by an import task, and then are adopted.

    Options, URLs, names, features and snapshots are those of the stock
    driver, so a store can change between both types at any time. The stock
    options are used as they are: glance_store registers the options of every
    installed driver whose name contains the configured one, and others would
    collide in deployments that only have this package installed.
    """

    kind = 'sparse_rbd'

    _CAPABILITIES = (capabilities.BitMasks.READ_RANDOM
                     | capabilities.BitMasks.WRITE_ACCESS)

    def get_schemes(self) -> tuple[str, ...]:
        # The second is the entry point's name: Glance does not start unless
        # a scheme of that name exists.
        return ('rbd', self.kind)

    def configure(self, re_raise_bsc: bool = False) -> None:
        driver.check_options(self.conf)
        driver.pose_as_stock(self.conf, self.backend_group, self.kind, 'rbd')
        super().configure(re_raise_bsc=re_raise_bsc)

    @property
    def _pool(self) -> rbd_pool.Pool:
        return rbd_pool.Pool(self.conf_file, self.user, self.pool,
                             self.store_conf.rados_connect_timeout)

    def _connect(self) -> contextlib.AbstractContextManager[tuple[Any, Any]]:
        """Connect for what is done in moments and must not hang."""
        pool = self._pool
        return rbd_pool.connect(
            pool if pool.timeout >= 0 else pool._replace(timeout=_TIMEOUT))

    def _sink_options(self) -> dict[str, Any]:
        return {
            'order': int(math.log(self.WRITE_CHUNKSIZE, 2)),
            'zero_block_size': self.conf.sparse_store.zero_block_size,
            'data_pool': self.conf.sparse_store.data_pools.get(
                self.backend_group),
        }

    def sink(self, image_id: str, task_id: str) -> rbd_sink.RbdSink:
        return rbd_sink.RbdSink(self._pool, driver.mark(image_id, task_id),
                                **self._sink_options())

    @capabilities.check
    def get(self, location: Any, offset: int = 0,
            chunk_size: int | None = None, context: Any = None
            ) -> tuple[Iterable[bytes], int]:
        """Read an image, or ``chunk_size`` bytes of it from ``offset`` on."""
        where = location.store_location
        pool = self._pool._replace(name=where.pool or self.pool)

        def open_source() -> rbd_source.RbdSource:
            try:
                return rbd_source.RbdSource(pool, where.image,
                                            where.snapshot)
            except errors.SourceFailed as e:
                if isinstance(e.__cause__, rbd.ImageNotFound):
                    raise exceptions.NotFound(image=where.image) from e
                raise

        return self._download(open_source, self.get_size(location), offset,
                              chunk_size, _AHEAD)

    def source(self, image_id: str) -> rbd_source.RbdSource:
        return rbd_source.RbdSource(self._pool, image_id)

    def faults(self, image_id: str) -> list[str]:
        with self._connect() as (_, ioctx):
            return list(rbd_pool.faults(ioctx, image_id))

    def is_slow(self) -> bool:
        try:
            with self._connect() as (cluster, _):
                strain = rbd_pool.strain(cluster)
        except errors.SinkFailed:
            return True
        return strain is None or rbd_pool.SLOW in strain

    def places(self) -> list[str]:
        with self._connect() as (cluster, _):
            return [f'{cluster.get_fsid()}/{self.pool}']

    def location(self, image_id: str) -> tuple[str, dict[str, Any]]:
        with self._connect() as (cluster, _):
            location = StoreLocation({
                'fsid': cluster.get_fsid(), 'pool': self.pool,
                'image': image_id, 'snapshot': rbd_pool.SNAPSHOT}, self.conf)
        return str(location.get_uri()), (
            {'store': self.backend_group} if self.backend_group else {})

    def marked(self) -> list[marks.Found]:
        with self._connect() as (_, ioctx):
            return list(rbd_marks.marked(ioctx))

    @contextlib.contextmanager
    def turn(self) -> Iterator[Callable[[], None]]:
        with self._connect() as (_, ioctx):
            with rbd_index.turn(ioctx) as turn:
                yield turn.keep

    def look_up(self, mark: marks.Mark) -> marks.Found | None:
        with self._connect() as (_, ioctx):
            return rbd_marks.look_up(ioctx, mark)

    def is_open(self, found: marks.Found) -> bool:
        with self._connect() as (_, ioctx):
            name = rbd_marks.name_of(ioctx, found.mark)
            return name is not None and rbd_fence.is_open(ioctx, name)

    def hand_over(self, mark: marks.Mark) -> None:
        with self._connect() as (_, ioctx):
            rbd_marks.hand_over(ioctx, mark)

    def mark_again(self, mark: marks.Mark) -> None:
        with self._connect() as (_, ioctx):
            rbd_marks.mark_again(ioctx, mark)

    def fence(self, mark: marks.Mark) -> bool:
        with self._connect() as (cluster, ioctx):
            return rbd_marks.fence(cluster, ioctx, mark)

    def discard(self, mark: marks.Mark, is_published: bool = True) -> None:
        with self._connect() as (_, ioctx):
            rbd_marks.discard(ioctx, mark, is_published)

    def strike_out(self, mark: marks.Mark) -> None:
        with self._connect() as (_, ioctx):
            rbd_marks.strike_out(ioctx, mark)

    @capabilities.check
    def delete(self, location: Any, context: Any = None) -> None:
        """Delete an image, once nobody waits for it to be recorded."""
        name = location.store_location.image
        if self._is_own(name, context):
            return
        with driver.as_stock(name):
            mark = self._wait_for_writer(name)
        super().delete(location, context=context)
        if mark:
            self._forget_deleted(mark)

    def _wait_for_writer(self, name: str) -> marks.Mark | None:
        """Wait until whoever wrote an image has let go of it.

        :returns: the mark that it still bears, of whoever will not hand it
            over any more
        :raises exceptions.InUseByStore: if that takes too long; the stock
            driver would have removed its snapshot before it saw that. Also
            while a replacement has its name, and what comes would stay.
        """
        with self._connect() as (_, ioctx):
            if sparsify_rbd.is_nameless(ioctx, name):
                raise exceptions.InUseByStore()
            if not (meta := rbd_marks.read(ioctx, name)):
                return None
            deadline = time.monotonic() + _LEASE_SECONDS
            while rbd_fence.is_open(ioctx, name):
                if time.monotonic() > deadline:
                    raise exceptions.InUseByStore()
                time.sleep(0.1)
        return marks.Mark(name, meta.task, meta.deployment, meta.host)

    def _forget_deleted(self, mark: marks.Mark) -> None:
        try:
            self.strike_out(mark)
        except Exception:
            LOG.warning('Image %s: its entry is left to the clean-up',
                        mark.image_id, exc_info=True)

    def sparsify(self, image_id: str, task_id: str,
                 check: Callable[[sources.Source], None],
                 progress: progress_.Progress) -> None:
        """Replace an image by a copy without its zeros."""
        mark = driver.mark(image_id, task_id)
        sink = sparsify_rbd.ReplacingSink(self._pool, mark,
                                          **self._sink_options())
        try:
            with contextlib.closing(self.source(image_id)) as source:
                sink.create(source.size)
                progress.enter('Copying', source.size)
                pipeline.copy(source, sink, progress=progress)
            sink.seal()
            with contextlib.closing(rbd_source.RbdSource(
                    self._pool, mark.name(marks.PARTIAL))) as copied:
                check(copied)
            sink.publish()
            sink.hand_over()
        except BaseException:
            sink.abort()
            raise

    def nameless(self) -> list[str]:
        with self._connect() as (_, ioctx):
            return list(sparsify_rbd.nameless(ioctx))

    def put_back(self, image_id: str) -> None:
        with self._connect() as (cluster, ioctx):
            sparsify_rbd.put_back(cluster, ioctx, image_id)

    def replaced(self, grace: float) -> list[marks.Mark]:
        with self._connect() as (_, ioctx):
            return [mark for mark in sparsify_rbd.replaced(ioctx)
                    if sparsify_rbd.age(ioctx, mark) >= grace]

    def forget_replaced(self, mark: marks.Mark, is_deleted: bool) -> None:
        with self._connect() as (_, ioctx):
            sparsify_rbd.forget(ioctx, mark, is_deleted)
