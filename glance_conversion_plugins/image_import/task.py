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

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import functools
import logging
import os
import socket
from typing import Any

from oslo_config import cfg
from taskflow import task

from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import slots
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import staged
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.image_import import completion
from glance_conversion_plugins.image_import import decision
from glance_conversion_plugins.image_import import execution
from glance_conversion_plugins.image_import import failure
from glance_conversion_plugins.image_import import heartbeat
from glance_conversion_plugins.image_import import identity
from glance_conversion_plugins.image_import import image as image_
from glance_conversion_plugins.image_import import journal
from glance_conversion_plugins.image_import import options
from glance_conversion_plugins.image_import import unpacking
from glance_conversion_plugins.maintenance import digests
from glance_conversion_plugins.stores import adoption
from glance_conversion_plugins.stores import placeholder
from glance_conversion_plugins.stores import registry

LOG = logging.getLogger(__name__)
CONF = cfg.CONF

_FILE = 'file://'


class ConvertImage(task.Task):
    """Converts the staged image, whatever its format and its stores are."""

    default_provides = 'file_path'

    def __init__(self, request: image_.ImportRequest,
                 image: image_.ImportedImage, name: str) -> None:
        super().__init__(name=name)
        self._request = request
        self._image = image
        # Paths of what goes should the import fail.
        self._staged: set[str] = set()
        self._is_interrupted = False
        # Of a conversion that has begun.
        self._context: execution.Context | None = None
        self._journal = journal.Journal(
            image=request.image_id, task=request.task_id,
            request=image.request, plugin=type(self).__name__,
            stores=','.join(s for s in request.stores if s))

    def execute(self, file_path: str, **kwargs: Any) -> str:
        """Convert ``file_path``, a file:// URI.

        :returns: the URI of what Glance shall store: a placeholder that our
            stores adopt, a converted file, or ``file_path`` where this plugin
            steps aside
        """
        image_id = self._request.image_id
        path = file_path.removeprefix(_FILE)
        self._staged.add(path)
        try:
            with self._journal.told():
                # What a plugin has made of it can only be gone on with.
                if self._is_upload(path):
                    heartbeat.check_stopping()
                return _FILE + self._execute(path)
        except errors.Stopping as e:
            self._is_interrupted = True
            raise compat.exception.UploadException(self._advice(e)) from e
        except errors.ConversionError as e:
            raise compat.exception.UploadException(str(e)) from e
        except Exception as e:
            LOG.exception('Conversion of image %s failed', image_id)
            raise failure.of(e) from e

    def _execute(self, path: str) -> str:
        declaration = self._image.declaration()
        self._journal.note(format=declaration.disk_format,
                           container=declaration.container_format)
        stores = {s: registry.find(s) for s in self._request.stores}
        decided = self._decide(declaration, path, {
            store_id: store.kind if store else None
            for store_id, store in stores.items()})
        if decided.action is decision.Action.KEEP:
            self._keep(declaration, path, decided)
            return path
        direct = decided.action is decision.Action.DIRECT
        self._context = execution.Context(
            self._request, self._image, declaration, path,
            {i: s for i, s in stores.items() if s and direct},
            placeholder.Placeholder(os.path.dirname(path), placeholder.Header(
                self._request.image_id, self._request.task_id,
                declaration.disk_format, declaration.container_format,
                socket.gethostname())),
            conversion_.Conversion(node=options.node()))
        size = os.path.getsize(path)
        self._journal.note(upload_bytes=size)
        result, found = self._convert(decided.action, self._context)
        self._journal.note(outcome=journal.DONE[decided.action],
                           to=result.disk_format,
                           disk_bytes=result.virtual_size)
        self._complete(self._context, result,
                       identity.properties(declaration, size, found))
        return result.path

    def _keep(self, declaration: image_.Declaration, path: str,
              decided: decision.Decision) -> None:
        """Leave an image as it is, if it is what its owner means."""
        if self._is_upload(path) and identity.expected(declaration):
            conversion = conversion_.Conversion()
            with self._beating(conversion):
                execution.see_expected(declaration, path, conversion)
        # For what an owner chose, and not this deployment.
        if decided.concerns_owner:
            execution.see_keepable(declaration, path)
            self._journal.note(outcome='kept', reason=decided.reason,
                               upload_bytes=os.path.getsize(path))
        else:
            self._journal.omit()
        self._explain(decided)

    @contextlib.contextmanager
    def _beating(self, conversion: conversion_.Conversion) -> Iterator[None]:
        """Tell the owner how it goes, and hear that it has to end."""
        with heartbeat.Heartbeat(self._image, conversion.progress,
                                 conversion.cancel) as beating:
            try:
                yield
            except errors.Cancelled as e:
                raise beating.reason or e from e

    @contextlib.contextmanager
    def _measured(self, conversion: conversion_.Conversion) -> Iterator[None]:
        """Note what it took, whatever it comes to."""
        try:
            yield
        finally:
            self._journal.note(written_bytes=conversion.progress.written)
            self._journal.spent(conversion.clock.spent())

    def _decide(self, declaration: image_.Declaration, path: str,
                kinds: Mapping[str, str | None]) -> decision.Decision:
        return decision.decide(declaration, path, kinds,
                               options.output_format(), options.unpacks())

    def _explain(self, decided: decision.Decision) -> None:
        LOG.info('%s leaves image %s as it is: %s', type(self).__name__,
                 self._request.image_id, decided.reason)
        if decided.concerns_owner:
            completion.Completion(
                self._request,
                f'The image is kept as it is: {decided.reason}').start()

    def _convert(self, action: decision.Action, context: execution.Context
                 ) -> tuple[execution.Result, identity.Hash | None]:
        conversion = context.conversion
        with self._beating(conversion), self._measured(conversion):
            context.placeholder.create()
            with slots.hold(options.slots(), options.node().locks,
                            conversion.progress, conversion.cancel,
                            self._image.project):
                result, found = _done(action, context)
        LOG.info('Image %s: %s (%s)', self._request.image_id, result.message,
                 conversion.clock)
        # Not before the heartbeat has ended: it would overwrite it.
        self._image.report(result.message)
        return result, found

    def _complete(self, context: execution.Context, result: execution.Result,
                  source: dict[str, str]) -> None:
        """Record the result, and see to what follows the import."""
        self._image.record(result.disk_format, result.size,
                           result.virtual_size)
        self._image.record_source(source, options.min_disk(
            result.virtual_size))
        self._staged.add(result.path)
        context.placeholder.hand_on(result.path, result.size)
        _remove(self._staged - {result.path})
        later = None
        if context.stores and options.digests_are_deferred():
            later = functools.partial(
                digests.compute, self._request.image_id, context.stores,
                options.digest_spec(context.stores_upload),
                self._request.task_id)
        completion.Completion(self._request, result.message,
                              context.placeholder, later).start()

    def revert(self, result: Any = None, **kwargs: Any) -> None:
        """Leave nothing and give the image back; never raises.

        Runs when this task failed, and when a later one did: also for an
        image that is kept, which Glance may have refused since.
        """
        context = self._context
        given_back = self._image.give_back(
            context.declaration if context else None, self._staged_size())
        if given_back:
            _remove(self._staged)
        if context and given_back is not None:
            context.placeholder.remove()
        elif context:
            # It tells the clean-up of this node that there is more to do.
            context.placeholder.release()
        # Last, for a store may take its time to answer.
        adoption.forget(self._request.task_id)

    def _staged_size(self) -> int | None:
        """The size of the upload, if it is there and to be kept."""
        if not (self._is_interrupted and self._keeps_upload()):
            return None
        path, = self._staged
        try:
            return os.path.getsize(path)
        except OSError:
            LOG.exception('The upload of image %s can not be kept',
                          self._request.image_id)
            return None

    def _keeps_upload(self) -> bool:
        return (CONF.conversion.keep_upload
                and self._request.method == 'glance-direct'
                and all(map(self._is_upload, self._staged)))

    def _is_upload(self, path: str) -> bool:
        return os.path.basename(path) == self._request.image_id

    def _advice(self, error: errors.Stopping) -> str:
        if self._keeps_upload():
            return f'{error} The upload is kept: import the image again.'
        return f'{error} Upload the image and import it again.'


def _done(action: decision.Action, context: execution.Context
          ) -> tuple[execution.Result, identity.Hash | None]:
    """What becomes of an image, and the hash of its upload if wanted.

    What is stored as it was uploaded is digested anyway, now or later.
    """
    work = _work(context)
    if context.stores_upload or not options.hashes_uploads():
        result = work(action, context)
        return result, identity.sha256(result.sha256)
    with identity.Hashing(context.path, context.conversion) as hashing:
        context.conversion.before_change = hashing.result
        return work(action, context), hashing.result()


def _work(context: execution.Context) -> Callable[
        [decision.Action, execution.Context], execution.Result]:
    if context.declaration.container_format in decision.PACKAGES:
        return unpacking.execute
    return execution.execute


def _remove(paths: set[str]) -> None:
    """Remove staged files, where they are still there."""
    for path in paths:
        try:
            staged.unlink(path)
        except FileNotFoundError:
            LOG.debug('%s is gone already', path)
        except OSError:
            LOG.exception('%s is left in staging', path)


class RbdDirectConvert(ConvertImage):
    """Does so only where all of it happens in stores of type sparse_rbd."""

    def _decide(self, declaration: image_.Declaration, path: str,
                kinds: Mapping[str, str | None]) -> decision.Decision:
        return decision.only_rbd(super()._decide(declaration, path, kinds),
                                 kinds)
