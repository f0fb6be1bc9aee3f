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

"""What imports that died have left, and how to take it away.

An import can be killed at any instruction. What it leaves is of four kinds:
data in a store with our name or mark, files in staging, an image record that
stays ``importing`` under a lock, and, in theory, a qemu process.

Nothing is touched unless its import is known to be dead: no process of this
node holds the lock on its placeholder, its task has ended a while ago, or the
task has been silent for longer than a conversion ever is. An import that did
not reach us says nothing either way; its silence counts only if the operator
says so. What Glance has recorded only loses our mark, and what belongs to an
image that this Glance does not know is not this Glance's to judge.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import functools
import logging
import os
import signal
from typing import Any
from typing import NamedTuple

from glance.common import exception
from glance import context as glance_context
from glance import db as glance_db
from glance import gateway
from glance import housekeeping
import glance_store
from oslo_config import cfg
from oslo_utils import timeutils

from glance_conversion_plugins import confinement
from glance_conversion_plugins import database
from glance_conversion_plugins import errors
from glance_conversion_plugins import placeholder
from glance_conversion_plugins import settlement
from glance_conversion_plugins import stores

LOG = logging.getLogger(__name__)
CONF = cfg.CONF

_INTERRUPTED = 'The import was interrupted; import the image again.'
# A conversion writes to its task every few seconds, also while it waits.
_SILENCE = 600

# What is left for a living process to do once a task has ended.
_AFTERMATH = 60

_TOO_LATE = 'The import was interrupted after the image was complete.'


class Finding(NamedTuple):
    """Something that a dead import has left."""

    what: str                   # one line for an operator
    remedy: Callable[[], None]


class _Glance:
    """Glance's records, seen as an administrator."""

    def __init__(self, dead_after: float | None,
                 abandoned: dict[str, placeholder.Maker]) -> None:
        self._context = glance_context.get_admin_context()
        self._db: Any = glance_db.get_api()
        self._gateway = gateway.Gateway()
        self._dead_after = dead_after
        self._abandoned = {m.task_id: m for m in abandoned.values()}

    @database.patient
    def knows(self, image_id: str) -> bool:
        """Say whether an image is, or was, in this Glance."""
        try:
            self._db.image_get(self._context, image_id,
                               force_show_deleted=True)
        except exception.NotFound:
            return False
        return True

    @database.patient
    def is_dead(self, task_id: str, silence: float | None) -> bool:
        """Say whether nobody works at a task any more.

        :param silence: in seconds, after which it is dead; None: never
        """
        if task_id in self._abandoned:
            return True
        try:
            task = self._db.task_get(self._context, task_id)
        except exception.NotFound:
            return True
        age = (timeutils.utcnow() - task['updated_at']).total_seconds()
        if self._dead_after is not None:
            silence = self._dead_after
        elif task['status'] in ('success', 'failure'):
            silence = _AFTERMATH
        return silence is not None and age >= silence

    def dead_imports(self) -> list[tuple[str, str]]:
        """(image id, task id) of every image that a dead import holds."""
        return [(i, t) for i, t in self._locks() if self.is_dead(t, None)]

    def _locks(self) -> Iterator[tuple[str, str]]:
        marker = None
        while page := self._db.image_get_all(
                self._context, marker=marker, limit=500,
                filters={'deleted': False}):
            for image in page:
                for prop in image['properties']:
                    if (prop['name'] == 'os_glance_import_task'
                            and not prop['deleted']):
                        yield image['id'], prop['value']
            marker = page[-1]['id']

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


def find(dead_after: float | None = None) -> Iterator[Finding]:
    """Find what is left, in the order in which it is to be removed.

    :param dead_after: seconds of silence after which any import is dead;
        None: only one that is known to have been ours
    """
    staging = housekeeping.staging_store_path()
    abandoned = dict(_abandoned(staging))
    glance = _Glance(dead_after, abandoned)
    yield from _processes()
    yield from _stored(glance)
    dead = glance.dead_imports()
    yield from _staged(staging, abandoned, dead)
    for image_id, task_id in dead:
        yield Finding(f'image {image_id}: held by its dead import {task_id}',
                      functools.partial(glance.release, image_id, task_id))


def _abandoned(staging: str) -> Iterator[tuple[str, placeholder.Maker]]:
    for name in sorted(_names(staging)):
        path = os.path.join(staging, name)
        if name.endswith(placeholder.SUFFIX):
            if maker := placeholder.read_abandoned(path):
                yield path, maker


def _staged(staging: str, abandoned: dict[str, placeholder.Maker],
            dead: list[tuple[str, str]]) -> Iterator[Finding]:
    """Files of dead imports: claims, uploads, what they were converted to."""
    claimed = {maker.image_id for maker in abandoned.values()}
    uploads = {image_id for image_id, _ in dead}
    for name in sorted(_names(staging)):
        image_id, converted, _ = name.partition('.')
        path = os.path.join(staging, name)
        if (path in abandoned or image_id in uploads
                or converted and image_id in claimed):
            yield Finding(f'staged file {path}',
                          functools.partial(os.unlink, path))


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _stored(glance: _Glance) -> Iterator[Finding]:
    """Images in our stores that Glance has not recorded, or only now."""
    # A copy: looking up a store adds the reserved ones to the original.
    for store_id in list(CONF.enabled_backends or {}):
        try:
            if store := stores.adopting(store_id):
                yield from _left_in(store_id, store, glance)
        except (errors.SinkFailed, glance_store.BackendException) as e:
            yield Finding(f'store {store_id}: not searched, for it does not '
                          'answer', functools.partial(_fail, e))


def _left_in(store_id: str, store: stores.AdoptingStore, glance: _Glance
             ) -> Iterator[Finding]:
    for owner in store.leftovers():
        if not glance.knows(owner.image_id):
            LOG.warning('Store %s has data of image %s, which this Glance '
                        'does not know', store_id, owner.image_id)
        elif not glance.is_dead(owner.task_id, _SILENCE):
            LOG.info('Image %s is being imported', owner.image_id)
        elif store_id in settlement.recorded_stores(owner.image_id):
            yield Finding(
                f'store {store_id}: mark on the recorded image '
                f'{owner.image_id}', functools.partial(
                    store.hand_over, owner.image_id, owner.task_id))
        else:
            yield Finding(
                f'store {store_id}: data of the dead import '
                f'{owner.task_id} of image {owner.image_id}',
                functools.partial(store.evict, owner.image_id,
                                  owner.task_id))


def _fail(error: Exception) -> None:
    raise error


def _processes() -> Iterator[Finding]:
    """Processes of qemu whose owner is gone."""
    for pid in [int(p) for p in os.listdir('/proc') if p.isdigit()]:
        with contextlib.suppress(OSError, ValueError):
            # Pids mean nothing in another container's namespace.
            if (os.readlink(f'/proc/{pid}/ns/pid')
                    != os.readlink('/proc/self/ns/pid')):
                continue
            owner = _owner(pid)
            if owner and confinement.identity(int(owner.split()[0])) != owner:
                yield Finding(f'process {pid}',
                              functools.partial(os.kill, pid,
                                                signal.SIGKILL))


def _owner(pid: int) -> str:
    prefix = f'{confinement.OWNER_VARIABLE}='.encode()
    with open(f'/proc/{pid}/environ', 'rb') as f:
        for entry in f.read().split(b'\0'):
            if entry.startswith(prefix):
                return entry.removeprefix(prefix).decode()
    return ''
