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

"""Images that are stored in another format become raw, under new ids.

What is stored under an id never changes. So an image is imported once more,
by Glance itself, as a new one that belongs to the operator until it is active
and raw. Then it takes the former one's place, in one step which of all that
try one succeeds with, gets all that the former has, and hides it. Whatever an
import would refuse is refused here, and the former stays as it is.

A run that dies leaves what the next one goes on with.
"""

import logging
import time
from typing import Any
from typing import NamedTuple

from oslo_utils import timeutils

from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.glance_db import image_api
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.glance_db import successors
from glance_conversion_plugins.image_import import decision
from glance_conversion_plugins.image_import import identity

LOG = logging.getLogger(__name__)

FORMATS = frozenset(inspection.DRIVERS) - {'raw'}

_POLL_SECONDS = 1
# Whoever begins with an image, or imports one, and is silent for so long, is
# dead: as Glance has it.
_SILENT_SECONDS = 3600
_TELL_SECONDS = 60


# What closes an image to some, where it changes.
_CLOSING = ('status', 'deleted', 'owner', 'visibility')


class Target(NamedTuple):
    """Where what is converted goes, and what it is told to."""

    api: image_api.ImageApi
    stores: list[str]
    progress: progress_.Progress


def why_not(image: Any) -> str:
    """Why an image is not one to convert; '' if it is.

    :param image: as the database has it
    """
    found = successors.properties(image)
    names = found.keys()
    if (names >= {successors.TO, successors.AT}
            and not _is_gone(found[successors.TO])):
        return 'another image has its place already'
    if successors.FROM in names and successors.TO not in names and (
            image['os_hidden']):
        return 'it is to take the place of another one'
    if image['status'] != 'active' or image['deleted']:
        return f'it is {image["status"]}'
    if image['disk_format'] not in FORMATS:
        return f'its disk format is {image["disk_format"]}'
    if image['container_format'] not in ('bare', *decision.PACKAGES):
        return f'its container format is {image["container_format"]}'
    if not image['size']:
        return 'it has no data'
    if decision.is_signed(names):
        return 'it is signed, and a converted image would not be'
    if decision.has_key(names):
        # Glance may delete the key with the first of two that name it.
        return 'it names the key of an encrypted disk'
    return ''


def convert(image: Any, target: Target) -> tuple[str, str]:
    """Let a raw image take the place of one.

    :param image: for which why_not() has found nothing
    :returns: its id, and what its import says
    :raises errors.ConversionError: if that can not be now
    """
    successor = _begun(image, target.api)
    is_own = not successor
    if not successor:
        successor = _start(image, target)
    try:
        message = _wait(successor, target.progress)
        _put_in_place(image['id'], successor)
        clear(image['id'], target.api)
    except errors.ConversionError:
        # What another run has made it sees to itself.
        if is_own:
            _give_up(image['id'], successor, target.api)
        raise
    return successor, message


def _begun(image: Any, api: image_api.ImageApi) -> str:
    """What an earlier run, or another one, has got so far; '' if nothing.

    :raises errors.Busy: if nobody can go on with it now
    """
    taken = successors.find(image['id'])
    if taken.to and _is_gone(taken.to):
        successors.vacate(image['id'], taken)
        taken = successors.Taken()
    for successor in [taken.to] if taken.to else successors.made_for(
            image['id']):
        row = living(successor)
        if records.lock_holder(successor) or (
                row['status'], row['disk_format']) == ('active', 'raw'):
            return str(successor)
        if _is_published(image['id'], row):
            raise errors.Busy(f'Image {successor} has its place, and is '
                              f'{row["status"]}.')
        if (row['status'] != 'active'
                and records.image_age(successor) < _SILENT_SECONDS):
            raise errors.Busy(
                f'Image {successor} is being staged for its place; delete '
                'that one if nobody does so any more.')
        _give_up(image['id'], successor, api)
    return ''


def _is_gone(image_id: str) -> bool:
    row = records.find_image(image_id)
    return row is None or bool(row['deleted'])


def _is_published(image_id: str, row: Any) -> bool:
    """Whether an image is, or was, to be seen in the place of another one."""
    return (successors.AT in successors.properties(row)
            or successors.find(image_id).to == row['id'])


def living(image_id: str) -> Any:
    """The record of an image.

    :raises errors.NotStored: if there is none
    """
    row = records.find_image(image_id)
    if row is None or row['deleted']:
        raise errors.NotStored(f'There is no image {image_id}.')
    return row


def _start(image: Any, target: Target) -> str:
    """Make an image, and have it imported; returns its id."""
    successor: str = successors.create(image, target.api.project, {
        # So that the import sees whether it reads what was recorded.
        identity.EXPECTED: f'{image["os_hash_algo"]}:{image["os_hash_value"]}'
    } if image['os_hash_value'] else {})
    target.progress.enter(f'Staging image {image["id"]}', image['size'])
    told = time.monotonic()

    def advance(length: int) -> None:
        nonlocal told
        target.progress.advance(length)
        if time.monotonic() > told + _TELL_SECONDS:
            # So that no other run takes this one for dead.
            told = time.monotonic()
            successors.touch(successor)

    try:
        target.api.copy_to_staging(image['id'], image['size'], successor,
                                   advance)
        target.api.start_import(successor, target.stores)
    except BaseException:
        # Nobody could go on with what is half staged.
        _give_up(image['id'], successor, target.api)
        raise
    return successor


def _wait(successor: str, progress: progress_.Progress) -> str:
    """Wait until nobody imports an image; returns what its import says.

    :raises errors.ConversionError: if that did not make it raw
    """
    while task_id := records.lock_holder(successor):
        task = records.find_task(task_id) or {}
        if (records.age(task) if task else records.lock_age(successor)
                ) > _SILENT_SECONDS:
            raise errors.Busy(f'The import of image {successor} has been '
                              'silent for an hour.')
        progress.enter(f'Importing image {successor}: '
                       f'{task.get("message") or "no word yet"}')
        time.sleep(_POLL_SECONDS)
    row = living(successor)
    # Of what was imported days ago there is no task any more.
    message = (records.last_task(successor) or {}).get('message') or ''
    if row['status'] != 'active' or row['disk_format'] != 'raw':
        raise errors.ConversionError(message or 'It was not converted.')
    return message


def _put_in_place(image_id: str, successor: str) -> None:
    """Let everybody see the new image, and then nobody the former.

    :raises errors.Busy: if another one has its place
    """
    # It may have been closed, or changed, since this began.
    if _see_open(image_id, successor):
        return
    if not successors.take(image_id, successor):
        raise errors.Busy('Meanwhile another image has its place.')
    now = timeutils.utcnow().isoformat(timespec='seconds')
    former = successors.hand_over(
        image_id, successor, now, lambda: _see_open(image_id, successor))
    successors.hide(image_id, successor, now)
    # Between one step and the other there is a moment.
    late = records.find_image(image_id)
    if former and any(late[name] != former[name] for name in _CLOSING):
        successors.withdraw(successor)
        raise errors.Busy(
            f'Meanwhile it was changed: look at image {successor}, which only '
            'its owner sees now.')


def _see_open(image_id: str, successor: str) -> bool:
    """See that an image still is one to convert; returns whether it is done.

    :raises errors.Busy: if it is none
    """
    if reason := why_not(living(image_id)):
        if successors.find(image_id).is_done_by(successor):
            return True
        raise errors.Busy(f'Meanwhile {reason}.')
    return False


def clear(image_id: str, api: image_api.ImageApi) -> None:
    """Remove what runs have left that were not the first."""
    for successor in successors.made_for(image_id):
        row = records.find_image(successor)
        if not records.lock_holder(successor) and (
                row['status'] == 'active'
                or records.image_age(successor) > _SILENT_SECONDS):
            _give_up(image_id, successor, api)


def _give_up(image_id: str, successor: str, api: image_api.ImageApi) -> None:
    """Remove what has nobody's place."""
    try:
        row = records.find_image(successor)
        if not row['deleted'] and not _is_published(image_id, row):
            api.delete(successor)
    except errors.ConversionError:
        LOG.exception('Image %s is left; a later run sees to it', successor)
