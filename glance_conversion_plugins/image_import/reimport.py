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
through Glance's own API, as a new one that has all that the former had; once
it is active the former is hidden behind it. Whatever an import would refuse is
refused here, and the former stays as it is.

Which image takes its place is noted before there is any: a run that was
interrupted is gone on with by the next one.
"""

import logging
import time
from typing import NamedTuple
import uuid

from oslo_utils import timeutils

from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.glance_db import image_api
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.glance_db import successors
from glance_conversion_plugins.image_import import decision
from glance_conversion_plugins.image_import import identity
from glance_conversion_plugins.maintenance import stored
from glance_conversion_plugins.maintenance import verify
from glance_conversion_plugins.stores import protocols

LOG = logging.getLogger(__name__)

FORMATS = frozenset(inspection.DRIVERS) - {'raw'}

_POLL_SECONDS = 1
# Whoever stages an image for so long has died of it.
_STAGING_SECONDS = 3600

# What a new image does not take over: Glance finds it out, or it belongs to
# the data.
_OWN = frozenset((
    'id', 'status', 'created_at', 'updated_at', 'self', 'file', 'schema',
    'size', 'virtual_size', 'checksum', 'os_hash_algo', 'os_hash_value',
    'locations', 'direct_url', 'stores', 'visibility', 'protected',
    'os_hidden'))
_RESERVED = 'os_glance_'


class Target(NamedTuple):
    """Where what is converted goes, and what it is told to."""

    api: image_api.ImageApi
    stores: list[str]
    progress: progress_.Progress


def why_not(image: image_api.Shown) -> str:
    """Why an image is not one to convert; '' if it is."""
    if image.get(successors.AT):
        return f'image {image[successors.TO]} has its place already'
    if image['status'] != 'active':
        return f'it is {image["status"]}'
    if image['disk_format'] not in FORMATS:
        return f'its disk format is {image["disk_format"]}'
    if image['container_format'] not in ('bare', *decision.PACKAGES):
        return f'its container format is {image["container_format"]}'
    if not image['size']:
        return 'it has no data'
    if decision.is_signed(image.keys()):
        return 'it is signed, and a converted image would not be'
    if decision.has_key(image.keys()):
        # Glance may delete the key with the first of two that name it.
        return 'it names the key of an encrypted disk'
    return ''


def convert(image: image_api.Shown, target: Target) -> tuple[str, str]:
    """Let a raw image take the place of one.

    :param image: for which why_not() has found nothing
    :returns: its id, and what its import says
    :raises errors.ApiFailed: if Glance does not answer; the next call goes on
    :raises errors.ConversionError: if it can not be; all is as it was
    """
    successor = _announced(image, target.api)
    successors.link(successor, image['id'])
    if target.api.show(successor)['status'] == 'queued':
        _start(image, successor, target)
    try:
        message = _see_raw(successor, target)
        if successors.find(image['id']) != successors.Announced(successor):
            raise errors.Busy('Another command has done the same.')
    except errors.ApiFailed:
        raise
    except errors.ConversionError:
        _give_up(image, successor, target.api)
        raise
    _put_in_place(image, successor, target.api)
    return successor, message


def _announced(image: image_api.Shown, api: image_api.ImageApi) -> str:
    """The id of what takes the place of an image; it is queued, or further."""
    successor: str = successors.find(image['id']).to
    row = records.find_image(successor) if successor else None
    if row and not row['deleted']:
        if row['status'] != 'uploading':
            return successor
        if records.image_age(successor) < _STAGING_SECONDS:
            raise errors.Busy(
                f'Image {successor} is being staged in its place; delete that '
                'one if nobody does so any more.')
        api.delete(successor)
    if not successor or row:
        successor = str(uuid.uuid4())
        successors.announce(image['id'], successor)
    api.create(_record(image, successor))
    return successor


def _record(image: image_api.Shown, successor: str) -> dict[str, object]:
    """What the new image is to Glance before it has any data."""
    record = {name: value for name, value in image.items()
              if name not in _OWN and not name.startswith(_RESERVED)
              and value is not None}
    if image['os_hash_value']:
        # So that the import sees whether what it reads is what was recorded.
        record.setdefault(
            identity.EXPECTED,
            f'{image["os_hash_algo"]}:{image["os_hash_value"]}')
    return record | {'id': successor, 'visibility': 'private',
                     'os_hidden': True}


def _start(image: image_api.Shown, successor: str, target: Target) -> None:
    """Stage what is stored, and have it imported."""
    target.progress.enter(f'Staging image {image["id"]}', image['size'])
    try:
        target.api.copy_to_staging(image, successor, target.progress.advance)
        target.api.start_import(successor, target.stores)
    except BaseException:
        # Nobody could go on with what is half staged.
        _give_up(image, successor, target.api)
        raise


def _see_raw(successor: str, target: Target) -> str:
    """Wait for the end of an import; returns what it says.

    :raises errors.ConversionError: if it did not make a raw image
    """
    while True:
        task = target.api.last_task(successor)
        message = str(task.get('message') or 'The import says nothing.')
        if task.get('status') in ('success', 'failure'):
            break
        target.progress.enter(f'Importing image {successor}: {message}')
        time.sleep(_POLL_SECONDS)
    found = target.api.show(successor)
    if found['status'] != 'active' or found['disk_format'] != 'raw':
        raise errors.ConversionError(message)
    return message


def _give_up(image: image_api.Shown, successor: str,
             api: image_api.ImageApi) -> None:
    """Leave nothing of what is in no one's place."""
    try:
        api.delete(successor)
        successors.renounce(image['id'], successor)
    except errors.ConversionError:
        LOG.exception('Image %s is left: the next run goes on with it',
                      successor)


def _put_in_place(image: image_api.Shown, successor: str,
                  api: image_api.ImageApi) -> None:
    """Let everybody see the new image, and then nobody the former."""
    shared = {} if image['visibility'] != 'shared' else (
        api.members(image['id']))
    api.change(successor, {'visibility': image['visibility']})
    missing = shared.keys() - (api.members(successor) if shared else {})
    for member in sorted(missing):
        api.share(successor, member, shared[member])
    if identity.EXPECTED in api.show(successor).keys() - image.keys():
        api.remove_property(successor, identity.EXPECTED)
    api.change(successor, {'os_hidden': image['os_hidden'],
                           'protected': image['protected']})
    successors.replace(image['id'], successor,
                       timeutils.utcnow().isoformat(timespec='seconds'))


def retire(image: image_api.Shown, grace: float, target: Target) -> str:
    """Delete an image whose place another one has taken.

    :param grace: how many seconds ago that has to be
    :returns: why it stays; '' if it is gone
    """
    if not image.get(successors.AT):
        return 'no image has its place'
    age = timeutils.delta_seconds(
        timeutils.parse_isotime(image[successors.AT]).replace(tzinfo=None),
        timeutils.utcnow())
    if age < grace:
        return f'it was replaced {age / 3600:.0f} hours ago'
    if not image['os_hidden'] or image['protected']:
        return 'it is ' + ('protected' if image['protected']
                           else 'not hidden any more')
    if reason := _why_needed(image[successors.TO], target.progress):
        return reason
    try:
        target.api.delete(image['id'])
    except errors.ConversionError as e:
        return str(e)
    return ''


def _why_needed(successor: str, progress: progress_.Progress) -> str:
    """Why one can not do without the former image; '' if one can."""
    places = [*stored.recorded([successor])]
    if not places:
        return f'image {successor} is not active in any of our stores'
    for place in places:
        report = verify.verify(place, (), progress)
        if report.faults or report.doubt:
            return str(report)
    return ''


def room_needed(image: image_api.Shown) -> int:
    """How many bytes an image takes once it is converted, at most."""
    return int(image['virtual_size'] or image['size'])


def room(store: protocols.SparseStore) -> int | None:
    """How many bytes are free in a store; None if nobody can say."""
    sink = store.sink(str(uuid.uuid4()), str(uuid.uuid4()))
    try:
        return min((place.free for place in sink.room(0)), default=None)
    finally:
        sink.release()
