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
from concurrent import futures
import logging
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


class Patience:
    """Makes calls until one of them does not come back."""

    def __init__(self, name: str) -> None:
        """Describe what is called.

        :param name: of it, for the log
        """
        self._name = name
        self.is_over = False

    def call(self, function: Callable[..., T], *args: Any,
             seconds: float = SECONDS) -> T:
        """Call a function that may take so many seconds.

        :raises Unanswered: if it takes longer, or another one did
        """
        if self.is_over:
            raise Unanswered
        answer: futures.Future[T] = futures.Future()

        def ask() -> None:
            try:
                answer.set_result(function(*args))
            except BaseException as e:
                answer.set_exception(e)

        self._start(ask)
        if not futures.wait([answer], seconds).done:
            self.is_over = True
            LOG.error('%s has not answered for %d s', self._name, seconds)
            raise Unanswered
        return answer.result()

    def leave(self, function: Callable[[], object]) -> None:
        """Call a function some time, and do not wait for it."""
        self._start(function)

    def _start(self, target: Callable[[], object]) -> None:
        # Nobody waits for such a thread at the end of the process either.
        threading.Thread(target=target, daemon=True, name=self._name).start()
