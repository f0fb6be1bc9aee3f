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

"""The processes of two nodes and their neighbours, made of our own code."""

import contextlib
import socket
import uuid

import glance_store
from oslo_db import exception

from glance_conversion_plugins.copying import digest
from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.maintenance import cleanup
from glance_conversion_plugins.maintenance import recovery
from glance_conversion_plugins.maintenance import sparsify
from glance_conversion_plugins.stores import adoption
from glance_conversion_plugins.stores import driver
from glance_conversion_plugins.stores import handover
from glance_conversion_plugins.stores import placeholder
from glance_conversion_plugins.stores import sparsify_rbd
from tests.simulation import ceph
from tests.simulation import world as world_

CONTENT = b'content of the disk'.ljust(4096, b'.')
BLOCKS = 3
FAILURES = (errors.ConversionError, OSError, compat.exception.GlanceException,
            glance_store.GlanceStoreException, glance_store.BackendException,
            exception.DBError, ceph.Error)


def _write(sink, between=lambda: None):
    sink.create(BLOCKS << 20)
    for number in range(BLOCKS):
        between()
        sink.write(memoryview(CONTENT), number << 20)
    sink.seal()


class Watch(handover._Watch):
    """That of a process in a world, for as long as the simulation runs."""

    def __init__(self, world):
        super().__init__()
        self._world = world
        self._settling = world_.Lock(world)

    def add(self, published):
        self._waiting.append(published)
        self._world.add('hand over', self._until_all_is_settled,
                        process=self._world.actor.process)

    def _until_all_is_settled(self):
        # At last after so long that it lets go of what nobody records.
        for number in range(401):
            self._world.sleep(handover._PATIENCE if number == 400 else
                              self._world.random.choice((0, 1, 5)))
            if not self._waiting:
                return
            for each in list(self._waiting):
                self._look(each)


class Import:
    """An import by our task and Glance's, on one of Glance's nodes."""

    def __init__(self, cloud, image_id, task_id, store_ids=('ceph',)):
        self._cloud, self._image_id, self._task_id = cloud, image_id, task_id
        self._store_ids = store_ids

    def __call__(self):
        with self._cloud.answering() as request:
            try:
                self._convert()
                for store_id in self._store_ids:
                    self._adopt(store_id, request)
                self._end('success')
            except (*FAILURES, _Taken):
                self._revert(request)

    def _alive(self):
        image = self._cloud.repo.get(self._image_id)
        if (image.extra_properties.get(compat.LOCK_PROPERTY)
                != self._task_id):
            raise _Taken
        self._cloud.db.touch(self._task_id)
        return image

    def _go_on(self):
        """Blocks come slowly at times; the heartbeat does not stop then."""
        for _ in range(self._cloud.world.random.choice((0, 0, 1, 3))):
            self._cloud.world.sleep(4)
            self._alive()

    def _convert(self):
        image = self._alive()
        # Where locks do not reach other nodes, that of a living process
        # seems to be free there.
        host = self._cloud.world.random.choice((socket.gethostname(), 'other'))
        self._cloud.placeholders.append((
            self._cloud.world.actor.process, placeholder.Header(
                self._image_id, self._task_id, image.disk_format,
                image.container_format, host)))
        for store_id in self._store_ids:
            self._write(store_id)

    def _write(self, store_id):
        sink = self._cloud.stores[store_id].sink(self._image_id, self._task_id)
        try:
            _write(sink, self._go_on)
            self._alive()
        except BaseException:
            sink.abort()
            raise
        adoption.offer(store_id, self._image_id, self._task_id,
                       adoption.Sealed(sink, BLOCKS << 20,
                                       digest.Digest(None, None)))

    def _adopt(self, store_id, request):
        """As ImportActionWrapper does around the driver's add()."""
        image = self._alive()
        previous = image.status
        url, *_, metadata = self._cloud.stores[store_id].add(
            self._image_id, None, BLOCKS << 20, 'sha512', context=request)
        image.locations.append({'url': url, 'metadata': metadata})
        if store_id == self._store_ids[-1]:
            image.status = 'active'
        self._cloud.slow_database()
        self._alive()
        self._cloud.repo.save(image, previous)

    def _revert(self, request):
        try:
            adoption.forget(self._task_id)
            image = self._alive()
            if image.status == 'importing':
                # Its data goes before the record says so.
                for location in list(image.locations):
                    with contextlib.suppress(glance_store.NotFound):
                        self._cloud.delete(location['url'], request)
                    image.locations.remove(location)
                    self._cloud.repo.save(image, 'importing')
                image.status = 'queued'
                self._cloud.repo.save(image, 'importing')
            self._end('failure')
        except (*FAILURES, _Taken):
            return

    def _end(self, status):
        with contextlib.suppress(compat.exception.NotFound):
            self._cloud.repo.delete_property_atomic(
                self._cloud.repo.get(self._image_id), compat.LOCK_PROPERTY,
                self._task_id)
        task = compat.task_repo().get(self._task_id)
        if task.status == 'processing':
            task.status = status
            compat.task_repo().save(task)


class _Taken(Exception):
    """Another task has the lock, or nobody."""


class Upload:
    """PUT /v2/images/ID/file"""

    def __init__(self, cloud, image_id):
        self._cloud, self._image_id = cloud, image_id

    def __call__(self):
        with contextlib.suppress(*FAILURES), self._cloud.answering() as req:
            self._upload(req)

    def _upload(self, request):
        repo = self._cloud.repo
        image = repo.get(self._image_id)
        if image.status != 'queued':
            return
        image.status = 'saving'
        self._cloud.begun[self._image_id] = self._cloud.attempts(
            self._image_id)
        repo.save(image, 'queued')
        try:
            url, *_, metadata = self._cloud.stores['ceph'].add(
                self._image_id, self._chunks(), len(CONTENT), 'sha512',
                context=request)
        except glance_store.NotFound:
            return
        except Exception:
            # On no condition, as Glance does.
            image.status = 'queued'
            repo.save(image)
            raise
        image.locations.append({'url': url, 'metadata': metadata})
        image.status = 'active'
        self._cloud.slow_database()
        try:
            repo.save(image, 'saving')
        except (compat.exception.NotFound, compat.exception.Conflict):
            # As Glance does, whose image it may be by now.
            self._cloud.delete(url, request)

    def _chunks(self):
        self._cloud.world.sleep(self._cloud.world.random.choice((0, 2, 50)))
        yield CONTENT


class Owner:
    """Deletes an image at some time, or imports it again."""

    def __init__(self, cloud, image_id, after, again):
        self._cloud, self._image_id = cloud, image_id
        self._after, self._again = after, again

    def __call__(self):
        self._cloud.world.sleep(self._after)
        with contextlib.suppress(*FAILURES):
            image = self._cloud.repo.get(self._image_id)
            if not self._again:
                self._delete(image)
            elif image.status == 'queued' and (
                    compat.LOCK_PROPERTY not in image.extra_properties):
                self._write(image)

    def _write(self, image):
        if self._cloud.world.random.random() < 0.5:
            Upload(self._cloud, self._image_id)()
            return
        # Glance locks it before it looks at anything else.
        work = Import(self._cloud, self._image_id,
                      self._cloud.db.new_task(self._image_id))
        try:
            image.status = 'importing'
            self._cloud.repo.save(image, 'queued')
        except FAILURES:
            work._revert(self._cloud.new_request())
            return
        work()

    def _delete(self, image):
        """As Glance does: what is in use keeps its image."""
        self._cloud.unwanted.add(self._image_id)
        for location in image.locations:
            with contextlib.suppress(glance_store.NotFound):
                self._cloud.delete(location['url'],
                                   self._cloud.new_request())
        previous, image.status = image.status, 'deleted'
        self._cloud.repo.save(image, previous)


class Sparsify:
    """An operator who has images replaced by copies of them."""

    def __init__(self, cloud, image_id, after):
        self._cloud, self._image_id, self._after = cloud, image_id, after

    def __call__(self):
        self._cloud.world.sleep(self._after)
        store, task_id = self._cloud.stores['ceph'], str(uuid.uuid4())
        sink = sparsify_rbd.ReplacingSink(
            store._pool, driver.mark(self._image_id, task_id),
            **store._sink_options())
        with contextlib.suppress(*FAILURES):
            try:
                _write(sink)
                sink.publish()
                sink.hand_over()
            except BaseException:
                sink.abort()
                raise
        with contextlib.suppress(*FAILURES):
            for mark in sparsify.replaced('ceph', 0):
                _try(lambda m=mark: sparsify.forget('ceph', m))


class Agent:
    """Passes of the clean-up, at some times and once everybody is gone."""

    def __init__(self, cloud, times):
        self._cloud, self._times = cloud, times

    def __call__(self):
        self._cloud.cleaners.add(self._cloud.world.actor.process)
        for after in self._times:
            self._cloud.world.sleep(after)
            _try(lambda: clean_up(self._cloud))


def clean_up(cloud):
    """One pass; whatever a remedy has to say, the next one is tried."""
    imports = recovery.Imports(None, cloud.abandoned())
    dead = [each for each in imports.dead()
            if not cleanup._is_written(each[0])]
    for leftover in cleanup._stored(imports):
        _try(leftover.remedy)
    for image_id, lock in dead:
        _try(lambda i=image_id, k=lock: cleanup._release(imports, i, k))


def _try(remedy):
    with contextlib.suppress(*FAILURES):
        remedy()
