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

"""The data path as a whole: one image, from a file into a sink.

Knows nothing of Glance. Everything above it decides what to convert, where to
and what to record; everything below moves bytes.
"""

import logging
from typing import NamedTuple

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import digest
from glance_conversion_plugins import inspection
from glance_conversion_plugins import pipeline
from glance_conversion_plugins import progress as progress_
from glance_conversion_plugins import sinks
from glance_conversion_plugins.sinks import discard
from glance_conversion_plugins import sources
from glance_conversion_plugins.sources import file as file_source
from glance_conversion_plugins.sources import nbd as nbd_source

LOG = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """Which digests to compute on the way."""

    os_hash_algo: str | None    # a hashlib name; None: no digest at all
    checksum: bool              # md5 as well


def open_source(image: inspection.ImageInfo) -> sources.Source:
    if image.disk_format == 'raw':
        return file_source.FileSource(image.path)
    return nbd_source.NbdSource(
        image.path, inspection.DRIVERS[image.disk_format], image.virtual_size)


def convert(image: inspection.ImageInfo, policy: inspection.Policy,
            sink: sinks.Sink, wanted: Wanted, *,
            progress: progress_.Progress, clock: progress_.Clock,
            cancel: cancel_.Cancel) -> digest.Digest:
    """Write an inspected image into a sink, raw and complete, or not at all.

    :param progress: told of phases and bytes
    :param clock: told what each stage takes
    :param cancel: when set, the conversion ends with errors.Cancelled
    :returns: the digests that were wanted
    """
    progress.enter('Checking the image')
    with clock.run('check'):
        inspection.check_intact(image, cancel)
    try:
        with cancel.interrupting(sink.interrupt):
            found = _fill(image, policy, sink, wanted, progress=progress,
                          clock=clock, cancel=cancel)
            progress.enter('Completing the stored image')
            with clock.run('seal'):
                sink.seal()
        return found
    except BaseException:
        sink.abort()
        raise


def _fill(image: inspection.ImageInfo, policy: inspection.Policy,
          sink: sinks.Sink, wanted: Wanted, *,
          progress: progress_.Progress, clock: progress_.Clock,
          cancel: cancel_.Cancel) -> digest.Digest:
    source = open_source(image)
    try:
        with clock.run('create'):
            sink.create(source.size)
        with cancel.interrupting(source.interrupt):
            return _copy(source, policy, sink, wanted, progress=progress,
                         clock=clock, cancel=cancel)
    finally:
        source.close()


def _copy(source: sources.Source, policy: inspection.Policy,
          sink: sinks.Sink, wanted: Wanted, *,
          progress: progress_.Progress, clock: progress_.Clock,
          cancel: cancel_.Cancel) -> digest.Digest:
    progress.enter('Converting', source.size)
    result = inspection.ResultInspector(policy)
    digests = digest.Digests(wanted.os_hash_algo,
                             bool(wanted.os_hash_algo) and wanted.checksum)
    try:
        pipeline.copy(source, sink, (result, digests), progress=progress,
                      clock=clock, cancel=cancel)
        result.finish()
        with clock.run('wait for digests'):
            return digests.finish()
    except BaseException:
        digests.abort()
        raise


def digest_source(source: sources.Source, wanted: Wanted, *,
                  progress: progress_.Progress | None = None,
                  cancel: cancel_.Cancel | None = None) -> digest.Digest:
    """Compute the digests of what a source holds."""
    digests = digest.Digests(wanted.os_hash_algo, wanted.checksum)
    try:
        pipeline.copy(source, discard.DiscardSink(), (digests,),
                      progress=progress, cancel=cancel)
        return digests.finish()
    except BaseException:
        digests.abort()
        raise
