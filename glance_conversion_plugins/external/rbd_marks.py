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

An image is called IMAGE_ID.TASK_ID.DEPLOYMENT.partial while it is written.
Published, it has its own name, and image-meta that says whose it is until
Glance has recorded it. Its writer keeps it open all the time: whoever sees no
watcher sees no living writer, and a writer that only seemed dead is shut out
of Ceph by its address, which stands in the mark, before anything is removed.
"""

from collections.abc import Iterator
import json
from typing import Any
from typing import NamedTuple

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import bindings
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.external import rbd_fence
from glance_conversion_plugins.external import rbd_index
from glance_conversion_plugins.external import rbd_names
from glance_conversion_plugins.external import rbd_pool

rbd = bindings.load('rbd')

# A mark is one value, so that it is there or not, whoever dies meanwhile.
KEY = 'glance_conversion.mark'


class Meta(NamedTuple):
    """What a mark says: who writes, and by which client of Ceph."""

    task: str
    deployment: str
    host: str
    client: str

    def is_of(self, mark: marks.Mark) -> bool:
        return (self.task, self.deployment) == (mark.task_id, mark.deployment)


def write(image: Any, mark: marks.Mark) -> None:
    """Mark an image that is open for writing, by nobody else.

    :raises errors.Fenced: if somebody else has it open, who removes it
    """
    client, *others = rbd_fence.watchers(image) or ['']
    if others or not client:
        raise errors.Fenced
    image.metadata_set(KEY, json.dumps(
        Meta(mark.task_id, mark.deployment, mark.host, client)._asdict()))


def _parse(image: Any) -> Meta | None:
    try:
        value = dict(image.metadata_list()).get(KEY)
    except AttributeError as e:     # as the binding has it for a lost one
        raise rbd.ImageNotFound('removed') from e
    if not value:
        return None
    try:
        said = json.loads(value)
        return Meta(*(str(said.get(field, '')) for field in Meta._fields))
    except (ValueError, AttributeError):
        # Nothing of ours; or of a version that nobody has seen yet.
        return Meta('', '', '', '')


def read(ioctx: Any, name: str) -> Meta | None:
    """The mark of an image; None if it has none, or is not there."""
    try:
        # What is called so; where it should lead the name may have lost.
        if image_id := rbd_names.id_listed(ioctx, name):
            with rbd.Image(ioctx, image_id=image_id, read_only=True) as image:
                return _parse(image)
    except rbd.ImageNotFound:
        pass
    return None


def _is_of(meta: Meta | None, mark: marks.Mark) -> bool:
    return meta is not None and meta.is_of(mark)


def bears(image: Any, mark: marks.Mark) -> bool:
    """Say whether an open image has a mark."""
    return _is_of(_parse(image), mark)


def erase(image: Any, mark: marks.Mark) -> None:
    """Take our mark off an open image, which is Glance's from now on.

    :raises errors.Fenced: if it does not bear this mark
    """
    if not bears(image, mark):
        raise errors.Fenced
    try:
        image.metadata_remove(KEY)
    except KeyError as e:       # as the binding has it for one that is gone
        raise errors.Fenced from e


def is_handed_over(ioctx: Any, image: Any, name: str) -> bool:
    """Say whether an open image has its name, and no mark any more."""
    return (_parse(image) is None
            and rbd_names.id_listed(ioctx, name) == image.id())


def publish(ioctx: Any, mark: marks.Mark, image: Any) -> None:
    """Give a sealed image its name.

    :raises rbd.ImageNotFound: if it was taken from its writer
    """
    rbd_index.add(ioctx, mark)
    partial = mark.name(marks.PARTIAL)
    if image.features() & rbd.RBD_FEATURE_JOURNALING:
        # By its journal a mirror hears of it.
        rbd.RBD().rename(ioctx, partial, mark.image_id)
    else:
        # librbd would rename it whatever it is called by now.
        rbd_names.move(ioctx, partial, mark.image_id, image.id())


def hand_over(ioctx: Any, mark: marks.Mark) -> None:
    """Take a mark off an image that Glance has recorded, if it has it."""
    if _is_of(read(ioctx, mark.image_id), mark):
        rbd_names.mend(ioctx, mark.image_id)
        with rbd.Image(ioctx, mark.image_id) as image:
            erase(image, mark)
    strike_out(ioctx, mark)


def mark_again(ioctx: Any, mark: marks.Mark) -> None:
    """Mark an image that Glance has recorded, if it is there.

    :raises errors.Busy: if somebody has it open for writing
    """
    rbd_index.add(ioctx, mark)
    rbd_names.mend(ioctx, mark.image_id)
    try:
        with rbd.Image(ioctx, mark.image_id) as image:
            write(image, mark)
    except rbd.ImageNotFound:
        strike_out(ioctx, mark)
    except errors.Fenced as e:
        raise errors.Busy('The image changes at the moment.') from e


def name_of(ioctx: Any, mark: marks.Mark) -> str | None:
    """What an image is called that bears a mark; None if there is none.

    It may not open, if who made or removed it has died at that.
    """
    # In the order in which it may change meanwhile.
    if rbd_names.is_listed(ioctx, mark.name(marks.PARTIAL)):
        return mark.name(marks.PARTIAL)
    if _is_of(read(ioctx, mark.image_id), mark):
        return mark.image_id
    if rbd_names.is_listed(ioctx, mark.name(marks.REMOVED)):
        return mark.name(marks.REMOVED)
    return None


def look_up(ioctx: Any, mark: marks.Mark) -> marks.Found | None:
    """What there is of a mark; where its writer died early, only an entry."""
    if name := name_of(ioctx, mark):
        is_written = (name != mark.name(marks.PARTIAL)
                      or read(ioctx, name) is not None)
        return marks.Found(mark, name == mark.image_id, is_written)
    if rbd_index.read(ioctx, mark) is not None:
        return marks.Found(mark, is_published=False, is_written=False)
    return None


def fence(cluster: Any, ioctx: Any, mark: marks.Mark) -> bool:
    """Shut the writer of an image out, whether it seems to live or not.

    :returns: whether an image still bears the mark then
    """
    if not (name := name_of(ioctx, mark)):
        return False
    meta = read(ioctx, name)
    rbd_fence.shut_out(cluster, {meta.client} if meta else set())
    # Those who have seen the new map take no more from that client; what it
    # has done until then is seen here.
    if name == mark.image_id:
        return name_of(ioctx, mark) == name
    # Its writer can not publish it then.
    return _take(ioctx, mark, name)


def _take(ioctx: Any, mark: marks.Mark, name: str) -> bool:
    """Give an image the name of what nobody has any more, and no other."""
    removed = mark.name(marks.REMOVED)
    image_id = rbd_names.id_listed(ioctx, name)
    try:
        if image_id and name == mark.image_id:
            with rbd.Image(ioctx, image_id=image_id, read_only=True) as image:
                image_id = image_id if bears(image, mark) else None
        if image_id and name != removed:
            rbd_names.move(ioctx, name, removed, image_id)
    except rbd.ImageNotFound:
        return False
    if image_id:
        # Whoever has died giving or taking one may have left its half.
        for each in (mark.name(marks.PARTIAL), mark.image_id):
            if rbd_names.id_listed(ioctx, each) != image_id:
                rbd_names.forget(ioctx, each, image_id)
    return bool(image_id)


def discard(ioctx: Any, mark: marks.Mark, is_published: bool = True) -> None:
    """Remove what a task wrote, and nothing that another task wrote.

    By a name that nothing else can have.

    :param is_published: whether it may have the name of the image by now
    :raises errors.Busy: if it has, and should not
    """
    removed = mark.name(marks.REMOVED)
    name: str | None = removed
    while name:
        if name == mark.image_id and not is_published:
            raise errors.Busy('The image changes at the moment.')
        if _take(ioctx, mark, name):
            rbd_pool.remove(ioctx, removed)
        name = name_of(ioctx, mark)
    strike_out(ioctx, mark)


def strike_out(ioctx: Any, mark: marks.Mark) -> None:
    """Have nothing left of a mark, unless an image bears it after all."""
    entry = rbd_index.read(ioctx, mark)
    if name_of(ioctx, mark):
        return
    for state in (marks.PARTIAL, marks.REPLACED, marks.REMOVED):
        rbd_names.tidy(ioctx, mark.name(state))
    rbd_names.free(ioctx, mark.image_id)
    # Should its writer go on after all, it makes another entry.
    if entry is not None:
        rbd_index.remove(ioctx, mark, entry)


def marked(ioctx: Any) -> Iterator[marks.Found]:
    """Everything in a pool that is ours and not, or not yet, Glance's."""
    listed = [mark for name in rbd.RBD().list(ioctx)
              if (mark := marks.parse(name, marks.PARTIAL, marks.REMOVED))]
    for mark in dict.fromkeys([*listed, *rbd_index.listed(ioctx)]):
        if found := look_up(ioctx, mark):
            yield found
