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

"""Ceph, as the RBD sink and source and the clean-up see it.

Knows how to connect, how to name and mark what is not yet Glance's, how to
remove an image, and which of our errors an error of Ceph is.
"""

from collections.abc import Iterator
import contextlib
import errno
import logging
import re
import time
from typing import Any
from typing import NamedTuple

import rados
import rbd

from glance_conversion_plugins import errors
from glance_conversion_plugins import sinks

LOG = logging.getLogger(__name__)

SNAPSHOT = 'snap'

# Image-meta on what we write, until Glance has recorded it.
MARK = 'glance_conversion.'

_UUID = re.compile(r'^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')
_PARTIAL = re.compile(r'^(?P<image_id>[0-9a-f-]{36})\.(?P<task_id>[0-9a-f-]+)'
                      r'\.partial$')


# Longer than the 30 s for which a client that was killed is remembered.
_REMOVE_SECONDS = 40


class Place(NamedTuple):
    """A pool, and how to reach it."""

    conffile: str
    user: str
    pool: str
    timeout: int = -1       # in seconds; negative: as librados decides


def partial_name(image_id: str, task_id: str) -> str:
    """Name an image while it is written.

    The name alone tells what it is, so that a crash before it is marked
    leaves nothing unknown; and no one can clone half an image by mistake.
    """
    return f'{image_id}.{task_id}.partial'


def parse_partial_name(name: str) -> tuple[str, str] | None:
    """Return (image id, task id) if the name is that of a partial image."""
    match = _PARTIAL.match(name)
    return (match['image_id'], match['task_id']) if match else None


@contextlib.contextmanager
def connect(place: Place) -> Iterator[tuple[Any, Any]]:
    """Connect to a pool; yields a rados.Rados and a rados.Ioctx.

    :raises errors.SinkFailed: if the cluster does not answer
    """
    with translated(), contextlib.ExitStack() as stack:
        cluster = rados.Rados(conffile=place.conffile, rados_id=place.user)
        if place.timeout >= 0:
            for option in ('rados_osd_op_timeout', 'rados_mon_op_timeout',
                           'client_mount_timeout'):
                cluster.conf_set(option, str(place.timeout))
        cluster.connect()
        stack.callback(cluster.shutdown)
        ioctx = stack.enter_context(cluster.open_ioctx(place.pool))
        # Without this, writes to a pool that is full or over its quota wait
        # for room, for ever; with it they fail, and removing still works.
        ioctx.set_osdmap_full_try()
        yield cluster, ioctx


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn what Ceph raises into our errors."""
    try:
        yield
    except (rbd.Error, rados.Error) as e:
        LOG.error('Ceph refused: %s: %s', type(e).__name__, e)
        raise failure(e) from e


def failure(error: Exception) -> errors.SinkFailed:
    """The error of ours that an error of Ceph is."""
    if isinstance(error, rbd.ImageExists):
        return errors.AlreadyStored(
            'The store already holds data of this image.')
    return failure_of(getattr(error, 'errno', 0))


def failure_of(errnum: int) -> errors.SinkFailed:
    """The error of ours for a status of a write."""
    if errnum in (errno.ENOSPC, errno.EDQUOT):
        return errors.StoreFull('The store has no room for the image.')
    if errnum == errno.ETIMEDOUT:
        return errors.SinkFailed('The store did not answer in time.')
    return errors.SinkFailed('The store could not take the image.')


def is_present(ioctx: Any, name: str) -> bool:
    try:
        rbd.Image(ioctx, name, read_only=True).close()
    except rbd.ImageNotFound:
        return False
    return True


def remove(ioctx: Any, name: str) -> None:
    """Remove an image of ours with its snapshot, if it is there.

    Ceph removes by way of its trash, which takes a write. In a pool over its
    quota that write is refused until the cluster has noticed the room that
    shrinking made. An image may also be busy until its last client is
    forgotten.
    """
    deadline = time.monotonic() + _REMOVE_SECONDS
    while is_present(ioctx, name):
        try:
            _empty(ioctx, name)
            rbd.RBD().remove(ioctx, name)
        except rbd.Error as e:
            if time.monotonic() > deadline:
                raise
            LOG.info('Could not remove %s yet: %s', name, e)
            time.sleep(1)


def _empty(ioctx: Any, name: str) -> None:
    with rbd.Image(ioctx, name) as image:
        for snapshot in [s['name'] for s in image.list_snaps()]:
            if image.is_protected_snap(snapshot):
                image.unprotect_snap(snapshot)
            image.remove_snap(snapshot)
        image.resize(0)


def set_mark(image: Any, owner: sinks.Owner, state: str) -> None:
    for key, value in (('task', owner.task_id), ('host', owner.host),
                       ('state', state)):
        image.metadata_set(MARK + key, value)


def get_mark(ioctx: Any, name: str) -> dict[str, str]:
    """Our image-meta of an image, without its prefix; {} if it has none."""
    try:
        with rbd.Image(ioctx, name, read_only=True) as image:
            return {key.removeprefix(MARK): value
                    for key, value in image.metadata_list()
                    if key.startswith(MARK)}
    except rbd.ImageNotFound:
        return {}


def hand_over(ioctx: Any, image_id: str, task_id: str) -> None:
    """Take our mark off, so that the image is as if Glance had written it.

    What the task has not finished meanwhile has come too late.
    """
    remove(ioctx, partial_name(image_id, task_id))
    mark = get_mark(ioctx, image_id)
    if mark.get('task') == task_id:
        with rbd.Image(ioctx, image_id) as image:
            for key in mark:
                image.metadata_remove(MARK + key)


def discard(ioctx: Any, image_id: str, task_id: str) -> None:
    """Remove what a task wrote, and nothing that another task wrote."""
    remove(ioctx, partial_name(image_id, task_id))
    if get_mark(ioctx, image_id).get('task') == task_id:
        remove(ioctx, image_id)


def leftovers(ioctx: Any) -> Iterator[sinks.Owner]:
    """Everything in a pool that is ours and not, or not yet, Glance's."""
    for name in rbd.RBD().list(ioctx):
        if partial := parse_partial_name(name):
            yield sinks.Owner(*partial)
        elif _UUID.match(name):
            try:
                mark = get_mark(ioctx, name)
            except rbd.Error as e:
                LOG.warning('%s is passed over: %s', name, e)
                continue
            if 'task' in mark:
                yield sinks.Owner(name, mark['task'])


def is_open(ioctx: Any, name: str) -> bool:
    """Say whether some client may be writing to an image.

    One that was killed counts for 30 s longer.
    """
    try:
        with rbd.Image(ioctx, name, read_only=True) as image:
            return any(image.watchers_list())
    except rbd.ImageNotFound:
        return False


def fence(cluster: Any, ioctx: Any, name: str) -> None:
    """Shut out whoever still has an image open.

    A client that was killed is watched for 30 s, in which the image can not
    be removed; one that only seemed dead must not write any more.
    """
    try:
        with rbd.Image(ioctx, name, read_only=True) as image:
            watchers = {w['addr'] for w in image.watchers_list()}
    except rbd.ImageNotFound:
        return
    own = set(re.findall(r'[^,\[\]]+', cluster.get_addrs()))
    for address in watchers - own:
        LOG.info('Shutting out the client %s of %s', address, name)
        cluster.blocklist_add(address, 300)
