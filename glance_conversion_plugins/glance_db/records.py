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
import sqlalchemy

from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import retry

LOG = logging.getLogger(__name__)


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
def load_image(image_id: str) -> Any:
    """An image with its locations in the order in which Glance tries them."""
    return compat.image_repo().get(image_id)


@retry.patient
def record_digests(image_id: str, checksum: str | None,
                   os_hash_value: str | None) -> None:
    """Write the digests, and nothing else, if the image still lacks them."""
    db, context = compat.database(), compat.admin_context()
    try:
        if db.image_get(context, image_id)['os_hash_value'] is None:
            db.image_update(context, image_id, {
                'checksum': checksum, 'os_hash_value': os_hash_value,
            }, from_state='active')
    except (compat.exception.NotFound, compat.exception.Conflict):
        LOG.info('Image %s is not active any more', image_id)


@retry.patient
def newest_public(limit: int) -> list[Any]:
    found: list[Any] = compat.database().image_get_all(
        compat.admin_context(), limit=limit,
        sort_key=['created_at'], sort_dir=['desc'],
        filters={'visibility': 'public', 'status': 'active',
                 'os_hidden': False})
    return found


@retry.patient
def most_hit(limit: int) -> list[str]:
    """Ids of the images with the most cache hits on all nodes together."""
    image, cached = compat.Image, compat.CachedImages
    hits = sqlalchemy.func.sum(cached.hits)
    with compat.session_for_read() as session:
        return [image_id for image_id, in session.query(
            cached.image_id).join(
            image, image.id == cached.image_id).filter(
            image.status == 'active').group_by(
            cached.image_id).having(hits > 0).order_by(
            hits.desc()).limit(limit)]


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
