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


"""What fits into a cache, and what must go for it."""

from collections.abc import Sequence
from typing import NamedTuple

from glance_conversion_plugins.maintenance.prefetch import choosing
from glance_conversion_plugins.maintenance.prefetch import node
from glance_conversion_plugins import units


class Step(NamedTuple):
    """What is to be done about one image."""

    image_id: str
    why: str
    size: int
    refusal: str | None         # why nothing is done; None: it is fetched
    evict: tuple[str, ...] = ()     # what has to go for it
    gone: bool = False          # it can never be fetched


def plan(wanted: Sequence[choosing.Candidate], cached: Sequence[node.Entry],
         used: int, limit: int) -> list[Step]:
    """Find room for all that is wanted, in that order.

    By the rule of Glance's pruner what was not accessed for longest goes
    first, but nothing goes that is itself wanted: it would be fetched again.

    :param wanted: images, some of which may be cached
    :param cached: what is there, the least recently accessed first
    :param used: bytes that are cached, as Glance counts
    :param limit: bytes that Glance's pruner leaves in the cache
    """
    keep = {candidate.image_id for candidate in wanted}
    room = Room(cached, keep, used, limit)
    return [_step(candidate, room) for candidate in wanted]


class Room:
    """What a cache has left, and what could go."""

    def __init__(self, cached: Sequence[node.Entry], keep: set[str],
                 used: int, limit: int) -> None:
        """Describe it.

        :param keep: ids of what must not go
        """
        self._spare = [entry for entry in cached
                       if entry.image_id not in keep]
        self._used = used
        self._limit = limit

    def take(self, size: int) -> tuple[str, ...] | None:
        """Find room for so many bytes: what goes for it, None if in vain."""
        count, used = 0, self._used + size
        while used > self._limit and count < len(self._spare):
            used -= self._spare[count].size
            count += 1
        if used > self._limit:
            return None
        gone, self._spare = self._spare[:count], self._spare[count:]
        self._used = used
        return tuple(entry.image_id for entry in gone)

    def refusal(self, size: int) -> str:
        """Why there is no room for so many bytes."""
        limit = units.amount(self._limit)
        if size > self._limit:
            return (f'it is larger than a cache of {limit} '
                    '(image_cache_max_size)')
        return (f'no room: with all that is wanted the cache would exceed '
                f'{limit} (image_cache_max_size)')


def _step(candidate: choosing.Candidate, room: Room) -> Step:
    image_id, why, size, refusal, gone = candidate
    if refusal:
        return Step(image_id, why, size, refusal, gone=gone)
    evict = room.take(size)
    if evict is None:
        return Step(image_id, why, size, room.refusal(size))
    return Step(image_id, why, size, None, evict)
