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

"""From a store to Glance: what was published is watched until it is recorded.

Glance records an image after ``add()`` has returned, and may fail at it
without a word to us. Until then the image keeps its mark, and this process
its lease: recorded, it loses both; if Glance has given it up it is removed.
So it is where the request has ended that was to record it, and could not, for
its database was away at that moment. What this process can not see to the end
the clean-up of any node finds.
"""

import collections
from collections.abc import Iterator
import contextlib
import logging
import threading
import time
from typing import NamedTuple

from glance_conversion_plugins.copying import sinks
from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.stores import verdict

LOG = logging.getLogger(__name__)

_FIRST_SECONDS, _LAST_SECONDS = 0.2, 5

# After so long nobody can tell any more what becomes of an image, and its mark
# is left for the clean-up.
_PATIENCE = 24 * 3600

# How long whoever deletes an image waits for what is being settled.
_SETTLED_SECONDS = 30

# More than any process has of requests at a time.
_REMEMBERED = 1000


class Published(NamedTuple):
    """An image that Glance is to record, and who asked for it."""

    store: str | None
    image_id: str
    request: str | None     # of Glance's, by its id
    url: str
    sink: sinks.StoredSink
    since: float            # of the monotonic clock


class _Watch:
    """What this process has published in one store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Held while one is handed over or removed.
        self._settling = threading.Lock()
        self._changed = threading.Event()
        self._waiting: list[Published] = []
        self._thread: threading.Thread | None = None
        # (image id, request) of what was not Glance's in the end.
        self._lost: collections.deque[tuple[str, str]] = collections.deque(
            maxlen=_REMEMBERED)

    def add(self, published: Published) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, daemon=True,
                                          name='hand over')
                thread.start()
                self._thread = thread
            self._waiting.append(published)
            self._changed.set()

    def release(self, image_id: str, request: str | None) -> bool:
        """See ``release`` of the module."""
        with self._nothing_settled(), self._lock:
            found = [each for each in self._waiting
                     if each.image_id == image_id]
            self._waiting = [each for each in self._waiting
                             if each not in found]
            is_own = (image_id, request) in self._lost
        for published in found:
            if request and published.request == request:
                is_own = _take_back(published) or is_own
            else:
                published.sink.release()
        return is_own

    @contextlib.contextmanager
    def _nothing_settled(self) -> Iterator[None]:
        """Wait until the end is known of what is being settled."""
        if not self._settling.acquire(timeout=_SETTLED_SECONDS):
            raise errors.SinkFailed('The store did not answer in time.')
        try:
            yield
        finally:
            self._settling.release()

    def _run(self) -> None:
        pause = _FIRST_SECONDS
        while True:
            with self._lock:
                waiting = list(self._waiting)
                if not waiting:
                    self._thread = None
                    return
                if self._changed.is_set():
                    pause = _FIRST_SECONDS
                self._changed.clear()
            ended = [self._look(each) for each in waiting]
            if any(ended):
                pause = _FIRST_SECONDS
            # Longer and longer, for a store may take hours while another one
            # has what it needs.
            self._changed.wait(pause)
            pause = min(pause * 1.5, _LAST_SECONDS)

    def _look(self, published: Published) -> bool:
        """See what has become of one; returns whether that is the end."""
        try:
            decided = _judge(published)
            if decided is verdict.Verdict.FENCE:
                decided = _fence(published)
        # Of a database that is away, say.
        except Exception:
            LOG.warning('Image %s: whether it is recorded is not known yet',
                        published.image_id, exc_info=True)
            return False
        is_late = time.monotonic() > published.since + _PATIENCE
        if decided is verdict.Verdict.LEAVE and not is_late:
            return False
        with self._settling:
            self._settle(published, decided)
        return True

    def _settle(self, published: Published, decided: verdict.Verdict) -> None:
        with self._lock:
            if published not in self._waiting:
                return
            self._waiting.remove(published)
        try:
            if decided in (verdict.Verdict.LEAVE, verdict.Verdict.FENCE):
                published.sink.release()
                return
            if decided is verdict.Verdict.HAND_OVER:
                published.sink.hand_over()
                return
            published.sink.abort()
        except Exception:
            LOG.exception('Image %s is not settled in store %s; the clean-up '
                          'will do it', published.image_id, published.store)
        if published.request:
            self._lost.append((published.image_id, published.request))


def _take_back(published: Published) -> bool:
    """Remove what a request has published, and deletes now.

    :returns: False if a clean-up has handed it over: then Glance, which had
        recorded it, removes it as always
    """
    if published.sink.is_held():
        published.sink.abort()
        return True
    try:
        published.sink.hand_over()
    except errors.Fenced:       # what has the name is another one
        return True
    return False


def _judge(published: Published) -> verdict.Verdict:
    # First: what it has recorded is seen then.
    is_over = published.request is not None and not compat.is_under_way(
        published.request)
    status = records.status(published.image_id)
    return verdict.judge(verdict.Evidence(
        is_ours=True, is_published=True,
        is_recorded=records.is_recorded(published.url),
        writer=verdict.Writer.DEAD if is_over else verdict.Writer.ENDED,
        status=status, is_awaited=is_over))


def _fence(published: Published) -> verdict.Verdict:
    """Take away the status that nobody uses any more, and judge once more.

    :returns: FENCE where that is for the clean-up, which takes over the lock
        of the import as well
    """
    if (records.status(published.image_id) != 'saving'
            or not published.sink.is_held()):
        return verdict.Verdict.FENCE
    try:
        records.set_status(published.image_id, 'queued', 'saving')
    except compat.exception.Conflict:
        LOG.info('Image %s is not waiting any more', published.image_id)
    return _judge(published)


# A store that hangs keeps nothing in another one waiting.
_watches: dict[str | None, _Watch] = {}


def _watch_of(store: str | None) -> _Watch:
    return _watches.setdefault(store, _Watch())


def watch(published: Published) -> None:
    """Hand an image over as soon as Glance has recorded its URL."""
    _watch_of(published.store).add(published)


def release(store: str | None, image_id: str, request: str | None) -> bool:
    """Let go of an image, which is about to be deleted.

    An upload that slept until it counted as dead deletes its data when it
    wakes, by a URL under which another upload may have stored by then. So a
    request removes by that URL nothing but what Glance has recorded.

    :param request: the one that deletes it
    :returns: whether the request published it itself and it was not recorded:
        then that is removed, and nothing else is there for it to delete
    :raises errors.SinkFailed: if the store does not answer
    """
    return _watch_of(store).release(image_id, request)
