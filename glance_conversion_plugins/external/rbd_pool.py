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

"""A pool of RBD images.

How to reach it, how to remove an image from it, and which of our errors an
error of Ceph is.
"""

from collections.abc import Iterator
import contextlib
import errno
import json
import logging
import time
from typing import Any
from typing import NamedTuple

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import bindings
from glance_conversion_plugins.external import rbd_names

rados = bindings.load('rados')
rbd = bindings.load('rbd')

LOG = logging.getLogger(__name__)

# What the stock driver calls the snapshot that it makes and protects.
SNAPSHOT = 'snap'

# In seconds. By default librados waits for ever, and with it a conversion slot
# and every other store that the same image goes to. Longer than a cluster
# takes to fail over, shorter than a conversion may stand still.
_PATIENCE = 240

# Checks of its health: that it is slow, and that it has little room.
SLOW = 'SLOW_OPS'
_STRAIN = {SLOW, 'OSD_NEARFULL', 'POOL_NEARFULL', 'OSD_BACKFILLFULL',
           'OSD_FULL', 'POOL_FULL'}

# Longer than the 30 s for which a client that was killed is remembered.
_REMOVE_SECONDS = 40


class Pool(NamedTuple):
    """A pool, and how to reach it."""

    conffile: str
    user: str
    name: str
    timeout: int = -1       # in seconds; negative: as long as is reasonable


@contextlib.contextmanager
def connect(pool: Pool) -> Iterator[tuple[Any, Any]]:
    """Connect to a pool; yields a rados.Rados and a rados.Ioctx.

    :raises errors.SinkFailed: if the cluster does not answer
    """
    with translated(), contextlib.ExitStack() as stack:
        cluster = rados.Rados(conffile=pool.conffile, rados_id=pool.user)
        timeout = pool.timeout if pool.timeout >= 0 else _PATIENCE
        for option in ('rados_osd_op_timeout', 'rados_mon_op_timeout',
                       'client_mount_timeout'):
            cluster.conf_set(option, str(timeout))
        cluster.connect()
        stack.callback(cluster.shutdown)
        ioctx = stack.enter_context(cluster.open_ioctx(pool.name))
        # Without this, writes to a pool that is full or over its quota wait
        # for room, for ever; with it they fail, and removing still works.
        ioctx.set_osdmap_full_try()
        yield cluster, ioctx


def free(cluster: Any, name: str) -> int | None:
    """How many bytes of data a pool still takes; None if nobody says."""
    status, output, _ = cluster.mon_command(json.dumps(
        {'prefix': 'df', 'detail': 'detail', 'format': 'json'}), b'')
    if status:
        return None
    stats: dict[str, int] = next(
        (pool['stats'] for pool in json.loads(output)['pools']
         if pool['name'] == name), {})
    found = [stats['max_avail']] if 'max_avail' in stats else []
    # 0: the pool has no quota.
    if quota := stats.get('quota_bytes'):
        found.append(max(0, quota - stats.get('stored', 0)))
    return min(found, default=None)


def strain(cluster: Any) -> set[str] | None:
    """What a cluster complains of that more work would make worse.

    :returns: None if it does not answer; nothing if one may not ask
    """
    status, output, _ = cluster.mon_command(
        json.dumps({'prefix': 'health', 'format': 'json'}), b'')
    if status in (-errno.EACCES, -errno.EPERM):
        return set()
    if status:
        return None
    try:
        checks: dict[str, Any] = json.loads(output)['checks']
    except (ValueError, KeyError):
        return None
    return _STRAIN & checks.keys()


def faults(ioctx: Any, name: str) -> Iterator[str]:
    """Why nothing could be cloned of an image, or why it may change."""
    try:
        with rbd.Image(ioctx, name, read_only=True) as image:
            snapshots = [found['name'] for found in image.list_snaps()]
            if SNAPSHOT not in snapshots:
                yield f'it has no snapshot "{SNAPSHOT}"'
            elif not image.is_protected_snap(SNAPSHOT):
                yield f'its snapshot "{SNAPSHOT}" is not protected'
            with contextlib.suppress(rbd.ImageNotFound):
                pool, parent, snapshot = image.parent_info()
                yield f'it is a clone of {pool}/{parent}@{snapshot}'
    except rbd.ImageNotFound:
        yield 'there is no such image in the pool'


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
        return errors.AlreadyStored()
    return failure_of(getattr(error, 'errno', 0))


def failure_of(errnum: int) -> errors.SinkFailed:
    """The error of ours for a status of a write."""
    if errnum in (errno.ENOSPC, errno.EDQUOT):
        return errors.StoreFull('The store has no room for the image.')
    if errnum == errno.ETIMEDOUT:
        return errors.SinkFailed('The store did not answer in time.')
    return errors.SinkFailed('The store could not take the image.')


def remove(ioctx: Any, name: str) -> None:
    """Remove an image with its snapshot, by a name that is never given again.

    Ceph removes by way of its trash, which takes a write. In a pool over its
    quota that write is refused until the cluster has noticed the room that
    shrinking made. An image may also be busy until its last client is
    forgotten; while anybody has it open nothing of it is touched.
    """
    deadline = time.monotonic() + _REMOVE_SECONDS
    while rbd_names.is_listed(ioctx, name):
        try:
            # What is there has to be empty before Ceph removes it; where
            # somebody has died making or removing it, it does not open.
            rbd_names.mend(ioctx, name)
            with contextlib.suppress(rbd.ImageNotFound):
                _empty(ioctx, name)
            rbd.RBD().remove(ioctx, name)
        except rbd.ImageNotFound:
            break
        except rbd.Error as e:
            if time.monotonic() > deadline:
                raise
            LOG.info('Could not remove %s yet: %s', name, e)
            time.sleep(1)
    # Another one who removed it, and died, may have led it there again.
    rbd_names.tidy(ioctx, name)


def _empty(ioctx: Any, name: str) -> None:
    with rbd.Image(ioctx, name) as image:
        # Ceph looks for others only once nothing is left in it.
        if len(list(image.watchers_list())) > 1:
            raise rbd.ImageBusy('it is open')
        for snapshot in [s['name'] for s in image.list_snaps()]:
            if image.is_protected_snap(snapshot):
                image.unprotect_snap(snapshot)
            image.remove_snap(snapshot)
        image.resize(0)
