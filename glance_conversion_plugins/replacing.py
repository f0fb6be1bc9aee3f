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
"""One RBD image put in the place of another, whatever happens meanwhile.

The old one goes to IMAGE_ID.TASK_ID.replaced, the new one from
IMAGE_ID.TASK_ID.partial to IMAGE_ID. Between both, for some milliseconds,
nothing has the name; whoever finds that only an old image is left gives it
its name back.
"""

from collections.abc import Iterator
import logging
import re
from typing import Any

import rbd

from glance_conversion_plugins import ceph
from glance_conversion_plugins import errors

LOG = logging.getLogger(__name__)

_REPLACED = re.compile(r'^(?P<image_id>[0-9a-f-]{36})\.[0-9a-f-]+\.replaced$')


def check_free(ioctx: Any, image_id: str) -> None:
    """See that nothing but its name and snapshot holds on to an image.

    :raises errors.SinkFailed: if so
    """
    with rbd.Image(ioctx, image_id, read_only=True) as image:
        if {s['name'] for s in image.list_snaps()} - {ceph.SNAPSHOT}:
            raise errors.SinkFailed('The image has other snapshots.')
        image.set_snap(ceph.SNAPSHOT)
        if clones := list(image.list_children2()):
            raise errors.SinkFailed(
                f'The image has copy-on-write clones: {len(clones)}.')


def put_aside(ioctx: Any, image_id: str, task_id: str) -> None:
    """Free the name of an image for its replacement."""
    rbd.RBD().rename(ioctx, image_id, f'{image_id}.{task_id}.replaced')


def copy_metadata(ioctx: Any, image_id: str, target: Any) -> None:
    """Give an image what others have noted on the one it replaces."""
    with rbd.Image(ioctx, image_id, read_only=True) as image:
        for key, value in image.metadata_list():
            if not key.startswith(ceph.MARK):
                target.metadata_set(key, value)


def nameless(ioctx: Any) -> dict[str, str]:
    """Images whose replacement was interrupted: {image id: name now}."""
    return {image_id: name for name, image_id in replaced(ioctx)
            if not ceph.is_present(ioctx, image_id)}


def put_back(ioctx: Any, image_id: str) -> None:
    """Give an image its name back, if it still has none."""
    if name := nameless(ioctx).get(image_id):
        LOG.warning('%s gets its name back', name)
        rbd.RBD().rename(ioctx, name, image_id)


def replaced(ioctx: Any) -> Iterator[tuple[str, str]]:
    """(name, image id) of every image that was put aside."""
    for name in rbd.RBD().list(ioctx):
        if match := _REPLACED.match(name):
            yield name, match['image_id']
