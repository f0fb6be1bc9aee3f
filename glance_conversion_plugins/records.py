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

"""Glance's records of images and imports, seen as an administrator."""

from collections.abc import Iterator
import contextlib
from typing import Any

from glance.common import exception
from glance import context as glance_context
from glance import db as glance_db
from glance.db.sqlalchemy import api as glance_db_api
from glance.db.sqlalchemy import models
from glance import gateway
from oslo_utils import timeutils
import sqlalchemy

from glance_conversion_plugins import database
from glance_conversion_plugins import placeholder

_INTERRUPTED = 'The import was interrupted; import the image again.'
_TOO_LATE = 'The import was interrupted after the image was complete.'

# What is left for a living process to do once a task has ended, in seconds.
_AFTERMATH = 60


def images(**filters: Any) -> Iterator[Any]:
    """All images that match, from the database as it is while it is read.

    :param filters: Glance's; one of status or deletion must be among them
    """
    db: Any = glance_db.get_api()
    context, marker = glance_context.get_admin_context(), None
    # Without a visibility Glance leaves community images out, and it takes
    # the one it is given out of the filters.
    while page := db.image_get_all(context, marker=marker, limit=500,
                                   filters={'visibility': 'all'} | filters):
        yield from page
        marker = page[-1]['id']


@database.patient
def find_image(image_id: str) -> Any:
    """The record of an image, deleted or not; None if there was none."""
    db: Any = glance_db.get_api()
    try:
        return db.image_get(glance_context.get_admin_context(), image_id,
                            force_show_deleted=True)
    except exception.NotFound:
        return None


@database.patient
def recorded_stores(image_id: str) -> set[str]:
    """The stores in which Glance knows the image to be."""
    try:
        db: Any = glance_db.get_api()
        image = db.image_get(
            glance_context.get_admin_context(), image_id)
    except exception.NotFound:
        return set()
    return {location['metadata'].get('store')
            for location in image['locations']
            if location['status'] == 'active'}


@database.patient
def load_image(image_id: str) -> Any:
    """An image with its locations in the order in which Glance tries them."""
    return gateway.Gateway().get_repo(
        glance_context.get_admin_context()).get(image_id)


@database.patient
def newest_public(limit: int) -> list[Any]:
    db: Any = glance_db.get_api()
    found: list[Any] = db.image_get_all(
        glance_context.get_admin_context(), limit=limit,
        sort_key=['created_at'], sort_dir=['desc'],
        filters={'visibility': 'public', 'status': 'active',
                 'os_hidden': False})
    return found


@database.patient
def most_hit(limit: int) -> list[str]:
    """Ids of the images with the most cache hits on all nodes together."""
    cached = models.CachedImages
    hits = sqlalchemy.func.sum(cached.hits)
    with glance_db_api.session_for_read() as session:
        return [image_id for image_id, in session.query(
            cached.image_id).join(
            models.Image, models.Image.id == cached.image_id).filter(
            models.Image.status == 'active').group_by(
            cached.image_id).having(hits > 0).order_by(
            hits.desc()).limit(limit)]


@database.patient
def last_task(image_id: str) -> Any:
    """The task of an image that was last at work; None if there is none."""
    db: Any = glance_db.get_api()
    return max(db.tasks_get_by_image(glance_context.get_admin_context(),
                                     image_id),
               key=lambda task: task['updated_at'], default=None)


@database.patient
def touch_task(task_id: str) -> None:
    """Let a task be as young as if it had just been at work."""
    db: Any = glance_db.get_api()
    with contextlib.suppress(exception.NotFound):
        db.task_update(glance_context.get_admin_context(), task_id, {})


def age(task: Any) -> float:
    """Seconds since a task was last at work."""
    return float((timeutils.utcnow() - task['updated_at']).total_seconds())


class Records:
    """All images and tasks."""

    def __init__(self, dead_after: float | None,
                 abandoned: dict[str, placeholder.Maker]) -> None:
        self._context = glance_context.get_admin_context()
        self._db: Any = glance_db.get_api()
        self._gateway = gateway.Gateway()
        self._dead_after = dead_after
        self._abandoned = {m.task_id: m for m in abandoned.values()}

    @database.patient
    def is_dead(self, task_id: str, silence: float | None) -> bool | None:
        """Say whether nobody works at a task any more; None: there is none.

        :param silence: in seconds, after which it is dead; None: never
        """
        if task_id in self._abandoned:
            return True
        try:
            task = self._db.task_get(self._context, task_id)
        except exception.NotFound:
            return None
        if self._dead_after is not None:
            silence = self._dead_after
        elif task['status'] in ('success', 'failure'):
            silence = _AFTERMATH
        return silence is not None and age(task) >= silence

    def dead_imports(self) -> list[tuple[str, str]]:
        """(image id, task id) of every image that a dead import holds."""
        return [(i, t) for i, t in self._locks()
                if self.is_dead(t, None) is not False]

    @staticmethod
    def _locks() -> Iterator[tuple[str, str]]:
        for image in images(deleted=False):
            for prop in image['properties']:
                if (prop['name'] == 'os_glance_import_task'
                        and not prop['deleted']):
                    yield image['id'], prop['value']

    @database.patient
    def release(self, image_id: str, task_id: str) -> None:
        """Give an image back to its owner, and end its task."""
        self._forget_pending_locations(image_id)
        repo = self._gateway.get_repo(self._context)
        image = repo.get(image_id)
        previous = image.status
        stores = self._unfinished_stores(image)
        image.extra_properties['os_glance_importing_to_stores'] = ''
        if previous == 'importing':
            # What it has of data is this import's, and of no use alone.
            while image.locations:
                image.locations.pop()
            image.checksum = image.os_hash_algo = image.os_hash_value = None
            image.size = image.virtual_size = None
            image.status = 'queued'
            image.extra_properties['os_glance_failed_import'] = stores
            if maker := self._abandoned.get(task_id):
                image.disk_format = maker.disk_format
                image.container_format = maker.container_format
        repo.save(image, previous)
        self._fail_task(task_id, _INTERRUPTED if image.status == 'queued'
                        else _TOO_LATE)
        with contextlib.suppress(exception.NotFound):
            repo.delete_property_atomic(repo.get(image_id),
                                        'os_glance_import_task', task_id)

    def _forget_pending_locations(self, image_id: str) -> None:
        """Remove rows that a parallel import makes before it has a URL."""
        image = self._db.image_get(self._context, image_id)
        for location in image['locations']:
            if location['url'].startswith('pending:'):
                self._db.image_location_delete(
                    self._context, image_id, location['id'], 'deleted')

    @staticmethod
    def _unfinished_stores(image: Any) -> str:
        stores = set(image.extra_properties.get(
            'os_glance_importing_to_stores', '').split(','))
        stores |= {location['metadata'].get('store')
                   for location in image.locations}
        return ','.join(sorted(store for store in stores if store))

    def _fail_task(self, task_id: str, message: str) -> None:
        repo = self._gateway.get_task_repo(self._context)
        try:
            task = repo.get(task_id)
        except exception.NotFound:
            return
        if task.status in ('pending', 'processing'):
            task.fail(message)
            repo.save(task)
