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

"""What is left to do once Glance has ended an import.

A thread waits for the end of the import, while Glance's own tasks go on. What
no store has adopted is removed then; the task gets our message back, for
Glance's own upload puts "Copied N MiB" over it; last come deferred digests.
"""

from collections.abc import Callable
import logging
import threading
import time

from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.image_import import image
from glance_conversion_plugins.stores import adoption
from glance_conversion_plugins.stores import placeholder as placeholder_

LOG = logging.getLogger(__name__)

_POLL_SECONDS = 0.5

# What an import has come to whose end Glance could not record.
_UNENDED = 'unended'


class Completion:
    """Waits for the end of an import and completes it, on its own thread."""

    def __init__(self, request: image.ImportRequest, message: str,
                 placeholder: placeholder_.Placeholder | None = None,
                 later: Callable[[], None] | None = None) -> None:
        """Describe it.

        :param message: what the task of a successful import ends with
        :param placeholder: its lock says that the import lives
        :param later: called in the end, if the import was successful
        """
        self._request = request
        self._message = message
        self._placeholder = placeholder
        self._later = later

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True,
                         name=f'complete-{self._request.image_id}').start()

    def _run(self) -> None:
        status = None
        try:
            status = self._wait()
            adoption.forget(self._request.task_id)
        finally:
            self._let_go(status)
        if status == 'success':
            self._restore_message()
            if self._later:
                self._do_later(self._later)

    def _let_go(self, status: str | None) -> None:
        """Leave no placeholder but that of an import that is to be ended.

        By what nobody holds a lock on the clean-up knows that it is dead.
        """
        if self._placeholder and status == _UNENDED and self._is_locked():
            self._placeholder.release()
        elif self._placeholder:
            self._placeholder.remove()

    def _is_locked(self) -> bool:
        return (records.lock_holder(self._request.image_id)
                == self._request.task_id)

    def _wait(self) -> str:
        """Wait for the end of the import; returns how it ended."""
        while not (status := self._status()):
            for _ in range(10):
                time.sleep(_POLL_SECONDS / 10)
                if self._placeholder and self._placeholder.is_consumed():
                    self._placeholder.remove()
        return status

    def _status(self) -> str | None:
        """How the import ended; None while it has not, or nobody can say."""
        # First: what it has recorded is seen then.
        is_over = not compat.is_under_way(self._request.task_id)
        try:
            task = records.find_task(self._request.task_id)
        except Exception:
            LOG.warning('Task %s can not be read; trying again',
                        self._request.task_id, exc_info=True)
            return None
        if task is None:
            return 'unknown'
        status: str = task['status']
        if status in ('success', 'failure'):
            return status
        return _UNENDED if is_over else None

    def _restore_message(self) -> None:
        try:
            records.set_task_message(self._request.task_id, self._message)
        # Words only; what is stored matters more.
        except Exception:
            LOG.warning('Task %s lost its message', self._request.task_id,
                        exc_info=True)

    def _do_later(self, later: Callable[[], None]) -> None:
        try:
            later()
        except Exception:
            LOG.exception('Image %s has no digests yet; "glance-conversion-'
                          'manage digests" computes them',
                          self._request.image_id)
