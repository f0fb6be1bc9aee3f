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

"""One image under import, through Glance's own interfaces.

The image is held for moments only: Glance's wrapper loads it at entry and
saves all of it at exit, over whatever changed in between.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import itertools
import logging
import threading
from typing import Any
from typing import NamedTuple

from glance.api import common as api_common
from glance.common import exception
from glance import db as glance_db
from glance.quota import keystone as keystone_quota
from oslo_config import cfg
from oslo_utils import units

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import database
from glance_conversion_plugins import errors
from glance_conversion_plugins import progress

LOG = logging.getLogger(__name__)
CONF = cfg.CONF

# How often it looks whether the image is still wanted, and after how many
# looks it reports.
_LOOK_SECONDS = 2
_REPORT_EVERY = 2


class Facts(NamedTuple):
    """What is recorded of an image before it is converted."""

    disk_format: str
    container_format: str
    properties: Mapping[str, str]


class ImportedImage:
    """An image, and the task that imports it."""

    def __init__(self, context: Any, task_id: str, task_repo: Any,
                 action_wrapper: Any, stores: Sequence[str]) -> None:
        self._context = context
        self._task_id = task_id
        self._task_repo = task_repo
        self._wrapper = action_wrapper
        self._stores = stores

    @database.patient
    def facts(self) -> Facts:
        with self._wrapper as action:
            return Facts(action.image_disk_format,
                         action.image_container_format,
                         action.image_extra_properties)

    def check_quota(self, size: int) -> None:
        """Ask both kinds of quota whether ``size`` bytes may be stored.

        Each of them passes everything while the other is in force.

        :raises errors.TooLarge: if not
        """
        try:
            api_common.check_quota(self._context, size, glance_db.get_api(),
                                   image_id=self._wrapper.image_id)
            keystone_quota.enforce_image_size_total(
                self._context, self._context.owner, delta=size // units.Mi)
        except (exception.StorageQuotaFull, exception.LimitExceeded) as e:
            LOG.warning('Image %s: %s', self._wrapper.image_id, e)
            raise errors.TooLarge(
                'The image does not fit into the quota of its project: once '
                f'converted it has {progress.amount(size)}.') from e

    @database.patient
    def record(self, disk_format: str, size: int, virtual_size: int) -> None:
        """Record what the image is once converted; sizes in bytes."""
        with self._wrapper as action:
            action.set_image_attribute(disk_format=disk_format,
                                       container_format='bare', size=size,
                                       virtual_size=virtual_size)

    @database.patient
    def check_wanted(self) -> None:
        """See whether there still is something to import.

        :raises errors.Cancelled: if not
        """
        try:
            self._wrapper.assert_task_lock()
        except exception.NotFound as e:
            raise errors.Cancelled('The image was deleted.') from e
        except exception.TaskAbortedError as e:
            raise errors.TakenOver(
                'The import was taken over by another task.') from e

    @database.patient
    def report(self, message: str) -> None:
        """Tell the owner how it goes, which also keeps the import's lock.

        :raises errors.Cancelled: if the import has ended
        """
        task = self._task_repo.get(self._task_id)
        if task.status != 'processing':
            raise errors.Cancelled('The import has ended.')
        task.message = message
        self._task_repo.save(task)

    def is_taken_over(self) -> bool:
        """Say whether another task imports the image now."""
        try:
            self.check_wanted()
        except errors.TakenOver:
            return True
        # Whatever else is wrong, nobody else has it.
        except Exception:
            LOG.info('Image %s is gone', self._wrapper.image_id)
        return False

    def give_back(self, facts: Facts | None) -> None:
        """Return the image to its owner after a failure; never raises.

        :param facts: what to restore of the record
        """
        try:
            self._give_back(facts)
        except (exception.NotFound, exception.TaskAbortedError):
            LOG.info('Image %s is gone, or imported by another task',
                     self._wrapper.image_id)
        except Exception:
            LOG.exception('Image %s could not be returned to its owner',
                          self._wrapper.image_id)

    @database.patient
    def _give_back(self, facts: Facts | None) -> None:
        with self._wrapper as action:
            if action.image_status == 'importing':
                action.set_image_attribute(status='queued')
            # Not if a store kept its data: then the image is what that is.
            if facts and not action.image_locations:
                action.set_image_attribute(
                    disk_format=facts.disk_format,
                    container_format=facts.container_format,
                    virtual_size=None)
            action.remove_importing_stores(self._stores)
            action.add_failed_stores(self._stores)


class Heartbeat:
    """Reports every few seconds, and says when to stop.

    Looking is only reading; a report is a write to Glance's database.
    """

    def __init__(self, image: ImportedImage, message: object,
                 cancel: cancel_.Cancel) -> None:
        """Describe it.

        :param message: something whose str() tells the state
        :param cancel: set when there is nothing left to import
        """
        self._image = image
        self._message = message
        self._cancel = cancel
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.reason: errors.Cancelled | None = None

    def __enter__(self) -> 'Heartbeat':
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for look in itertools.count():
            try:
                self._image.check_wanted()
                if look % _REPORT_EVERY == 0:
                    self._image.report(str(self._message))
            except errors.Cancelled as e:
                self.reason = e
                self._cancel.set()
                return
            except Exception:
                LOG.warning('A heartbeat failed; trying again', exc_info=True)
            if self._stop.wait(_LOOK_SECONDS):
                return
