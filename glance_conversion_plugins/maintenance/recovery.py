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

"""Imports whose process is gone: which they are, and how their images go back.

An import is known to be dead by its placeholder, which nobody holds a lock
on any more, or by its task, which has ended or is silent.
"""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
from typing import Any

from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.glance_db import retry
from glance_conversion_plugins.stores import placeholder

_INTERRUPTED = 'The import was interrupted; import the image again.'
_TOO_LATE = 'The import was interrupted after the image was complete.'

# What is left for a living process to do once a task has ended, in seconds.
_AFTERMATH = 60


class Imports:
    """The imports of this Glance, told apart by whether they live."""

    def __init__(self, dead_after: float | None,
                 abandoned: Iterable[placeholder.Header]) -> None:
        """Describe what is known.

        :param dead_after: seconds of silence after which any import is dead;
            None: only one that is known to have been ours
        :param abandoned: of placeholders whose process is gone
        """
        self._dead_after = dead_after
        self._abandoned = {header.task_id: header for header in abandoned}

    def is_dead(self, task_id: str, silence: float | None) -> bool | None:
        """Say whether nobody works at a task any more; None: there is none.

        :param silence: in seconds, after which it is dead; None: never
        """
        if task_id in self._abandoned:
            return True
        task = records.find_task(task_id)
        if task is None:
            return None
        if self._dead_after is not None:
            silence = self._dead_after
        elif task['status'] in ('success', 'failure'):
            silence = _AFTERMATH
        return silence is not None and records.age(task) >= silence

    def dead(self) -> list[tuple[str, str]]:
        """(image id, task id) of every image that a dead import locks."""
        return [(image_id, task_id) for image_id, task_id in _locks()
                if self.is_dead(task_id, None) is not False]

    @retry.patient
    def release(self, image_id: str, task_id: str) -> None:
        """Give an image back to its owner, and end its task."""
        _forget_pending_locations(image_id)
        repo = compat.image_repo()
        image = repo.get(image_id)
        previous = image.status
        stores = _unfinished_stores(image)
        image.extra_properties[compat.IMPORTING_PROPERTY] = ''
        if previous == 'importing':
            # What it has of data is this import's, and of no use alone.
            while image.locations:
                image.locations.pop()
            image.checksum = image.os_hash_algo = image.os_hash_value = None
            image.size = image.virtual_size = None
            image.status = 'queued'
            image.extra_properties[compat.FAILED_PROPERTY] = stores
            if header := self._abandoned.get(task_id):
                image.disk_format = header.disk_format
                image.container_format = header.container_format
        repo.save(image, previous)
        _fail_task(task_id, _INTERRUPTED if image.status == 'queued'
                   else _TOO_LATE)
        with contextlib.suppress(compat.exception.NotFound):
            repo.delete_property_atomic(repo.get(image_id),
                                        compat.LOCK_PROPERTY, task_id)


def _locks() -> Iterator[tuple[str, str]]:
    for image in records.images(deleted=False):
        for prop in image['properties']:
            if prop['name'] == compat.LOCK_PROPERTY and not prop['deleted']:
                yield image['id'], prop['value']


def _forget_pending_locations(image_id: str) -> None:
    """Remove rows that a parallel import makes before it has a URL."""
    db, context = compat.database(), compat.admin_context()
    for location in db.image_get(context, image_id)['locations']:
        if location['url'].startswith(compat.PENDING_URL):
            db.image_location_delete(context, image_id, location['id'],
                                     'deleted')


def _unfinished_stores(image: Any) -> str:
    stores = set(image.extra_properties.get(
        compat.IMPORTING_PROPERTY, '').split(','))
    stores |= {location['metadata'].get('store')
               for location in image.locations}
    return ','.join(sorted(store for store in stores if store))


def _fail_task(task_id: str, message: str) -> None:
    repo = compat.task_repo()
    try:
        task = repo.get(task_id)
    except compat.exception.NotFound:
        return
    if task.status in ('pending', 'processing'):
        task.fail(message)
        repo.save(task)
