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

"""One conversion under way, as those see it who work on it."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
from typing import NamedTuple

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import room as room_
from glance_conversion_plugins.copying import throttle


class Node(NamedTuple):
    """What the conversions of a node share."""

    locks: str | None       # folder of lock files; None: a temporary one
    keep_free: int = 0      # how many bytes stay free in staging
    rate: int = 0           # bytes per second of each conversion; 0: no limit


class Pace:
    """What goes by the data that was written, of which zeros are no part."""

    def __init__(self, limit: throttle.Throttle,
                 claims: Sequence[room_.Claim]) -> None:
        self._limit = limit
        self._claims = claims
        self._written = 0

    def reach(self, written: int) -> None:
        """Say how many bytes were written so far; waits until they are due.
        """
        for claim in self._claims:
            claim.reach(written)
        self._limit.take(written - self._written)
        self._written = written


class Conversion:
    """One conversion under way: how far it is, what it took, when to stop.

    And what the owner of the image is to know of it.
    """

    def __init__(self, cancel: cancel_.Cancel | None = None,
                 node: Node | None = None) -> None:
        """Describe it.

        :param node: where others are; None: it is alone
        """
        self.node = node
        self.progress = progress_.Progress()
        self.remarks: list[str] = []
        self.clock = progress_.Clock()
        self.cancel = cancel or cancel_.Cancel()
        self.throttle = throttle.Throttle(node.rate if node else 0,
                                          self.cancel.wait)
        # Called before the upload itself is changed.
        self.before_change: Callable[[], object] = lambda: None

    @property
    def keep_free(self) -> int:
        """How many bytes stay free in staging."""
        return self.node.keep_free if self.node else 0

    @contextlib.contextmanager
    def room(self, needed: int, places: Callable[[], Sequence[room_.Place]]
             ) -> Iterator[Sequence[room_.Claim]]:
        """Wait for room if others are there who may need it.

        :param needed: how much may be written, in bytes
        :param places: looks where, and how much is free there
        :returns: who is to be shown what is written
        """
        if self.node is None:
            yield ()
            return
        with room_.claim(self.node.locks, needed, places, self.progress,
                         self.cancel) as claim:
            yield (claim,)
