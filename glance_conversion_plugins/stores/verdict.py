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

"""What an image in a store is to Glance, and what may be done about it.

A pure function of what was found. Nothing that Glance has recorded is ever
removed; where it could still record it, it has to be kept from that first;
and where that is not possible, nothing is done.
"""

import enum
from typing import NamedTuple


class Writer(enum.Enum):
    """What is known of who writes, or wrote, an image."""

    ALIVE = 'holds its lease, or works at its task'
    # An upload has no task, so its silence is that of its lease.
    SILENT = 'neither, but may go on'
    ENDED = 'its task has ended'
    LOST = 'silent for so long that Glance itself takes it for dead'
    DEAD = 'its process is gone for certain'


class Verdict(enum.Enum):
    """What may be done."""

    LEAVE = 'leave it'
    HAND_OVER = 'take the mark off'
    REMOVE = 'remove it, once its writer is shut out of the store'
    FENCE = 'keep Glance from recording it; then look again'


class Evidence(NamedTuple):
    """What was found of a marked image."""

    is_ours: bool               # of this deployment
    is_published: bool          # has its final name
    is_recorded: bool           # its URL stands in Glance
    writer: Writer
    # Of the record of the image: a status, 'unknown' if there is no record.
    status: str
    # Whether the import or upload that wrote it is the one that Glance waits
    # for: an import by its lock, an upload by the status.
    is_awaited: bool
    # Or its writer has only begun, and can not be told by whether it is open.
    is_written: bool = True


# What is known well enough of a writer to keep Glance from recording what is
# complete: it may be a moment away from that, asleep.
_GONE = (Writer.LOST, Writer.DEAD)


# What Glance can not come to record any more: it saves an image only if it
# still has the status that it had when it was loaded, and none of these leads
# to 'active' without data being written anew.
_OVER = ('deleted', 'pending_delete', 'killed', 'queued')
# Here that status can be taken away, by one step.
_OPEN = ('importing', 'saving')


def judge(found: Evidence) -> Verdict:
    """Say what may be done about a marked image."""
    if found.is_published and found.is_recorded:
        return Verdict.HAND_OVER
    if not found.is_ours or found.writer is Writer.ALIVE:
        return Verdict.LEAVE
    if found.status == 'unknown':
        return Verdict.LEAVE if found.is_written else Verdict.REMOVE
    if not found.is_written and found.writer not in _GONE:
        return Verdict.LEAVE    # it may only be slow to begin
    if found.status in _OPEN and found.is_awaited:
        is_certain = not found.is_published or found.writer in _GONE
        return Verdict.FENCE if is_certain else Verdict.LEAVE
    # Its writer can not publish it once it is taken away, nor have it
    # recorded then.
    if not found.is_published or found.status in _OVER:
        return Verdict.REMOVE
    return Verdict.LEAVE
