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

"""A cluster of the simulation, in which nothing happens by itself."""

import types

from glance_conversion_plugins.copying.sinks import rbd as rbd_sink
from glance_conversion_plugins.copying.sources import rbd as rbd_source
from glance_conversion_plugins.external import rbd_fence
from glance_conversion_plugins.external import rbd_index
from glance_conversion_plugins.external import rbd_marks
from glance_conversion_plugins.external import rbd_pool
from glance_conversion_plugins.stores import sparse_rbd
from glance_conversion_plugins.stores import sparsify_rbd
from tests.simulation import ceph
from tests.simulation import world

POOL = 'images'


class Cluster(ceph.Cluster):
    """Does what a test wants just before something that is asked of it."""

    def __init__(self):
        super().__init__(world.World(0))
        self.asked = []
        self._before = {}

    def before(self, what, happens):
        """Let something happen, once, before a call of that name."""
        self._before[what] = happens

    def step(self, client, what):
        self.asked.append(what)
        if happens := self._before.pop(what, None):
            happens()
        super().step(client, what)

    @property
    def images(self):
        """{name: what it is}"""
        return self.pools.setdefault(POOL, {})

    def client(self):
        """(rados.Rados, rados.Ioctx) of somebody else."""
        rados, _ = self.bindings()
        client = rados.Rados()
        return client, client.open_ioctx(POOL)


def replace(monkeypatch):
    """Let our modules see such a cluster, and a clock that runs by itself."""
    cluster = Cluster()
    rados, rbd = cluster.bindings()
    for module in (rbd_fence, rbd_marks, rbd_pool, rbd_sink, rbd_source,
                   sparse_rbd, sparsify_rbd):
        monkeypatch.setattr(module, 'rbd', rbd)
    for module in (rbd_index, rbd_pool):
        monkeypatch.setattr(module, 'rados', rados)
    clock = types.SimpleNamespace(now=0)

    def sleep(seconds):
        clock.now += seconds

    time = types.SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep)
    for module in (rbd_index, rbd_pool, sparse_rbd):
        monkeypatch.setattr(module, 'time', time)
    return cluster
