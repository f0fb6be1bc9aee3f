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
from typing import NamedTuple

from glance_conversion_plugins.maintenance import notes
from glance_conversion_plugins.maintenance import stored
from glance_conversion_plugins.maintenance import verify


class _Entry(NamedTuple):
    at: float       # seconds since the epoch
    differs: bool


def _key(place: stored.StoredImage) -> str:
    return f'{place.image_id} {place.store_id}'


class Verified:
    """What is known of the images of all stores."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._found = notes.read(path, lambda at, differs: _Entry(
            float(at), bool(differs)))

    @property
    def differing(self) -> int:
        """How many images differed when they were verified last."""
        return sum(entry.differs for entry in self._found.values())

    def due(self, places: Iterable[stored.StoredImage], age: float
            ) -> list[tuple[str, str]]:
        """Which images are to be verified, and in which stores.

        All else is forgotten: it is stored no more.

        :param age: seconds since they were verified
        :returns: (image id, store id), those that wait longest first
        """
        now = time.time()
        stored_ = {_key(place): self._at(_key(place)) for place in places}
        self._found = {key: entry for key, entry in self._found.items()
                       if key in stored_}
        # Of the future: the clock was wrong then, or is now.
        due = sorted((at, key) for key, at in stored_.items()
                     if not 0 <= now - at < age)
        return [(key.split()[0], key.split(maxsplit=1)[1]) for _, key in due]

    def _at(self, key: str) -> float:
        entry = self._found.get(key)
        return entry.at if entry else 0

    def note(self, report: verify.Report) -> None:
        """Note what was found. What nobody could say is due again."""
        if report.doubt and not report.faults:
            return
        self._found[_key(report.place)] = _Entry(time.time(),
                                                 bool(report.faults))
        notes.write(self._path, self._found)
