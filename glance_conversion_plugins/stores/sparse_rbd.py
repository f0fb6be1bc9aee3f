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

"""The ``sparse_rbd`` store: stock RBD that adopts what a task wrote."""

import logging
import math
import socket
from typing import Any

from glance_store._drivers import rbd as stock
from oslo_config import cfg

from glance_conversion_plugins import ceph
from glance_conversion_plugins import config
from glance_conversion_plugins import sinks
from glance_conversion_plugins.sinks import rbd as rbd_sink
from glance_conversion_plugins.sources import rbd as rbd_source
from glance_conversion_plugins import stores
from glance_conversion_plugins.stores import guard

LOG = logging.getLogger(__name__)
CONF = cfg.CONF

# glance_store looks for the location class in the driver's module.
StoreLocation = stock.StoreLocation

_TIMEOUT = 30   # seconds


class Store(guard.Adopting, stock.Store):
    """Stock RBD store whose images may be written by an import task.

    Options, URLs, names, features and snapshots are those of the stock
    driver, so a store can change between both types at any time. The stock
    options are used as they are: glance_store registers the options of every
    installed driver whose name contains the configured one, and others would
    collide in deployments that only have this package installed.
    """

    kind = 'sparse_rbd'

    def get_schemes(self) -> tuple[str, ...]:
        # The second is the entry point's name: Glance does not start unless
        # a scheme of that name exists.
        return ('rbd', self.kind)

    def configure(self, re_raise_bsc: bool = False) -> None:
        config.register_opts(self.conf)
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
        owner = sinks.Owner(image_id, task_id, socket.gethostname())
        return rbd_sink.RbdSink(
            self._place, owner,
            order=int(math.log(self.WRITE_CHUNKSIZE, 2)),
            zero_block_size=self.conf.sparse_store.zero_block_size)

    def source(self, image_id: str) -> rbd_source.RbdSource:
        return rbd_source.RbdSource(self._place, image_id)

    def location(self, image_id: str) -> tuple[str, dict[str, Any]]:
        with ceph.connect(self._desk) as (cluster, _):
            location = StoreLocation({
                'fsid': cluster.get_fsid(), 'pool': self.pool,
                'image': image_id, 'snapshot': ceph.SNAPSHOT}, self.conf)
        return str(location.get_uri()), {'store': self.backend_group}

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
