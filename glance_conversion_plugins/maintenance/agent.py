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


"""The periodic jobs of a node: prefetch, clean-up, digests, verifying."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import functools
import logging
import os
import threading
import time
from typing import NamedTuple

import futurist
from futurist import periodics
from oslo_concurrency import lockutils
from oslo_config import cfg

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import throttle
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import locks
from glance_conversion_plugins.maintenance import background
from glance_conversion_plugins.maintenance import cleanup
from glance_conversion_plugins.maintenance import digests
from glance_conversion_plugins.maintenance import metrics
from glance_conversion_plugins.maintenance.prefetch import prefetch
from glance_conversion_plugins.maintenance import stored
from glance_conversion_plugins.maintenance import verified
from glance_conversion_plugins.maintenance import verify

LOG = logging.getLogger(__name__)
CONF = cfg.CONF

# An import, or the agent of another node, that computes digests says so to
# the database every minute.
_SILENCE = 600      # seconds

# How often it is looked which images are to be verified, at least.
_LOOK_SECONDS = 3600

# For how long the verifying of one image gives way to other work.
_VERIFY_PATIENCE = 3600     # seconds


class ItemResult(NamedTuple):
    """What a job did about one thing, or did not."""

    result: str
    words: str

    @property
    def failed(self) -> bool:
        return self.result == 'failed'


class PeriodicJob(NamedTuple):
    """Something that the agent does again and again."""

    name: str
    interval: int       # seconds from start to start
    work: Callable[[cancel_.Cancel, progress_.Progress], Iterable[ItemResult]]


def jobs() -> list[PeriodicJob]:
    """The jobs that this node's configuration asks for."""
    found = [
        PeriodicJob('prefetch', CONF.cache_prefetch.interval
                    if CONF.image_cache_dir else 0, _prefetch),
        PeriodicJob('cleanup', CONF.conversion_agent.cleanup_interval,
                    _clean_up),
        PeriodicJob('digests', CONF.conversion_agent.digests_interval,
                    _digests),
        PeriodicJob('verify', min(CONF.conversion_agent.verify_interval,
                                  _LOOK_SECONDS), _verify),
    ]
    return [job for job in found if job.interval]


def _prefetch(cancel: cancel_.Cancel, progress: progress_.Progress
              ) -> Iterator[ItemResult]:
    work = prefetch.Prefetch(cancel, progress)
    for outcome in work.run():
        if outcome.fetched:
            metrics.FETCHED.inc(outcome.fetched.size)
        yield ItemResult(outcome.result, str(outcome))
    entries = work.node.entries()
    metrics.CACHE_IMAGES.set(len(entries))
    metrics.CACHE_BYTES.labels('apparent').set(
        sum(entry.size for entry in entries))
    metrics.CACHE_BYTES.labels('allocated').set(
        sum(entry.allocated for entry in entries))
    metrics.FAILING.set(len(work.failures.items()))


def _clean_up(cancel: cancel_.Cancel, progress: progress_.Progress
              ) -> Iterator[ItemResult]:
    progress.enter('Looking for what dead imports have left')
    for finding in cleanup.find():
        if cancel.is_set():
            return
        yield _carried_out('removed', finding.what, finding.remedy)


def _digests(cancel: cancel_.Cancel, progress: progress_.Progress
             ) -> Iterator[ItemResult]:
    since = time.monotonic()
    progress.enter('Looking for images without digests')
    for image_id in digests.without_digests(_SILENCE):
        if cancel.is_set():
            return
        yield _carried_out('computed', f'digests of image {image_id}',
                           functools.partial(digests.catch_up, image_id,
                                             cancel, progress, since))


def _verify(cancel: cancel_.Cancel, progress: progress_.Progress
            ) -> Iterator[ItemResult]:
    progress.enter('Looking for images to verify')
    path = os.path.join(locks.folder(lockutils.get_lock_path(CONF)),
                        'glance-conversion-verified')
    if (lock := locks.acquire(f'{path}.lock')) is None:
        raise errors.Busy('Another agent of this node verifies images.')
    try:
        yield from _verify_due(verified.Verified(path), cancel, progress)
    finally:
        os.close(lock)


def _verify_due(known: verified.Verified, cancel: cancel_.Cancel,
                progress: progress_.Progress) -> Iterator[ItemResult]:
    due = known.due(stored.recorded(), CONF.conversion_agent.verify_interval)
    rate = throttle.Throttle(CONF.conversion_agent.verify_rate_limit or 0,
                             cancel.wait)
    metrics.DIFFERING.set(known.differing)
    for image_id, store_id in due:
        if cancel.is_set():
            return
        if place := stored.find(image_id, store_id):
            yield _verified(place, rate, known, cancel, progress)
            metrics.DIFFERING.set(known.differing)


def _verified(place: stored.StoredImage, rate: throttle.Throttle,
              known: verified.Verified, cancel: cancel_.Cancel,
              progress: progress_.Progress) -> ItemResult:
    try:
        way = background.giving_way(f'Verifying {place}', place.store, cancel,
                                    _VERIFY_PATIENCE)
        report = background.run(functools.partial(
            verify.verify, place, (rate, way), progress, cancel))
    except errors.Cancelled as e:
        return ItemResult('passed over', f'{place}: {e}')
    except Exception as e:
        LOG.exception('Failed: verifying %s', place)
        known.note(verify.Report(place, doubt=f'could not be verified: {e}'))
        return ItemResult('failed', f'{place}: {e}')
    known.note(report)
    if report.faults:
        LOG.error('%s', report)
        return ItemResult('differs', str(report))
    LOG.info('%s', report)
    return ItemResult('in doubt' if report.doubt else 'verified', str(report))


def _carried_out(result: str, what: str, remedy: Callable[[], object]
                 ) -> ItemResult:
    try:
        remedy()
    except errors.Cancelled as e:
        return ItemResult('passed over', f'{what}: {e}')
    except Exception as e:
        LOG.exception('Failed: %s', what)
        return ItemResult('failed', f'{what}: {e}')
    LOG.info('%s: %s', result, what)
    return ItemResult(result, f'{result}: {what}')


def run_once(job: PeriodicJob, cancel: cancel_.Cancel,
             say: Callable[[str], object] = lambda words: None,
             progress: progress_.Progress | None = None) -> bool:
    """Do a job once; returns whether nothing of it failed.

    :param say: is told about everything that was looked at
    :param progress: of what is done at the moment
    :raises errors.Busy: if another agent of this node does it
    """
    start, result = time.monotonic(), 'failed'
    try:
        found = list(_told(job, cancel, say,
                           progress or progress_.Progress()))
        if not found:
            say('nothing to do')
        if not any(item.failed for item in found):
            result = 'ok'
            metrics.LAST_SUCCESS.labels(job.name).set_to_current_time()
    except errors.Busy:
        result = 'busy'
        raise
    finally:
        metrics.SECONDS.labels(job.name).set(time.monotonic() - start)
        metrics.PASSES.labels(job.name, result).inc()
    return result == 'ok'


def _told(job: PeriodicJob, cancel: cancel_.Cancel,
          say: Callable[[str], object], progress: progress_.Progress
          ) -> Iterator[ItemResult]:
    for item in job.work(cancel, progress):
        metrics.IMAGES.labels(job.name, item.result).inc()
        say(item.words)
        yield item


class Agent:
    """All jobs, each on a thread of its own."""

    def __init__(self, wanted: list[PeriodicJob]) -> None:
        self._cancel = cancel_.Cancel()
        self._worker = periodics.PeriodicWorker(
            [(self._periodic(job), (), {}) for job in wanted],
            executor_factory=functools.partial(
                futurist.ThreadPoolExecutor, max_workers=len(wanted)))
        self._thread = threading.Thread(target=self._worker.start)

    def _periodic(self, job: PeriodicJob) -> Callable[[], None]:
        # There from the start, so that one can tell that none ends well.
        metrics.PASSES.labels(job.name, 'ok')

        @periodics.periodic(spacing=job.interval, run_immediately=True)
        def run() -> None:
            try:
                run_once(job, self._cancel)
            except errors.Busy as e:
                LOG.info('%s: %s', job.name, e)
            except Exception:
                LOG.exception('A pass of %s failed; the next one is in %d s',
                              job.name, job.interval)
        return run

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop what is under way, which leaves nothing, and wait for it."""
        self._cancel.set()
        self._worker.stop()
        self._thread.join()
