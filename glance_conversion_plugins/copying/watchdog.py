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

"""Ends what does not move.

A limit on time would refuse large images on slow disks; one on progress only
refuses what nobody wants to wait for.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import logging
import threading
import time

from glance_conversion_plugins import errors

LOG = logging.getLogger(__name__)

# Longer than a Ceph cluster or a file server takes to fail over.
_STALL_SECONDS = 300


@contextlib.contextmanager
def watch(state: Callable[[], object], interrupt: Callable[[], None],
          seconds: float = _STALL_SECONDS) -> Iterator[None]:
    """Interrupt the block when nothing has moved for so long.

    :param state: answers something that changes while there is progress
    :param interrupt: makes the block fail soon
    :raises errors.Stalled: if it came to that
    """
    done, stalled = threading.Event(), threading.Event()

    def look() -> None:
        last, since = state(), time.monotonic()
        while not done.wait(min(seconds / 4, 5)):
            now = state()
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > seconds:
                LOG.error('No progress for %d s', seconds)
                stalled.set()
                interrupt()
                return

    thread = threading.Thread(target=look, daemon=True, name='watchdog')
    thread.start()
    try:
        yield
    except Exception as e:
        if stalled.is_set():
            raise errors.Stalled(
                'The conversion was stopped: nothing moved for '
                f'{seconds / 60:.0f} minutes.') from e
        raise
    finally:
        done.set()
        thread.join()
