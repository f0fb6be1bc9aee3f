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

Glance records an adopted image after our task has ended, and may fail at it
without a word to us. So a thread waits for the end of the import: what Glance
recorded loses our mark, what it did not is removed. Last, the task gets our
message back: Glance's own upload puts "Copied N MiB" over it.
"""

from collections.abc import Callable
from collections.abc import Mapping
import logging
import threading
import time

from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.image_import import image
from glance_conversion_plugins.stores import adoption
from glance_conversion_plugins.stores import placeholder as placeholder_
from glance_conversion_plugins.stores import protocols

LOG = logging.getLogger(__name__)

_POLL_SECONDS = 0.5

# For a replica of Glance's database that lags behind.
_REPLICA_SECONDS = 5

Stores = Mapping[str, protocols.Adoptable]      # by their identifiers


def finish(request: image.ImportRequest, stores: Stores) -> Stores:
    """Hand over what Glance has recorded, remove what it has not.

    :param stores: those that hold something
    :returns: those of them in which Glance has recorded the image
    """
    image_id, task_id = request.image_id, request.task_id
    recorded = records.recorded_stores(image_id)
    for store_id, store in stores.items():
        try:
            if store_id in recorded:
                store.hand_over(image_id, task_id)
            else:
                store.discard(image_id, task_id)
        except errors.SinkFailed:
            LOG.exception('Image %s is not settled in store %s; the clean-up '
                          'will do it', image_id, store_id)
    return {store_id: store for store_id, store in stores.items()
            if store_id in recorded}


class Completion:
    """Waits for the end of an import and completes it, on its own thread."""

    def __init__(self, request: image.ImportRequest, message: str,
                 placeholder: placeholder_.Placeholder | None = None,
                 stores: Stores | None = None,
                 later: Callable[[Stores], None] | None = None) -> None:
        """Describe it.

        :param message: what the task of a successful import ends with
        :param placeholder: its lock says that the import lives
        :param stores: those that hold something
        :param later: called in the end, with those that Glance has recorded
        """
        self._request = request
        self._message = message
        self._placeholder = placeholder
        self._stores = stores or {}
        self._later = later

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True,
                         name=f'complete-{self._request.image_id}').start()

    def _run(self) -> None:
        finished: Stores = {}
        try:
            finished = self._finish(self._wait())
        except Exception:
            LOG.exception('Image %s is not settled; the clean-up will do it',
                          self._request.image_id)
        finally:
            if self._placeholder:
                self._placeholder.remove()
        if finished and self._later:
            self._do_later(self._later, finished)

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
        try:
            task = records.find_task(self._request.task_id)
        except Exception:
            LOG.warning('Task %s can not be read; trying again',
                        self._request.task_id, exc_info=True)
            return None
        if task is None:
            return 'unknown'
        status: str = task['status']
        return status if status in ('success', 'failure') else None

    def _finish(self, status: str) -> Stores:
        image_id = self._request.image_id
        adoption.forget(self._request.task_id)
        if status == 'success' and not records.recorded_stores(image_id):
            # Deleted since, or read from a replica that lags behind.
            time.sleep(_REPLICA_SECONDS)
        finished = finish(self._request, self._stores)
        if status == 'success':
            self._restore_message()
        return finished

    def _restore_message(self) -> None:
        try:
            records.set_task_message(self._request.task_id, self._message)
        # Words only; what is stored matters more.
        except Exception:
            LOG.warning('Task %s lost its message', self._request.task_id,
                        exc_info=True)

    def _do_later(self, later: Callable[[Stores], None], finished: Stores
                  ) -> None:
        try:
            later(finished)
        except Exception:
            LOG.exception('Image %s has no digests yet; "glance-conversion-'
                          'manage digests" computes them',
                          self._request.image_id)
