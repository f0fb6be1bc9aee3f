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
import logging
from typing import Any
from typing import NamedTuple

from oslo_utils import units as binary

from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.glance_db import retry
from glance_conversion_plugins import units

LOG = logging.getLogger(__name__)


class ImportRequest(NamedTuple):
    """What Glance tells a plugin about an import."""

    image_id: str
    task_id: str
    stores: list[str]
    all_stores_must_succeed: bool
    method: str = ''        # of import, by its name


class Declaration(NamedTuple):
    """What an image is recorded as before it is converted."""

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

    @property
    def request(self) -> str:
        """The request that asked for the import, by its id."""
        return str(getattr(self._context, 'request_id', None) or '')

    @property
    def project(self) -> str:
        """The project that imports it."""
        return str(getattr(self._context, 'owner', None) or '')

    @retry.patient
    def declaration(self) -> Declaration:
        with self._wrapper as action:
            return Declaration(action.image_disk_format,
                               action.image_container_format,
                               action.image_extra_properties)

    def check_quota(self, size: int) -> None:
        """Ask both kinds of quota whether ``size`` bytes may be stored.

        Each of them passes everything while the other is in force.

        :raises errors.TooLarge: if not
        """
        try:
            compat.check_quota(self._context, size, compat.database(),
                               image_id=self._wrapper.image_id)
            compat.enforce_image_size_total(
                self._context, self._context.owner, delta=size // binary.Mi)
        except (compat.exception.StorageQuotaFull,
                compat.exception.LimitExceeded) as e:
            LOG.warning('Image %s: %s', self._wrapper.image_id, e)
            raise errors.TooLarge(
                'The image does not fit into the quota of its project: once '
                f'converted it has {units.amount(size)}.') from e

    @retry.patient
    def record(self, disk_format: str, size: int, virtual_size: int) -> None:
        """Record what the image is once converted; sizes in bytes."""
        with self._wrapper as action:
            action.set_image_attribute(disk_format=disk_format,
                                       container_format='bare', size=size,
                                       virtual_size=virtual_size)

    @retry.patient
    def record_source(self, properties: Mapping[str, str], min_disk: int
                      ) -> None:
        """Record what Glance lets no plugin set.

        :param properties: which it lets no user set, either
        :param min_disk: in GiB, which the image needs at least
        """
        db, context = compat.database(), compat.admin_context()
        values: dict[str, Any] = {'properties': dict(properties)}
        if db.image_get(context, self._wrapper.image_id)[
                'min_disk'] < min_disk:
            values['min_disk'] = min_disk
        db.image_update(context, self._wrapper.image_id, values)

    @retry.patient
    def check_wanted(self) -> None:
        """See whether there still is something to import.

        :raises errors.Cancelled: if not
        """
        try:
            self._wrapper.assert_task_lock()
        except compat.exception.NotFound as e:
            raise errors.Cancelled('The image was deleted.') from e
        except compat.exception.TaskAbortedError as e:
            raise errors.TakenOver(
                'The import was taken over by another task.') from e

    @retry.patient
    def report(self, message: str) -> None:
        """Tell the owner how it goes, which also keeps the import's lock.

        :raises errors.Cancelled: if the import has ended
        """
        task = self._task_repo.get(self._task_id)
        if task.status != 'processing':
            raise errors.Cancelled('The import has ended.')
        task.message = message
        self._task_repo.save(task)

    def give_back(self, declaration: Declaration | None,
                  staged_size: int | None = None) -> bool | None:
        """Return the image to its owner after a failure; never raises.

        :param declaration: what to restore of the record
        :param staged_size: in bytes, of an upload that is kept, so that the
            image can be imported again
        :returns: whether what is staged is nobody's any more; None if
            nobody can say, as of a database that is away
        """
        try:
            self.check_wanted()
            if not self._give_back(declaration):
                return False
            if staged_size is not None:
                records.keep_upload(self._wrapper.image_id, staged_size)
                return False
        except (errors.TakenOver, compat.exception.TaskAbortedError):
            LOG.warning('Image %s is imported by another task now',
                        self._wrapper.image_id)
            return False
        except (errors.Cancelled, compat.exception.NotFound):
            LOG.info('Image %s is gone', self._wrapper.image_id)
        except Exception:
            LOG.exception('Image %s could not be returned to its owner',
                          self._wrapper.image_id)
            return None
        return True

    @retry.patient
    def _give_back(self, declaration: Declaration | None) -> bool:
        """As give_back(); False if another plugin has kept the upload."""
        with self._wrapper as action:
            if action.image_status == 'uploading':
                return False
            if action.image_status == 'importing':
                action.set_image_attribute(status='queued')
            # Not if a store kept its data: then the image is what that is.
            if declaration and not action.image_locations:
                action.set_image_attribute(
                    disk_format=declaration.disk_format,
                    container_format=declaration.container_format,
                    virtual_size=None)
            action.remove_importing_stores(self._stores)
            action.add_failed_stores(self._stores)
        return True
