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
"""Images in our stores, as Glance has recorded them."""

from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.stores import protocols
from glance_conversion_plugins.stores import registry


class StoredImage(NamedTuple):
    """An image in one of our stores."""

    image: Any              # Glance's record of it
    location: Any           # and of where it is
    store_id: str
    store: protocols.SparseStore

    @property
    def image_id(self) -> str:
        return str(self.image['id'])

    def __str__(self) -> str:
        return f'image {self.image_id} in store {self.store_id}'


def images(image_ids: Sequence[str] = (), store_ids: Sequence[str] = ()
           ) -> Iterator[StoredImage]:
    """Find active images that are where our stores put them."""
    return (found for found in recorded(image_ids, store_ids)
            if registry.is_in_place(found.store, found.image_id,
                                    found.location))


def recorded(image_ids: Sequence[str] = (), store_ids: Sequence[str] = ()
             ) -> Iterator[StoredImage]:
    """Find active images that are said to be in our stores.

    :param image_ids: of those to look at; empty: all
    :param store_ids: of those to look into; empty: all
    """
    for image in records.images(status='active'):
        if not image_ids or image['id'] in image_ids:
            yield from _places(image, store_ids)


def find(image_id: str, store_id: str) -> StoredImage | None:
    """An active image in one of our stores, if it still is there."""
    image = records.find_image(image_id)
    if not image or image['status'] != 'active':
        return None
    return next(_places(image, [store_id]), None)


def _places(image: Any, store_ids: Sequence[str]) -> Iterator[StoredImage]:
    for location in image['locations']:
        store_id = location['metadata'].get('store')
        # Of one image alone Glance lists those that are deleted too.
        if (location['status'] != 'active'
                or store_ids and store_id not in store_ids):
            continue
        if store := registry.find(store_id):
            yield StoredImage(image, location, store_id, store)
