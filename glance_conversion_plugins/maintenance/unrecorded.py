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

"""Images in a store that Glance has not recorded, or only now.

What may be done about them is for ``stores/verdict`` to say. Before any is
removed its writer is kept from going on, in the store and in Glance, and then
all that was found is looked at once more.
"""

from collections.abc import Callable
from collections.abc import Iterator
import functools
import logging
import time
from typing import NamedTuple

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.glance_db import deployment
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance import recovery
from glance_conversion_plugins.stores import liveness
from glance_conversion_plugins.stores import protocols
from glance_conversion_plugins.stores import verdict

LOG = logging.getLogger(__name__)

# Between making an image and opening it nobody has it open. And one whose node
# was so busy that Ceph forgot it says that it lives within 5 s, once it can.
_SETTLING = 10


class Leftover(NamedTuple):
    """Something that a dead import has left."""

    what: str                   # one line for an operator
    remedy: Callable[[], None]


class Unrecorded:
    """The marked images of one store."""

    def __init__(self, store_id: str, store: protocols.Recoverable,
                 imports: recovery.Imports) -> None:
        self._store_id = store_id
        self._store = store
        self._imports = imports

    def leftovers(self) -> Iterator[Leftover]:
        first = [found for found, decided in self._judged().items()
                 if decided is not verdict.Verdict.LEAVE]
        if not first:
            return
        # What is gone for certain does not come back.
        if not all(self._imports.is_gone(found.mark.task_id)
                   for found in first):
            time.sleep(_SETTLING)
        for found, decided in self._judged().items():
            if decided is not verdict.Verdict.LEAVE and found in first:
                yield self._leftover(found, decided)

    def _leftover(self, found: marks.Found, decided: verdict.Verdict
                  ) -> Leftover:
        mark = found.mark
        if decided is verdict.Verdict.HAND_OVER:
            return Leftover(
                f'store {self._store_id}: mark on the recorded image '
                f'{mark.image_id}',
                functools.partial(self._store.hand_over, mark))
        return Leftover(
            f'store {self._store_id}: data of the dead import or upload '
            f'{mark.task_id} of image {mark.image_id}',
            functools.partial(self._remove, found))

    def _judged(self) -> dict[marks.Found, verdict.Verdict]:
        return {found: self._judge(found) for found in self._store.marked()}

    def _judge(self, found: marks.Found) -> verdict.Verdict:
        evidence = self._evidence(found)
        decided = verdict.judge(evidence)
        if decided is verdict.Verdict.LEAVE:
            LOG.info('Store %s: %s is left alone: %s', self._store_id,
                     found, evidence)
        return decided

    def _evidence(self, found: marks.Found) -> verdict.Evidence:
        """Look at everything that counts, what can change most at the end."""
        mark = found.mark
        holder = records.lock_holder(mark.image_id)
        status = records.status(mark.image_id)
        url = self._url(found)
        recorded = url is not None and records.is_recorded(url)
        writer = verdict.Writer.ALIVE
        if not self._store.is_open(found):
            writer = self._imports.writer(mark.task_id, mark.image_id)
        # Glance lets an upload begin while an import holds the image.
        awaited = (recovery.is_lock_of(holder, mark.task_id)
                   if status == 'importing' else
                   holder is None or liveness.is_id(mark.task_id))
        if awaited and status == 'saving' and self._has_rival(found):
            awaited = False
        return verdict.Evidence(
            is_ours=mark.deployment == deployment.identifier(),
            is_published=url is not None, is_recorded=recorded,
            writer=writer, status=status, is_awaited=awaited,
            is_written=found.is_written)

    def _url(self, found: marks.Found) -> str | None:
        """What Glance records of an image that is published."""
        if not found.is_published:
            return None
        try:
            return self._store.location(found.mark.image_id)[0]
        except errors.NotStored:        # any more
            return None

    def _has_rival(self, found: marks.Found) -> bool:
        """Say whether a living upload writes the same image."""
        return any(other.mark.image_id == found.mark.image_id
                   and not other.mark.is_same(found.mark)
                   and self._store.is_open(other)
                   for other in self._store.marked())

    def _remove(self, found: marks.Found) -> None:
        """Keep the writer from going on, look again, and remove."""
        mark, first = found.mark, self._evidence(found)
        if self._may_go(first) is verdict.Verdict.HAND_OVER:
            self._store.hand_over(mark)
            return
        now = self._store.look_up(mark) if self._store.fence(mark) else None
        if now is None:
            self._forget(mark, first.writer)
            return
        decided = self._look_again(now, first.writer)
        if decided is verdict.Verdict.FENCE:
            self._end_in_glance(mark, now.is_published)
            decided = self._look_again(now, first.writer)
        if decided is verdict.Verdict.HAND_OVER:
            self._store.hand_over(mark)
        elif decided is verdict.Verdict.REMOVE:
            self._store.discard(mark, now.is_published)

    def _forget(self, mark: marks.Mark, writer: verdict.Writer) -> None:
        """Forget a writer that has made nothing, or has done all by now.

        Nothing is there of which it could be shut out.
        """
        LOG.info('Image %s is not what it was any more', mark.image_id)
        found = self._store.look_up(mark)
        if found and not found.is_written:
            if self._look_again(found, writer) is verdict.Verdict.FENCE:
                self._end_in_glance(mark, may_wake=True)
            self._store.strike_out(mark)

    def _look_again(self, found: marks.Found, writer: verdict.Writer
                    ) -> verdict.Verdict:
        """Judge what is fenced, whose task is as young as its last change."""
        return self._may_go(self._evidence(found)._replace(writer=writer))

    def _may_go(self, evidence: verdict.Evidence) -> verdict.Verdict:
        """Judge once more.

        :raises errors.Busy: if it is to be left alone
        """
        if (decided := verdict.judge(evidence)) is verdict.Verdict.LEAVE:
            raise errors.Busy('The image changes at the moment.')
        return decided

    def _end_in_glance(self, mark: marks.Mark, may_wake: bool) -> None:
        """Keep Glance from recording it.

        :param may_wake: whether its writer could go on with what it has
        """
        if records.status(mark.image_id) == 'saving':
            is_safe = not may_wake or self._imports.is_gone(mark.task_id)
            recovery.end_upload(mark.image_id,
                                'queued' if is_safe else 'killed')
        else:
            self._imports.release(mark.image_id, mark.task_id, may_wake)
