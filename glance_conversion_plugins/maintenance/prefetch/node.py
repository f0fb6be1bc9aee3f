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


"""The image cache of this node, as Glance's own classes keep it.

Beside Glance's folders it has one of ours, ``prefetch``: what is being
fetched lies there until it is complete and right, so nobody is ever given a
part of an image, and what a dead agent has left is known by its place.
"""

from collections.abc import Iterator
import contextlib
import logging
import os
import time
from typing import Any
from typing import NamedTuple

from oslo_concurrency import lockutils
from oslo_config import cfg

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import folder
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.glance_db import compat

LOG = logging.getLogger(__name__)
CONF = cfg.CONF

# A file that is still being cached has been written to since.
_STALLED = 300      # seconds


class Entry(NamedTuple):
    """An image that is cached."""

    image_id: str
    size: int           # bytes, as Glance counts
    allocated: int      # bytes on disk
    hits: int
    last_accessed: Any  # as the driver writes it; orders entries


class Node:
    """What is cached and queued here, and how an image gets into it."""

    def __init__(self) -> None:
        if not CONF.image_cache_dir:
            raise errors.Misconfigured(
                'There is no image cache: image_cache_dir is not set.')
        if (CONF.image_cache_driver == 'centralized_db'
                and not CONF.worker_self_reference_url):
            raise errors.Misconfigured(
                'worker_self_reference_url is not set, and the cache driver '
                'centralized_db needs it.')
        self.cache = compat.image_cache()
        self.folder = os.path.join(CONF.image_cache_dir, 'prefetch')

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """Hold what only one agent of a node can; says whether it does."""
        # Not by who only looks, perhaps as another user than Glance's.
        os.makedirs(self.folder, mode=0o750, exist_ok=True)
        lock = lockutils.external_lock('prefetch', 'glance-conversion-',
                                       self.folder)
        held = lock.acquire(blocking=False)
        try:
            yield held
        finally:
            if held:
                lock.release()

    def entries(self) -> list[Entry]:
        """What is cached, the least recently accessed first."""
        found = []
        for record in self.cache.get_cached_images() or ():
            with contextlib.suppress(FileNotFoundError):
                stat = os.stat(self._path(record['image_id']))
                found.append(Entry(
                    record['image_id'], stat.st_size, stat.st_blocks * 512,
                    record['hits'], record['last_accessed']))
        return sorted(found, key=lambda entry: entry.last_accessed)

    def _path(self, image_id: str, state: str = 'active') -> str:
        return compat.cache_path(self.cache, image_id, state)

    def queued(self) -> list[str]:
        """Ids of what was queued, in that order."""
        return list(self.cache.get_queued_images())

    def is_cached(self, image_id: str) -> bool:
        return bool(self.cache.is_cached(image_id))

    def left_to_glance(self, image_id: str, grace: float) -> str | None:
        """Say why this image is Glance's to cache at the moment, if so.

        :param grace: seconds for which Glance's own worker is given way
        """
        age = _age(self._path(image_id, 'incomplete'))
        if age is not None and age < _STALLED:
            return 'Glance is caching it'
        age = _age(self._path(image_id, 'queue'))
        if age is not None and age < grace:
            return (f'left to Glance for {grace - age:.0f} s more, for it '
                    'was queued just now')
        return None

    def unqueue(self, image_id: str) -> None:
        self.cache.delete_queued_image(image_id)

    def evict(self, image_id: str) -> None:
        self.cache.delete_cached_image(image_id)

    def commit(self, mark: marks.Mark) -> int:
        """Let a complete file be the cached image; returns its bytes on disk.

        Glance's driver moves what lies in ``incomplete``, and records it.

        :raises errors.Cancelled: if Glance has cached it meanwhile
        """
        image_id = mark.image_id
        if self.is_cached(image_id):
            raise errors.Cancelled('Glance has cached the image meanwhile.')
        mine = os.path.join(self.folder, image_id)
        before = os.stat(mine)
        try:
            # A record whose file somebody removed stands in the way.
            self.evict(image_id)
            with compat.caching(self.cache, image_id):
                os.replace(mine, self._path(image_id, 'incomplete'))
            # Glance opens what is incomplete, and empties it, whenever
            # somebody downloads the image.
            after = os.stat(self._path(image_id))
            if (not os.path.samestat(before, after)
                    or before.st_size != after.st_size):
                raise errors.SinkFailed(
                    'Glance was caching the image at the same moment.')
            # Its sqlite driver hides errors.
            if not self._is_recorded(image_id):
                raise errors.SinkFailed(
                    'The cache could not record the image.')
        except BaseException:
            self._take_back(image_id)
            raise
        with folder.Folder(self.folder) as here:
            here.hand_over(mark)
        return before.st_blocks * 512

    def _is_recorded(self, image_id: str) -> bool:
        return image_id in {record['image_id'] for record in
                            self.cache.get_cached_images() or ()}

    def _take_back(self, image_id: str) -> None:
        """Leave nothing of what is not recorded; nobody could prune it."""
        for state in ('incomplete', 'invalid', 'active'):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(image_id, state))
        try:
            self.evict(image_id)
        except Exception:
            LOG.warning('Image %s may stay recorded as cached', image_id,
                        exc_info=True)

    def sweep(self) -> None:
        """Remove what a dead agent was fetching; needs the lock."""
        with folder.Folder(self.folder) as here:
            for mark in [found.mark for found in here.marked()]:
                LOG.info('A fetch of image %s was interrupted', mark.image_id)
                if self._is_half_committed(mark):
                    self._record(mark)
                else:
                    here.discard(mark)

    def _is_half_committed(self, mark: marks.Mark) -> bool:
        """Whether our file is the cached one, and Glance does not know."""
        path = os.path.join(self.folder, folder.name_of(mark, marks.PARTIAL))
        try:
            return (os.path.samefile(path, self._path(mark.image_id))
                    and not self._is_recorded(mark.image_id))
        except FileNotFoundError:
            return False

    def _record(self, mark: marks.Mark) -> None:
        """Complete a commit that has moved the file, and no more.

        Glance's drivers give it its name, take it off the queue and then
        record it. Unrecorded, it would be served, but never pruned.
        """
        os.replace(self._path(mark.image_id),
                   os.path.join(self.folder, mark.image_id))
        self.commit(mark)


def _age(path: str) -> float | None:
    """Seconds since a file was written to; None if there is none."""
    try:
        return time.time() - os.path.getmtime(path)
    except FileNotFoundError:
        return None
