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

"""Calls that may never come back.

A file server that is away keeps whoever asks it for anything, and no signal
and no other thread can change that. So such calls are made by threads of
their own, which are left behind.
"""

from collections.abc import Callable
import logging
import queue
import threading
from typing import Any
from typing import TypeVar

LOG = logging.getLogger(__name__)

# Longer than a file server takes to fail over, shorter than the watchdog of a
# copy waits, which knows nothing of other stores.
SECONDS = 240

T = TypeVar('T')


class Unanswered(Exception):
    """A call has not come back, and may still do something."""


class _Caller:
    """A thread that makes one call after the other, until it is left."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], Any] | None] = (
            queue.SimpleQueue())
        self._answers: queue.SimpleQueue[
            tuple[Any, BaseException | None]] = queue.SimpleQueue()
        # Nobody waits for such a thread at the end of the process either.
        threading.Thread(target=self._run, daemon=True, name=name).start()

    def _run(self) -> None:
        while call := self._calls.get():
            try:
                self._answers.put((call(), None))
            except BaseException as e:
                self._answers.put((None, e))

    def begin(self, call: Callable[[], Any]) -> None:
        self._calls.put(call)

    def answer(self, seconds: float) -> tuple[Any, BaseException | None]:
        """What became of a call; raises queue.Empty if that takes longer."""
        return self._answers.get(timeout=seconds)

    def leave(self) -> None:
        """Let it end with what it does."""
        self._calls.put(None)


class Patience:
    """Makes calls until one of them does not come back."""

    def __init__(self, name: str) -> None:
        """Describe what is called.

        :param name: of it, for the log
        """
        self._name = name
        self.is_over = False
        # As many as there ever were calls at once.
        self._idle: list[_Caller] = []

    def call(self, function: Callable[..., T], *args: Any,
             seconds: float = SECONDS) -> T:
        """Call a function that may take so many seconds.

        :raises Unanswered: if it takes longer, or another one did
        """
        if self.is_over:
            raise Unanswered
        try:
            caller = self._idle.pop()
        except IndexError:
            caller = _Caller(self._name)
        caller.begin(lambda: function(*args))
        try:
            result, error = caller.answer(seconds)
        except queue.Empty:
            self.is_over = True
            caller.leave()
            LOG.error('%s has not answered for %d s', self._name, seconds)
            raise Unanswered from None
        self._idle.append(caller)
        if error:
            raise error
        found: T = result
        return found

    def end(self, function: Callable[[], object]) -> None:
        """Make a last call; if it is over, some time, and nobody waits.

        :raises Unanswered: if that takes too long
        """
        try:
            if self.is_over:
                caller = _Caller(self._name)
                caller.begin(function)
                caller.leave()
            else:
                self.call(function)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of all that is idle; a later call is made all the same."""
        while self._idle:
            self._idle.pop().leave()
