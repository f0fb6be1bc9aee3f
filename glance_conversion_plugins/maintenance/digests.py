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

"""Digests that are computed after an image became active.

By the process that imported it, or by whoever finds that this one died: while
somebody is at it, the import's task is touched every minute. Nobody waits for
them, so they give way for some time: to conversions on their node, and to
others in a store that has more to do than it can.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import functools
import logging
import os
import threading
import time
from typing import Any
from typing import NamedTuple

from oslo_concurrency import lockutils
from oslo_config import cfg

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import reading
from glance_conversion_plugins.copying import slots
from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance import background
from glance_conversion_plugins.stores import protocols
from glance_conversion_plugins.stores import registry

CONF = cfg.CONF
LOG = logging.getLogger(__name__)

# How often they look whether the image is still there.
_LOOK_SECONDS = 4

_CORES_EACH = 2     # one for each digest that Glance records

# A look at the slots costs all who look, the more the more of them wait. So
# of one process there are no more than could have one.
_turns = threading.Semaphore(
    max(1, len(os.sched_getaffinity(0)) // _CORES_EACH))

# For how long those of one image give way, in all, from when they are owed.
_PATIENCE_SECONDS = 600


@contextlib.contextmanager
def _while_stored(image_id: str, store_id: str, cancel: cancel_.Cancel
                  ) -> Iterator[cancel_.Cancel]:
    """A request to stop that comes with ``cancel``, or when an image goes.

    Reading 1 TiB of zeros for nobody takes two cores for half an hour.
    """
    stop, done = cancel_.Cancel(), threading.Event()

    def look() -> None:
        while not done.wait(_LOOK_SECONDS):
            try:
                if store_id not in records.recorded_stores(image_id):
                    stop.set()
                    return
            except Exception:
                LOG.warning('Image %s can not be looked at; trying again',
                            image_id, exc_info=True)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        with cancel.interrupting(stop.set):
            yield stop
    finally:
        done.set()
        thread.join()


def _limits() -> slots.Limits:
    """For how many images a node computes digests at once."""
    cores = len(os.sched_getaffinity(0))
    return slots.Limits(max(1, min(CONF.conversion.max_concurrent,
                                   cores // _CORES_EACH)))


@contextlib.contextmanager
def _turn(cancel: cancel_.Cancel) -> Iterator[None]:
    """Wait until it is for this process to look for a slot."""
    while not _turns.acquire(timeout=_LOOK_SECONDS):
        if cancel.is_set():
            raise errors.Cancelled('The conversion was stopped.')
    try:
        yield
    finally:
        _turns.release()


def compute(image_id: str,
            stores: Mapping[str, protocols.Adoptable],
            spec: digest.DigestSpec, task_id: str | None,
            cancel: cancel_.Cancel = cancel_.NEVER,
            progress: progress_.Progress | None = None,
            since: float | None = None) -> None:
    """Compute digests of a stored image and record them.

    :param stores: the stores that hold it, by their identifiers
    :param task_id: of its import, which tells others that this goes on
    :param since: when they began to give way, of the monotonic clock; None:
        they begin now
    """
    work = _Work(image_id, spec, cancel, progress or progress_.Progress(),
                 time.monotonic() if since is None else since)
    with background.at_work(task_id), _turn(cancel):
        _compute(work, stores)


class _Work(NamedTuple):
    """One image whose digests are owed."""

    image_id: str
    spec: digest.DigestSpec
    cancel: cancel_.Cancel
    progress: progress_.Progress
    since: float            # of the monotonic clock

    def patience(self) -> float:
        """For how many seconds they still give way."""
        return max(0, self.since + _PATIENCE_SECONDS - time.monotonic())


def _compute(work: _Work, stores: Mapping[str, protocols.Adoptable]) -> None:
    """Read one store after the other, until one has the image."""
    failure = None
    for store_id, store in stores.items():
        try:
            if _is_done(work, store_id, store):
                return
        except errors.Cancelled:
            raise
        except errors.ConversionError as e:
            LOG.warning('Image %s can not be read from store %s',
                        work.image_id, store_id, exc_info=True)
            failure = e
    if failure:
        raise failure


def _is_done(work: _Work, store_id: str, store: protocols.Adoptable) -> bool:
    """Record the digests of an image, unless it is gone from a store."""
    image_id, start = work.image_id, time.monotonic()
    if store_id not in records.recorded_stores(image_id):
        return False
    with _while_stored(image_id, store_id, work.cancel) as stop:
        found = background.run(functools.partial(_read, work, store, stop))
    if work.cancel.is_set():
        raise errors.Cancelled('The conversion was stopped.')
    # An image that is removed under a reader reads as zeros.
    if found and store_id in records.recorded_stores(image_id):
        records.record_digests(image_id, *found)
        LOG.info('Digests of image %s computed in %.1f s', image_id,
                 time.monotonic() - start)
        return True
    LOG.info('Image %s is gone from store %s', image_id, store_id)
    return False


def _read(work: _Work, store: protocols.Adoptable, stop: cancel_.Cancel
          ) -> digest.Digest | None:
    """The digests of what is stored; None if it was told to stop."""
    folder, progress = lockutils.get_lock_path(CONF), work.progress
    try:
        with (slots.hold(_limits(), folder, progress, stop,
                         kind=slots.DIGESTS),
              contextlib.closing(store.source(work.image_id)) as source):
            way = background.giving_way(f'Digests of image {work.image_id}',
                                        store, stop, work.patience())
            progress.enter('Computing digests', source.size)
            return reading.compute(source, work.spec, progress=progress,
                                   cancel=stop, before=(way,))
    except errors.ConversionError:
        # What is removed may be missed before it is looked for.
        if stop.is_set():
            return None
        raise


def without_digests(silence: float = 0) -> Iterator[str]:
    """Ids of active images in our stores whose digests are pending.

    :param silence: seconds for which nobody may have worked on them
    """
    # All at once: an image that is deleted meanwhile would end the listing.
    for image in list(filter(_is_pending, records.images(status='active'))):
        task = records.last_task(image['id'])
        if not task or records.age(task) >= silence:
            yield image['id']


def _is_pending(image: Any) -> bool:
    """Whether an image lies where our imports put it, without a digest.

    One that came by its location only has no algorithm either, unless Glance
    was to digest it.
    """
    if image['os_hash_value'] or not image['os_hash_algo']:
        return False
    return any(
        (store := registry.find(location['metadata'].get('store')))
        and registry.is_in_place(store, image['id'], location)
        for location in image['locations'])


def _is_upload(image: Any) -> bool:
    """Whether what is stored are the bytes that were uploaded."""
    said = {prop['name']: prop['value'] for prop in image['properties']
            if not prop['deleted']}
    return (said.get(f'{records.SOURCE}format') == 'raw'
            and said.get(f'{records.SOURCE}container') == 'bare')


def catch_up(image_id: str, cancel: cancel_.Cancel = cancel_.NEVER,
             progress: progress_.Progress | None = None,
             since: float | None = None) -> None:
    """Compute and record digests that an interrupted process still owes.

    :param since: as of ``compute()``; of several, one after the other, when
        the first was looked at, or each would give way anew
    """
    image = records.find_image(image_id)
    if not image or image['status'] != 'active' or not _is_pending(image):
        LOG.info('Image %s owes no digests any more', image_id)
        return
    stores = {store_id: store
               for store_id in records.recorded_stores(image_id)
               if (store := registry.find(store_id))}
    task = records.last_task(image_id)
    compute(image_id, stores, digest.DigestSpec(
        image['os_hash_algo'], CONF.conversion.legacy_checksum,
        CONF.conversion.source_hash and _is_upload(image)),
        task['id'] if task else None, cancel, progress, since)
