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


"""What an import of a file would come to, before anybody imports it."""

from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import contextlib
import os
import random
import tempfile
import time
from typing import NamedTuple

from oslo_config import cfg

from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import convert
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import pipeline
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import sources
from glance_conversion_plugins.copying import unpack
from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import archives
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.formats import remarks
from glance_conversion_plugins.image_import import decision
from glance_conversion_plugins.image_import import execution
from glance_conversion_plugins.image_import import image as image_
from glance_conversion_plugins.image_import import options
from glance_conversion_plugins.stores import registry
from glance_conversion_plugins.units import amount
from glance_conversion_plugins.units import duration

CONF = cfg.CONF

_SAMPLE_SECONDS = 2
_DIGEST_SAMPLE = 256 << 20      # bytes
_WORKERS = 4


class _Sample(NamedTuple):
    """What was measured, and reckoned from a part of it, for all data."""

    allocated: int      # bytes that the image says are data
    kept: int           # bytes of those that are not zeros
    seconds: float      # that it takes to read and to search them


class Declared(NamedTuple):
    """What the owner of a file would say that it is; None: what it is."""

    disk_format: str | None = None
    container_format: str | None = None


def report(path: str, declared: Declared, store_ids: Sequence[str],
           progress: progress_.Progress) -> Iterator[str]:
    """Lines for an operator.

    :param store_ids: where to; empty: the default store
    :raises errors.ConversionError: as an import would; the words are those
        that the owner of the image would read
    """
    yield f'size of the file: {amount(os.path.getsize(path))}'
    container_format = declared.container_format or _container(path)
    if container_format != 'bare':
        yield f'container: {container_format}'
    conversion = conversion_.Conversion()
    conversion.progress = progress
    with _disk(path, container_format, conversion) as disk:
        disk_format = declared.disk_format or inspection.find_format(
            disk, options.policy()).name
        yield f'format: {disk_format}'
        declaration = image_.Declaration(disk_format, container_format, {})
        lines, action = _plugins(path, declaration, store_ids)
        yield from lines
        if disk_format not in inspection.DRIVERS:
            execution.see_keepable(declaration, path)
            yield 'verdict: it would be kept as it is'
            yield from _cost_as_it_is(os.path.getsize(path), progress)
            return
        if disk != path and not isinstance(disk, binary.Part) and (
                disk_format != 'raw'):
            yield f'unpacked in staging: {amount(os.path.getsize(disk))}'
        yield from _verdict(disk, disk_format, action, conversion)


def _container(path: str) -> str:
    with open(path, 'rb') as f:
        return archives.container(archives.read_head(f))


@contextlib.contextmanager
def _disk(path: str, container_format: str, conversion: conversion_.Conversion
          ) -> Iterator[binary.Where]:
    """The disk in a file: all of it, a part, or what is unpacked."""
    if container_format not in decision.PACKAGES:
        yield path
        return
    execution.see_confined()
    package = unpack.Package(path, container_format, options.policy())
    if container_format == 'ova':
        yield unpack.see_part(package, conversion)
        return
    with tempfile.TemporaryDirectory(prefix='inspect-') as folder:
        disk = os.path.join(folder, 'disk')
        unpack.unpack(package, disk, conversion)
        yield disk


def _verdict(path: binary.Where, disk_format: str, action: decision.Action,
             conversion: conversion_.Conversion) -> Iterator[str]:
    if disk_format != 'raw':
        execution.see_confined()
    try:
        image = inspection.inspect(path, disk_format, options.policy())
    except errors.LogNotReplayed:
        # An import does that to its own copy; this file is not ours.
        yield f'remark: {remarks.LOG}'
        yield 'verdict: it would be imported, if its log can be replayed'
        return
    image = convert.check(image, conversion)
    if action not in (decision.Action.DIRECT, decision.Action.STAGE):
        yield from _imported(image, conversion)
        yield from _cost_as_it_is(image.file_size, conversion.progress)
        return
    with contextlib.closing(convert.open_source(image)) as source:
        convert.see_beginning(source, options.policy())
        yield from _imported(image, conversion)
        sample = _sample(source, conversion.progress)
    yield from _cost(image, sample, action, conversion.progress)


def _imported(image: inspection.ImageInfo,
              conversion: conversion_.Conversion) -> Iterator[str]:
    yield 'verdict: it would be imported'
    yield from (f'remark: {remark}' for remark in conversion.remarks)
    yield f'size of the disk: {amount(image.virtual_size)}'


def _plugins(path: str, declaration: image_.Declaration,
             store_ids: Sequence[str]) -> tuple[list[str], decision.Action]:
    """What each plugin would do, and what is done in all."""
    kinds = _kinds(list(store_ids) or [CONF.glance_store.default_backend])
    chosen = decision.decide(declaration, path, kinds,
                             options.output_format(), options.unpacks())
    lines, action = [], decision.Action.KEEP
    for plugin, found in (
            ('rbd_direct_convert', decision.only_rbd(chosen, kinds)),
            ('convert_image', chosen)):
        if plugin not in CONF.image_import_opts.image_import_plugins:
            lines.append(f'{plugin}: is not enabled')
        elif action is not decision.Action.KEEP:
            lines.append(f'{plugin}: would find it done')
        elif found.action is decision.Action.KEEP:
            lines.append(f'{plugin}: would step aside, for {found.reason}')
        else:
            action = found.action
            lines.append(f'{plugin}: the image would be {action.value}: '
                         f'{", ".join(kinds)}')
    return lines, action


def _kinds(names: Sequence[str]) -> dict[str, str | None]:
    """For each store the kind of ours that it is, or None."""
    found = {}
    for name in names:
        if name not in registry.identifiers():
            raise errors.Misconfigured(f'There is no store {name}.')
        store = registry.find(name)
        found[name] = store.kind if store else None
    return found


def _cost_as_it_is(size: int, progress: progress_.Progress) -> Iterator[str]:
    yield f'to be stored: {amount(size)}'
    digests = _digest_seconds(size, _by_glance(), progress)
    yield f'time: at least {duration(digests)} (digests)'


def _cost(image: inspection.ImageInfo, sample: _Sample,
          action: decision.Action, progress: progress_.Progress
          ) -> Iterator[str]:
    """What is stored of a converted image, and how long it takes at best."""
    yield f'data in it: {amount(sample.allocated)}'
    stored = f'to be stored: about {amount(sample.kept)}'
    if action is decision.Action.DIRECT:
        yield stored
        digests = _digest_seconds(image.virtual_size,
                                  options.inline_digest_spec(), progress)
        spent, how = max(sample.seconds, digests), 'at the same time'
    else:
        yield f'in staging beyond the upload: about {amount(sample.kept)}'
        size = sample.kept
        if options.output_format() == 'raw':
            size = image.virtual_size
            stored += f'; {amount(size)} where a store keeps zeros'
        yield stored
        digests = _digest_seconds(size, _by_glance(), progress)
        spent, how = sample.seconds + digests, 'one after the other'
    yield (f'time: at least {duration(spent)} (decoding '
           f'{duration(sample.seconds)}, digests {duration(digests)}, {how}; '
           'writing depends on the store)')


def _sample(source: sources.Source, progress: progress_.Progress) -> _Sample:
    """Read pieces from all over the data for a while."""
    data = [run for run in source.extents(0, source.size)
            if run.kind is extent.Kind.DATA]
    allocated = sum(run.length for run in data)
    pieces = [piece for run in data
              for piece in extent.split(run, pipeline.CHUNK)]
    random.Random(0).shuffle(pieces)    # noqa: S311
    progress.enter('Reading a sample')
    start = time.monotonic()
    read = kept = 0

    def look(piece: extent.Extent) -> tuple[int, int]:
        if time.monotonic() - start > _SAMPLE_SECONDS:
            return 0, 0
        view = memoryview(source.read(piece.start, piece.length))
        return piece.length, sum(last - first for first, last in
                                 extent.data_runs(
                                     view, piece.start,
                                     CONF.sparse_store.zero_block_size))

    with futures.ThreadPoolExecutor(_WORKERS) as pool:
        for length, found in pool.map(look, pieces):
            read, kept = read + length, kept + found
    whole = allocated / read if read else 0
    return _Sample(allocated, int(kept * whole),
                   (time.monotonic() - start) * whole)


def _by_glance() -> digest.DigestSpec:
    """What Glance computes of whatever it uploads itself."""
    return digest.DigestSpec(CONF.hashing_algorithm, True)


def _digest_seconds(size: int, spec: digest.DigestSpec,
                    progress: progress_.Progress) -> float:
    """How long the digests of so many bytes take here."""
    if not spec.os_hash_algo:
        return 0
    progress.enter('Measuring digests')
    digests = digest.Digests(spec)
    start = time.monotonic()
    digests.zeros(_DIGEST_SAMPLE)
    digests.finish()
    return size / _DIGEST_SAMPLE * (time.monotonic() - start)
