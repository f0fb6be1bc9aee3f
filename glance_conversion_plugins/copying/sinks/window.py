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

"""How many bytes of a copy are on their way to a store at once.

As many as it takes well: where each write waits for those before it, as on a
disk that is slow or busy with others, half as many, and so on. More that wait
there would not be written sooner, and whoever else uses the store would wait
behind them.
"""

from collections.abc import Callable
import logging
import threading
import time

LOG = logging.getLogger(__name__)

# Enough for 6 GiB/s at 5 ms.
MOST = 32 << 20
# One object of RBD.
LEAST = 4 << 20

# A write that took longer than that has waited, if there were any that took
# but a part of its time; if there were none, the store is just far away.
_SLOW_SECONDS = 1.0
_SLOW_TIMES = 4


class Window:
    """Counts bytes under way, bounds them, and keeps the first error."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._changed = threading.Condition()
        self._bytes = 0
        self._error: Exception | None = None
        self.limit = self._most = MOST
        self._quickest = float('inf')
        self._reduced_at = 0.0

    def begin(self, length: int, count: int = 1) -> 'Batch':
        """Wait for room; returns what to tell of each write.

        :param length: of all writes that are begun together, in bytes
        :param count: how many they are
        :raises: the first error of what was under way
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._error or self._bytes < self.limit)
            self._raise()
            self._bytes += length
            return Batch(self, length, count, self._now())

    def end(self, batch: 'Batch') -> None:
        """Of a batch nothing is under way any more."""
        with self._changed:
            self._bytes -= batch.length
            if batch.is_whole:
                self._adapt(batch.length, batch.began)
            self._changed.notify_all()

    def fail(self, error: Exception) -> None:
        """Have whoever waits fail."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def spare(self, is_wanted: bool) -> None:
        """Have as little under way as there can be, or no longer."""
        with self._changed:
            self._most = LEAST if is_wanted else MOST
            self.limit = min(self.limit, self._most)

    def _adapt(self, length: int, began: float) -> None:
        """Halve it where a write waited, else let it grow by and by."""
        now = self._now()
        took = now - began
        self._quickest = min(self._quickest, took)
        if took < max(_SLOW_SECONDS, _SLOW_TIMES * self._quickest):
            self.limit = min(self._most, self.limit
                             + length * length // self.limit)
        elif began >= self._reduced_at and self.limit > LEAST:
            # Those that began before would say the same again.
            self._reduced_at = now
            self.limit = max(LEAST, self.limit // 2)
            LOG.info('A write took %.1f s: from now on %d MiB at once', took,
                     self.limit >> 20)

    def drain(self) -> None:
        """Wait until all is written.

        :raises: the first error
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._bytes)
            self._raise()

    def settle(self, timeout: float) -> bool:
        """Wait until nothing is under way, whatever came of it.

        :param timeout: in seconds
        :returns: whether that is so
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._bytes, timeout)

    def _raise(self) -> None:
        if self._error:
            raise self._error


class Batch:
    """Writes that are counted as one, for there may be hundreds in a MiB."""

    def __init__(self, window: Window, length: int, count: int,
                 began: float) -> None:
        self._window = window
        self._lock = threading.Lock()
        self._left = count
        self.length = length
        self.began = began
        self.is_whole = True

    def end(self, error: Exception | None = None, count: int = 1) -> None:
        """One of them is written, or some have failed."""
        if error:
            self.is_whole = False
            self._window.fail(error)
        with self._lock:
            self._left -= count
            is_over = not self._left
        if is_over:
            self._window.end(self)
