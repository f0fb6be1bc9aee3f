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

"""The data path as a whole: one image, from a file to where it shall be.

Knows nothing of Glance. Everything above it decides what to convert, where to
and what to record; everything below moves bytes.
"""

from collections.abc import Sequence
import contextlib
import functools
import os

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import pipeline
from glance_conversion_plugins.copying import room
from glance_conversion_plugins.copying import sinks
from glance_conversion_plugins.copying.sinks import bounded
from glance_conversion_plugins.copying import sources
from glance_conversion_plugins.copying.sources import file as file_source
from glance_conversion_plugins.copying.sources import layout as layout_source
from glance_conversion_plugins.copying.sources import nbd as nbd_source
from glance_conversion_plugins.copying import watchdog
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import inspection

# In this much of a disk the inspectors decide, but for attacks.
BEGINNING, _PIECE = 1 << 20, 64 << 10

# Glance's disk_format: how qemu-img writes it. Without force_size a VHD is
# rounded up to what cylinders, heads and sectors can express.
_OUTPUTS = {
    'raw': (),
    'qcow2': (),
    'vdi': (),
    'vhd': ('-o', 'subformat=dynamic,force_size=on'),
    'vhdx': ('-o', 'subformat=dynamic'),
    'vmdk': ('-o', 'subformat=streamOptimized'),
}


def open_source(image: inspection.ImageInfo,
                cancel: cancel_.Cancel = cancel_.NEVER) -> sources.Source:
    """Open an inspected image, unless that is cancelled."""
    if image.disk_format == 'raw' and isinstance(image.path, str):
        return file_source.FileSource(image.path)

    def open_decoder() -> sources.Source:
        return nbd_source.NbdSource(image.for_qemu, image.virtual_size,
                                    cancel=cancel)

    if image.layout and image.layout.is_known:
        return layout_source.LayoutSource(
            image.for_qemu.path, image.for_qemu.offset, image.layout,
            open_decoder)
    return open_decoder()


def inspect(path: binary.Where, disk_format: str, policy: detection.Policy,
            conversion: conversion_.Conversion) -> inspection.ImageInfo:
    """Inspect a file of ours; a log in it is replayed in its place before.

    :raises errors.LogNotReplayed: of a part of a file, which can not grow
    :raises errors.ImageRefused: names the rule that the image breaks
    """
    with conversion.clock.run('inspect'):
        try:
            return inspection.inspect(path, disk_format, policy,
                                      conversion.cancel)
        except errors.LogNotReplayed:
            if not isinstance(path, str):
                raise
            conversion.before_change()
            conversion.progress.enter('Replaying the log of the image')
            conversion.remarks += inspection.replay(path, disk_format,
                                                    conversion.cancel)
        return inspection.inspect(path, disk_format, policy,
                                  conversion.cancel, replayed=True)


def check(image: inspection.ImageInfo, conversion: conversion_.Conversion
          ) -> inspection.ImageInfo:
    """See that an inspected image is complete.

    :returns: the image, with all that is known of it then
    :raises errors.DamagedImage: if not
    """
    conversion.progress.enter('Checking the image')
    with conversion.clock.run('check'):
        image = inspection.check_intact(image, conversion.cancel)
    conversion.remarks += image.remarks
    return image


def convert(image: inspection.ImageInfo, policy: detection.Policy,
            sink: sinks.Sink, spec: digest.DigestSpec,
            conversion: conversion_.Conversion) -> digest.Digest:
    """Write an inspected image into a sink, raw and complete, or not at all.

    :returns: the digests that were asked for
    """
    image = check(image, conversion)
    most = _most(image, policy)
    target = bounded.Bounded(sink, most)
    try:
        with (conversion.room(_data(image, most), functools.partial(
                  sink.room, image.virtual_size)) as claims,
              contextlib.closing(
                  open_source(image, conversion.cancel)) as source):
            return _fill(source, policy, target, spec, conversion, claims)
    except BaseException:
        target.abort()
        raise


def _data(image: inspection.ImageInfo, most: int) -> int:
    """How many bytes of data there may be in an image that was checked."""
    if image.layout:
        return min(most, image.layout.data)
    if image.disk_format == 'raw' and isinstance(image.path, str):
        # Its holes are none.
        most = min(most, os.stat(image.path).st_blocks * 512)
    return min(most, image.virtual_size)


def _most(image: inspection.ImageInfo, policy: detection.Policy) -> int:
    """How much data an image may hold, in bytes."""
    return bounded.allowed(image.uploaded or image.file_size,
                           policy.max_expansion)


def see_beginning(source: sources.Source, policy: detection.Policy) -> None:
    """Refuse what begins as it must not, before all of it is copied.

    :raises errors.UnsafeImage: if it does
    """
    result = detection.ResultInspector(policy)
    for offset in range(0, min(source.size, BEGINNING), _PIECE):
        result.update(memoryview(source.read(
            offset, min(_PIECE, source.size - offset))))
        if not result.is_undecided:
            result.finish()
            return


class _Paced:
    """A consumer that holds a copy to the pace of what it writes."""

    def __init__(self, conversion: conversion_.Conversion,
                 claims: Sequence[room.Claim]) -> None:
        self._progress = conversion.progress
        self._pace = conversion_.Pace(conversion.throttle, claims)

    def update(self, view: memoryview) -> None:
        # Not by the view, in which there are gaps.
        self._pace.reach(self._progress.written)

    def zeros(self, length: int) -> None:
        """Do nothing: zeros take no room and no time."""


def _fill(source: sources.Source, policy: detection.Policy, sink: sinks.Sink,
          spec: digest.DigestSpec, conversion: conversion_.Conversion,
          claims: Sequence[room.Claim]) -> digest.Digest:
    def interrupt() -> None:
        source.interrupt()
        sink.interrupt()

    progress, clock = conversion.progress, conversion.clock
    with (conversion.cancel.interrupting(interrupt),
          watchdog.watch(progress.position, interrupt)):
        see_beginning(source, policy)
        with clock.run('create'):
            sink.create(source.size)
        return _copy(source, policy, sink, spec, conversion, claims)


def _copy(source: sources.Source, policy: detection.Policy, sink: sinks.Sink,
          spec: digest.DigestSpec, conversion: conversion_.Conversion,
          claims: Sequence[room.Claim]) -> digest.Digest:
    conversion.progress.enter('Converting', source.size)
    result = detection.ResultInspector(policy)
    with digest.Digests(spec) as digests:
        pipeline.copy(source, sink,
                      (_Paced(conversion, claims), result, digests),
                      progress=conversion.progress, clock=conversion.clock,
                      cancel=conversion.cancel)
        result.finish()
        conversion.progress.enter('Completing the stored image')
        # The digests go on meanwhile, and may be a gibibyte behind.
        with conversion.clock.run('seal'):
            sink.seal()
        with conversion.clock.run('wait for digests'):
            return digests.finish()


def stage(image: inspection.ImageInfo, policy: detection.Policy, path: str,
          disk_format: str, options: Sequence[str],
          conversion: conversion_.Conversion) -> int:
    """Convert an inspected image into a sparse file, or leave none.

    :param path: of the file, which must not exist
    :param disk_format: of the file
    :param options: of qemu-img convert, beside what the format needs
    :returns: its size in bytes
    """
    image = check(image, conversion)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
    try:
        _stage(image, policy, path, disk_format, options, conversion)
        with conversion.clock.run('inspect'):
            detection.check_result(path, disk_format, policy)
        return os.path.getsize(path)
    except BaseException:
        os.unlink(path)
        raise


def _stage(image: inspection.ImageInfo, policy: detection.Policy, path: str,
           disk_format: str, options: Sequence[str],
           conversion: conversion_.Conversion) -> None:
    most, folder = _most(image, policy), os.path.dirname(path)
    stalled = cancel_.Cancel()
    output = qemu_img.Output(path, inspection.DRIVERS[disk_format],
                             (*_OUTPUTS[disk_format], *options))
    progress = conversion.progress

    def written() -> int:
        return os.stat(path).st_blocks * 512

    def advance(percent: float) -> None:
        progress.reach(int(image.virtual_size * percent / 100), written())
        bounded.check(progress.written, most)
        room.see_free(folder, conversion.keep_free)
        for claim in claims:
            claim.reach(progress.written)

    def state() -> object:
        # Zeros are read and not written, and much may be in one percent.
        return progress.position(), written()

    def places() -> list[room.Place]:
        return [room.of_folder(folder, conversion.keep_free)]

    with (conversion.room(_data(image, most), places) as claims,
          watchdog.watch(state, stalled.set), conversion.clock.run('convert'),
          conversion.cancel.interrupting(stalled.set)):
        progress.enter('Converting', image.virtual_size)
        qemu_img.convert(image.for_qemu, image.virtual_size, output, advance,
                         stalled, conversion.throttle.rate)
    progress.reach(image.virtual_size, written())
