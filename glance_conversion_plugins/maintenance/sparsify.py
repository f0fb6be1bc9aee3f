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
"""Images that were stored with their zeros, and how they lose them.

Nothing of an image is given back unless its content was verified: against the
digest that Glance has recorded, or, where there is none, against itself.
"""

import contextlib
import time
import uuid

from oslo_config import cfg

from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import reading
from glance_conversion_plugins.copying import sources
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.glance_db import deployment
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance import stored
from glance_conversion_plugins.stores import registry

CONF = cfg.CONF

# Longer than any download that began with the old image. In seconds.
GRACE = 6 * 3600

_SETTLING = 3


def zeros(place: stored.StoredImage, progress: progress_.Progress
          ) -> tuple[int, int]:
    """(bytes stored of an image, bytes of zeros among them)."""
    return place.store.zeros(place.image_id, progress)


def sparsify(place: stored.StoredImage, progress: progress_.Progress) -> None:
    """Give the room of an image's zeros back.

    :raises errors.ConversionError: if that is not possible; then nothing has
        changed
    """
    recorded = place.image['os_hash_value']
    with contextlib.closing(place.store.source(place.image_id)) as source:
        expected = _digest(place, source, progress)
    if recorded and expected != recorded:
        raise errors.DamagedImage(
            'The stored data does not have the digest that Glance has '
            'recorded; it stays as it is.')

    def check(result: sources.Source) -> None:
        if _digest(place, result, progress) != expected:
            raise errors.SinkFailed(
                'Without its zeros the image has another digest.')

    place.store.sparsify(place.image_id, str(uuid.uuid4()), check, progress)


def _digest(place: stored.StoredImage, source: sources.Source,
            progress: progress_.Progress) -> str | None:
    progress.enter('Verifying', source.size)
    algorithm = place.image['os_hash_algo'] or CONF.hashing_algorithm
    return reading.compute(
        source, digest.DigestSpec(algorithm, checksum=False),
        progress=progress).os_hash_value


def replaced(store_id: str, grace: float) -> list[marks.Mark]:
    """What was replaced in a store and is of no use any more.

    Only what this Glance has recorded, or has deleted meanwhile, can it call
    replaced: another one may have its images in the same pool, and what has
    no name is the only copy.

    :param grace: seconds for which whoever reads it may go on
    """
    store, ours = registry.find_replacing(store_id), registry.find(store_id)
    if not store or not ours:
        return []
    return [mark for mark in store.replaced(grace)
            if mark.deployment == deployment.identifier()
            and (records.is_recorded(ours.location(mark.image_id)[0])
                 or _is_deleted(mark))]


def _is_deleted(mark: marks.Mark) -> bool:
    return bool(records.status(mark.image_id) == 'deleted')


def forget(store_id: str, mark: marks.Mark) -> None:
    """Remove what was replaced.

    :raises errors.SinkFailed: if it is in use, or nothing took its place
    """
    if store := registry.find_replacing(store_id):
        store.forget_replaced(mark, _is_deleted(mark))


def put_back(store_id: str, image_id: str) -> None:
    """Give an image its name back."""
    if store := registry.find_replacing(store_id):
        store.put_back(image_id)


def nameless(store_id: str) -> set[str]:
    """Ids of images whose name was taken, of those that Glance has recorded.

    Whoever lives gives it back within milliseconds.
    """
    if found := _nameless(store_id):
        time.sleep(_SETTLING)
        found &= _nameless(store_id)
    return found


def _nameless(store_id: str) -> set[str]:
    store, ours = registry.find_replacing(store_id), registry.find(store_id)
    if not store or not ours:
        return set()
    return {image_id for image_id in store.nameless()
            if records.is_recorded(ours.location(image_id)[0])}
