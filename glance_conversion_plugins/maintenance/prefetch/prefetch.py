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


"""One pass: what is wanted and not there is fetched, as far as it fits."""

from collections.abc import Iterator
from concurrent import futures
import functools
import logging
import os
import threading
import time
from typing import NamedTuple

from oslo_config import cfg

from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins import errors
from glance_conversion_plugins.maintenance.prefetch import backoff
from glance_conversion_plugins.maintenance.prefetch import choosing
from glance_conversion_plugins.maintenance.prefetch import fetching
from glance_conversion_plugins.maintenance.prefetch import node as node_
from glance_conversion_plugins.maintenance.prefetch import planning
from glance_conversion_plugins import units

LOG = logging.getLogger(__name__)
CONF = cfg.CONF

_CACHED = 'cached already'


class Outcome(NamedTuple):
    """What a pass did about one image."""

    image_id: str
    result: str     # 'fetched', 'failed', 'passed over' or 'evicted'
    words: str
    fetched: fetching.Fetched | None = None

    def __str__(self) -> str:
        return f'image {self.image_id}: {self.words}'


class Prefetch:
    """A pass over the queue and the policy of this node."""

    def __init__(self, cancel: threading.Event | None = None,
                 progress: progress_.Progress | None = None) -> None:
        self._cancel = cancel or threading.Event()
        self._progress = progress or progress_.Progress()
        self._wanted: set[str] = set()
        self.node = node_.Node()
        self.failures = backoff.Failures(
            os.path.join(self.node.folder, 'failures.json'))

    def plan(self) -> list[planning.Step]:
        """What a pass would do now."""
        wanted = choosing.candidates(self.node.queued())
        judged = [candidate if candidate.refusal else candidate._replace(
            refusal=self._obstacle(candidate.image_id))
            for candidate in wanted]
        return planning.plan(judged, self.node.entries(),
                             self.node.cache.get_cache_size(),
                             CONF.image_cache_max_size)

    def _obstacle(self, image_id: str) -> str | None:
        """Why an image that could be fetched is not fetched now."""
        if self.node.is_cached(image_id):
            return _CACHED
        if reason := self.node.left_to_glance(image_id,
                                              CONF.cache_prefetch.grace):
            return reason
        failure = self.failures.get(image_id)
        if failure and failure.again_at > time.time():
            return again(failure)
        return None

    def run(self) -> Iterator[Outcome]:
        """Do it, and tell of each image once that is done.

        :raises errors.Busy: if another agent is at work here
        """
        with self.node.lock() as held:
            if not held:
                raise errors.Busy('Another agent fetches for this cache.')
            self._progress.enter('Looking for what is wanted')
            self.node.sweep()
            steps = self.plan()
            self._tidy(steps)
            yield from (_passed(step) for step in steps if step.refusal)
            yield from self._fetch([s for s in steps if not s.refusal])

    def _tidy(self, steps: list[planning.Step]) -> None:
        """Forget what can never be fetched, or is wanted no more."""
        self._wanted = {step.image_id for step in steps if not step.gone}
        self.failures.keep(self._wanted)
        for step in steps:
            if step.gone:
                self.node.unqueue(step.image_id)

    def _fetch(self, steps: list[planning.Step]) -> Iterator[Outcome]:
        self._progress.enter('Fetching', sum(step.size for step in steps))
        fetcher = fetching.Fetcher(self.node, self._cancel, self._progress)
        with futures.ThreadPoolExecutor(CONF.cache_prefetch.workers,
                                        'prefetch') as pool:
            for outcomes in pool.map(functools.partial(self._fetch_one,
                                                       fetcher), steps):
                yield from outcomes

    def _fetch_one(self, fetcher: fetching.Fetcher, step: planning.Step
                   ) -> list[Outcome]:
        done: list[Outcome] = []
        image_id = step.image_id
        try:
            fetched = fetcher.fetch(image_id, lambda: self._make_room(
                step, done))
        except errors.Cancelled as e:
            done.append(_logged(Outcome(image_id, 'passed over', str(e))))
        except Exception as e:
            done.append(self._failed(image_id, e))
        else:
            self.failures.forget(image_id)
            done.append(_logged(Outcome(image_id, 'fetched', str(fetched),
                                        fetched)))
        return done

    def _make_room(self, step: planning.Step, done: list[Outcome]) -> None:
        """Evict what has to go, by what is cached now, not when planning."""
        room = planning.Room(self.node.entries(), self._wanted,
                             self.node.cache.get_cache_size(),
                             CONF.image_cache_max_size)
        evict = room.take(step.size)
        if evict is None:
            raise errors.Cancelled(room.refusal(step.size))
        for image_id in evict:
            self.node.evict(image_id)
            done.append(_logged(Outcome(
                image_id, 'evicted',
                f'evicted, for the cache has to hold {step.image_id}')))

    def _failed(self, image_id: str, error: Exception) -> Outcome:
        if isinstance(error, errors.ConversionError):
            reason = str(error)
        else:
            LOG.exception('Image %s was not fetched', image_id)
            reason = 'It could not be fetched; see the log.'
        failure = self.failures.add(image_id, reason)
        return _logged(Outcome(image_id, 'failed',
                               f'failed: {again(failure)}'))


def _passed(step: planning.Step) -> Outcome:
    outcome = Outcome(step.image_id, 'passed over',
                      f'passed over ({step.why}): {step.refusal}')
    # As is usual, and not worth a line for each of them in every pass.
    LOG.log(logging.DEBUG if step.refusal == _CACHED else logging.INFO,
            '%s', outcome)
    return outcome


def _logged(outcome: Outcome) -> Outcome:
    LOG.log(logging.WARNING if outcome.result == 'failed' else logging.INFO,
            '%s', outcome)
    return outcome


def again(failure: backoff.Failure) -> str:
    """Why it failed, how often, and when it is tried next."""
    wait = units.duration(max(failure.again_at - time.time(), 0))
    return (f'{failure.reason} (attempt {failure.attempts}; the next one is '
            f'in {wait})')
