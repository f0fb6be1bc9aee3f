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

"""What an import task wrote, and a store driver may adopt.

Glance hands the driver a file and asks it to store it. For an image that one
of our tasks has already written into that very store, the driver publishes
what was written and answers with what stands here, and reads nothing. Both
live in one process.
"""

from collections.abc import Iterable
import threading
from typing import NamedTuple

from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import sinks
from glance_conversion_plugins import errors


class Sealed(NamedTuple):
    """An image that is complete, and not published yet."""

    sink: sinks.StoredSink
    size: int                   # in bytes
    digest: digest.Digest


class _Entry(NamedTuple):
    task_id: str
    outcome: Sealed | errors.ConversionError


_lock = threading.Lock()
_entries: dict[tuple[str, str], _Entry] = {}


def offer(store: str, image_id: str, task_id: str,
          outcome: Sealed | errors.ConversionError) -> None:
    """Note how writing an image into a store ended."""
    with _lock:
        earlier = _entries.get((store, image_id))
        _entries[store, image_id] = _Entry(task_id, outcome)
    _remove([earlier] if earlier else [])


def take(store: str, image_id: str, size: int | None) -> Sealed | None:
    """Adopt an image, once.

    :param size: in bytes, of the file that Glance asks to store; 0 or None
        where it does not say, as Glance 31 does
    :returns: None if no task wrote this image into this store
    :raises errors.ConversionError: if a task tried and failed
    """
    with _lock:
        entry = _entries.get((store, image_id))
        if entry is None:
            return None
        if (isinstance(entry.outcome, Sealed) and size
                and entry.outcome.size != size):
            return None
        del _entries[store, image_id]
    if isinstance(entry.outcome, Sealed):
        return entry.outcome
    raise entry.outcome


def forget(task_id: str) -> None:
    """Remove what a task wrote and nobody adopted."""
    with _lock:
        found = {key: entry for key, entry in _entries.items()
                 if entry.task_id == task_id}
        for key in found:
            del _entries[key]
    _remove(found.values())


def _remove(entries: Iterable[_Entry]) -> None:
    """Remove what was written and nobody will adopt."""
    for entry in entries:
        if isinstance(entry.outcome, Sealed):
            entry.outcome.sink.abort()
