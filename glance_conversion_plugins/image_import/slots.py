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

"""At most so many conversions at once on a node.

A slot is a locked file, so it counts over all processes of a node and is free
again however its holder ends.
"""

from collections.abc import Iterator
import contextlib
import os
import threading

from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import locks

_RETRY_SECONDS = 0.5


@contextlib.contextmanager
def hold(limit: int, folder: str | None, progress: progress_.Progress,
         cancel: threading.Event) -> Iterator[None]:
    """Wait for a slot and hold it.

    :param limit: how many slots the node has
    :param folder: where lock files live; None: a folder of this user in the
        system's folder for temporary files
    :raises errors.Cancelled: if ``cancel`` is set while waiting
    """
    folder = locks.folder(folder)
    slot = _acquire(folder, limit)
    if slot is None:
        progress.enter('Waiting for a free conversion slot')
        while slot is None:
            if cancel.wait(_RETRY_SECONDS):
                raise errors.Cancelled('The conversion was stopped.')
            slot = _acquire(folder, limit)
        progress.enter('Preparing')
    try:
        yield
    finally:
        os.close(slot)


def _acquire(folder: str, limit: int) -> int | None:
    for number in range(limit):
        slot = locks.acquire(os.path.join(
            folder, f'glance-conversion-slot-{number}'))
        if slot is not None:
            return slot
    return None
