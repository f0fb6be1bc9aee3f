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
again however its holder ends. Who waits holds a ticket; the project of its
holder stands in either. Each kind of work has slots of its own.
"""

from collections.abc import Iterator
import contextlib
import os
import threading
from typing import NamedTuple

from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import locks
from glance_conversion_plugins.external import tickets

_RETRY_SECONDS = 0.2


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
    with tickets.drawn(folder, kind.ticket, project) as (ticket, _):
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


class Usage(NamedTuple):
    """How many on this node have a slot, and wait for one."""

    held: int
    waiting: int


def usage(folder: str | None, kind: Kind) -> Usage:
    """Look who has slots of a kind, whatever process of this node it is."""
    folder = locks.folder(folder)
    with tickets.alone(folder):
        return Usage(len(tickets.held(folder, kind.slot, are_tickets=False)),
                     len(tickets.held(folder, kind.ticket)))


def _take(folder: str, ticket: str, limits: Limits, kind: Kind
          ) -> int | None:
    """Take a slot, if there is one for whoever has this ticket."""
    with tickets.alone(folder):
        holding = tickets.held(folder, kind.slot, are_tickets=False)
        free = sum(f'{kind.slot}{number}' not in holding
                   for number in range(limits.node))
        at_work = list(holding.values())
        for name, project in tickets.held(folder, kind.ticket).items():
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


def _acquire(folder: str, beginning: str, limit: int, project: str
             ) -> int | None:
    for number in range(limit):
        fd = locks.acquire(os.path.join(folder, f'{beginning}{number}'))
        if fd is not None:
            tickets.write(fd, project)
            return fd
    return None
