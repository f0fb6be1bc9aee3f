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
import logging
from typing import Any

from oslo_utils import timeutils

from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import retry

LOG = logging.getLogger(__name__)

# Properties that say what was uploaded. Glance lets nobody else set what
# begins so, and Nova's snapshots of servers do not inherit it.
SOURCE = 'os_glance_conversion_source_'


def images(**filters: Any) -> Iterator[Any]:
    """All images that match, from the database as it is while it is read.

    :param filters: Glance's; one of status or deletion must be among them
    """
    db, context, marker = compat.database(), compat.admin_context(), None
    # Without a visibility Glance leaves community images out, and it takes
    # the one it is given out of the filters.
    while page := db.image_get_all(context, marker=marker, limit=500,
                                   filters={'visibility': 'all'} | filters):
        yield from page
        marker = page[-1]['id']


@retry.patient
def locks() -> list[tuple[str, str]]:
    """(image id, task id) of every image that is locked for an import."""
    image, prop = compat.Image, compat.ImageProperty
    with compat.session_for_write() as session:
        return [(row.image_id, row.value) for row in session.query(
            prop.image_id, prop.value).join(
            image, image.id == prop.image_id).filter(
            prop.name == compat.LOCK_PROPERTY, prop.deleted.is_(False),
            image.deleted.is_(False))]


@retry.patient
def find_image(image_id: str) -> Any:
    """The record of an image, deleted or not; None if there was none."""
    try:
        return compat.database().image_get(compat.admin_context(), image_id,
                                           force_show_deleted=True)
    except compat.exception.NotFound:
        return None


@retry.patient
def recorded_stores(image_id: str) -> set[str]:
    """The stores in which Glance knows the image to be."""
    try:
        image = compat.database().image_get(compat.admin_context(), image_id)
    except compat.exception.NotFound:
        return set()
    return {location['metadata'].get('store')
            for location in image['locations']
            if location['status'] == 'active'}


@retry.patient
def status(image_id: str) -> str:
    """The status of an image as the primary has it; 'unknown' if it has none.
    """
    with compat.session_for_write() as session:
        row = session.query(compat.Image.status, compat.Image.deleted).filter(
            compat.Image.id == image_id).first()
    if row is None:
        return 'unknown'
    return 'deleted' if row.deleted else str(row.status)


@retry.patient
def is_recorded(url: str) -> bool:
    """Whether a URL stands in a location of any image, on the primary.

    Where Glance encrypts them, as it is or encrypted.
    """
    location = compat.ImageLocation
    with compat.session_for_write() as session:
        rows = session.query(location.value).filter(
            location.deleted.is_(False))
        if not compat.urls_are_encrypted():
            rows = rows.filter(location.value == url)
        return any(url in (row.value, compat.location_url(row.value))
                   for row in rows)


@retry.patient
def locations(image_id: str) -> list[Any]:
    """Locations of an image that are not deleted, as Glance has them."""
    found: list[Any] = compat.database().image_get(
        compat.admin_context(), image_id)['locations']
    return found


@retry.patient
def set_location_deleted(location_id: int, deleted: bool) -> bool:
    """Take a location from an image, or give it back, in one step.

    :returns: whether it was not so before: of all that try one only is told
        so
    """
    location = compat.ImageLocation
    values = {'deleted': deleted,
              # By which Glance purges its tables.
              'deleted_at': timeutils.utcnow() if deleted else None,
              'status': 'deleted' if deleted else 'active'}
    with compat.session_for_write() as session:
        return bool(session.query(location).filter(
            location.id == location_id,
            location.deleted.is_(not deleted)).update(
            values, synchronize_session=False))


@retry.patient
def _property(image_id: str, name: str) -> str | None:
    """A property of an image, on the primary."""
    prop = compat.ImageProperty
    with compat.session_for_write() as session:
        row = session.query(prop.value).filter(
            prop.image_id == image_id, prop.name == name,
            prop.deleted.is_(False)).first()
    return str(row.value) if row else None


def lock_holder(image_id: str) -> str | None:
    """The task that holds the lock of an image."""
    holder: str | None = _property(image_id, compat.LOCK_PROPERTY)
    return holder


def importing_stores(image_id: str) -> list[str]:
    """The stores into which an image is still to be imported."""
    names = _property(image_id, compat.IMPORTING_PROPERTY) or ''
    return [name for name in names.split(',') if name]


@retry.patient
def take_lock(image_id: str, holder: str, successor: str) -> bool:
    """Give the lock of an image to another holder, in one step.

    :returns: whether it was the former one's
    """
    prop = compat.ImageProperty
    with compat.session_for_write() as session:
        return bool(session.query(prop).filter(
            prop.image_id == image_id, prop.name == compat.LOCK_PROPERTY,
            prop.value == holder, prop.deleted.is_(False)).update(
            {'value': successor}, synchronize_session=False))


@retry.patient
def set_status(image_id: str, status: str, from_status: str) -> None:
    """Change the status of an image, if it is what it is taken for.

    :raises glance.common.exception.Conflict: if not
    """
    compat.database().image_update(compat.admin_context(), image_id,
                                   {'status': status},
                                   from_state=from_status)


@retry.patient
def give_back(image_id: str, values: dict[str, Any]) -> None:
    """Let an image that was ``killed`` be ``queued`` again.

    :param values: what else becomes of its record, as Glance's database
        layer names it
    :raises glance.common.exception.Conflict: if it is not that any more
    """
    compat.database().image_update(
        compat.admin_context(), image_id,
        {'status': 'queued', 'size': None, 'virtual_size': None,
         'checksum': None, 'os_hash_algo': None, 'os_hash_value': None}
        | values, from_state='killed')


@retry.patient
def keep_upload(image_id: str, size: int) -> None:
    """Let an image that is queued be as it was when its upload was staged.

    :param size: of the upload, which this node has in staging, in bytes
    :raises glance.common.exception.Conflict: if it is not queued any more
    """
    repo = compat.image_repo()
    image = repo.get(image_id)
    image.status, image.size = 'uploading', size
    if url := compat.own_url():
        image.extra_properties[compat.STAGE_HOST_PROPERTY] = url
    repo.save(image, 'queued')


@retry.patient
def image_age(image_id: str) -> float:
    """Seconds since the record of an image was changed; 0 if it has none."""
    image = compat.Image
    return _since_change(image, image.id == image_id)


@retry.patient
def lock_age(image_id: str) -> float:
    """Seconds since the lock of an image was set; 0 if it has none."""
    prop = compat.ImageProperty
    return _since_change(
        prop, prop.image_id == image_id, prop.name == compat.LOCK_PROPERTY,
        prop.deleted.is_(False))


def _since_change(model: Any, *criteria: Any) -> float:
    with compat.session_for_write() as session:
        row = session.query(model.updated_at).filter(*criteria).first()
    return float((timeutils.utcnow() - row.updated_at).total_seconds()
                 if row else 0)


@retry.patient
def load_image(image_id: str) -> Any:
    """An image with its locations in the order in which Glance tries them."""
    return compat.image_repo().get(image_id)


@retry.patient
def record_digests(image_id: str, checksum: str | None,
                   os_hash_value: str | None, sha256: str | None = None
                   ) -> None:
    """Write the digests, and nothing else, if the image still lacks them.

    :param sha256: of its upload, if that is what is stored
    """
    db, context = compat.database(), compat.admin_context()
    source = {f'{SOURCE}hash': f'sha256:{sha256}'} if sha256 else {}
    try:
        if db.image_get(context, image_id)['os_hash_value'] is None:
            db.image_update(context, image_id, {
                'checksum': checksum, 'os_hash_value': os_hash_value,
                'properties': source}, from_state='active')
    except (compat.exception.NotFound, compat.exception.Conflict):
        LOG.info('Image %s is not active any more', image_id)


@retry.patient
def find_task(task_id: str) -> Any:
    """The record of a task; None if there is none."""
    try:
        return compat.database().task_get(compat.admin_context(), task_id)
    except compat.exception.NotFound:
        return None


@retry.patient
def last_task(image_id: str) -> Any:
    """The task of an image that was last at work; None if there is none."""
    return max(compat.database().tasks_get_by_image(compat.admin_context(),
                                                    image_id),
               key=lambda task: task['updated_at'], default=None)


@retry.patient
def touch_task(task_id: str) -> None:
    """Let a task be as young as if it had just been at work."""
    with contextlib.suppress(compat.exception.NotFound):
        compat.database().task_update(compat.admin_context(), task_id, {})


@retry.patient
def set_task_message(task_id: str, message: str) -> None:
    """Tell the owner of an image what became of it."""
    db, context = compat.database(), compat.admin_context()
    if db.task_get(context, task_id)['message'] != message:
        db.task_update(context, task_id, {'message': message})


def age(task: Any) -> float:
    """Seconds since a task was last at work."""
    return float((timeutils.utcnow() - task['updated_at']).total_seconds())
