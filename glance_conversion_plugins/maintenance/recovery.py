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

An import of ours is known to be dead by its placeholder, which nobody holds a
lock on any more, or by a store, in which its lease is free while its task is
silent. Of all others Glance itself says that they are dead when their task
has been silent for an hour.
"""

from collections.abc import Iterable
import contextlib
import os
import socket
import time
from typing import Any

from oslo_config import cfg

from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.glance_db import retry
from glance_conversion_plugins.maintenance import recorded
from glance_conversion_plugins.stores import liveness
from glance_conversion_plugins.stores import placeholder
from glance_conversion_plugins.stores import verdict

CONF = cfg.CONF

_INTERRUPTED = ('The import was interrupted; upload the image and import it '
                'again.')
_KEPT = ('The import was interrupted. The upload is kept: import the image '
         'again.')
_TOO_LATE = 'The import was interrupted after the image was complete.'

# What is left for a living process to do once a task has ended; and after so
# long a free lock on a placeholder is no mistake of a file server. In seconds.
_AFTERMATH = 60

# What is put behind the name of a task in the lock of its image.
_TAKEN = '.clean-up'

# What is still to be done by an import then.
_INCOMPLETE = ('importing', 'queued', 'uploading', 'killed')

# An import of ours writes to its task every few seconds, also while it waits.
_OUR_SILENCE = 600

# After which Glance lets others take the lock of an import, twice as long for
# one that has not begun.
DEAD_AFTER = 3600

# So long a clean-up that lives may hold what it has taken over.
_SETTLING = 3


class Imports:
    """The imports of this Glance, told apart by whether they live."""

    def __init__(self, dead_after: float | None,
                 abandoned: Iterable[placeholder.Header],
                 staging: str = '') -> None:
        """Describe what is known.

        :param dead_after: seconds of silence after which any import is dead;
            None: as Glance has it
        :param abandoned: of placeholders whose process is gone
        :param staging: the folder in which they and the uploads are
        """
        self._staging = staging
        self._dead_after = DEAD_AFTER if dead_after is None else dead_after
        self._abandoned = {header.task_id: header for header in abandoned}
        # What was known of writers, and tasks that were made to fail here.
        self._known: dict[str, verdict.Writer] = {}
        self._ended: set[str] = set()

    def writer(self, task_id: str, image_id: str) -> verdict.Writer:
        """What is known of a writer whose lease is free."""
        # Once its task was made to fail here that is what it was before.
        if task_id not in self._ended:
            self._known[task_id] = self._look_at(task_id, image_id)
        return self._known[task_id]

    def _look_at(self, task_id: str, image_id: str) -> verdict.Writer:
        if self.is_gone(task_id):
            return verdict.Writer.DEAD
        task = records.find_task(task_id)
        if task is None:
            # An upload, which has none.
            return (verdict.Writer.LOST
                    if records.image_age(image_id) >= self._dead_after
                    else verdict.Writer.SILENT)
        age = records.age(task)
        if age >= self._dead_after:
            return verdict.Writer.LOST
        if task['status'] in ('success', 'failure') and age >= _AFTERMATH:
            return verdict.Writer.ENDED
        silence = _AFTERMATH if task_id in self._abandoned else _OUR_SILENCE
        return (verdict.Writer.SILENT if age >= silence
                else verdict.Writer.ALIVE)

    def is_gone(self, task_id: str) -> bool:
        """Say whether the process of a task or upload is gone for certain."""
        header = self._abandoned.get(task_id)
        if header and header.host == socket.gethostname():
            return True
        return liveness.is_dead(task_id)

    def dead(self) -> list[tuple[str, str]]:
        """(image id, lock) of every image that a dead import locks."""
        found = [lock for lock in records.locks() if self._is_dead(*lock)]
        if any(lock.endswith(_TAKEN) for _, lock in found):
            time.sleep(_SETTLING)
            locks = records.locks()
            found = [lock for lock in found
                     if lock in locks and self._is_dead(*lock)]
        return found

    def _is_dead(self, image_id: str, lock: str) -> bool:
        if lock.endswith(_TAKEN):
            return True
        task = records.find_task(lock)
        if task is None:
            # Glance sets the lock before it adds the task.
            return bool(records.lock_age(image_id) >= min(
                self._dead_after,
                _AFTERMATH if lock in self._abandoned else _OUR_SILENCE))
        if task['type'] != 'api_image_import':
            # Its data may be Nova's or Cinder's own.
            return False
        silence = self._dead_after
        if (lock in self._abandoned
                or task['status'] in ('success', 'failure')):
            silence = min(silence, _AFTERMATH)
        elif task['status'] == 'pending':
            silence *= 2
        return records.age(task) >= silence

    @retry.patient
    def release(self, image_id: str, lock: str, is_published: bool = False
                ) -> None:
        """Give an image back to its owner, and end its task.

        The lock is taken over first, so that an import that lives can do
        nothing more with the image once it has loaded it, and then the
        status, so that it can not save what it has loaded before. It is the
        last that goes: until then somebody else can go on with this. Does
        nothing for an image that nobody imports any more.

        :param lock: as ``dead()`` has it
        :param is_published: whether a store has all of it under its name
        :raises errors.Busy: if another task has the image by now
        :raises glance.common.exception.Conflict: if it went on meanwhile
        """
        task_id = lock.removesuffix(_TAKEN)
        taken = self._take_over(image_id, task_id)
        if taken is None:
            return
        _forget_pending_locations(image_id)
        status = records.status(image_id)
        if status in ('importing', 'queued', 'killed'):
            self._give_back(image_id, status, task_id, is_published)
        elif records.importing_stores(image_id):
            repo = compat.image_repo()
            image = repo.get(image_id)
            image.extra_properties[compat.IMPORTING_PROPERTY] = ''
            repo.save(image, status)
        _fail_task(task_id, self._end(image_id, task_id))
        if task_id in self._known:
            self._ended.add(task_id)
        with contextlib.suppress(compat.exception.NotFound):
            compat.image_repo().delete_property_atomic(
                compat.image_repo().get(image_id), compat.LOCK_PROPERTY,
                taken)

    def _end(self, image_id: str, task_id: str) -> str:
        """Keep the upload if there is one; returns what the owner is told."""
        status = records.status(image_id)
        if status not in _INCOMPLETE:
            return _TOO_LATE
        path = self.upload(image_id, task_id)
        if status == 'queued' and path:
            records.keep_upload(image_id, os.path.getsize(path))
        return _KEPT if path else _INTERRUPTED

    def upload(self, image_id: str, lock: str) -> str | None:
        """Where the upload of a dead import is, if it is whole.

        As long as there is a placeholder beside it, it was not replaced.
        """
        header = self._abandoned.get(lock.removesuffix(_TAKEN))
        path = os.path.join(self._staging, image_id)
        if (not header or not CONF.conversion.keep_upload
                or not os.path.exists(path)):
            return None
        task = records.find_task(header.task_id)
        request = task and task['input'].get('import_req')
        is_direct = request and request['method']['name'] == 'glance-direct'
        return path if is_direct else None

    def _take_over(self, image_id: str, task_id: str) -> str | None:
        """Make the lock of a dead import ours; returns what it is then."""
        taken = task_id + _TAKEN
        if not records.take_lock(image_id, task_id, taken):
            holder = records.lock_holder(image_id)
            if holder is None:
                return None
            if holder != taken:
                raise errors.Busy('Another import has the image.')
        return taken

    def _give_back(self, image_id: str, status: str, task_id: str,
                   is_published: bool) -> None:
        """Take all that an import has stored off an image.

        Nobody can do anything with one that is ``killed``, so what is removed
        is not what its owner has stored anew.
        """
        stores = _unfinished_stores(image_id)
        if status != 'killed':
            records.set_status(image_id, 'killed', status)
        if (is_published and status != 'queued'
                and not self.is_gone(task_id)):
            # One that wakes between a look at its lock and its save would
            # make the image active, were it imported again by then.
            return
        recorded.forget(image_id)
        values: dict[str, Any] = {'properties': {
            compat.IMPORTING_PROPERTY: '', compat.FAILED_PROPERTY: stores}}
        if header := self._abandoned.get(task_id):
            values |= {'disk_format': header.disk_format,
                       'container_format': header.container_format}
        records.give_back(image_id, values)


def is_lock_of(lock: str | None, task_id: str) -> bool:
    """Say whether a lock is that of a task, taken over or not."""
    return lock is not None and lock.removesuffix(_TAKEN) == task_id


def end_upload(image_id: str, status: str) -> None:
    """Keep Glance from recording an upload that seems to have died.

    :param status: what the image becomes: 'queued', or 'killed' where the
        upload could wake, and take a later one of the same image for itself
    :raises errors.Busy: if the image is not waiting for one any more
    """
    try:
        records.set_status(image_id, status, 'saving')
    except compat.exception.Conflict as e:
        raise errors.Busy('Nothing is uploaded to the image.') from e


def _forget_pending_locations(image_id: str) -> None:
    """Remove rows that a parallel import makes before it has a URL."""
    for location in records.locations(image_id):
        if location['url'].startswith(compat.PENDING_URL):
            records.set_location_deleted(location['id'], True)


def _unfinished_stores(image_id: str) -> str:
    stores = {*records.importing_stores(image_id)}
    stores |= {location['metadata'].get('store')
               for location in records.locations(image_id)}
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
