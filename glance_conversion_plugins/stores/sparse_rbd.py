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
import contextlib
import logging
import math
import socket
from typing import Any

from glance_store._drivers import rbd as stock
from glance_store import capabilities
from glance_store import exceptions
from oslo_config import cfg
import rbd

from glance_conversion_plugins import ceph
from glance_conversion_plugins import errors
from glance_conversion_plugins import pipeline
from glance_conversion_plugins import progress as progress_
from glance_conversion_plugins import replacing
from glance_conversion_plugins import sinks
from glance_conversion_plugins.sinks import rbd as rbd_sink
from glance_conversion_plugins import sources
from glance_conversion_plugins.sources import rbd as rbd_source
from glance_conversion_plugins import stores
from glance_conversion_plugins.stores import sparse

LOG = logging.getLogger(__name__)
CONF = cfg.CONF

# glance_store looks for the location class in the driver's module.
StoreLocation = stock.StoreLocation

_TIMEOUT = 30   # seconds

# One chunk, of 8 MiB by default, is read while one is on its way to a client.
# With two, reading dense images took twice the CPU time and was slower.
_AHEAD = 1


class Store(sparse.Sparse, stock.Store):
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
        stores.check_options(self.conf)
        stores.pose_as_stock(self.conf, self.backend_group, self.kind, 'rbd')
        super().configure(re_raise_bsc=re_raise_bsc)

    @property
    def _place(self) -> ceph.Place:
        return ceph.Place(self.conf_file, self.user, self.pool,
                          self.store_conf.rados_connect_timeout)

    @property
    def _desk(self) -> ceph.Place:
        """The same, for what is done in moments and must not hang.

        By default librados waits for ever for a cluster that is down.
        """
        timeout = self._place.timeout
        return self._place._replace(
            timeout=timeout if timeout >= 0 else _TIMEOUT)

    def sink(self, image_id: str, task_id: str) -> rbd_sink.RbdSink:
        return self._sink(image_id, task_id)

    def _sink(self, image_id: str, task_id: str, replaces: bool = False
              ) -> rbd_sink.RbdSink:
        owner = sinks.Owner(image_id, task_id, socket.gethostname())
        return rbd_sink.RbdSink(
            self._place, owner,
            order=int(math.log(self.WRITE_CHUNKSIZE, 2)),
            zero_block_size=self.conf.sparse_store.zero_block_size,
            data_pool=self.conf.sparse_store.data_pools.get(
                self.backend_group), replaces=replaces)

    @capabilities.check
    def get(self, location: Any, offset: int = 0,
            chunk_size: int | None = None, context: Any = None
            ) -> tuple[Iterable[bytes], int]:
        """Read an image, or ``chunk_size`` bytes of it from ``offset`` on."""
        where = location.store_location
        place = self._place._replace(pool=where.pool or self.pool)

        def open_source() -> rbd_source.RbdSource:
            try:
                return rbd_source.RbdSource(place, where.image,
                                            where.snapshot)
            except errors.SourceFailed as e:
                if isinstance(e.__cause__, rbd.ImageNotFound):
                    raise exceptions.NotFound(image=where.image) from e
                raise

        return self._download(open_source, self.get_size(location), offset,
                              chunk_size, _AHEAD)

    def source(self, image_id: str) -> rbd_source.RbdSource:
        return rbd_source.RbdSource(self._place, image_id)

    def location(self, image_id: str) -> tuple[str, dict[str, Any]]:
        with ceph.connect(self._desk) as (cluster, _):
            location = StoreLocation({
                'fsid': cluster.get_fsid(), 'pool': self.pool,
                'image': image_id, 'snapshot': ceph.SNAPSHOT}, self.conf)
        return str(location.get_uri()), (
            {'store': self.backend_group} if self.backend_group else {})

    def hand_over(self, image_id: str, task_id: str) -> None:
        with ceph.connect(self._desk) as (_, ioctx), ceph.translated():
            ceph.hand_over(ioctx, image_id, task_id)

    def discard(self, image_id: str, task_id: str) -> None:
        with ceph.connect(self._desk) as (_, ioctx), ceph.translated():
            ceph.discard(ioctx, image_id, task_id)

    def evict(self, image_id: str, task_id: str) -> None:
        with ceph.connect(self._desk) as (cluster, ioctx), ceph.translated():
            ceph.fence(cluster, ioctx, ceph.partial_name(image_id, task_id))
            ceph.discard(ioctx, image_id, task_id)

    def leftovers(self) -> list[sinks.Owner]:
        with ceph.connect(self._desk) as (_, ioctx), ceph.translated():
            return list(ceph.leftovers(ioctx))

    def is_open(self, image_id: str, task_id: str) -> bool:
        with ceph.connect(self._desk) as (_, ioctx), ceph.translated():
            return ceph.is_open(ioctx, ceph.partial_name(image_id, task_id))

    def sparsify(self, image_id: str, task_id: str,
                 check: Callable[[sources.Source], None],
                 progress: progress_.Progress) -> None:
        """Replace an image by a copy without its zeros.

        A snapshot can not lose its zeros in place.
        """
        with ceph.connect(self._desk) as (_, ioctx), ceph.translated():
            replacing.check_free(ioctx, image_id)
        sink = self._sink(image_id, task_id, replaces=True)
        try:
            with contextlib.closing(self.source(image_id)) as source:
                sink.create(source.size)
                progress.enter('Copying', source.size)
                pipeline.copy(source, sink, progress=progress)
            sink.complete()
            with contextlib.closing(rbd_source.RbdSource(
                    self._place, ceph.partial_name(image_id, task_id))
                    ) as copied:
                check(copied)
            sink.publish()
        except BaseException:
            sink.abort()
            raise
        self.hand_over(image_id, task_id)

    def nameless(self) -> list[str]:
        with ceph.connect(self._desk) as (_, ioctx), ceph.translated():
            return list(replacing.nameless(ioctx))

    def put_back(self, image_id: str) -> None:
        with ceph.connect(self._desk) as (_, ioctx), ceph.translated():
            replacing.put_back(ioctx, image_id)

    def replaced(self) -> list[str]:
        with ceph.connect(self._desk) as (_, ioctx), ceph.translated():
            return [name for name, _ in replacing.replaced(ioctx)]

    def forget_replaced(self) -> list[str]:
        left = []
        with ceph.connect(self._desk) as (_, ioctx), ceph.translated():
            for name, _ in list(replacing.replaced(ioctx)):
                try:
                    ceph.remove(ioctx, name)
                except rbd.Error as e:
                    LOG.warning('%s stays: %s', name, e)
                    left.append(name)
        return left
