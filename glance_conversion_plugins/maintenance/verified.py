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

"""When images were verified, and which of them differed.

Kept in a file: to read all that is stored may take weeks, and whoever is
stopped goes on later with what waited longest.
"""

from collections.abc import Iterable
import time
from typing import Any
from typing import NamedTuple

from glance_conversion_plugins.maintenance import notes
from glance_conversion_plugins.maintenance import stored
from glance_conversion_plugins.maintenance import verify


class _Entry(NamedTuple):
    looked: float       # when, in seconds since the epoch
    is_known: bool      # whether it could be said how it is
    differs: bool       # when that could be said last


_NEVER = _Entry(0, False, False)


class Verified:
    """What is known of the images of all stores."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._found = {
            tuple(key.split(maxsplit=1)): entry
            for key, entry in notes.read(path, _entry).items()}

    @property
    def differing(self) -> int:
        """How many differed, each in a store, when they were read last."""
        return sum(entry.differs for entry in self._found.values())

    def due(self, places: Iterable[stored.StoredImage], age: float
            ) -> list[tuple[str, ...]]:
        """Which images are to be verified, and in which stores.

        All else is forgotten: it is stored no more.

        :param age: seconds since it could be said how they are
        :returns: (image id, store id), what was not looked at for longest
            first
        """
        now, due = time.time(), []
        found, self._found = self._found, {}
        for key in map(_key, places):
            entry = found.get(key, _NEVER)
            if key in found:
                self._found[key] = entry
            # Of the future: the clock was wrong then, or is now.
            if not entry.is_known or not 0 <= now - entry.looked < age:
                due.append((entry.looked, key))
        return [key for _, key in sorted(due)]

    def note(self, report: verify.Report) -> None:
        """Note what was found, or that nobody could say."""
        key = _key(report.place)
        is_known = bool(report.faults) or not report.doubt
        self._found[key] = _Entry(time.time(), is_known, (
            bool(report.faults) if is_known
            else self._found.get(key, _NEVER).differs))
        notes.write(self._path, {' '.join(key): entry
                                 for key, entry in self._found.items()})


def _entry(looked: Any, is_known: Any, differs: Any) -> _Entry:
    return _Entry(float(looked), bool(is_known), bool(differs))


def _key(place: stored.StoredImage) -> tuple[str, ...]:
    return place.image_id, place.store_id
