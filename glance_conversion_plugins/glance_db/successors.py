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

"""Images that take the place of others, as Glance's database has them.

Which image takes the place of which one stands in properties that Glance lets
no user set. They are set here alone, on images that nobody but the operator
can change until they are complete: no user can pass an image of his off as
that of another one.
"""

from collections.abc import Callable
from collections.abc import Mapping
import contextlib
from typing import Any
from typing import NamedTuple
import uuid

from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import retry

_PREFIX = 'os_glance_conversion_converted_'
# Of the former image: which one has its place. Of both: since when.
TO, AT = f'{_PREFIX}to', f'{_PREFIX}at'
# Of the new one: whose place it is made for.
FROM = f'{_PREFIX}from'

_RESERVED = 'os_glance_'
# What two images have in common, but for their data.
_SHARED = ('name', 'min_disk', 'min_ram')
_GIVEN = (*_SHARED, 'owner', 'visibility', 'os_hidden', 'protected')


class Taken(NamedTuple):
    """What has become of the place of an image."""

    to: str = ''    # which image has it
    at: str = ''    # since when all is done

    def is_done_by(self, successor: str) -> bool:
        """Whether all is done, and this one has the place."""
        return bool(self.at) and self.to == successor


def properties(row: Any) -> dict[str, str]:
    """The properties of an image, as the database has it."""
    return {each['name']: each['value'] for each in row['properties']
            if not each['deleted']}


def own_properties(row: Any) -> dict[str, str]:
    """Those that its owner may set."""
    return {name: value for name, value in properties(row).items()
            if not name.startswith(_RESERVED)}


@retry.patient
def find(image_id: str) -> Taken:
    """What has become of the place of an image, on the primary."""
    prop = compat.ImageProperty
    with compat.session_for_write() as session:
        rows = session.query(prop.name, prop.value).filter(
            prop.image_id == image_id, prop.name.in_((TO, AT)),
            prop.deleted.is_(False)).all()
    found = {row.name: str(row.value) for row in rows}
    return Taken(found.get(TO, ''), found.get(AT, ''))


@retry.patient
def made_for(image_id: str) -> list[str]:
    """Images that are there to take the place of one, the oldest first."""
    prop, image = compat.ImageProperty, compat.Image
    with compat.session_for_write() as session:
        return [str(row.image_id) for row in session.query(
            prop.image_id).join(image, image.id == prop.image_id).filter(
            prop.name == FROM, prop.value == image_id,
            prop.deleted.is_(False), image.deleted.is_(False)).order_by(
            image.created_at)]


def create(former: Any, owner: str | None, extra: Mapping[str, str]) -> str:
    """Make an image without data for the place of one; returns its id.

    Nobody sees it but who works on it.

    :param owner: the project of whoever does
    :param extra: properties, beside those of the former
    """
    successor = str(uuid.uuid4())
    _create({name: former[name] for name in (
        *_SHARED, 'disk_format', 'container_format')} | {
        'id': successor, 'status': 'queued', 'owner': owner,
        'visibility': 'private', 'os_hidden': True, 'protected': False,
        'properties': own_properties(former) | dict(extra) | {
            FROM: former['id']}})
    return successor


@retry.patient
def _create(values: dict[str, Any]) -> None:
    # A second attempt finds what the first has made, unheard.
    with contextlib.suppress(compat.exception.Duplicate):
        compat.database().image_create(compat.admin_context(), values)


@retry.patient
def touch(image_id: str) -> None:
    """Let an image be as young as if it had just been changed."""
    compat.database().image_update(compat.admin_context(), image_id, {})


@retry.patient
def take(image_id: str, successor: str) -> bool:
    """Take the place of an image, in one step; of all that try one has it.

    :returns: whether it is this one
    """
    try:
        compat.database().image_set_property_atomic(image_id, TO, successor)
    except compat.exception.Duplicate:
        return bool(find(image_id).to == successor)
    return True


@retry.patient
def hand_over(image_id: str, successor: str, at: str,
              check: Callable[[], object]) -> Any:
    """Let a complete image be to everybody what the former one is.

    Once: from then on it is its owner's.

    :param at: the time, as Glance writes it
    :param check: raises if that is not to be
    :returns: the former as it is then; None if it was done before
    """
    db, context = compat.database(), compat.admin_context()
    found = db.image_get(context, successor)
    if AT in properties(found):
        return None
    _share(image_id, successor)
    db.image_tag_set_all(context, successor,
                         db.image_tag_get_all(context, image_id))
    kept = {name: value for name, value in properties(found).items()
            if name.startswith(_RESERVED)}
    check()
    former = db.image_get(context, image_id)
    db.image_update(context, successor, {
        name: former[name] for name in _GIVEN} | {
        # It may have been raised to what the disk needs.
        'min_disk': max(found['min_disk'], former['min_disk']),
        'properties': kept | own_properties(former) | {AT: at}},
        purge_props=True)
    return former


@retry.patient
def withdraw(successor: str) -> None:
    """Let nobody see an image but its owner, who has to know of it."""
    compat.database().image_update(compat.admin_context(), successor, {
        'visibility': 'private', 'os_hidden': True})


def _share(image_id: str, successor: str) -> None:
    db, context = compat.database(), compat.admin_context()
    wanted, found = ({each['member']: each for each in db.image_member_find(
        context, image_id=each_id)} for each_id in (image_id, successor))
    for member, each in wanted.items():
        if member not in found:
            db.image_member_create(context, {
                'image_id': successor, 'member': member,
                'status': each['status'], 'can_share': each['can_share']})
        elif found[member]['status'] != each['status']:
            db.image_member_update(context, found[member]['id'], {
                'status': each['status']})
    for member in found.keys() - wanted.keys():
        db.image_member_delete(context, found[member]['id'])


@retry.patient
def hide(image_id: str, successor: str, at: str) -> None:
    """Hide an image behind the one that has its place."""
    compat.database().image_update(compat.admin_context(), image_id, {
        'os_hidden': True, 'properties': {TO: successor, AT: at}})
    prop = compat.ImageProperty
    with compat.session_for_write() as session:
        # One that was deleted before, and came back, would be purged.
        session.query(prop).filter(
            prop.image_id == image_id, prop.name.in_((TO, AT)),
            prop.deleted.is_(False)).update({'deleted_at': None},
                                            synchronize_session=False)


@retry.patient
def vacate(image_id: str, taken: Taken) -> None:
    """Forget what had the place of an image, if that is still so."""
    repo = compat.image_repo()
    image = repo.get(image_id)
    for name, value in ((AT, taken.at), (TO, taken.to)):
        with contextlib.suppress(compat.exception.NotFound):
            repo.delete_property_atomic(image, name, value)
