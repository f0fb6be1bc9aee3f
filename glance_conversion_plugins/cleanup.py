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
an RBD image with our name or mark, files in staging, an image record that
stays ``importing`` under a lock, and, in theory, a qemu process.

Nothing is touched unless its import is known to be dead: its placeholder in
staging is not locked by any process of this node, its task has ended, or its
task has shown no sign of life for long. A living one shows a sign every few
seconds. Data that Glance has recorded only loses our mark.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import datetime
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
from oslo_config import cfg
from oslo_utils import timeutils

from glance_conversion_plugins import database
from glance_conversion_plugins import placeholder
from glance_conversion_plugins import qemu
from glance_conversion_plugins import settlement
from glance_conversion_plugins import stores

LOG = logging.getLogger(__name__)
CONF = cfg.CONF

_INTERRUPTED = 'The import was interrupted; import the image again.'
_TOO_LATE = 'The import was interrupted after the image was complete.'


class Finding(NamedTuple):
    """Something that a dead import has left."""

    what: str                   # one line for an operator
    remedy: Callable[[], None]


class _Glance:
    """Glance's records, seen as an administrator."""

    def __init__(self, dead_after: datetime.timedelta,
                 abandoned: dict[str, placeholder.Maker]) -> None:
        self._context = glance_context.get_admin_context()
        self._db: Any = glance_db.get_api()
        self._gateway = gateway.Gateway()
        self._dead_after = dead_after
        self._abandoned = {m.task_id for m in abandoned.values()}

    @database.patient
    def is_dead(self, task_id: str) -> bool:
        """Say whether nobody works at a task any more."""
        if task_id in self._abandoned:
            return True
        try:
            task = self._db.task_get(self._context, task_id)
        except exception.NotFound:
            return True
        if task['status'] in ('success', 'failure'):
            return True
        silence: datetime.timedelta = timeutils.utcnow() - task['updated_at']
        return silence >= self._dead_after

    def importing(self) -> Iterator[tuple[str, str]]:
        """(image id, task id) of every image that an import holds."""
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


def find(dead_after: float) -> Iterator[Finding]:
    """Find what is left, in the order in which it is to be removed.

    :param dead_after: seconds of silence after which an import is dead that
        did not run on this node, or not in our hands
    """
    staging = housekeeping.staging_store_path()
    abandoned = dict(_abandoned(staging))
    glance = _Glance(datetime.timedelta(seconds=dead_after), abandoned)
    yield from _processes()
    yield from _stored(glance)
    dead = [(i, t) for i, t in glance.importing() if glance.is_dead(t)]
    yield from _staged(staging, abandoned, dead)
    for image_id, task_id in dead:
        yield Finding(f'image {image_id}: held by its dead import {task_id}',
                      functools.partial(glance.release, image_id, task_id))


def _abandoned(staging: str) -> Iterator[tuple[str, placeholder.Maker]]:
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(staging)):
            path = os.path.join(staging, name)
            if name.endswith(placeholder.SUFFIX):
                if maker := placeholder.read_abandoned(path):
                    yield path, maker


def _staged(staging: str, abandoned: dict[str, placeholder.Maker],
            dead: list[tuple[str, str]]) -> Iterator[Finding]:
    """Files of dead imports: placeholders, and what was uploaded."""
    paths = set(abandoned)
    paths |= {os.path.join(staging, i) for i, _ in dead}
    paths |= {os.path.join(staging, m.image_id) for m in abandoned.values()
              if m.image_id in {i for i, _ in dead}}
    for path in sorted(paths):
        if os.path.exists(path):
            yield Finding(f'staged file {path}',
                          functools.partial(os.unlink, path))


def _stored(glance: _Glance) -> Iterator[Finding]:
    """Images in our stores that Glance has not recorded, or only now."""
    # A copy: looking up a store adds the reserved ones to the original.
    for store_id in list(CONF.enabled_backends or {}):
        store = stores.adopting(store_id)
        if store is None:
            continue
        for owner in store.leftovers():
            if not glance.is_dead(owner.task_id):
                continue
            if store_id in settlement.recorded_stores(owner.image_id):
                yield Finding(
                    f'store {store_id}: mark on the active image '
                    f'{owner.image_id}',
                    functools.partial(store.hand_over, owner.image_id,
                                      owner.task_id))
            else:
                yield Finding(
                    f'store {store_id}: data of the dead import '
                    f'{owner.task_id} of image {owner.image_id}',
                    functools.partial(store.evict, owner.image_id,
                                      owner.task_id))


def _processes() -> Iterator[Finding]:
    """Processes of qemu whose owner is gone."""
    for pid in [int(p) for p in os.listdir('/proc') if p.isdigit()]:
        with contextlib.suppress(OSError):
            with open(f'/proc/{pid}/environ', 'rb') as f:
                environ = dict(e.split(b'=', 1) for e in f.read().split(b'\0')
                               if b'=' in e)
            owner = environ.get(qemu.OWNER_VARIABLE.encode(), b'').decode()
            if owner and qemu.identity(int(owner.split()[0])) != owner:
                yield Finding(f'process {pid}',
                              functools.partial(os.kill, pid,
                                                signal.SIGKILL))

