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

"""What remains to be done once Glance has adopted an image, or has not.

Glance records an adopted image after our task has ended, and may fail at it
without a word to us. So a thread waits for the end of the import: what Glance
recorded loses our mark, what it did not is removed. Then deferred digests are
computed. Last, the task gets our message back: Glance's own upload puts
"Copied N MiB" over it.
"""

from collections.abc import Mapping
import logging
import os
import threading
import time
from typing import Any

from glance.common import exception
from glance import context as glance_context
from glance import db as glance_db
from oslo_config import cfg

from glance_conversion_plugins import conversion
from glance_conversion_plugins import database
from glance_conversion_plugins import deferred
from glance_conversion_plugins import errors
from glance_conversion_plugins import ledger
from glance_conversion_plugins import placeholder
from glance_conversion_plugins import records
from glance_conversion_plugins import stores

CONF = cfg.CONF
LOG = logging.getLogger(__name__)

_POLL_SECONDS = 0.5

# For a replica of Glance's database that lags behind.
_REPLICA_SECONDS = 5


def settle(image_id: str, task_id: str,
           targets: Mapping[str, stores.AdoptingStore]) -> list[str]:
    """Hand over what Glance has recorded, remove what it has not.

    :param targets: the stores that hold something, by their identifiers
    :returns: identifiers of the stores that were handed over
    """
    recorded = records.recorded_stores(image_id)
    for store_id, store in targets.items():
        try:
            if store_id in recorded:
                store.hand_over(image_id, task_id)
            else:
                store.discard(image_id, task_id)
        except errors.SinkFailed:
            LOG.exception('Image %s is not settled in store %s; the clean-up '
                          'will do it', image_id, store_id)
    return [store_id for store_id in targets if store_id in recorded]


@database.patient
def restore_message(task_id: str, message: str) -> None:
    """Tell the owner of an image again what became of it."""
    db: Any = glance_db.get_api()
    context = glance_context.get_admin_context()
    if db.task_get(context, task_id)['message'] != message:
        db.task_update(context, task_id, {'message': message})


class Settlement:
    """Waits for the end of an import and settles it, on its own thread."""

    def __init__(self, image_id: str, task_id: str,
                 targets: Mapping[str, stores.AdoptingStore],
                 message: str,
                 handed_on: str | None = None,
                 claim: placeholder.Placeholder | None = None,
                 deferred: conversion.Wanted | None = None) -> None:
        """Describe it.

        :param message: what the task of a successful import ends with
        :param handed_on: what Glance stores, and removes from staging
        :param claim: its lock says that the import lives; removed with that
        :param deferred: digests that are still to be computed
        """
        self._image_id = image_id
        self._task_id = task_id
        self._targets = targets
        self._message = message
        self._handed_on = handed_on
        self._claim = claim
        self._deferred = deferred

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True,
                         name=f'settle-{self._image_id}').start()

    def _run(self) -> None:
        try:
            while not (status := self._ended()):
                self._wait()
            ledger.forget(self._task_id)
            if status == 'success' and not records.recorded_stores(
                    self._image_id):
                # Deleted since, or read from a replica that lags behind.
                time.sleep(_REPLICA_SECONDS)
            settled = settle(self._image_id, self._task_id, self._targets)
            if status == 'success':
                self._restore_message()
        except Exception:
            LOG.exception('Image %s is not settled; the clean-up will do it',
                          self._image_id)
            settled = []
        finally:
            self._give_up_claim()
        if settled and self._deferred:
            self._defer(settled, self._deferred)

    def _wait(self) -> None:
        for _ in range(10):
            time.sleep(_POLL_SECONDS / 10)
            # Nothing is left in staging once Glance has what it wanted.
            if self._handed_on and not os.path.exists(self._handed_on):
                self._give_up_claim()

    def _give_up_claim(self) -> None:
        if self._claim:
            self._claim.remove()

    def _restore_message(self) -> None:
        try:
            restore_message(self._task_id, self._message)
        # Words only; what is stored matters more.
        except Exception:
            LOG.warning('Task %s lost its message', self._task_id,
                        exc_info=True)

    def _defer(self, settled: list[str], wanted: conversion.Wanted) -> None:
        try:
            deferred.compute(self._image_id, {
                s: self._targets[s] for s in settled}, wanted,
                self._task_id)
        except Exception:
            LOG.exception('Image %s has no digests yet; "glance-conversion-'
                          'manage digests" computes them', self._image_id)

    def _ended(self) -> str | None:
        """How the import ended; None while it has not, or nobody can say."""
        db: Any = glance_db.get_api()
        try:
            task = db.task_get(glance_context.get_admin_context(),
                               self._task_id)
        except exception.NotFound:
            return 'unknown'
        except Exception:
            LOG.warning('Task %s can not be read; trying again',
                        self._task_id, exc_info=True)
            return None
        status: str = task['status']
        return status if status in ('success', 'failure') else None
