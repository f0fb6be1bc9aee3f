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

"""Work that can wait gives way to work that can not."""

from collections.abc import Callable
import logging
import os
import threading
import time
from typing import Generic
from typing import TypeVar

from glance_conversion_plugins import errors

LOG = logging.getLogger(__name__)

_LOOK_SECONDS = 0.25

# Of a thread, and of those that it starts, the client of a store among them.
_NICENESS = 10


def be_nice() -> None:
    """Let all others go before the thread that calls this."""
    thread = threading.get_native_id()
    # The first thread of a process has its id. Green threads are it as well.
    if thread != os.getpid():
        os.setpriority(os.PRIO_PROCESS, thread, max(
            os.getpriority(os.PRIO_PROCESS, thread), _NICENESS))


_T = TypeVar('_T')


class Lately(Generic[_T]):
    """An answer that was true lately: it is asked for again by and by.

    Nobody waits for that: what is asked may hang.
    """

    def __init__(self, first: _T, ask: Callable[[_T], _T], seconds: float,
                 now: Callable[[], float] = time.monotonic) -> None:
        """Describe it.

        :param first: the answer until there is another
        :param ask: is given the former answer; runs on a thread
        :param seconds: for how long an answer is good
        """
        self._answer = first
        self._ask = ask
        self._seconds = seconds
        self._now = now
        self._asking = threading.Lock()
        self._ask_at = now() + seconds

    def __call__(self) -> _T:
        """The last answer."""
        if self._now() >= self._ask_at and self._asking.acquire(
                blocking=False):
            try:
                threading.Thread(target=self._ask_again, daemon=True).start()
            except RuntimeError:    # there are too many
                self._asking.release()
        return self._answer

    def _ask_again(self) -> None:
        try:
            self._answer = self._ask(self._answer)
        except Exception:
            LOG.warning('Something is not known any more', exc_info=True)
        finally:
            self._ask_at = self._now() + self._seconds
            self._asking.release()


class GiveWay:
    """A consumer of a copy that stops it while there is urgent work."""

    def __init__(self, what: str, is_urgent: Callable[[], bool],
                 cancel: threading.Event, patience: float,
                 now: Callable[[], float] = time.monotonic) -> None:
        """Describe it.

        :param what: gives way, in the log
        :param is_urgent: whether there is such work
        :param cancel: when set, the copy ends with ``errors.Cancelled``
        :param patience: seconds for which it gives way, in all: then it goes
            on beside what is urgent, so that it is not starved
        """
        self._what = what
        self._is_urgent = is_urgent
        self._cancel = cancel
        self._patience = patience
        self._now = now
        self._look_at = now()

    def update(self, view: memoryview) -> None:
        self._give_way()

    def zeros(self, length: int) -> None:
        self._give_way()

    def _give_way(self) -> None:
        if self._now() < self._look_at:
            return
        waited, began = 0.0, self._now()
        while waited < self._patience and self._is_urgent():
            if not waited:
                LOG.info('%s: give way to other work', self._what)
            if self._cancel.wait(_LOOK_SECONDS):
                raise errors.Cancelled('The conversion was stopped.')
            waited = self._now() - began
        if waited:
            self._patience -= waited
            LOG.info('%s: go on after %.1f s', self._what, waited)
        self._look_at = self._now() + _LOOK_SECONDS
