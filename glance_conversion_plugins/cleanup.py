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
import time
from typing import NamedTuple

from glance import housekeeping
import glance_store
from oslo_config import cfg

from glance_conversion_plugins import confinement
from glance_conversion_plugins import errors
from glance_conversion_plugins import placeholder
from glance_conversion_plugins import records
from glance_conversion_plugins import sinks
from glance_conversion_plugins import stores

LOG = logging.getLogger(__name__)
CONF = cfg.CONF

# A conversion writes to its task every few seconds, also while it waits.
_SILENCE = 600

# Between sealing an upload and handing it over to Glance lie moments in which
# nobody has it open.
_SETTLING = 3


class Finding(NamedTuple):
    """Something that a dead import has left."""

    what: str                   # one line for an operator
    remedy: Callable[[], None]


def find(dead_after: float | None = None) -> Iterator[Finding]:
    """Find what is left, in the order in which it is to be removed.

    :param dead_after: seconds of silence after which any import is dead;
        None: only one that is known to have been ours
    """
    staging = housekeeping.staging_store_path()
    abandoned = dict(_abandoned(staging))
    glance = records.Records(dead_after, abandoned)
    yield from _processes()
    yield from _stored(glance)
    dead = glance.dead_imports()
    yield from _staged(staging, abandoned, dead)
    for image_id, task_id in dead:
        yield Finding(f'the hold of the dead import {task_id} on image '
                      f'{image_id}',
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


def _stored(glance: records.Records) -> Iterator[Finding]:
    """Images in our stores that Glance has not recorded, or only now."""
    for store_id in stores.identifiers():
        try:
            if store := stores.adopting(store_id):
                yield from _nameless(store_id, store)
                yield from _left_in(store_id, store, glance)
        except (errors.SinkFailed, glance_store.BackendException) as e:
            yield Finding(f'store {store_id}: not searched, for it does not '
                          'answer', functools.partial(_fail, e))


def _nameless(store_id: str, store: stores.AdoptingStore
              ) -> Iterator[Finding]:
    """Images that were being replaced when ``sparsify`` died."""
    if found := nameless(store_id, store):
        # One that lives gives the name back within milliseconds.
        time.sleep(_SETTLING)
        for image_id in sorted(found & nameless(store_id, store)):
            yield Finding(f'store {store_id}: the name that a dead sparsify '
                          f'gave to image {image_id}',
                          functools.partial(store.put_back, image_id))


def nameless(store_id: str, store: stores.AdoptingStore) -> set[str]:
    """Ids of images whose name was taken; not of those deleted since."""
    return {image_id for image_id in store.nameless()
            if store_id in records.recorded_stores(image_id)}


def _left_in(store_id: str, store: stores.AdoptingStore,
             glance: records.Records) -> Iterator[Finding]:
    for owner in store.leftovers():
        if not records.find_image(owner.image_id):
            LOG.warning('Store %s has data of image %s, which this Glance '
                        'does not know', store_id, owner.image_id)
        elif not _is_dead(owner, store, glance):
            LOG.info('Image %s is being written', owner.image_id)
        elif store_id in records.recorded_stores(owner.image_id):
            yield Finding(
                f'store {store_id}: mark on the recorded image '
                f'{owner.image_id}', functools.partial(
                    store.hand_over, owner.image_id, owner.task_id))
        else:
            yield Finding(
                f'store {store_id}: data of the dead import or upload '
                f'{owner.task_id} of image {owner.image_id}',
                functools.partial(store.evict, owner.image_id,
                                  owner.task_id))


def _is_dead(owner: sinks.Owner, store: stores.AdoptingStore,
             glance: records.Records) -> bool:
    """Say whether nobody writes any more what was found.

    An upload has no task in Glance; it counts as dead when nobody has open
    what it writes, and as finished when its mark goes.
    """
    dead: bool | None = glance.is_dead(owner.task_id, _SILENCE)
    if dead is not None:
        return dead
    names = owner.image_id, owner.task_id
    if store.is_open(*names):
        return False
    # It may just have begun, or be about to be handed over.
    time.sleep(_SETTLING)
    return not store.is_open(*names) and names in {
        (left.image_id, left.task_id) for left in store.leftovers()}


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
                              functools.partial(_kill, pid))


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _owner(pid: int) -> str:
    prefix = f'{confinement.OWNER_VARIABLE}='.encode()
    with open(f'/proc/{pid}/environ', 'rb') as f:
        for entry in f.read().split(b'\0'):
            if entry.startswith(prefix):
                return entry.removeprefix(prefix).decode()
    return ''
