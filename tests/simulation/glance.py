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

"""A stand-in for Glance's records, with what its saves are known to check.

tests/unit/glance_db holds the real ones to the same: an image is saved on
condition of the status that was loaded, the lock property is removed by one
step, and checked by an import before it saves.
"""

import copy
import itertools
import types

from oslo_db import exception

from glance_conversion_plugins.glance_db import compat


class Database:
    """Rows of images and tasks, and the calls of ours that read them."""

    def __init__(self, world):
        self.world = world
        self.images = {}
        self.tasks = {}
        self.taken = {}     # locations that were, by their ids
        self.numbers = itertools.count()

    def _step(self, what):
        """It is away at times, longer than anybody has patience for."""
        self.world.step(what)
        self._answer()

    def _answer(self):
        if self.world.fails():
            raise exception.DBConnectionError

    def copied(self):
        """Another Glance's database, made of a copy of this one."""
        other = Database(self.world)
        other.images = copy.deepcopy(self.images)
        other.tasks = copy.deepcopy(self.tasks)
        other.taken = copy.deepcopy(self.taken)
        return other

    def new_image(self, status, **values):
        image_id = f'{next(self.numbers):08x}-0000-4000-8000-{0:012x}'
        self.images[image_id] = types.SimpleNamespace(
            image_id=image_id, status=status,
            locations=[],
            extra_properties={}, size=None, virtual_size=None, checksum=None,
            os_hash_algo=None, os_hash_value=None, disk_format='raw',
            container_format='bare', updated_at=self.world.now, **values)
        return image_id

    def new_task(self, image_id):
        task_id = f'aaaaaaaa-{next(self.numbers):04x}-4000-8000-{0:012x}'
        self.tasks[task_id] = {
            'id': task_id, 'type': 'api_image_import', 'status': 'processing',
            'updated_at': self.world.now, 'message': ''}
        self.images[image_id].extra_properties[compat.LOCK_PROPERTY] = task_id
        return task_id

    # What glance_db.records has

    def status(self, image_id):
        self._step('db: status')
        image = self.images.get(image_id)
        return image.status if image else 'unknown'

    def is_recorded(self, url):
        self._step('db: is recorded')
        return any(url == location['url'] for image in self.images.values()
                   if image.status != 'deleted'
                   for location in image.locations)

    def recorded_stores(self, image_id):
        self._step('db: stores')
        return {location['metadata']['store']
                for location in self.images[image_id].locations}

    def lock_holder(self, image_id):
        self._step('db: lock')
        image = self.images.get(image_id)
        return image and image.extra_properties.get(compat.LOCK_PROPERTY)

    def locks(self):
        self._step('db: locks')
        return [(i, image.extra_properties[compat.LOCK_PROPERTY])
                for i, image in self.images.items()
                if compat.LOCK_PROPERTY in image.extra_properties
                and image.status != 'deleted']

    def importing_stores(self, image_id):
        return []

    def find_task(self, task_id):
        self._step('db: task')
        found = self.tasks.get(task_id)
        return dict(found) if found else None

    def age(self, task):
        return self.world.now - task['updated_at']

    def touch(self, task_id):
        self._step('db: heartbeat')
        if self.tasks[task_id]['status'] == 'processing':
            self.tasks[task_id]['updated_at'] = self.world.now

    def take_lock(self, image_id, holder, successor):
        self._step('db: take lock')
        properties = self.images[image_id].extra_properties
        if properties.get(compat.LOCK_PROPERTY) != holder:
            return False
        properties[compat.LOCK_PROPERTY] = successor
        self._answer()
        return True

    def set_status(self, image_id, status, from_status):
        self._step(f'db: status {status}')
        if self.images[image_id].status != from_status:
            raise compat.exception.Conflict()
        self.images[image_id].status = status
        self.images[image_id].updated_at = self.world.now
        self._answer()

    def give_back(self, image_id, values):
        self.set_status(image_id, 'queued', 'killed')
        image = self.images[image_id]
        image.extra_properties |= values['properties']

    def image_age(self, image_id):
        self._step('db: age')
        image = self.images.get(image_id)
        return self.world.now - image.updated_at if image else 0

    # No lock here is set long before or after the last change of its image.
    lock_age = image_age

    def locations(self, image_id):
        self._step('db: locations')
        return copy.deepcopy([*self.images[image_id].locations])

    def set_location_deleted(self, location_id, deleted):
        self._step('db: location deleted')
        if not deleted:
            image_id, location = self.taken.pop(location_id, (None, None))
            if location:
                self.images[image_id].locations.append(location)
            return location is not None
        for image_id, image in self.images.items():
            for location in image.locations:
                if location['id'] == location_id:
                    image.locations.remove(location)
                    self.taken[location_id] = image_id, location
                    return True
        return False

    # What glance_db.compat has

    def image_repo(self):
        return ImageRepo(self)

    def task_repo(self):
        return TaskRepo(self)


class ImageRepo:
    def __init__(self, db):
        self._db = db

    def get(self, image_id):
        self._db._step('db: load image')
        image = self._db.images.get(image_id)
        if image is None or image.status == 'deleted':
            raise compat.exception.NotFound()
        return copy.deepcopy(image)

    def save(self, image, from_state=None):
        self._db._step(f'db: save image as {image.status}')
        row = self._db.images[image.image_id]
        if row.status == 'deleted':
            raise compat.exception.NotFound()
        if from_state and row.status != from_state:
            raise compat.exception.Conflict()
        # The lock property is never saved, only removed by itself.
        lock = row.extra_properties.get(compat.LOCK_PROPERTY)
        self._db.images[image.image_id] = row = copy.deepcopy(image)
        row.updated_at = self._db.world.now
        for location in row.locations:
            location.setdefault('id', next(self._db.numbers))
            location.setdefault('status', 'active')
        row.extra_properties.pop(compat.LOCK_PROPERTY, None)
        if lock:
            row.extra_properties[compat.LOCK_PROPERTY] = lock
        self._db._answer()

    def delete_property_atomic(self, image, name, value):
        self._db._step(f'db: remove {name}')
        properties = self._db.images[image.image_id].extra_properties
        if properties.get(name) != value:
            raise compat.exception.NotFound()
        del properties[name]
        self._db._answer()


class TaskRepo:
    def __init__(self, db):
        self._db = db

    def get(self, task_id):
        self._db._step('db: load task')
        if task_id not in self._db.tasks:
            raise compat.exception.NotFound()
        row = self._db.tasks[task_id]
        task = types.SimpleNamespace(task_id=task_id, status=row['status'],
                                     message=row['message'])

        def fail(message):
            task.status, task.message = 'failure', message

        task.fail = fail
        return task

    def save(self, task):
        self._db._step('db: save task')
        self._db.tasks[task.task_id] |= {
            'status': task.status, 'message': task.message,
            'updated_at': self._db.world.now}
