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

"""The ways in which an image is converted, and what comes of each."""

import os
from typing import Any
from typing import NamedTuple

from oslo_config import cfg

from glance_conversion_plugins import choice
from glance_conversion_plugins import conversion
from glance_conversion_plugins import detection
from glance_conversion_plugins import digest
from glance_conversion_plugins import errors
from glance_conversion_plugins import importing
from glance_conversion_plugins import inspection
from glance_conversion_plugins import ledger
from glance_conversion_plugins import placeholder
from glance_conversion_plugins import progress
from glance_conversion_plugins.sinks import fanout
from glance_conversion_plugins import stores

CONF = cfg.CONF
CONF.import_opt('output_format',
                'glance.async_.flows.plugins.image_conversion',
                group='image_conversion')


class Import(NamedTuple):
    """What Glance tells a plugin about an import."""

    image_id: str
    task_id: str
    stores: list[str]
    all_stores_must_succeed: bool


class Job(NamedTuple):
    """One image on its way."""

    this: Import
    image: importing.ImportedImage
    facts: importing.Facts
    path: str                                       # of what is staged
    targets: dict[str, stores.AdoptingStore]
    claim: placeholder.Placeholder
    run: conversion.Run


class Result(NamedTuple):
    """What Glance is to know of an image, and to store."""

    path: str
    disk_format: str
    size: int               # in bytes, of the file at path
    virtual_size: int       # in bytes
    message: str            # for the owner


def take(road: choice.Road, job: Job) -> Result:
    """Lead an image along its road, one that is not KEEP."""
    if road is choice.Road.DIRECT:
        return _direct(job)
    if road is choice.Road.STAGE:
        return _stage(job)
    return _inspect(job)


def _info(job: Job) -> inspection.ImageInfo:
    with job.run.clock.run('inspect'):
        return inspection.inspect(job.path, job.facts.disk_format, policy(),
                                  job.run.cancel)


def _inspect(job: Job) -> Result:
    info = _info(job)
    conversion.check(info, job.run)
    return Result(job.path, info.disk_format, info.file_size,
                  info.virtual_size,
                  f'Inspected; it is {info.disk_format} already')


def _direct(job: Job) -> Result:
    info = _info(job)
    job.image.check_quota(info.virtual_size)
    sink = fanout.FanOut(
        {store_id: store.sink(job.this.image_id, job.this.task_id)
         for store_id, store in job.targets.items()},
        job.this.all_stores_must_succeed)
    found = conversion.convert(info, policy(), sink, wanted(inline=True),
                               job.run)
    _enter_in_ledger(job, info.virtual_size, found, sink.failures)
    message = _message(job, info, 'raw')
    for store_id, error in sink.failures.items():
        message += f'. Store {store_id} failed: {error}'
    return Result(job.claim.path, 'raw', info.virtual_size, info.virtual_size,
                  message)


def _enter_in_ledger(job: Job, size: int, found: digest.Digest,
                     failures: dict[str, errors.ConversionError]) -> None:
    image_id, task_id = job.this.image_id, job.this.task_id
    for store_id, store in job.targets.items():
        if store_id in failures:
            ledger.put(store_id, image_id, task_id, failures[store_id])
            continue
        url, metadata = store.location(image_id)
        ledger.put(store_id, image_id, task_id, ledger.Written(
            url, size, found.checksum, found.os_hash_value, metadata))


def _stage(job: Job) -> Result:
    info, target = _info(job), output_format()
    if target == 'raw':
        job.image.check_quota(info.virtual_size)
    path = staged_path(job)
    size = conversion.stage(info, policy(), path, target, _options(target),
                            job.run)
    try:
        # Only now is it known what a format takes that is not raw.
        job.image.check_quota(size)
    except BaseException:
        os.unlink(path)
        raise
    # A raw upload may end within a sector; no other format can.
    sectors = -(-info.virtual_size // 512)
    return Result(path, target, size, sectors * 512,
                  _message(job, info, target))


def staged_path(job: Job) -> str:
    """Where a converted image is staged, as stock Glance names it."""
    return os.path.join(os.path.dirname(job.path),
                        f'{job.this.image_id}.{output_format()}')


def _message(job: Job, info: inspection.ImageInfo, target: str) -> str:
    return (f'Converted {info.disk_format} to {target}: '
            f'{progress.amount(info.virtual_size)}, '
            f'{progress.amount(job.run.progress.written)} of data, in '
            f'{progress.duration(job.run.progress.elapsed)}')


def output_format() -> str:
    """What this deployment converts images to."""
    return str(CONF.conversion.output_format
               or CONF.image_conversion.output_format)


def _options(target: str) -> list[str]:
    how = CONF.conversion.qcow2_compression
    if target != 'qcow2' or how == 'none':
        return []
    return ['-c', '-o', f'compression_type={how}']


def policy() -> detection.Policy:
    """What this deployment allows."""
    cap: Any = CONF.image_size_cap
    return detection.Policy(
        min(CONF.conversion.max_virtual_size or cap, cap),
        CONF.image_format.gpt_safety_checks_nonfatal,
        CONF.image_format.vmdk_allowed_types,
        CONF.conversion.max_expansion)


def wanted(inline: bool) -> conversion.Wanted:
    """Which digests are computed inline, or later."""
    if inline and CONF.conversion.digests == 'deferred':
        return conversion.Wanted(None, False)
    return conversion.Wanted(CONF.hashing_algorithm,
                             CONF.conversion.legacy_checksum)
