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

"""Work that nobody waits for: it says so, and gives way to all other work."""

from collections.abc import Callable
from collections.abc import Iterator
from concurrent import futures
import contextlib
import logging
import threading
from typing import TypeVar

from oslo_concurrency import lockutils
from oslo_config import cfg

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import courtesy
from glance_conversion_plugins.copying import slots
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.stores import protocols

CONF = cfg.CONF
LOG = logging.getLogger(__name__)

# How often whoever works for a task says that this goes on.
_BEAT_SECONDS = 60

# How often a store is asked whether it suffers.
_SLOW_SECONDS = 15

_T = TypeVar('_T')


@contextlib.contextmanager
def at_work(task_id: str | None) -> Iterator[None]:
    """Keep saying that somebody works for a task, which may have ended."""
    done = threading.Event()

    def beat() -> None:
        while task_id:
            try:
                records.touch_task(task_id)
            except Exception:
                LOG.warning('Task %s is not kept alive', task_id,
                            exc_info=True)
            if done.wait(_BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def giving_way(what: str, store: protocols.Adoptable, cancel: cancel_.Cancel,
               patience: float) -> courtesy.GiveWay:
    """What stops a reader of a store while that, or the node, is busy.

    :param what: gives way, in the log
    :param patience: seconds for which it gives way, in all
    """
    folder = lockutils.get_lock_path(CONF)
    is_slow = courtesy.Lately(store.is_slow(), lambda _: store.is_slow(),
                              _SLOW_SECONDS)
    return courtesy.GiveWay(
        what, lambda: any(slots.usage(folder, slots.CONVERSION)) or is_slow(),
        cancel, patience)


def run(work: Callable[[], _T]) -> _T:
    """Do something on a thread that all others go before.

    A process that ends does not wait for it.
    """
    found: futures.Future[_T] = futures.Future()

    def do() -> None:
        try:
            courtesy.be_nice()
            found.set_result(work())
        except BaseException as e:
            found.set_exception(e)

    threading.Thread(target=do, daemon=True, name='background').start()
    return found.result()
