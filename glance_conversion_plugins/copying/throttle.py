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


"""A limit on how many bytes pass in a second, by all threads together."""

from collections.abc import Callable
import threading
import time


class Throttle:
    """Lets those wait who are faster than allowed; a consumer of a copy."""

    def __init__(self, rate: int, wait: Callable[[float], object] = time.sleep,
                 now: Callable[[], float] = time.monotonic) -> None:
        """Set the limit.

        :param rate: bytes per second; 0: no limit
        :param wait: sleeps for so many seconds, or less
        """
        self.rate = rate
        self._wait = wait
        self._now = now
        self._lock = threading.Lock()
        self._free_at = 0.0

    @property
    def limits(self) -> bool:
        """Whether there is a limit at all."""
        return bool(self.rate)

    def take(self, length: int) -> None:
        """Account for so many bytes, and wait until they are due."""
        if not self.rate:
            return
        with self._lock:
            start = max(self._free_at, self._now())
            self._free_at = start + length / self.rate
        if (delay := start - self._now()) > 0:
            self._wait(delay)

    def update(self, view: memoryview) -> None:
        self.take(len(view))

    def zeros(self, length: int) -> None:
        """Do nothing: zeros are not read, nor are they written."""
