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

"""Marks on RBD images: what we write and Glance has not recorded yet.

An image is called IMAGE_ID.TASK_ID.partial while it is written. Complete, it
has its own name, and image-meta that says whose it is until Glance has
recorded it.
"""

from collections.abc import Iterator
import logging
from typing import Any

from glance_conversion_plugins.external import bindings
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.external import rbd_pool

rbd = bindings.load('rbd')

LOG = logging.getLogger(__name__)

# Of the keys of our image-meta.
PREFIX = 'glance_conversion.'


def partial_name(image_id: str, task_id: str) -> str:
    """Name an image while it is written."""
    return marks.Mark(image_id, task_id).name(marks.PARTIAL)


def write(image: Any, mark: marks.Mark, state: str) -> None:
    """Mark an open image."""
    for key, value in (('task', mark.task_id), ('host', mark.host),
                       ('state', state)):
        image.metadata_set(PREFIX + key, value)


def read(ioctx: Any, name: str) -> dict[str, str]:
    """Our image-meta of an image, without its prefix; {} if it has none."""
    try:
        with rbd.Image(ioctx, name, read_only=True) as image:
            return {key.removeprefix(PREFIX): value
                    for key, value in image.metadata_list()
                    if key.startswith(PREFIX)}
    except rbd.ImageNotFound:
        return {}


def hand_over(ioctx: Any, image_id: str, task_id: str) -> None:
    """Take our mark off, so that the image is as if Glance had written it.

    What the task has not finished meanwhile has come too late.
    """
    rbd_pool.remove(ioctx, partial_name(image_id, task_id))
    found = read(ioctx, image_id)
    if found.get('task') == task_id:
        with rbd.Image(ioctx, image_id) as image:
            for key in found:
                image.metadata_remove(PREFIX + key)


def discard(ioctx: Any, image_id: str, task_id: str) -> None:
    """Remove what a task wrote, and nothing that another task wrote."""
    rbd_pool.remove(ioctx, partial_name(image_id, task_id))
    if read(ioctx, image_id).get('task') == task_id:
        rbd_pool.remove(ioctx, image_id)


def marked(ioctx: Any) -> Iterator[marks.Mark]:
    """Everything in a pool that is ours and not, or not yet, Glance's."""
    for name in rbd.RBD().list(ioctx):
        if mark := marks.parse(name, marks.PARTIAL):
            yield mark
        elif marks.UUID.fullmatch(name):
            try:
                found = read(ioctx, name)
            except rbd.Error as e:
                LOG.warning('%s is passed over: %s', name, e)
                continue
            if 'task' in found:
                yield marks.Mark(name, found['task'])
