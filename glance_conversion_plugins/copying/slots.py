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

"""At most so much work at once on a node, and first come, first served.

A slot is a locked file, so it counts over all processes of a node and is free
again however its holder ends. Who waits holds a ticket, another locked file,
of which the name tells when it was drawn; the project of its holder stands in
either. A third file is locked by who looks at all of them. Each kind of work
has slots of its own.
"""

from collections.abc import Iterator
import contextlib
import os
import threading
import time
from typing import NamedTuple
import uuid

from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import locks

_RETRY_SECONDS = 0.2
_QUEUE = 'glance-conversion-queue'
_LONGEST_PROJECT = 1024


class Limits(NamedTuple):
    """How much of one kind there may be at once."""

    node: int
    project: int = 0            # of each project; 0: no limit


class Kind(NamedTuple):
    """Work of which there is a bounded amount at once."""

    name: str                   # of its files
    waiting: str                # in words

    @property
    def slot(self) -> str:
        return f'glance-{self.name}-slot-'

    @property
    def ticket(self) -> str:
        return f'glance-{self.name}-ticket-'


CONVERSION = Kind('conversion', 'Waiting for a free conversion slot')
DIGESTS = Kind('digests', 'Waiting for the digests of other images')
_TICKETS = (CONVERSION.ticket, DIGESTS.ticket)


@contextlib.contextmanager
def hold(limits: Limits, folder: str | None, progress: progress_.Progress,
         cancel: threading.Event, project: str = '',
         kind: Kind = CONVERSION) -> Iterator[None]:
    """Wait for a slot and hold it.

    :param folder: where lock files live; None: a folder of this user in the
        system's folder for temporary files
    :param project: who wants it
    :raises errors.Cancelled: if ``cancel`` is set while waiting
    """
    folder = locks.folder(folder)
    with _drawn(folder, project, kind) as ticket:
        slot = _take(folder, ticket, limits, kind)
        if slot is None:
            progress.enter(kind.waiting)
            while slot is None:
                if cancel.wait(_RETRY_SECONDS):
                    raise errors.Cancelled('The conversion was stopped.')
                slot = _take(folder, ticket, limits, kind)
            progress.enter('Preparing')
    try:
        yield
    finally:
        os.close(slot)


def are_wanted(folder: str | None, kind: Kind = CONVERSION) -> bool:
    """Say whether anybody on this node has a slot, or waits for one."""
    folder = locks.folder(folder)
    with _alone(folder):
        return bool(_projects(folder, kind.slot)
                    or _projects(folder, kind.ticket))


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Keep all others from looking; they do so for a moment only."""
    fd = locks.hold(os.path.join(folder, _QUEUE))
    try:
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def _drawn(folder: str, project: str, kind: Kind) -> Iterator[str]:
    """A ticket, which tells when it was drawn and by whom."""
    with _alone(folder):
        # All processes of a node have the same monotonic clock.
        name = f'{kind.ticket}{time.monotonic_ns():020}-{uuid.uuid4()}'
        fd = locks.hold(os.path.join(folder, name))
        _write(fd, project)
    try:
        yield name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, name))
        os.close(fd)


def _write(fd: int, project: str) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, project.encode()[:_LONGEST_PROJECT], 0)


def _take(folder: str, ticket: str, limits: Limits, kind: Kind
          ) -> int | None:
    """Take a slot, if there is one for whoever has this ticket."""
    with _alone(folder):
        holding = _projects(folder, kind.slot)
        free = sum(f'{kind.slot}{number}' not in holding
                   for number in range(limits.node))
        at_work = list(holding.values())
        for name, project in _projects(folder, kind.ticket).items():
            if limits.project and at_work.count(project) >= limits.project:
                # Whoever comes after may be of another project.
                continue
            if free <= 0:
                return None
            if name == ticket:
                return _acquire(folder, kind.slot, limits.node, project)
            # It is before us, and will take one when it looks again.
            free -= 1
            at_work.append(project)
    return None


def _projects(folder: str, beginning: str) -> dict[str, str]:
    """Who holds each file that is called so, in the order of their names."""
    found = {}
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if not name.startswith(beginning):
            continue
        if (fd := locks.acquire(path)) is None:
            # A ticket may go at any moment.
            with (contextlib.suppress(FileNotFoundError),
                  open(path, errors='replace') as f):
                found[name] = f.read(_LONGEST_PROJECT)
            continue
        if name.startswith(_TICKETS):
            # Of a process that died.
            os.unlink(path)
        os.close(fd)
    return found


def _acquire(folder: str, beginning: str, limit: int, project: str
             ) -> int | None:
    for number in range(limit):
        fd = locks.acquire(os.path.join(folder, f'{beginning}{number}'))
        if fd is not None:
            _write(fd, project)
            return fd
    return None
