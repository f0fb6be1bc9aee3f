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
"""An RBD image that takes the place of another one, under the same name.

A snapshot can not lose its zeros in place, so an image that was stored with
them is replaced by a copy without. The old one goes to
IMAGE_ID.TASK_ID.replaced, the new one from IMAGE_ID.TASK_ID.partial to
IMAGE_ID. Between both, for some milliseconds, nothing has the name; whoever
finds that only an old image is left gives it its name back.
"""

from collections.abc import Iterator
import logging
from typing import Any

from glance_conversion_plugins.copying.sinks import rbd as rbd_sink
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import bindings
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.external import rbd_marks
from glance_conversion_plugins.external import rbd_pool

rbd = bindings.load('rbd')

LOG = logging.getLogger(__name__)


class ReplacingSink(rbd_sink.RbdSink):
    """Writes what will take the place of an image that is there."""

    def _check_name(self) -> None:
        check_free(self._ioctx, self._name)

    def complete(self) -> None:
        with rbd_pool.translated():
            copy_metadata(self._ioctx, self._name, self._image)
        super().complete()

    def _take_name(self) -> None:
        rbd.RBD().rename(self._ioctx, self._name,
                         self._mark.name(marks.REPLACED))
        super()._take_name()


def check_free(ioctx: Any, image_id: str) -> None:
    """See that nothing but its name and snapshot holds on to an image.

    :raises errors.SinkFailed: if so
    """
    with rbd.Image(ioctx, image_id, read_only=True) as image:
        if {s['name'] for s in image.list_snaps()} - {rbd_pool.SNAPSHOT}:
            raise errors.SinkFailed('The image has other snapshots.')
        image.set_snap(rbd_pool.SNAPSHOT)
        if clones := list(image.list_children2()):
            raise errors.SinkFailed(
                f'The image has copy-on-write clones: {len(clones)}.')


def copy_metadata(ioctx: Any, image_id: str, target: Any) -> None:
    """Give an image what others have noted on the one it replaces."""
    with rbd.Image(ioctx, image_id, read_only=True) as image:
        for key, value in image.metadata_list():
            if not key.startswith(rbd_marks.PREFIX):
                target.metadata_set(key, value)


def nameless(ioctx: Any) -> dict[str, str]:
    """Images whose replacement was interrupted: {image id: name now}."""
    return {image_id: name for name, image_id in replaced(ioctx)
            if not rbd_pool.is_present(ioctx, image_id)}


def put_back(ioctx: Any, image_id: str) -> None:
    """Give an image its name back, if it still has none."""
    if name := nameless(ioctx).get(image_id):
        LOG.warning('%s gets its name back', name)
        rbd.RBD().rename(ioctx, name, image_id)


def replaced(ioctx: Any) -> Iterator[tuple[str, str]]:
    """(name, image id) of every image that was put aside."""
    for name in rbd.RBD().list(ioctx):
        if mark := marks.parse(name, marks.REPLACED):
            yield name, mark.image_id


def forget_replaced(ioctx: Any) -> list[str]:
    """Remove what was put aside; returns what could not be removed."""
    left = []
    for name, _ in list(replaced(ioctx)):
        try:
            rbd_pool.remove(ioctx, name)
        except rbd.Error as e:
            LOG.warning('%s stays: %s', name, e)
            left.append(name)
    return left
