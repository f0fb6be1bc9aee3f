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

"""Faults that clean-ups had once, so that the simulation can be seen to fail.

Each is a rule that seems to be good enough, in the place of one of ours.
"""

from collections.abc import Iterator
from typing import Any

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.external import rbd_marks
from glance_conversion_plugins.external import rbd_pool
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance import recovery
from glance_conversion_plugins.maintenance import sparsify
from glance_conversion_plugins.stores import handover
from glance_conversion_plugins.stores import registry
from glance_conversion_plugins.stores import sparsify_rbd
from glance_conversion_plugins.stores import verdict
from tests.simulation import actors
from tests.simulation import cloud as cloud_

Verdict = verdict.Verdict
Parts = Iterator[tuple[Any, str, Any]]


def _judge_without_fence(found: verdict.Evidence) -> Verdict:
    """What is not recorded, and not held, is removed."""
    if found.is_recorded:
        return Verdict.HAND_OVER
    if not found.is_ours or found.writer is verdict.Writer.ALIVE:
        return Verdict.LEAVE
    return Verdict.REMOVE


def lease_ends_before_the_record() -> Parts:
    """An upload lives while it has its partial image open."""
    whole = cloud_.Store.is_open
    yield cloud_.Store, 'is_open', lambda self, found: (
        not found.is_published and whole(self, found))
    yield verdict, 'judge', _judge_without_fence


def silence_is_death() -> Parts:
    """An import lives while its task says something."""
    yield cloud_.Store, 'is_open', lambda self, found: False
    yield rbd_marks, 'fence', lambda cluster, ioctx, mark: True
    yield verdict, 'judge', _judge_without_fence


def replaced_is_forgotten_unseen() -> Parts:
    """What was put aside is removed, whatever has become of its name."""
    yield sparsify_rbd, 'forget', lambda ioctx, mark, is_deleted: (
        rbd_pool.remove(ioctx, mark.name(marks.REPLACED)))
    yield sparsify, 'replaced', lambda store_id, grace: (
        registry.find_replacing(store_id).replaced(0))


def recorded_by_the_name_of_the_store() -> Parts:
    """What is recorded is told by the name of a store, which has changed."""
    yield verdict, 'judge', _judge_without_fence
    yield records, 'is_recorded', lambda url: False


def success_without_record_is_discarded() -> Parts:
    """What Glance has ended and not recorded is removed by who wrote it.

    It is read from a copy of the database that may be behind.
    """
    judge, behind = handover._judge, set()

    def look(published: handover.Published) -> Verdict:
        if (records.status(published.image_id) == 'active'
                and published.url not in behind):
            behind.add(published.url)
            return Verdict.REMOVE
        return judge(published)
    yield handover, '_judge', look


def kept_image_is_not_given_back() -> Parts:
    """Who does nothing with an image has nothing to revert."""
    yield actors.Import, '_revert', lambda self: self._end('failure')


def only_a_placeholder_tells_of_death() -> Parts:
    """An import is dead if its placeholder in staging is not locked."""
    whole = recovery.Imports._is_dead
    yield recovery.Imports, '_is_dead', lambda self, image_id, lock: (
        lock in self._abandoned and whole(self, image_id, lock))

    def release(self: recovery.Imports, *_: Any) -> None:
        raise errors.Busy('It is not known to be dead.')
    given_back = recovery.Imports.release
    yield recovery.Imports, 'release', lambda self, image_id, lock, *rest: (
        given_back if lock in self._abandoned else release)(
            self, image_id, lock, *rest)
