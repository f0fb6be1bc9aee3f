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
import contextlib
import logging
import math
import time
from typing import Any

from glance_conversion_plugins.copying.sinks import rbd as rbd_sink
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import bindings
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.external import rbd_fence
from glance_conversion_plugins.external import rbd_index
from glance_conversion_plugins.external import rbd_marks
from glance_conversion_plugins.external import rbd_names
from glance_conversion_plugins.external import rbd_pool

rbd = bindings.load('rbd')

LOG = logging.getLogger(__name__)

_REPLACED_AT = 'glance_conversion.replaced_at'


class ReplacingSink(rbd_sink.RbdSink):
    """Writes what will take the place of an image that is there."""

    _is_named = False       # or may be

    def _check_name(self) -> None:
        check_free(self._ioctx, self._name)

    def seal(self) -> None:
        with rbd_pool.translated():
            copy_metadata(self._ioctx, self._name, self._image)
        super().seal()

    def _take_name(self) -> None:
        self._is_named = True
        put_aside(self._ioctx, self._name, self._mark)
        super()._take_name()

    def _discard(self, ioctx: Any) -> None:
        # A cluster may do what it has no time to answer: what this was to be
        # may have the name of the image, and be Glance's, at any moment.
        if self._is_named:
            LOG.warning('%s is left for the clean-up', self._partial)
        else:
            super()._discard(ioctx)


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
            if key != rbd_marks.KEY:
                target.metadata_set(key, value)


def put_aside(ioctx: Any, image_id: str, mark: marks.Mark) -> None:
    """Free the name of an image for what takes its place."""
    with rbd.Image(ioctx, image_id) as image:
        image.metadata_set(_REPLACED_AT, str(int(time.time())))
    rbd.RBD().rename(ioctx, image_id, mark.name(marks.REPLACED))


def nameless(ioctx: Any) -> dict[str, marks.Mark]:
    """Images whose replacement was interrupted: {image id: mark}."""
    return {mark.image_id: mark for mark in replaced(ioctx)
            if not rbd_names.is_listed(ioctx, mark.image_id)}


def is_nameless(ioctx: Any, image_id: str) -> bool:
    """Say whether a replacement has taken the name of an image."""
    # Which costs less to see than what all the others are called.
    return (not rbd_names.is_listed(ioctx, image_id)
            and image_id in nameless(ioctx))


def put_back(cluster: Any, ioctx: Any, image_id: str) -> None:
    """Give an image its name back, if it still has none."""
    if mark := nameless(ioctx).get(image_id):
        name = mark.name(marks.REPLACED)
        LOG.warning('%s gets its name back', name)
        # What is not done to its end here is found by this.
        rbd_index.add(ioctx, mark)
        # Whoever took it may only be slow, and not have done it all.
        for state in (marks.PARTIAL, marks.REMOVED):
            if meta := rbd_marks.read(ioctx, mark.name(state)):
                rbd_fence.shut_out(cluster, {meta.client})
            # What was to take its place may have half of the name.
            if copy := rbd_names.id_listed(ioctx, mark.name(state)):
                rbd_names.forget(ioctx, image_id, copy)
        if found := rbd_names.id_listed(ioctx, name):
            rbd_names.move(ioctx, name, image_id, found)
        with rbd.Image(ioctx, image_id) as image:
            with contextlib.suppress(KeyError):     # of another version
                image.metadata_remove(_REPLACED_AT)


def replaced(ioctx: Any) -> Iterator[marks.Mark]:
    """Every image that was put aside."""
    for name in rbd.RBD().list(ioctx):
        if mark := marks.parse(name, marks.REPLACED):
            yield mark


def age(ioctx: Any, mark: marks.Mark) -> float:
    """Seconds since an image was put aside; none, if that is not known."""
    # By what lists it: its name may lead nowhere where somebody has died.
    image_id = rbd_names.id_listed(ioctx, mark.name(marks.REPLACED))
    if not image_id:
        return math.inf
    try:
        with rbd.Image(ioctx, image_id=image_id, read_only=True) as image:
            since = dict(image.metadata_list()).get(_REPLACED_AT)
    except rbd.ImageNotFound:       # somebody has begun to remove it
        return math.inf
    return time.time() - int(since) if since else 0


def forget(ioctx: Any, mark: marks.Mark, is_deleted: bool) -> None:
    """Remove an image that was put aside, if a whole one has its name.

    :param is_deleted: whether nobody needs one any more
    :raises errors.SinkFailed: if none has: then it is the only one
    """
    # The name may still lead to the one that was put aside.
    if not (is_deleted or (rbd_names.is_listed(ioctx, mark.image_id)
                           and _is_whole(ioctx, mark.image_id))):
        raise errors.SinkFailed('Nothing has taken the place of the image.')
    rbd_pool.remove(ioctx, mark.name(marks.REPLACED))


def _is_whole(ioctx: Any, image_id: str) -> bool:
    try:
        with rbd.Image(ioctx, image_id, read_only=True) as image:
            return bool(image.is_protected_snap(rbd_pool.SNAPSHOT))
    except rbd.ImageNotFound:       # or its snapshot
        return False
