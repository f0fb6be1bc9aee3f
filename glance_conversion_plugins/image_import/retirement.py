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

"""The end of images whose place others have taken."""

from typing import Any

from oslo_utils import timeutils

from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import successors
from glance_conversion_plugins.image_import import reimport
from glance_conversion_plugins.maintenance import stored
from glance_conversion_plugins.maintenance import verify


def why_kept(image: Any, grace: float) -> str:
    """Why an image is not one to retire; '' if it is.

    :param image: as the database has it
    :param grace: how many seconds ago another one has to have its place
    """
    found = successors.properties(image)
    if successors.AT not in found or successors.TO not in found:
        return 'no image has its place'
    age = (timeutils.utcnow() - timeutils.normalize_time(
        timeutils.parse_isotime(found[successors.AT]))).total_seconds()
    if age < grace:
        return f'it was replaced {age / 3600:.0f} hours ago'
    if image['protected']:
        return 'it is protected'
    return '' if image['os_hidden'] else 'it is not hidden any more'


def retire(image_id: str, grace: float, target: reimport.Target) -> None:
    """Delete an image for which why_kept() has found nothing.

    :raises errors.ConversionError: if it has to stay
    """
    successor = successors.find(image_id).to
    _see_sound(image_id, successor)
    places = [*stored.recorded([successor])]
    if not places:
        raise errors.NotStored(
            f'Image {successor} is not active in any of our stores.')
    for place in places:
        report = verify.verify(place, (), target.progress)
        if report.faults or report.doubt:
            raise errors.SourceFailed(str(report))
    # That took a while.
    _see_sound(image_id, successor)
    if reason := why_kept(reimport.living(image_id), grace):
        raise errors.Busy(f'Meanwhile {reason}.')
    # Before, for of an image that is gone nobody knows what has its place.
    reimport.clear(image_id, target.api)
    target.api.delete(image_id)


def _see_sound(image_id: str, successor: str) -> None:
    """See that an image has the place of another one.

    :raises errors.ConversionError: if not
    """
    row = reimport.living(successor)
    if (row['status'] != 'active' or successors.properties(row).get(
            successors.FROM) != image_id):
        raise errors.ConversionError(f'Image {successor} is not active, or '
                                     'is another one.')
