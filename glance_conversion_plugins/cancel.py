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

"""A request to stop, heard also by those who wait for something else."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import threading


class Cancel(threading.Event):
    """An event that interrupts whoever has asked for it."""

    def __init__(self) -> None:
        super().__init__()
        # A signal handler may set it amid interrupting().
        self._lock = threading.RLock()
        self._interrupts: list[Callable[[], None]] = []

    def set(self) -> None:
        with self._lock:
            super().set()
            interrupts = list(self._interrupts)
        for interrupt in interrupts:
            interrupt()

    @contextlib.contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Within the block, ``interrupt`` is called when this is set."""
        with self._lock:
            self._interrupts.append(interrupt)
        try:
            if self.is_set():
                interrupt()
            yield
        finally:
            with self._lock:
                self._interrupts.remove(interrupt)


# For whoever has no reason to stop; must never be set.
NEVER = Cancel()
