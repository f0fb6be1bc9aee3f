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

"""The import tasks: what Glance runs, and undoes."""

import logging
import os
from typing import Any

from glance.common import exception
from oslo_config import cfg
from taskflow import task

from glance_conversion_plugins import choice
from glance_conversion_plugins import conversion
from glance_conversion_plugins import errors
from glance_conversion_plugins import importing
from glance_conversion_plugins import ledger
from glance_conversion_plugins import placeholder
from glance_conversion_plugins import roads
from glance_conversion_plugins import settlement
from glance_conversion_plugins import slots
from glance_conversion_plugins import stores

LOG = logging.getLogger(__name__)
CONF = cfg.CONF

_FILE = 'file://'


class ConvertImage(task.Task):
    """Converts the staged image, whatever its format and its stores are."""

    default_provides = 'file_path'

    def __init__(self, this: roads.Import, image: importing.ImportedImage,
                 name: str) -> None:
        super().__init__(name=name)
        self._this = this
        self._image = image
        self._facts: importing.Facts | None = None
        self._aside = False
        self._targets: dict[str, stores.AdoptingStore] = {}
        self._claim: placeholder.Placeholder | None = None
        # What is in staging: the upload, and what it was converted to.
        self._staged: set[str] = set()

    def execute(self, file_path: str, **kwargs: Any) -> str:
        """Convert ``file_path``, a file:// URI.

        :returns: the URI of what Glance shall store: a placeholder that our
            stores adopt, a converted file, or ``file_path`` where this plugin
            steps aside
        """
        try:
            return self._execute(file_path)
        except errors.ConversionError as e:
            raise exception.UploadException(str(e)) from e
        except OSError as e:
            LOG.exception('Conversion of image %s failed', self._this.image_id)
            raise exception.UploadException(
                'The conversion failed: the node that does it has a problem '
                f'with its disk ({e.strerror}).') from e
        except Exception as e:
            LOG.exception('Conversion of image %s failed', self._this.image_id)
            raise exception.UploadException(
                'The conversion failed for a reason that only the operator '
                'of this cloud can see.') from e

    def _execute(self, file_path: str) -> str:
        path = file_path.removeprefix(_FILE)
        facts = self._image.facts()
        targets = {s: stores.adopting(s) for s in self._this.stores}
        chosen = self._choose(facts, path, {
            store_id: store.kind if store else None
            for store_id, store in targets.items()})
        if chosen.road is choice.Road.KEEP:
            self._aside = True
            self._explain(chosen)
            return file_path
        self._facts = facts
        self._staged.add(path)
        if chosen.road is choice.Road.DIRECT:
            self._targets = {i: s for i, s in targets.items() if s}
        return _FILE + self._convert(chosen.road, path, facts)

    def _choose(self, facts: importing.Facts, path: str,
                kinds: dict[str, str | None]) -> choice.Choice:
        return choice.choose(facts, path, kinds, roads.output_format())

    def _explain(self, chosen: choice.Choice) -> None:
        LOG.info('%s leaves image %s as it is: %s', type(self).__name__,
                 self._this.image_id, chosen.reason)
        if chosen.concerns_owner:
            settlement.Settlement(
                self._this.image_id, self._this.task_id, {},
                f'The image is kept as it is: {chosen.reason}').start()

    def _convert(self, road: choice.Road, path: str, facts: importing.Facts
                 ) -> str:
        run = conversion.Run()
        with importing.Heartbeat(self._image, run.progress, run.cancel
                                 ) as heartbeat:
            try:
                self._claim = placeholder.Placeholder(
                    os.path.dirname(path), placeholder.Maker(
                        self._this.image_id, self._this.task_id,
                        facts.disk_format, facts.container_format))
                job = roads.Job(self._this, self._image, facts, path,
                                self._targets, self._claim, run)
                with slots.hold(CONF.conversion.max_concurrent,
                                CONF.oslo_concurrency.lock_path, run.progress,
                                run.cancel):
                    result = roads.take(road, job)
            except errors.Cancelled as e:
                raise heartbeat.reason or e from e
        LOG.info('Image %s: %s (%s)', self._this.image_id, result.message,
                 run.clock)
        # Not before the heartbeat has ended: it would overwrite it.
        self._image.report(result.message)
        return self._complete(road, result, self._claim)

    def _complete(self, road: choice.Road, result: roads.Result,
                  claim: placeholder.Placeholder) -> str:
        """Record the result, and see to what follows the import."""
        self._staged.add(result.path)
        self._image.record(result.disk_format, result.size,
                           result.virtual_size)
        if road is choice.Road.DIRECT:
            claim.extend(result.size)
        self._remove_staged(but=result.path)
        later = (road is choice.Road.DIRECT
                 and CONF.conversion.digests == 'deferred')
        settlement.Settlement(
            self._this.image_id, self._this.task_id, self._targets,
            result.message, result.path, claim,
            roads.wanted(inline=False) if later else None).start()
        return result.path

    def revert(self, result: Any = None, **kwargs: Any) -> None:
        """Leave nothing and give the image back; never raises.

        Runs when this task failed, and when a later one did.
        """
        if self._aside:
            return
        ledger.forget(self._this.task_id)
        if self._claim:
            self._claim.remove()
        if self._image.is_taken_over():
            LOG.warning('Image %s is imported by another task now',
                        self._this.image_id)
        else:
            self._remove_staged()
            self._image.give_back(self._facts)
        # Last, for a store may take its time to answer.
        try:
            settlement.settle(self._this.image_id, self._this.task_id,
                              self._targets)
        except Exception:
            LOG.exception('Image %s is not settled', self._this.image_id)

    def _remove_staged(self, but: str | None = None) -> None:
        for path in self._staged - {but}:
            try:
                os.unlink(path)
            except FileNotFoundError:
                LOG.debug('%s is gone already', path)
            except OSError:
                LOG.exception('%s is left in staging', path)


class RbdDirectConvert(ConvertImage):
    """Does so only where all of it happens in stores of type sparse_rbd."""

    def _choose(self, facts: importing.Facts, path: str,
                kinds: dict[str, str | None]) -> choice.Choice:
        return choice.only_rbd(super()._choose(facts, path, kinds), kinds)
