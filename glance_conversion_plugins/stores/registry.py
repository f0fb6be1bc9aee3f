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

"""The stores of this Glance, and which of them are ours."""

from collections.abc import Mapping
from typing import Any
from typing import cast

import glance_store
from oslo_config import cfg

from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.stores import protocols

CONF = cfg.CONF


def identifiers() -> list[str]:
    """The stores of this Glance, ours and others."""
    # A copy: looking up a store adds the reserved ones to the original.
    return list(CONF.enabled_backends or {})


def find(store_id: str | None) -> protocols.SparseStore | None:
    """The driver of a store, if it is one of ours."""
    if not store_id or store_id not in (CONF.enabled_backends or {}):
        return None
    store = glance_store.get_store_from_store_identifier(store_id)
    if not isinstance(store, protocols.Adoptable):
        return None
    return cast(protocols.SparseStore, store)


def find_replacing(store_id: str) -> protocols.Replacing | None:
    """The driver of a store, if it replaces images to sparsify them."""
    store: object = find(store_id)
    return store if isinstance(store, protocols.Replacing) else None


def is_in_place(store: protocols.Adoptable, image_id: str,
                location: Mapping[str, Any]) -> bool:
    """Say whether a location of an image is where the store itself puts it."""
    try:
        return bool(store.location(image_id)[0]
                    == compat.location_url(location['url']))
    except errors.SinkFailed:
        return False
