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

"""What a dead import has recorded, of which its image can not do with a part.

Its image is ``killed`` meanwhile: nobody stores anything of it.
"""

from collections.abc import Mapping
import contextlib
from typing import Any

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.stores import driver
from glance_conversion_plugins.stores import liveness
from glance_conversion_plugins.stores import protocols
from glance_conversion_plugins.stores import registry


def forget(image_id: str) -> None:
    """Remove what a dead import has of data, which is of no use alone."""
    for location in records.locations(image_id):
        if store := _store_of(image_id, location):
            # Of its own: whoever else does the same goes by another one.
            _forget_marked(store, driver.mark(image_id, liveness.new_id()),
                           location)
        else:
            _forget_elsewhere(image_id, location)


def _store_of(image_id: str, location: Mapping[str, Any]
              ) -> protocols.Recoverable | None:
    """The store of ours that has a location, whatever it is called by now.

    :raises errors.SinkFailed: if a store does not answer, whose it may be
    """
    for store_id in registry.identifiers():
        if store := registry.find(store_id):
            with contextlib.suppress(errors.NotStored):
                if store.location(image_id)[0] == location['url']:
                    return store
    return None


def _forget_marked(store: protocols.Recoverable, mark: marks.Mark,
                   location: Mapping[str, Any]) -> None:
    """Remove what a store of ours has, by a mark.

    By which the next pass finds it, should this one die; and whoever goes on
    late removes nothing that was stored by then.
    """
    store.mark_again(mark)
    if records.set_location_deleted(location['id'], True):
        store.discard(mark)


def _forget_elsewhere(image_id: str, location: Mapping[str, Any]) -> None:
    """Remove what another store has, by its URL.

    One of all who try takes a location off the record, and removes its data:
    a second one could find that of a later import there.
    """
    if records.set_location_deleted(location['id'], True):
        try:
            compat.delete_data(image_id, {
                key: location[key] for key in ('url', 'metadata', 'status')})
        except Exception:
            records.set_location_deleted(location['id'], False)
            raise
