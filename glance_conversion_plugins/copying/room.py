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

"""Room for what the conversions of a node will still write.

How much there is of an image shows before anything is written of it: at most
what is stored in its file, and less where that turns out to be zeros. Where
what those who came before may still write leaves too little, an image waits
for them, for a place that is full fails all who write there. Who has nobody to
wait for goes on: it may well need less.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import os
import threading
import time
from typing import NamedTuple

from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import locks
from glance_conversion_plugins.external import tickets

_TICKET = 'glance-conversion-room-'
_RETRY_SECONDS = 2
_TELL_SECONDS = 1


class Place(NamedTuple):
    """Where something is written."""

    name: str       # the same for all who write there
    free: int       # in bytes


def of_folder(path: str, keep_free: int = 0) -> Place:
    """What is free for users other than root.

    :param keep_free: how many bytes more have to stay free
    :raises OSError: if there is no such folder
    """
    found = os.statvfs(path)
    return Place(f'device {os.stat(path).st_dev}',
                 max(0, found.f_bavail * found.f_frsize - keep_free))


def see_free(path: str, keep_free: int) -> None:
    """See that a folder of staging has room for more.

    :raises errors.StagingFull: if no more is free than has to stay so
    """
    if keep_free and not of_folder(path, keep_free).free:
        raise errors.StagingFull(
            'The node that converts the image has too little room for it '
            'now; import the image again later.')


class Claim:
    """What others are told, which shrinks as something is written."""

    def __init__(self, fd: int, needed: int, places: Sequence[Place]) -> None:
        self._fd = fd
        self._needed = needed
        self._names = [place.name for place in places]
        self._tell_at = 0.0

    def reach(self, written: int) -> None:
        """Say how many bytes were written so far."""
        if time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + _TELL_SECONDS
            tickets.write(self._fd, _content(
                max(0, self._needed - written), self._names))


def _content(needed: int, names: Sequence[str]) -> str:
    """Always as long, so that others read either the former or this."""
    return '\n'.join((f'{needed:020}', *names))


@contextlib.contextmanager
def claim(folder: str | None, needed: int,
          places: Callable[[], Sequence[Place]],
          progress: progress_.Progress, cancel: threading.Event
          ) -> Iterator[Claim]:
    """Wait until there is room, or nobody is before, and claim it.

    :param folder: where lock files live, as of slots
    :param needed: how much may be written, in bytes
    :param places: looks where, and how much is free there; each takes all
    :raises errors.Cancelled: if ``cancel`` is set while waiting
    """
    folder = locks.folder(folder)
    found = places()
    content = _content(needed, [place.name for place in found])
    with tickets.drawn(folder, _TICKET, content) as (name, fd):
        if not _has_room(folder, name, needed, found):
            progress.enter('Waiting for room, which other conversions may '
                           'need')
            while not _has_room(folder, name, needed, places()):
                if cancel.wait(_RETRY_SECONDS):
                    raise errors.Cancelled('The conversion was stopped.')
            progress.enter('Preparing')
        yield Claim(fd, needed, found)


def _has_room(folder: str, ticket: str, needed: int, places: Sequence[Place]
              ) -> bool:
    with tickets.alone(folder):
        before = [content.split('\n') for name, content
                  in tickets.held(folder, _TICKET).items() if name < ticket]
    for place in places:
        wanted = [int(left) for left, *names in before if place.name in names]
        if wanted and place.free - sum(wanted) < needed:
            return False
    return True
