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

"""The import tasks: they decide, and leave the work to the data path."""

import logging
import os
from typing import Any
from typing import NamedTuple

from glance.common import exception
from oslo_config import cfg
from taskflow import task

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import conversion
from glance_conversion_plugins import digest
from glance_conversion_plugins import errors
from glance_conversion_plugins import importing
from glance_conversion_plugins import inspection
from glance_conversion_plugins import ledger
from glance_conversion_plugins import placeholder
from glance_conversion_plugins import progress as progress_
from glance_conversion_plugins import settlement
from glance_conversion_plugins import sinks
from glance_conversion_plugins.sinks import fanout
from glance_conversion_plugins import slots
from glance_conversion_plugins import stores

LOG = logging.getLogger(__name__)
CONF = cfg.CONF
CONF.import_opt('output_format',
                'glance.async_.flows.plugins.image_conversion',
                group='image_conversion')

_FILE = 'file://'


class Import(NamedTuple):
    """What Glance tells a plugin about an import."""

    image_id: str
    task_id: str
    stores: list[str]
    all_stores_must_succeed: bool


class RbdDirectConvert(task.Task):
    """Writes the staged image into its stores, raw, in one pass."""

    default_provides = 'file_path'

    def __init__(self, this: Import, image: importing.ImportedImage,
                 name: str) -> None:
        super().__init__(name=name)
        self._this = this
        self._image = image
        self._facts: importing.Facts | None = None
        self._aside = False
        self._upload: str | None = None
        self._targets: dict[str, stores.AdoptingStore] = {}
        self._placeholder: placeholder.Placeholder | None = None

    def execute(self, file_path: str, **kwargs: Any) -> str:
        """Convert ``file_path``, a file:// URI.

        :returns: the URI of what Glance shall store: a placeholder that our
            stores adopt, or ``file_path`` where this plugin steps aside
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
        path = self._upload = file_path.removeprefix(_FILE)
        facts = self._image.facts()
        targets = {s: stores.adopting(s) for s in self._this.stores}
        if why := _step_aside(facts, targets, path):
            LOG.info('rbd_direct_convert leaves image %s as it is: %s',
                     self._this.image_id, why)
            self._aside = True
            return file_path
        self._facts = facts
        self._targets = {i: s for i, s in targets.items() if s}
        return _FILE + self._convert(path, facts)

    def _convert(self, path: str, facts: importing.Facts) -> str:
        progress, cancel = progress_.Progress(), cancel_.Cancel()
        with importing.Heartbeat(self._image, progress, cancel) as heartbeat:
            try:
                self._placeholder = placeholder.Placeholder(
                    os.path.dirname(path), placeholder.Maker(
                        self._this.image_id, self._this.task_id,
                        facts.disk_format, facts.container_format))
                with slots.hold(CONF.conversion.max_concurrent,
                                CONF.oslo_concurrency.lock_path, progress,
                                cancel):
                    size, message = self._write(path, facts, progress, cancel)
            except errors.Cancelled as e:
                raise heartbeat.reason or e from e
        # Not before the heartbeat has ended: it would overwrite it.
        self._image.report(message)
        self._image.record_raw(size)
        self._placeholder.extend(size)
        self._remove_upload()
        self._settle_later(self._placeholder)
        return self._placeholder.path

    def _write(self, path: str, facts: importing.Facts,
               progress: progress_.Progress, cancel: cancel_.Cancel
               ) -> tuple[int, str]:
        """Inspect and convert; returns the size in bytes, and a message."""
        clock = progress_.Clock()
        policy = _policy()
        with clock.run('inspect'):
            info = inspection.inspect(path, facts.disk_format, policy,
                                      cancel)
        self._image.check_quota(info.virtual_size)
        sink = fanout.FanOut(self._sinks(), self._this.all_stores_must_succeed)
        found = conversion.convert(info, policy, sink, _wanted(inline=True),
                                   progress=progress, clock=clock,
                                   cancel=cancel)
        self._enter_in_ledger(info.virtual_size, found, sink.failures)
        message = (f'Converted {info.disk_format} to raw: '
                   f'{progress_.amount(info.virtual_size)}, '
                   f'{progress_.amount(progress.written)} of data, in '
                   f'{progress_.duration(progress.elapsed)}')
        for store_id, error in sink.failures.items():
            message += f'. Store {store_id} failed: {error}'
        LOG.info('Image %s: %s (%s)', self._this.image_id, message, clock)
        return info.virtual_size, message

    def _sinks(self) -> dict[str, sinks.Sink]:
        return {store_id: store.sink(self._this.image_id, self._this.task_id)
                for store_id, store in self._targets.items()}

    def _enter_in_ledger(self, size: int, found: digest.Digest,
                         failures: dict[str, errors.ConversionError]) -> None:
        image_id, task_id = self._this.image_id, self._this.task_id
        for store_id, store in self._targets.items():
            ledger.put(store_id, image_id, task_id,
                       failures.get(store_id) or ledger.Written(
                           store.uri(image_id), size, found.checksum,
                           found.os_hash_value, {'store': store_id}))

    def _settle_later(self, stand_in: placeholder.Placeholder) -> None:
        deferred = CONF.conversion.digests == 'deferred'
        settlement.Settlement(
            self._this.image_id, self._this.task_id, self._targets, stand_in,
            _wanted(inline=False) if deferred else None).start()

    def revert(self, result: Any = None, **kwargs: Any) -> None:
        """Leave nothing and give the image back; never raises.

        Runs when this task failed, and when a later one did.
        """
        if self._aside:
            return
        ledger.forget(self._this.task_id)
        if self._placeholder:
            self._placeholder.remove()
        if self._image.is_taken_over():
            LOG.warning('Image %s is imported by another task now',
                        self._this.image_id)
        else:
            self._remove_upload()
            self._image.give_back(self._facts)
        # Last, for a store may take its time to answer.
        try:
            settlement.settle(self._this.image_id, self._this.task_id,
                              self._targets)
        except Exception:
            LOG.exception('Image %s is not settled', self._this.image_id)

    def _remove_upload(self) -> None:
        try:
            if self._upload:
                os.unlink(self._upload)
        except FileNotFoundError:
            LOG.debug('%s is gone already', self._upload)
        except OSError:
            LOG.exception('%s is left in staging', self._upload)


def _step_aside(facts: importing.Facts, targets: dict[str, Any], path: str
                ) -> str | None:
    """Why an image is none of this plugin's, or None if it is."""
    if not all(targets.values()):
        return 'not every target store is of type sparse_rbd'
    if target_format() != 'raw':
        return f'the output format is {target_format()}'
    if facts.container_format != 'bare':
        return f'its container format is {facts.container_format}'
    if facts.disk_format not in inspection.DRIVERS:
        return f'its disk format is {facts.disk_format}'
    for prefix in ('img_signature', 'os_encrypt'):
        if any(name.startswith(prefix) for name in facts.properties):
            return f'it has properties {prefix}*'
    if facts.disk_format == 'raw' and os.path.getsize(path) < 4096:
        return 'it is smaller than a placeholder'
    return None


def target_format() -> str:
    return str(CONF.conversion.output_format
               or CONF.image_conversion.output_format)


def _policy() -> inspection.Policy:
    limit = CONF.conversion.max_virtual_size or CONF.image_size_cap
    return inspection.Policy(min(limit, CONF.image_size_cap),
                             CONF.image_format.gpt_safety_checks_nonfatal)


def _wanted(inline: bool) -> conversion.Wanted:
    if inline and CONF.conversion.digests == 'deferred':
        return conversion.Wanted(None, False)
    return conversion.Wanted(CONF.hashing_algorithm,
                             CONF.conversion.legacy_checksum)
