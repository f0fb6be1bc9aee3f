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

"""A cloud of our own code in a simulated world, and what must hold after."""

import contextlib
import itertools
import json
import types
import unittest.mock

from oslo_config import cfg

from glance_conversion_plugins import config
from glance_conversion_plugins.copying.sinks import rbd as rbd_sink
from glance_conversion_plugins.copying.sources import rbd as rbd_source
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.external import rbd_fence
from glance_conversion_plugins.external import rbd_index
from glance_conversion_plugins.external import rbd_marks
from glance_conversion_plugins.external import rbd_names
from glance_conversion_plugins.external import rbd_pool
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import deployment
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance import recovery
from glance_conversion_plugins.maintenance import sparsify
from glance_conversion_plugins.maintenance import unrecorded
from glance_conversion_plugins.stores import adoption
from glance_conversion_plugins.stores import driver
from glance_conversion_plugins.stores import handover
from glance_conversion_plugins.stores import liveness
from glance_conversion_plugins.stores import registry
from glance_conversion_plugins.stores import sparse_rbd
from glance_conversion_plugins.stores import sparsify_rbd
from tests.simulation import actors
from tests.simulation import ceph
from tests.simulation import glance
from tests.simulation import world as world_

config.register_opts(cfg.CONF)

OURS, FOREIGN = '0a0a0a0a', '0b0b0b0b'


class Store(sparse_rbd.Store):
    """The real driver, without what only its configuration needs."""

    READ_CHUNKSIZE = WRITE_CHUNKSIZE = 1 << 20
    conf_file = user = ''

    def __init__(self, store_id, pool):
        self.backend_group, self.pool = store_id, pool
        self.conf = types.SimpleNamespace(
            sparse_store=types.SimpleNamespace(zero_block_size=4096,
                                               data_pools={}))
        self.store_conf = types.SimpleNamespace(rados_connect_timeout=5)

    def is_capable(self, *_):
        return True

    def location(self, image_id):
        with self._connect():
            return (f'rbd://fsid/{self.pool}/{image_id}/snap',
                    {'store': self.backend_group})


class Cloud:
    """Nodes of one deployment, a neighbour on its pool, and their images."""

    def __init__(self, seed):
        self.world = world_.World(seed)
        self.cluster = ceph.Cluster(self.world)
        self.db = glance.Database(self.world)
        self.stores = {'ceph': Store('ceph', 'images'),
                       'other': Store('other', 'images2')}
        self.foreign = self._foreign_images()
        self.world.on_switch(self._be)
        # Of whoever is at work, when it is not this cloud.
        self.neighbours = {}
        # {actor: (id of the image that it writes, what it does)}
        self.writers = {}
        # {image id: how often it was begun when its last upload came}
        self.begun = {}
        # Processes of clean-ups.
        self.cleaners = set()
        # Ids of images whose owners have begun to delete them.
        self.unwanted = set()
        # {id of an upload: the process}, and of imports with their headers
        self.uploads = {}
        self.placeholders = []
        # Whether all nodes are replaced by others in the end.
        self.is_staging_lost = False
        self._numbers = itertools.count()

    def at_hand(self):
        """The database of the process that is at work."""
        return self.neighbours.get(self.world.actor, self.db)

    @property
    def repo(self):
        return self.at_hand().image_repo()

    def slow_database(self):
        """It may take its time to save what is there by now."""
        self.world.sleep(self.world.random.choice((0, 0, 2, 8, 50)))

    def new_request(self):
        """The context of a request to Glance."""
        return types.SimpleNamespace(request_id=f'req-{next(self._numbers)}')

    @contextlib.contextmanager
    def answering(self):
        """A request, for as long as Glance does what was asked for."""
        request = self.new_request()
        under_way = self.world.actor.process.under_way
        under_way.add(request.request_id)
        try:
            yield request
        finally:
            under_way.remove(request.request_id)

    def attempts(self, image_id):
        """How often somebody has begun to write an image."""
        return sum(image_id in name for name in self.cluster.created)

    def gave_up(self, image_id):
        """Whether an upload has failed and has left nothing."""
        return any(image_id in name and process not in self.cleaners
                   for name, process in self.cluster.removed)

    def new_upload(self):
        """What stands in for liveness.new_id()."""
        upload_id = f'{next(self._numbers):016x}-{0:08x}'
        # Those who look at the end do not die.
        self.uploads[upload_id] = (
            self.world.actor and self.world.actor.process)
        return upload_id

    def is_dead(self, upload_id):
        """What stands in for liveness.is_dead()."""
        process = self.uploads.get(upload_id)
        return bool(process) and self._is_known_to_be_dead(process)

    @property
    def _node(self):
        """Of whoever is at work; those who look at the end are everywhere."""
        return self.world.actor and self.world.actor.process.node

    def abandoned(self):
        """Placeholders of this node that nobody holds a lock on."""
        return [header for process, header in self.placeholders
                if self._is_known_to_be_dead(process)]

    def _is_known_to_be_dead(self, process):
        return (process.dead and not self.is_staging_lost
                and self._node in (None, process.node))

    def delete(self, url, context=None):
        """Delete data by its URL, as Glance does."""
        pool, name, snapshot = url.split('/')[-3:]
        store, = (s for s in self.stores.values() if s.pool == pool)
        store.delete(types.SimpleNamespace(
            store_location=types.SimpleNamespace(
                pool=pool, image=name, snapshot=snapshot)), context=context)

    def _foreign_images(self):
        """What others have in the pool, marked and not."""
        found = {}
        for number, state in enumerate(('', marks.PARTIAL, marks.REPLACED)):
            image_id = f'ffffffff-{number:04x}-4000-8000-000000000000'
            mark = marks.Mark(image_id, image_id, FOREIGN)
            name = mark.name(state) if state else image_id
            found[name] = ceph.Header(1)
            self.cluster.put('images', name, found[name])
            found[name].meta = {rbd_marks.KEY: json.dumps(rbd_marks.Meta(
                image_id, FOREIGN, 'host', '10.0.0.2:0/1')._asdict())}
        return found

    def _be(self, actor):
        """What is of a process alone is that of the one that goes on."""
        adoption._entries = actor.process.adopted
        handover._watches = actor.process.watches

    def parts(self):
        """What stands in for the outside."""
        rados, rbd = self.cluster.bindings()
        time = types.SimpleNamespace(
            sleep=self.world.sleep, time=lambda: self.world.now,
            monotonic=lambda: self.world.now)
        yield from ((module, 'rbd', rbd) for module in (
            rbd_fence, rbd_marks, rbd_names, rbd_pool, rbd_sink, rbd_source,
            sparse_rbd, sparsify_rbd, compat.rbd_driver))
        yield rbd_pool, 'rados', rados
        yield rbd_index, 'rados', rados
        yield rbd_names, 'rados', rados
        yield compat.rbd_driver, 'rados', rados
        yield handover, '_Watch', lambda: actors.Watch(self.world)
        yield rbd_sink, '_ABORT_SECONDS', 0
        yield from ((module, 'time', time) for module in (
            driver, handover, recovery, rbd_index, rbd_pool,
            sparse_rbd, sparsify, sparsify_rbd, unrecorded))
        for name in ('status', 'is_recorded', 'recorded_stores', 'find_task',
                     'lock_holder', 'locks', 'age', 'take_lock', 'set_status',
                     'image_age', 'lock_age', 'locations',
                     'set_location_deleted', 'importing_stores', 'give_back'):
            yield records, name, self._of_whoever(name)
        for name in ('image_repo', 'task_repo'):
            yield compat, name, self._of_whoever(name)
        yield compat, 'is_under_way', lambda work: (
            work in self.world.actor.process.under_way)
        yield compat, 'delete_data', lambda _, location: self.delete(
            location['url'])
        yield liveness, 'new_id', self.new_upload
        yield liveness, 'is_dead', self.is_dead
        yield deployment, 'identifier', lambda: (
            FOREIGN if self.world.actor in self.neighbours else OURS)
        yield registry, 'identifiers', lambda: list(self.stores)
        yield registry, 'find', self.stores.get
        yield registry, 'find_replacing', self.stores.get

    def _of_whoever(self, name):
        return lambda *args: getattr(self.at_hand(), name)(*args)


def run(seed):
    """One run of one seed; returns the cloud and what is wrong after it."""
    cloud = Cloud(seed)
    saved = adoption._entries, handover._watches
    patches = [unittest.mock.patch.object(*part) for part in cloud.parts()]
    for patch in patches:
        patch.start()
    try:
        return cloud, _run(cloud)
    finally:
        for patch in patches:
            patch.stop()
        adoption._entries, handover._watches = saved


def _run(cloud):
    _people(cloud)
    cloud.world.run()
    errors = [f'{a.name}: {a.error!r}' for a in cloud.world.actors if a.error]
    cloud.world.end()
    cloud.world.is_over = False
    cloud.is_staging_lost = cloud.world.random.random() < 0.3
    # Everybody is gone, for longer than anything waits. What was written
    # before an import that is dead as well is for the pass after it.
    for _ in range(2):
        cloud.world.now += 100_000
        actors.clean_up(cloud)
    return [*errors, *_lost(cloud), *_interrupted(cloud), *_left(cloud)]


def _people(cloud):
    chance, world, db = cloud.world.random, cloud.world, cloud.db
    for number in range(chance.choice((1, 2))):
        image_id = _somebody_writes(cloud, number)
        if chance.random() < 0.4:
            world.add(f'owner of {image_id}', actors.Owner(
                cloud, image_id, chance.choice((0, 1, 20, 700, 5000)),
                chance.random() < 0.5))
    if chance.random() < 0.3:
        # Its tasks have been silent since the copy was made.
        other = db.copied()
        neighbour = world.add('neighbour', actors.Agent(cloud, [
            chance.choice((0, 40, 4000)) for _ in range(3)]))
        cloud.neighbours[neighbour] = other
    for number in range(2):
        world.add(f'agent {number}', actors.Agent(cloud, [
            chance.choice((0, 3, 40, 650)) for _ in range(3)]))


def _somebody_writes(cloud, number):
    """One image, and a process that writes it; returns its id."""
    chance, world, db = cloud.world.random, cloud.world, cloud.db
    what = chance.choice(('import', 'import', 'import of two', 'upload',
                          'copy', 'sparsify'))
    name = f'{what} {number}'
    if what == 'upload':
        image_id = db.new_image('queued')
        work = actors.Upload(cloud, image_id)
    elif what in ('import', 'import of two'):
        image_id = db.new_image('importing')
        work = actors.Import(cloud, image_id, db.new_task(image_id),
                             ('ceph', 'other')[:1 + what.count('two')])
    else:
        image_id = _stored(cloud)
        work = actors.Sparsify(cloud, image_id, chance.choice((0, 1)))
        if what == 'copy':
            work = actors.Import(cloud, image_id, db.new_task(image_id),
                                 ('other',))
    cloud.writers[world.add(name, work)] = image_id, what
    return image_id


def _stored(cloud):
    """An image that is active, in the first store."""
    image_id = cloud.db.new_image('active')
    header = ceph.Header(1 << 20)
    cloud.cluster.put('images', image_id, header)
    header.data[0], header.snaps['snap'] = actors.CONTENT, True
    cloud.db.images[image_id].locations.append({
        'id': next(cloud.db.numbers),
        'url': f'rbd://fsid/images/{image_id}/snap',
        'metadata': {'store': 'ceph'}, 'status': 'active'})
    return image_id


def _is_half_an_import(cloud, image_id):
    """Of two stores: recorded in one, and then forgotten.

    As stock Glance does of what is recorded while its image is deleted. Or
    Ceph did not answer when the mark was taken off, so that nobody knows
    whose the image is when the import takes it back; or the import paused
    after the record until somebody else had taken the mark off.
    """
    return any(
        image_id in cloud.unwanted or _paused_after_a_record(cloud, actor)
        or any(entry[1:3] == ('hand over', 'FAILS')
               for entry in cloud.world.log)
        for actor, written in cloud.writers.items()
        if written == (image_id, 'import of two'))


def _paused_after_a_record(cloud, actor):
    own = [entry[2] for entry in cloud.world.log if entry[1] == actor.name]
    record = 'db: save image as importing'
    return record in own and 'PAUSES until' in own[own.index(record):]


def _lost(cloud):
    """Active images without their data, and what was others'."""
    for image_id, image in cloud.db.images.items():
        # Glance removes the data before it says so.
        if image_id in cloud.unwanted:
            continue
        for location in image.locations if image.status == 'active' else ():
            pool, name = location['url'].split('/')[-3:-1]
            header = cloud.cluster.find(pool, name)
            if not header or actors.CONTENT not in header.data.values() or (
                    not header.snaps):
                yield f'image {image_id} is active without its data'
    for name, header in cloud.foreign.items():
        if cloud.cluster.find('images', name) is not header:
            yield f'{name} was not ours'


def _interrupted(cloud):
    """Those who were disturbed by nobody and yet did not come to their end.
    """
    owned = {actor.name.split()[-1] for actor in cloud.world.actors
             if actor.name.startswith('owner')}
    for actor, (image_id, what) in cloud.writers.items():
        if what == 'sparsify' or image_id in owned:
            continue
        if actor.process.undisturbed:
            image = cloud.db.images[image_id]
            if len(image.locations) != 1 + (what in ('copy', 'import of two')):
                yield f'image {image_id}: {what} was interrupted'


def _left(cloud):
    """What nobody owns any more, and images that nobody gives back."""
    recorded = {tuple(location['url'].split('/')[-3:-1])
                for image in cloud.db.images.values()
                for location in image.locations}
    for pool in cloud.cluster.pools:
        listed = cloud.cluster.listed(pool)
        for name in cloud.cluster.named(pool):
            header = cloud.cluster.find(pool, name)
            if name in cloud.foreign or _may_be_left(cloud, pool, name):
                continue
            if not header and _was_forgotten(cloud, name):
                continue
            if (name not in listed and not (header and header.size)
                    and _died_together(cloud, name)):
                continue
            if name not in listed or not header:
                yield f'{name} is left in part'
            if (pool, name) not in recorded:
                yield f'{name} is left in the pool'
            elif header and rbd_marks.KEY in header.meta:
                yield f'{name} is still marked'
    for image_id, image in cloud.db.images.items():
        # Where it died before anything was made of it, or after that was
        # removed, nothing tells that an upload is dead; stock Glance has the
        # same.
        begun = (cloud.attempts(image_id) > cloud.begun.get(image_id, 0)
                 and not cloud.gave_up(image_id))
        locked = (compat.LOCK_PROPERTY in image.extra_properties
                  and image.status != 'deleted')
        if locked or image.status == 'importing' or (
                image.status == 'saving' and begun):
            yield f'image {image_id} is stuck: {image.status}'


def _was_forgotten(cloud, name):
    """Whether a name without an image is that of one who was away meanwhile.

    When it began to give it nothing knew of it any more.
    """
    process = cloud.cluster.created.get(name)
    return process and process.paused_until


def _died_together(cloud, name):
    """Whether two may have removed at once what was called so, and one died.

    Having led the name there again, which is never given again, when all that
    was in the image was gone. What was replaced somebody else would find.
    """
    dead = sum(entry[2] == 'DIES' for entry in cloud.world.log)
    return (dead >= 2 and name.endswith(f'.{marks.REPLACED}')
            or dead and name.endswith(f'.{marks.REMOVED}'))


def _died_within_a_delete(cloud, name):
    """Whether an import that removed what it had stored died at its name.

    As an owner may: all that was called so is gone, and the stock driver does
    it in steps. Its image is recorded, and can only be deleted.
    """
    image = cloud.db.images.get(name)
    steps = {f'forget {name}', f'unlist {name}'}
    return image and image.status == 'killed' and any(
        step[1] == death[1] and step[2] in steps and death[2] == 'DIES'
        for step, death in itertools.pairwise(cloud.world.log))


def _may_be_left(cloud, pool, name):
    """A second copy, that Glance could come to record, or has forgotten.

    Or what died while it was deleted, which stock Glance does in steps.
    """
    image_id = name.partition('.')[0]
    image = cloud.db.images.get(image_id)
    if pool == 'images2':
        return image and (image.status == 'active'
                          or image_id in cloud.unwanted)
    if name == image_id and _is_half_an_import(cloud, image_id):
        return True
    if _died_within_a_delete(cloud, name):
        return not cloud.cluster.find(pool, name)
    if image_id not in cloud.unwanted:
        return False
    # An owner who died within a delete deletes once more.
    return name.endswith(marks.REPLACED) or name == image_id and (
        not cloud.cluster.find(pool, name)
        or image.status != 'deleted'
        and name not in cloud.cluster.listed(pool))
