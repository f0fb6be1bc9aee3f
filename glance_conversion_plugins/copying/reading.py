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

"""Images that are stored already, read to their end and digested."""

from collections.abc import Sequence
import contextlib

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import pipeline
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying.sinks import discard
from glance_conversion_plugins.copying import sources
from glance_conversion_plugins.copying import watchdog
from glance_conversion_plugins import errors


def compute(source: sources.Source, spec: digest.DigestSpec, *,
            progress: progress_.Progress | None = None,
            cancel: cancel_.Cancel | None = None,
            before: Sequence[pipeline.Consumer] = ()) -> digest.Digest:
    """Compute the digests of what a source holds.

    :param before: what sees every byte in order before it is digested
    """
    with digest.Digests(spec) as digests:
        pipeline.copy(source, discard.DiscardSink(), (*before, digests),
                      progress=progress, cancel=cancel)
        return digests.finish()


def see_equal(source: sources.Source, spec: digest.DigestSpec,
              found: digest.Digest, conversion: conversion_.Conversion
              ) -> None:
    """Read what was stored, and close it.

    :param found: the digests of what was written
    :raises errors.SinkFailed: if something else is read
    """
    progress, cancel = conversion.progress, conversion.cancel
    progress.enter('Reading back what was stored', source.size)
    with (contextlib.closing(source), conversion.clock.run('read back'),
          cancel.interrupting(source.interrupt),
          watchdog.watch(progress.position, source.interrupt)):
        again = compute(source, spec._replace(
            checksum=False, sha256=False), progress=progress, cancel=cancel)
    if again.os_hash_value != found.os_hash_value:
        raise errors.SinkFailed(
            'The store did not give back what was written into it.')
