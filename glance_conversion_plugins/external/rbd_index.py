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

"""Which images of a pool are marked.

Marks stand on the images themselves, and a pool may hold many thousands of
those. So that nobody has to open them all, an object of the pool lists them:
an entry is made before an image is begun, and again before it gets its name,
and removed after its mark.
"""

from collections.abc import Iterator
import contextlib
import logging
import time
from typing import Any
import uuid

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import bindings
from glance_conversion_plugins.external import marks

rados = bindings.load('rados')

LOG = logging.getLogger(__name__)

_OBJECT = 'glance_conversion.marks'
_PAGE = 500

# A mark is listed as if it were a name in this state.
_STATE = marks.SEALED

# In seconds: for how long who cleans a pool has it alone unless he says so
# again, and how often another one asks.
_LEASE, _RETRY = 60, 3
_LOCK = 'clean-up'
_MAY_RENEW = 1      # LIBRADOS_LOCK_FLAG_RENEW


def add(ioctx: Any, mark: marks.Mark) -> None:
    """List a mark, before its image is begun or published."""
    with rados.WriteOpCtx() as operation:
        ioctx.set_omap(operation, (mark.name(_STATE),),
                       (uuid.uuid4().hex.encode(),))
        ioctx.operate_write_op(operation, _OBJECT)


def remove(ioctx: Any, mark: marks.Mark, entry: str) -> None:
    """Forget a mark, unless it was listed again since that entry was read."""
    with rados.WriteOpCtx() as operation:
        operation.omap_cmp(mark.name(_STATE), entry)
        ioctx.remove_omap_keys(operation, (mark.name(_STATE),))
        try:
            ioctx.operate_write_op(operation, _OBJECT)
        except rados.Error:
            if read(ioctx, mark) == entry:
                raise


def read(ioctx: Any, mark: marks.Mark) -> str | None:
    """The entry of a mark; None if it is not listed."""
    with rados.ReadOpCtx() as operation:
        found, _ = ioctx.get_omap_vals_by_keys(operation, (mark.name(_STATE),))
        try:
            ioctx.operate_read_op(operation, _OBJECT)
        except rados.ObjectNotFound:
            return None
        # The binding has none for what is empty, as of an earlier version.
        return next(((value or b'').decode() for _, value in found), None)


def listed(ioctx: Any) -> Iterator[marks.Mark]:
    """Every mark that some image may bear."""
    names = [name for page in _pages(ioctx) for name in page]
    for name in names:
        if mark := marks.parse(name, _STATE):
            yield mark


def _pages(ioctx: Any) -> Iterator[list[str]]:
    after = ''
    while True:
        with rados.ReadOpCtx() as operation:
            found, _ = ioctx.get_omap_vals(operation, after, '', _PAGE)
            try:
                ioctx.operate_read_op(operation, _OBJECT)
            except rados.ObjectNotFound:
                return
            page = [key for key, _ in found]
        yield page
        if len(page) < _PAGE:
            return
        after = page[-1]


class Turn:
    """The turn of one process to clean a pool."""

    def __init__(self, ioctx: Any) -> None:
        self._ioctx = ioctx
        self._cookie = str(uuid.uuid4())

    def keep(self) -> None:
        """Take the turn, or keep it for another while.

        :raises errors.Busy: if somebody else has it
        """
        try:
            self._ioctx.lock_exclusive(
                _OBJECT, _LOCK, self._cookie, desc=_LOCK, duration=_LEASE,
                flags=_MAY_RENEW)
        except (rados.ObjectBusy, rados.ObjectExists) as e:
            raise errors.Busy('Another process cleans the store.') from e

    def end(self) -> None:
        with contextlib.suppress(rados.Error):
            self._ioctx.unlock(_OBJECT, _LOCK, self._cookie)


@contextlib.contextmanager
def turn(ioctx: Any) -> Iterator[Turn]:
    """Wait until nobody else cleans a pool, or has died at it.

    :raises errors.Busy: if somebody does so for long
    """
    found, deadline = Turn(ioctx), time.monotonic() + 2 * _LEASE
    while not _is_taken(found):
        if time.monotonic() > deadline:
            raise errors.Busy('Another process cleans the store.')
        time.sleep(_RETRY)
    try:
        yield found
    finally:
        found.end()


def _is_taken(found: Turn) -> bool:
    try:
        found.keep()
    except errors.Busy:
        return False
    return True
