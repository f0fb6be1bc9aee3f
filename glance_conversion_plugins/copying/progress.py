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

"""How far a conversion is, in words, and where its time goes."""

import collections
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import threading
import time

from glance_conversion_plugins import units


class Clock:
    """Adds up the time spent in each stage; stages may run in parallel."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._spent: dict[str, float] = collections.defaultdict(float)

    @contextlib.contextmanager
    def run(self, stage: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            with self._lock:
                self._spent[stage] += self._now() - start

    def spent(self) -> dict[str, float]:
        """Seconds of each stage so far."""
        with self._lock:
            return dict(self._spent)

    def __str__(self) -> str:
        return ', '.join(f'{stage} {spent:.2f} s'
                         for stage, spent in self.spent().items())


class Progress:
    """The state of one conversion, as its owner sees it.

    Written by the threads that do the work, read by the one that reports.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._phase = 'Preparing'
        self._since = self._started = now()
        self._total = self._done = 0
        self.written = 0

    def enter(self, phase: str, total: int = 0) -> None:
        """Begin a phase that covers ``total`` bytes (0: not known)."""
        with self._lock:
            self._phase, self._total, self._done = phase, total, 0
            self._since = self._now()

    def advance(self, length: int) -> None:
        with self._lock:
            self._done += length

    def wrote(self, length: int) -> None:
        with self._lock:
            self.written += length

    def reach(self, done: int, written: int) -> None:
        """Say how far another program has got, in bytes."""
        with self._lock:
            self._done, self.written = done, written

    def position(self) -> tuple[int, int]:
        """Bytes done and written: something that changes with any step."""
        with self._lock:
            return self._done, self.written

    @property
    def fraction(self) -> float | None:
        """How much of the phase is done, from 0 to 1, if that is known."""
        with self._lock:
            return self._reached() / self._total if self._total else None

    def _reached(self) -> int:
        """What is read again, from another location, counts again."""
        return min(self._done, self._total)

    @property
    def elapsed(self) -> float:
        return self._now() - self._started

    def __str__(self) -> str:
        with self._lock:
            spent = self._now() - self._since
            if not self._total:
                so_far = f': {units.amount(self._done)}' if self._done else ''
                return (f'{self._phase}{so_far}, '
                        f'{units.duration(spent)} so far')
            done = self._reached()
            written = (f', {units.amount(self.written)} written'
                       if self.written else '')
            text = (f'{self._phase}: {100 * done // self._total}% '
                    f'({units.amount(done)} of {units.amount(self._total)}'
                    f'{written})')
            if not done:
                return f'{text}, {units.duration(spent)} so far'
            left = spent * (self._total - done) / done
            return f'{text}, about {units.duration(left)} left'
