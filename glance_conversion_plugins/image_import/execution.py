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

"""What was decided, done: an image is inspected, written or staged."""

import logging
import os
from typing import NamedTuple

from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import convert
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import reading
from glance_conversion_plugins.copying.sinks import fanout
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import sandbox
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.image_import import decision
from glance_conversion_plugins.image_import import identity
from glance_conversion_plugins.image_import import image as image_
from glance_conversion_plugins.image_import import options
from glance_conversion_plugins.stores import adoption
from glance_conversion_plugins.stores import placeholder as placeholder_
from glance_conversion_plugins.stores import protocols
from glance_conversion_plugins import units

LOG = logging.getLogger(__name__)


class Context(NamedTuple):
    """One image that is converted, and all that belongs to it."""

    request: image_.ImportRequest
    image: image_.ImportedImage
    declaration: image_.Declaration
    path: str                       # of the staged upload, or unpacked of it
    stores: dict[str, protocols.SparseStore]        # written to directly
    placeholder: placeholder_.Placeholder
    conversion: conversion_.Conversion
    uploaded: int = 0               # bytes of the package that is unpacked
    part: binary.Part | None = None     # what is converted of the upload

    @property
    def converted_path(self) -> str:
        """Where a converted image is staged, as stock Glance names it."""
        return self.beside(options.output_format())

    def beside(self, suffix: str) -> str:
        """Where in staging something else of this image may be."""
        return os.path.join(os.path.dirname(self.path),
                            f'{self.request.image_id}.{suffix}')

    @property
    def stores_upload(self) -> bool:
        """Whether what is stored are the bytes that were uploaded."""
        return bool(self.stores) and self.source == 'raw'

    @property
    def source(self) -> str:
        """What was uploaded, in words."""
        words = [self.declaration.disk_format]
        if self.declaration.container_format != 'bare':
            words.insert(0, self.declaration.container_format)
        return ' '.join(words)


class Result(NamedTuple):
    """What Glance is to know of an image, and to store."""

    path: str
    disk_format: str
    size: int               # in bytes, of the file at path
    virtual_size: int       # in bytes
    message: str            # for the owner
    sha256: str | None = None   # of the upload, if it was computed


def see_confined() -> None:
    """See that what reads images is as confined as it has to be here.

    :raises errors.Misconfigured: if not
    """
    if options.sandbox_is_required() and (missing := sandbox.missing_layers()):
        LOG.error('[conversion] sandbox is "required", and there is a want '
                  'of %s', '; of '.join(missing))
        raise errors.Misconfigured(
            'This cloud can not convert images: the node that does it can '
            'not confine the programs that read them.')


def see_keepable(declaration: image_.Declaration, path: str) -> None:
    """See that Glance will take an image which is kept for what it is.

    :raises errors.ImageRefused: names the rule that it breaks
    """
    _see_small_enough(path)
    # Glance does not look into any other container.
    if declaration.container_format == 'bare' and options.formats_must_match():
        inspection.see_kept(path, declaration.disk_format, options.policy())


def _see_small_enough(path: str) -> None:
    size = max(os.path.getsize(path), detection.claimed_size(path))
    most = options.policy().max_virtual_size
    if size > most:
        raise errors.TooLarge(
            f'The image is too large: its disk has {units.amount(size)}, and '
            f'{units.amount(most)} are allowed.')


def see_expected(declaration: image_.Declaration, path: str,
                 conversion: conversion_.Conversion) -> None:
    """See that an upload has the hash that its owner gives, if any.

    :raises errors.WrongUpload: if not
    """
    if wanted := identity.expected(declaration):
        with conversion.clock.run('hash'):
            identity.check(path, wanted, conversion.progress,
                           conversion.cancel)


def execute(action: decision.Action, context: Context) -> Result:
    """Do with an image what was decided, other than KEEP."""
    see_expected(context.declaration, context.path, context.conversion)
    return proceed(action, context)


def proceed(action: decision.Action, context: Context) -> Result:
    """The same, of an upload that is known to be what was expected."""
    # Raw that stays raw is read by no program.
    if (action is decision.Action.STAGE
            or context.declaration.disk_format != 'raw'):
        see_confined()
    if action is decision.Action.DIRECT:
        return _direct(context)
    if action is decision.Action.STAGE:
        return _stage(context, _info(context))
    return _inspect(context)


def _info(context: Context) -> inspection.ImageInfo:
    info = convert.inspect(
        context.part or context.path, context.declaration.disk_format,
        options.policy(), context.conversion)
    return info._replace(uploaded=context.uploaded)


def _inspect(context: Context) -> Result:
    info = _info(context)
    if not info.keeps_rules:
        # Glance would refuse it as it is; what qemu writes it takes.
        return _stage(context, info)
    convert.check(info, context.conversion)
    words = (f'Unpacked and inspected: it is {info.disk_format}'
             if context.uploaded else
             f'Inspected; it is {info.disk_format} already')
    return Result(context.path, info.disk_format, info.file_size,
                  info.virtual_size, words + _remarks(context))


def _direct(context: Context) -> Result:
    info = _info(context)
    context.image.check_quota(info.virtual_size)
    sink = open_sink(context)
    spec = options.inline_digest_spec(context.stores_upload)
    found = convert.convert(info, options.policy(), sink, spec,
                            context.conversion)
    return offered(context, info.virtual_size, found, sink)


def open_sink(context: Context) -> fanout.FanOut:
    """All stores that are written to directly."""
    request = context.request
    return fanout.FanOut(
        {store_id: store.sink(request.image_id, request.task_id)
         for store_id, store in context.stores.items()},
        request.all_stores_must_succeed)


def offered(context: Context, size: int, found: digest.Digest,
            sink: fanout.FanOut) -> Result:
    """Let the stores adopt what was written, and say so.

    :param size: of the disk, in bytes
    """
    if options.reads_back():
        _read_back(context, found, sink)
    _offer(context.request, size, found, sink)
    message = _message(context, size, 'raw')
    for store_id, error in sink.failures.items():
        message += f'. Store {store_id} failed: {error}'
    return Result(context.placeholder.path, 'raw', size, size, message,
                  found.sha256)


def _read_back(context: Context, found: digest.Digest, sink: fanout.FanOut
               ) -> None:
    """See that all stores have what was written."""
    try:
        sink.read_back(lambda source: reading.see_equal(
            source, options.digest_spec(), found, context.conversion))
        # Where not all must succeed, it counts as a failure of one.
        if context.conversion.cancel.is_set():
            raise errors.Cancelled('The conversion was stopped.')
    except BaseException:
        sink.abort()
        raise


def _offer(request: image_.ImportRequest, size: int, found: digest.Digest,
           sink: fanout.FanOut) -> None:
    """Let the store drivers adopt what was written, or fail as it did."""
    outcomes = {store_id: adoption.Sealed(part, size, found)
                for store_id, part in sink.sealed().items()} | sink.failures
    for store_id, outcome in outcomes.items():
        adoption.offer(store_id, request.image_id, request.task_id, outcome)


def _stage(context: Context, info: inspection.ImageInfo) -> Result:
    target = options.output_format()
    if target == 'raw':
        context.image.check_quota(info.virtual_size)
    path = context.converted_path
    size = convert.stage(info, options.policy(), path, target,
                         options.output_options(), context.conversion)
    try:
        # Only now is it known what a format takes that is not raw.
        context.image.check_quota(size)
    except BaseException:
        os.unlink(path)
        raise
    # A raw upload may end within a sector; no other format can.
    sectors = -(-info.virtual_size // 512)
    return Result(path, target, size, sectors * 512,
                  _message(context, info.virtual_size, target))


def _message(context: Context, size: int, target: str) -> str:
    progress, words = context.conversion.progress, (
        f'Converted {context.source} to {target}')
    if context.source == target:
        words = (f'Stored as {target}, without its zeros' if target == 'raw'
                 else f'Written anew as {target}')
    return (f'{words}: {units.amount(size)}, '
            f'{units.amount(progress.written)} of data, in '
            f'{units.duration(progress.elapsed)}' + _remarks(context))


def _remarks(context: Context) -> str:
    return ''.join(f'. {remark}' for remark in context.conversion.remarks)
