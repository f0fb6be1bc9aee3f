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

"""The disk in a package, which comes as a stream.

How large it is shows at its end only, and so does whether all of it is there.
A raw disk goes into its store as it comes; for all else a file is needed.
"""

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import functools
import hashlib
import os
from typing import NamedTuple

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import sinks
from glance_conversion_plugins.copying.sinks import bounded
from glance_conversion_plugins.copying.sinks import scratch
from glance_conversion_plugins.copying import unpacked
from glance_conversion_plugins.copying import upload
from glance_conversion_plugins.copying import watchdog
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import decompressor
from glance_conversion_plugins.formats import archives
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import ova
from glance_conversion_plugins.formats import zip_directory

_PIECE = 1 << 20
# How much an image grows until it is asked again whether it may.
_STEP = 1 << 30

# Images of real use shrink to a third or a quarter.
_USUAL_EXPANSION = 4

Chunks = Generator[bytes, None, None]

_NO_DIGEST = digest.DigestSpec(None, checksum=False)


class Package(NamedTuple):
    """A file that holds a disk and is none."""

    path: str
    container_format: str       # 'compressed' or 'ova'
    policy: detection.Policy

    @property
    def size(self) -> int:
        return os.path.getsize(self.path)

    @property
    def seconds(self) -> int:
        """How much of a processor's time it may take.

        A second for each 2 MiB of the file, and for each 64 MiB of the
        largest disk that is allowed: zeros take next to nothing of a file.
        """
        return (60 + self.size // (2 << 20)
                + self.policy.max_virtual_size // (64 << 20))

    def expected(self) -> int:
        """About how many bytes of data there are; the end alone tells."""
        return self.size if self.container_format == 'ova' else (
            self.size * _USUAL_EXPANSION)

    def chunks(self, cancel: cancel_.Cancel) -> Chunks:
        """The disk, in pieces; it is whole if none of them raises.

        :raises errors.ImageRefused: if there is not one disk, or it is damaged
        """
        if self.container_format == 'ova':
            return _member(self.path, cancel)
        return _decompressed(self, cancel)


def _member(path: str, cancel: cancel_.Cancel) -> Chunks:
    disk = ova.find(path, cancel)
    found = (hashlib.new(disk.algorithm, usedforsecurity=False)
             if disk.algorithm else None)
    left = disk.length
    with open(path, 'rb', buffering=0) as f:
        f.seek(disk.offset)
        while left and (piece := f.read(min(left, _PIECE))):
            if cancel.is_set():
                raise errors.Cancelled('The conversion was stopped.')
            if found:
                found.update(piece)
            left -= len(piece)
            yield piece
    if left:
        raise errors.SourceFailed(
            'The data of the image became shorter while it was read.')
    if found:
        ova.see_hash(found.hexdigest(), disk.digest)


def _decompressed(package: Package, cancel: cancel_.Cancel) -> Chunks:
    path, size = package.path, 0
    kind = _compression(path)
    wanted = zip_directory.member_size(path) if kind == 'zip' else None
    for piece in decompressor.decompress(path, kind, package.seconds, cancel,
                                         extent.zeros):
        size += len(piece)
        yield piece
    if wanted not in (None, size):
        raise errors.DamagedImage(
            'The image is damaged: its archive does not hold what its '
            'directory says.')


def _compression(path: str) -> str:
    with open(path, 'rb') as f:
        head = archives.read_head(f)
    kind = archives.compression(head)
    if not kind:
        # It may say what it is; else that it is nothing of these.
        archives.refuse(head)
        raise errors.FormatMismatch(
            'The image is declared as compressed, but not by gzip, xz, '
            'bzip2, zstd or zip; if it is a disk as it is, import it with the '
            'container format "bare".')
    return kind


def see_part(package: Package, conversion: conversion_.Conversion
             ) -> binary.Part:
    """Find the disk in an OVA, and see that it has its checksum, if any.

    :raises errors.ImageRefused: if not
    """
    disk = ova.find(package.path, conversion.cancel)
    if disk.algorithm:
        conversion.progress.enter('Checking the upload', disk.length)
        with contextlib.closing(package.chunks(conversion.cancel)) as chunks:
            for chunk in chunks:
                conversion.progress.advance(len(chunk))
    return binary.Part(package.path, disk.offset, disk.length)


def store(package: Package, sink: sinks.Sink, spec: digest.DigestSpec,
          allow: Callable[[int], None], conversion: conversion_.Conversion
          ) -> upload.Stored:
    """Write the raw disk in a package into a sink, complete or not at all.

    :param allow: asked again and again, and at the end, whether there may be
        so many bytes; raises if not
    """
    policy = package.policy
    return _fill(
        package, sink, spec, lambda chunks: unpacked.limited(
            unpacked.raw_disk(chunks, policy), policy.max_virtual_size),
        allow, conversion)


def unpack(package: Package, path: str, conversion: conversion_.Conversion
           ) -> None:
    """Write whatever is in a package into a file, or leave none.

    :param path: of the file, which must not exist
    """
    # Of the largest disk that is allowed a file has some more, as of tables.
    most = package.policy.max_virtual_size * 5 // 4 + (64 << 20)
    _fill(package, scratch.ScratchSink(path, conversion.keep_free),
          _NO_DIGEST,
          lambda chunks: unpacked.limited(
              unpacked.whole_file(chunks), most),
          lambda size: None, conversion)
    # What is written yet is no part of the result.
    conversion.progress.reach(0, 0)


def _fill(package: Package, sink: sinks.Sink, spec: digest.DigestSpec,
          judge: Callable[[Iterator[bytes]], Iterator[bytes]],
          allow: Callable[[int], None], conversion: conversion_.Conversion
          ) -> upload.Stored:
    target = bounded.Bounded(sink, bounded.allowed(
        package.size, package.policy.max_expansion))
    stopped, progress = cancel_.Cancel(), conversion.progress

    def interrupt() -> None:
        stopped.set()
        target.interrupt()

    def watched(chunks: Iterable[bytes]) -> Iterator[bytes]:
        size, asked = 0, _STEP
        pace = conversion_.Pace(conversion.throttle, claims)
        for chunk in chunks:
            size += len(chunk)
            if size >= asked:
                allow(size)
                asked = size + _STEP
            progress.reach(size, target.written)
            yield chunk
            pace.reach(target.written)
        allow(size)

    try:
        # Where it goes is chosen as of what has no size yet.
        with (conversion.room(package.expected(), functools.partial(
                  target.room, 0)) as claims,
              conversion.cancel.interrupting(interrupt),
              watchdog.watch(progress.position, interrupt),
              conversion.clock.run('unpack'),
              contextlib.closing(package.chunks(stopped)) as chunks):
            progress.enter('Unpacking')
            stored = upload.upload(watched(judge(chunks)), target, 0,
                                   digest.Digests(spec))
    except BaseException:
        target.abort()
        raise
    progress.reach(stored.size, target.written)
    return stored
