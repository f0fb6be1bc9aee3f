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

They are found here in the order in which they are to be removed: what tells
that there is more to do goes last.
"""

from collections.abc import Iterator
import functools
import logging
import os

import glance_store
from oslo_config import cfg

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance import orphans
from glance_conversion_plugins.maintenance import recovery
from glance_conversion_plugins.maintenance import sparsify
from glance_conversion_plugins.maintenance import unrecorded
from glance_conversion_plugins.stores import liveness
from glance_conversion_plugins.stores import placeholder
from glance_conversion_plugins.stores import protocols
from glance_conversion_plugins.stores import registry

LOG = logging.getLogger(__name__)
CONF = cfg.CONF

Leftover = unrecorded.Leftover


def find(dead_after: float | None = None) -> Iterator[Leftover]:
    """Find what is left, in the order in which it is to be removed.

    :param dead_after: seconds of silence after which any import is dead;
        None: as Glance has it, or what is known to have been ours
    """
    staging = compat.staging_store_path()
    abandoned = list(_abandoned(staging))
    imports = recovery.Imports(dead_after, abandoned, staging)
    # Before any remedy is tried: one of them is to release such an import.
    dead = [each for each in imports.dead() if not _is_written(each[0])]
    for pid in orphans.find():
        yield Leftover(f'process {pid}', functools.partial(orphans.kill, pid))
    yield from _stored(imports)
    kept = {image_id for image_id, lock in dead
            if imports.upload(image_id, lock)}
    # Placeholders last: they tell what there is to do.
    for image_id, lock in dead:
        yield Leftover(f'the hold of the dead import {lock} on image '
                       f'{image_id}',
                       functools.partial(_release, imports, image_id, lock))
    yield from _staged(staging, abandoned, dead, kept)
    liveness.forget_dead()


def _marks_of(image_id: str) -> Iterator[tuple[protocols.Recoverable,
                                               marks.Found]]:
    """Marked images of one image, in the stores that it is imported into."""
    for store_id in (records.importing_stores(image_id)
                     or registry.identifiers()):
        if store := registry.find(store_id):
            for found in store.marked():
                if found.mark.image_id == image_id:
                    yield store, found


def _is_written(image_id: str) -> bool:
    """Say whether somebody holds a lease, however silent he is otherwise."""
    try:
        return any(store.is_open(found)
                   for store, found in _marks_of(image_id))
    except (errors.SinkFailed, glance_store.BackendException) as e:
        LOG.warning('Image %s is left alone: %s', image_id, e)
        return True


def _release(imports: recovery.Imports, image_id: str, lock: str) -> None:
    imports.release(image_id, lock, any(
        found.is_published for _, found in _marks_of(image_id)))


def _abandoned(staging: str) -> Iterator[placeholder.Header]:
    for name in _names(staging):
        if name.endswith(placeholder.SUFFIX):
            if header := placeholder.read_abandoned(
                    os.path.join(staging, name)):
                yield header


def _staged(staging: str, abandoned: list[placeholder.Header],
            dead: list[tuple[str, str]], kept: set[str]) -> Iterator[Leftover]:
    """Files that nobody will import: uploads, what became of them.

    Placeholders are among the latter.
    """
    names = sorted(_names(staging), key=lambda name: (
        name.endswith(placeholder.SUFFIX), name))
    of_ours = {header.image_id for header in abandoned}
    released = {image_id for image_id, _ in dead}
    alive = {image_id for image_id, _ in records.locks()} - released
    for name in names:
        image_id, converted, _ = name.partition('.')
        path = os.path.join(staging, name)
        if image_id in alive:
            continue
        if converted and image_id in of_ours | released:
            yield Leftover(f'staged file {path}', functools.partial(
                _remove_converted, path, image_id))
        elif (not converted and marks.UUID.fullmatch(image_id)
              and image_id not in kept
              and _is_left(image_id, image_id in released)):
            yield Leftover(f'staged file {path}', functools.partial(
                _remove_upload, path, image_id))


def _is_left(image_id: str, is_released: bool = False) -> bool:
    """Say whether nobody waits for what is staged of an image.

    While it is on its way to staging, or from there, an image has another
    status or is locked.
    """
    status = records.status(image_id)
    return status in ('queued', 'active', 'deactivated', 'killed', 'deleted',
                      'pending_delete') or (
                          is_released and status == 'importing')


def _remove_converted(path: str, image_id: str) -> None:
    """Remove it, unless it is that of another import by now."""
    try:
        with placeholder.taken(os.path.dirname(path), image_id):
            if records.lock_holder(image_id):
                raise errors.Busy('Another import has the image.')
            os.unlink(path)
    except (BlockingIOError, errors.Busy):
        LOG.info('%s is that of another import by now', path)


def _remove_upload(path: str, image_id: str) -> None:
    # Its owner may have uploaded another one meanwhile.
    if _is_left(image_id) and not records.lock_holder(image_id):
        os.unlink(path)


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
                with store.turn() as keep:
                    for leftover in (
                            *_replaced(store_id),
                            *unrecorded.Unrecorded(
                                store_id, store, imports).leftovers()):
                        keep()
                        yield leftover
        except errors.Busy as e:
            LOG.info('Store %s: %s', store_id, e)
        except (errors.SinkFailed, glance_store.BackendException) as e:
            yield Leftover(f'store {store_id}: not searched, for it does not '
                           'answer', functools.partial(_fail, e))


def _replaced(store_id: str) -> Iterator[Leftover]:
    """What ``sparsify`` has left, whether it died or not."""
    for image_id in sorted(sparsify.nameless(store_id)):
        yield Leftover(
            f'store {store_id}: the name that a dead sparsify gave to image '
            f'{image_id}',
            functools.partial(sparsify.put_back, store_id, image_id))
    for mark in sparsify.replaced(store_id, sparsify.GRACE):
        yield Leftover(f'store {store_id}: what image {mark.image_id} was '
                       'before its zeros were given back',
                       functools.partial(sparsify.forget, store_id, mark))


def _fail(error: Exception) -> None:
    raise error
