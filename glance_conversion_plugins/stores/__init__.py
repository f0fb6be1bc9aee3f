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

"""Store drivers that adopt what an import task wrote into them."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any
from typing import Protocol

import glance_store
from oslo_config import cfg

from glance_conversion_plugins import config
from glance_conversion_plugins import errors
from glance_conversion_plugins import progress as progress_
from glance_conversion_plugins import sinks
from glance_conversion_plugins import sources

CONF = cfg.CONF


class AdoptingStore(Protocol):
    """What our tasks need of a store driver of ours."""

    kind: str   # of the entry point

    def sink(self, image_id: str, task_id: str) -> sinks.Sink:
        """Where to write a raw image, so that ``add()`` can adopt it."""

    def source(self, image_id: str) -> sources.Source:
        """Read back what is stored for an image."""

    def location(self, image_id: str) -> tuple[str, dict[str, Any]]:
        """The URL and the metadata that Glance records for an image."""

    def hand_over(self, image_id: str, task_id: str) -> None:
        """Glance has recorded the image: take our mark off."""

    def discard(self, image_id: str, task_id: str) -> None:
        """Remove what a task wrote for an image, if it is still there."""

    def evict(self, image_id: str, task_id: str) -> None:
        """Do that, and shut out a writer that may not be dead."""

    def leftovers(self) -> Iterable[sinks.Owner]:
        """Everything of ours in the store that bears our mark."""

    def zeros(self, image_id: str, progress: progress_.Progress
              ) -> tuple[int, int]:
        """How many bytes are stored for an image, and how many are zeros."""

    def sparsify(self, image_id: str, task_id: str,
                 check: Callable[[sources.Source], None],
                 progress: progress_.Progress) -> None:
        """Give back the room that the zeros of an image take.

        :param check: raises if it does not find the content that it expects
        """

    def replaced(self) -> list[str]:
        """Names of what was replaced and is still there."""

    def forget_replaced(self) -> list[str]:
        """Remove what was replaced; returns what could not be removed."""

    def nameless(self) -> list[str]:
        """Ids of images whose names an interrupted replacement took."""

    def put_back(self, image_id: str) -> None:
        """Give an image its name back."""

    def probe(self) -> None:
        """Do with a small image what an import does, and remove it.

        :raises errors.SinkFailed: if the store does not let us
        """

    def is_open(self, image_id: str, task_id: str) -> bool:
        """Say whether a living process may be writing what a task began."""


def check_options(conf: Any) -> None:
    """Register our options and look at those that Glance uses.

    A store is configured when Glance starts, so it does not start with a
    value that would fail every import later.

    :raises cfg.Error: if one is wrong; it names the option
    """
    config.register_opts(conf)
    config.check(conf, 'conversion', 'sparse_store')


def pose_as_stock(conf: Any, store_id: str | None, ours: str, stock: str
                  ) -> None:
    """Let Glance see a type of store that it knows how to describe.

    ``GET /v2/info/stores/detail`` fails for types that Glance does not know.
    glance_store keeps the real type in its own map.
    """
    if not store_id:
        return
    backends = dict(conf.enabled_backends or {})
    if backends.get(store_id) == ours:
        backends[store_id] = stock
        conf.set_override('enabled_backends', backends)


def identifiers() -> list[str]:
    """The stores of this Glance, ours and others."""
    # A copy: looking up a store adds the reserved ones to the original.
    return list(CONF.enabled_backends or {})


def is_in_place(store: AdoptingStore, image_id: str,
                location: Mapping[str, Any]) -> bool:
    """Say whether a location of an image is where the store itself puts it."""
    try:
        return bool(store.location(image_id)[0] == location['url'])
    except errors.SinkFailed:
        return False


def adopting(store_id: str | None) -> AdoptingStore | None:
    """The driver of a store, if it is one of ours."""
    if not store_id or store_id not in (CONF.enabled_backends or {}):
        return None
    # glance_store rebuilds the driver for nearly every use, so nothing of a
    # transfer may live on it.
    store = glance_store.get_store_from_store_identifier(store_id)
    return store if hasattr(store, 'hand_over') else None
