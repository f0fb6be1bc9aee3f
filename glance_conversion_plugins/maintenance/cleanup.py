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

import glance_store
from oslo_config import cfg

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.external import sandbox
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance import recovery
from glance_conversion_plugins.stores import placeholder
from glance_conversion_plugins.stores import protocols
from glance_conversion_plugins.stores import registry

LOG = logging.getLogger(__name__)
CONF = cfg.CONF

# A conversion writes to its task every few seconds, also while it waits.
_SILENCE = 600

# Between sealing an upload and handing it over to Glance lie moments in which
# nobody has it open.
_SETTLING = 3


class Leftover(NamedTuple):
    """Something that a dead import has left."""

    what: str                   # one line for an operator
    remedy: Callable[[], None]


def find(dead_after: float | None = None) -> Iterator[Leftover]:
    """Find what is left, in the order in which it is to be removed.

    :param dead_after: seconds of silence after which any import is dead;
        None: only one that is known to have been ours
    """
    staging = compat.staging_store_path()
    abandoned = dict(_abandoned(staging))
    imports = recovery.Imports(dead_after, abandoned.values())
    yield from _processes()
    yield from _stored(imports)
    dead = imports.dead()
    yield from _staged(staging, abandoned, dead)
    for image_id, task_id in dead:
        yield Leftover(f'the hold of the dead import {task_id} on image '
                       f'{image_id}',
                       functools.partial(imports.release, image_id, task_id))


def _abandoned(staging: str) -> Iterator[tuple[str, placeholder.Header]]:
    for name in sorted(_names(staging)):
        path = os.path.join(staging, name)
        if name.endswith(placeholder.SUFFIX):
            if header := placeholder.read_abandoned(path):
                yield path, header


def _staged(staging: str, abandoned: dict[str, placeholder.Header],
            dead: list[tuple[str, str]]) -> Iterator[Leftover]:
    """Files of dead imports: uploads, what became of them, placeholders."""
    of_ours = {header.image_id for header in abandoned.values()}
    uploads = {image_id for image_id, _ in dead}
    for name in sorted(_names(staging)):
        image_id, converted, _ = name.partition('.')
        path = os.path.join(staging, name)
        if (path in abandoned or image_id in uploads
                or converted and image_id in of_ours):
            yield Leftover(f'staged file {path}',
                           functools.partial(os.unlink, path))


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _stored(imports: recovery.Imports) -> Iterator[Leftover]:
    """Images in our stores that Glance has not recorded, or only now."""
    for store_id in registry.identifiers():
        try:
            if store := registry.find(store_id):
                if replacing := registry.find_replacing(store_id):
                    yield from _nameless(store_id, replacing)
                yield from _left_in(store_id, store, imports)
        except (errors.SinkFailed, glance_store.BackendException) as e:
            yield Leftover(f'store {store_id}: not searched, for it does not '
                           'answer', functools.partial(_fail, e))


def _nameless(store_id: str, store: protocols.Replacing
              ) -> Iterator[Leftover]:
    """Images that were being replaced when ``sparsify`` died."""
    if found := nameless(store_id, store):
        # One that lives gives the name back within milliseconds.
        time.sleep(_SETTLING)
        for image_id in sorted(found & nameless(store_id, store)):
            yield Leftover(f'store {store_id}: the name that a dead sparsify '
                           f'gave to image {image_id}',
                           functools.partial(store.put_back, image_id))


def nameless(store_id: str, store: protocols.Replacing) -> set[str]:
    """Ids of images whose name was taken; not of those deleted since."""
    return {image_id for image_id in store.nameless()
            if store_id in records.recorded_stores(image_id)}


def _left_in(store_id: str, store: protocols.Recoverable,
             imports: recovery.Imports) -> Iterator[Leftover]:
    for mark in store.marked():
        if not records.find_image(mark.image_id):
            LOG.warning('Store %s has data of image %s, which this Glance '
                        'does not know', store_id, mark.image_id)
        elif not _is_dead(mark, store, imports):
            LOG.info('Image %s is being written', mark.image_id)
        elif store_id in records.recorded_stores(mark.image_id):
            yield Leftover(
                f'store {store_id}: mark on the recorded image '
                f'{mark.image_id}', functools.partial(
                    store.hand_over, mark.image_id, mark.task_id))
        else:
            yield Leftover(
                f'store {store_id}: data of the dead import or upload '
                f'{mark.task_id} of image {mark.image_id}',
                functools.partial(store.evict, mark.image_id,
                                  mark.task_id))


def _is_dead(mark: marks.Mark, store: protocols.Recoverable,
             imports: recovery.Imports) -> bool:
    """Say whether nobody writes any more what was found.

    An upload has no task in Glance; it counts as dead when nobody has open
    what it writes, and as finished when its mark goes.
    """
    dead: bool | None = imports.is_dead(mark.task_id, _SILENCE)
    if dead is not None:
        return dead
    names = mark.image_id, mark.task_id
    if store.is_open(*names):
        return False
    # It may just have begun, or be about to be handed over.
    time.sleep(_SETTLING)
    return not store.is_open(*names) and names in {
        (left.image_id, left.task_id) for left in store.marked()}


def _fail(error: Exception) -> None:
    raise error


def _processes() -> Iterator[Leftover]:
    """Processes of qemu whose owner is gone."""
    for pid in [int(p) for p in os.listdir('/proc') if p.isdigit()]:
        with contextlib.suppress(OSError, ValueError):
            # Pids mean nothing in another container's namespace.
            if (os.readlink(f'/proc/{pid}/ns/pid')
                    != os.readlink('/proc/self/ns/pid')):
                continue
            owner = _owner(pid)
            if owner and sandbox.identity(int(owner.split()[0])) != owner:
                yield Leftover(f'process {pid}',
                               functools.partial(_kill, pid))


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _owner(pid: int) -> str:
    prefix = f'{sandbox.OWNER_VARIABLE}='.encode()
    with open(f'/proc/{pid}/environ', 'rb') as f:
        for entry in f.read().split(b'\0'):
            if entry.startswith(prefix):
                return entry.removeprefix(prefix).decode()
    return ''
