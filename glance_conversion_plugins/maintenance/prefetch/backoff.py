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


"""What could not be fetched, why, and when it is tried again.

Kept in a file, for a pass may be a process of its own.
"""

import threading
import time
from typing import NamedTuple

from glance_conversion_plugins.maintenance import notes

_FIRST_DELAY = 60
_LAST_DELAY = 6 * 3600


class Failure(NamedTuple):
    """The last of some failures in a row."""

    attempts: int
    reason: str
    again_at: float     # seconds since the epoch


class Failures:
    """All failures of a node, by image id."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._found = notes.read(path, lambda attempts, reason, again_at:
                                 Failure(int(attempts), reason,
                                         float(again_at)))

    def items(self) -> list[tuple[str, Failure]]:
        return sorted(self._found.items())

    def get(self, image_id: str) -> Failure | None:
        return self._found.get(image_id)

    def add(self, image_id: str, reason: str) -> Failure:
        """Note a failure; each one in a row doubles the wait."""
        with self._lock:
            last = self._found.get(image_id)
            attempts = last.attempts + 1 if last else 1
            delay = min(_FIRST_DELAY * 2 ** min(attempts - 1, 20),
                        _LAST_DELAY)
            found = Failure(attempts, reason, time.time() + delay)
            self._found[image_id] = found
            notes.write(self._path, self._found)
        return found

    def forget(self, image_id: str) -> None:
        with self._lock:
            if self._found.pop(image_id, None):
                notes.write(self._path, self._found)

    def keep(self, image_ids: set[str]) -> None:
        """Forget all about images that nobody wants any more."""
        for image_id in self._found.keys() - image_ids:
            self.forget(image_id)
