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

"""The simulation's Ceph in memory, as unit tests use it: nobody interferes.

tests/simulation/checks.py holds it to the real one.
"""

import collections.abc

from glance_conversion_plugins.external import marks
from tests.simulation import ceph
from tests.simulation import cloud
from tests.simulation import world

POOL = 'images'


class Images(collections.abc.MutableMapping):
    """Images of the pool that are whole, by name; each change is one step."""

    def __init__(self, cluster):
        self._cluster = cluster

    def __getitem__(self, name):
        if name not in self._cluster.listed(POOL) or not (
                header := self._cluster.find(POOL, name)):
            raise KeyError(name)
        return header

    def __setitem__(self, name, header):
        self._cluster.put(POOL, name, header)

    def __delitem__(self, name):
        self[name]
        objects = self._cluster.objects(POOL)
        image_id, = ceph.decoded(objects.pop(f'rbd_id.{name}'))
        del objects[ceph.DIRECTORY][f'name_{name}']
        del objects[f'rbd_header.{image_id}']

    def __iter__(self):
        return (name for name in self._cluster.listed(POOL)
                if self._cluster.find(POOL, name))

    def __len__(self):
        return sum(1 for _ in self)


class Died(BaseException):
    """A process did, and does nothing more."""


class Cluster(ceph.Cluster):
    """A cluster, and what was done in it."""

    def __init__(self):
        super().__init__(world.World(0))
        self.done = []
        self._left = None
        # {what is about to be done: what somebody else does before}
        self.before = {}

    def dies(self, steps, work):
        """Whether somebody dies at some work, which takes more steps."""
        self._left = steps
        try:
            work()
        except Died:
            return True
        finally:
            self._left = None
            self.let_go()
        return False

    def step(self, client, what):
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise Died
        self.done.append(what)
        if what in self.before:
            self.before.pop(what)()
        super().step(client, what)

    @property
    def images(self):
        """{name: header}"""
        return Images(self)

    def client(self):
        """Another process: (cluster, ioctx)."""
        client = ceph.Client(self, next(self._numbers))
        return client, client.open_ioctx(POOL)

    def let_go(self):
        """Ceph has forgotten whoever was killed."""
        for header in self.images.values():
            header.opened.clear()

    def open(self, name, **options):
        """Have an image open, as another process."""
        return ceph.Image(self.client()[1], name, **options)


def _diff_iterate(image, start, length, since, call):
    """What an image in memory holds, in blocks as they were written."""
    for at, data in sorted(image._header.data.items()):
        if start <= at < start + length:
            call(at, len(data), True)


def store(store_id='ceph'):
    """A real driver of the pool."""
    return cloud.Store(store_id, POOL)


def in_memory(monkeypatch):
    """Let all of our code use a cluster in memory, and its clock."""
    simulated = cloud.Cloud(0)
    simulated.cluster = cluster = Cluster()
    simulated.world = cluster.world
    for module, name, value in simulated.parts():
        # What clean-ups wait for is for their tests to say.
        if name in ('rbd', 'rados') or (
                name == 'time' and '.maintenance.' not in module.__name__):
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(ceph.Image, 'diff_iterate', _diff_iterate,
                        raising=False)
    return cluster


def mark(image_id, deployment, task_id='aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee'):
    return marks.Mark(image_id, task_id, deployment, 'host')


def create(cluster, name, snapshots=('snap',)):
    """Store an image as the stock driver does."""
    header = cluster.images[name] = ceph.Header(1 << 20)
    header.data[0] = b'content'
    header.snaps |= dict.fromkeys(snapshots, True)
    return header
