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
"""Whether what is stored still is what Glance has recorded.

Reads and reports: what becomes of an image that differs is not for a program
to say.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import logging
from typing import Any
from typing import NamedTuple

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import pipeline
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import reading
from glance_conversion_plugins.copying import sources
from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance import stored

LOG = logging.getLogger(__name__)


class Report(NamedTuple):
    """What was found of an image in a store."""

    place: stored.StoredImage
    faults: tuple[str, ...] = ()    # what is not as Glance has recorded it
    doubt: str = ''                 # why nobody can say whether all is

    def __str__(self) -> str:
        if self.faults:
            return f'{self.place} DIFFERS: {"; ".join(self.faults)}'
        return f'{self.place}: {self.doubt or "is as it was recorded"}'


def verify(place: stored.StoredImage, before: Sequence[pipeline.Consumer],
           progress: progress_.Progress,
           cancel: cancel_.Cancel = cancel_.NEVER) -> Report:
    """Read an image in a store, and compare it with its record.

    :param before: what sees every byte before it is compared, and may wait
    :raises errors.Cancelled: if it was told to stop
    """
    try:
        report = Report(place, *_compare(place, before, progress, cancel))
    except errors.Cancelled:
        raise
    except errors.ConversionError as e:
        LOG.warning('%s can not be verified', place, exc_info=True)
        report = Report(place, doubt=f'could not be verified: {e}')
    # What is removed under a reader reads as zeros, or is missed.
    if place.store_id not in records.recorded_stores(place.image_id):
        return Report(place, doubt='is gone meanwhile')
    return report


def _compare(place: stored.StoredImage, before: Sequence[pipeline.Consumer],
             progress: progress_.Progress, cancel: cancel_.Cancel
             ) -> tuple[tuple[str, ...], str]:
    try:
        if place.store.location(place.image_id)[0] != compat.location_url(
                place.location['url']):
            return (), 'is not where the store puts images'
    except errors.NotStored:
        return ('there is no data of it',), ''
    faults = list(place.store.faults(place.image_id))
    try:
        with contextlib.closing(place.store.source(place.image_id)) as source:
            faults += _of_content(place.image, source, before, progress,
                                  cancel)
    except errors.SourceFailed:
        # What is missing can not be read either.
        if not faults:
            raise
    has_digest = _expected(place.image) is not None
    return tuple(faults), '' if has_digest else 'has no digest to compare'


def _of_content(image: Any, source: sources.Source,
                before: Sequence[pipeline.Consumer],
                progress: progress_.Progress, cancel: cancel_.Cancel
                ) -> Iterator[str]:
    if source.size != image['size']:
        yield (f'it has {source.size} bytes, and {image["size"]} are '
               'recorded')
    elif digest_ := _expected(image):
        progress.enter(f'Verifying image {image["id"]}', source.size)
        found = reading.compute(
            source, digest.DigestSpec(digest_.algorithm, checksum=False),
            progress=progress, cancel=cancel, before=before).os_hash_value
        if found != digest_.value:
            yield (f'its {digest_.algorithm} is {found}, and {digest_.value} '
                   'is recorded')


class _Expected(NamedTuple):
    algorithm: str
    value: str


def _expected(image: Any) -> _Expected | None:
    """The best digest that Glance has of an image, if any."""
    if image['os_hash_value']:
        return _Expected(image['os_hash_algo'], image['os_hash_value'])
    return _Expected('md5', image['checksum']) if image['checksum'] else None
