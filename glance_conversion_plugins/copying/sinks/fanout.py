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

"""Several sinks filled in one pass."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import logging
from typing import Any

from glance_conversion_plugins.copying import room as room_
from glance_conversion_plugins.copying import sinks
from glance_conversion_plugins.copying import sources
from glance_conversion_plugins import errors

LOG = logging.getLogger(__name__)


class FanOut:
    """Writes the same image into several places.

    Where not all must succeed, one that fails is dropped, and the copy goes
    on while any is left.
    """

    def __init__(self, targets: Mapping[str, sinks.StoredSink],
                 all_must_succeed: bool) -> None:
        self._targets = dict(targets)
        self._all_must_succeed = all_must_succeed
        self.failures: dict[str, errors.ConversionError] = {}

    def _each(self, call: Callable[[sinks.StoredSink], Any]) -> list[Any]:
        """Do something to each that has not failed."""
        results = []
        for name, target in self._targets.items():
            if name in self.failures:
                continue
            try:
                results.append(call(target))
            except errors.ConversionError as e:
                self._failed(name, target, e)
        return results

    def _failed(self, name: str, target: sinks.StoredSink,
                error: errors.ConversionError) -> None:
        # Several writers may see the same failure.
        first = self.failures.setdefault(name, error)
        if first is error:
            LOG.warning('Store %s failed: %s', name, error)
            target.interrupt()
        if self._all_must_succeed or len(self.failures) == len(self._targets):
            raise first

    def room(self, size: int) -> list[room_.Place]:
        return [place for found in self._each(lambda t: t.room(size))
                for place in found]

    def create(self, size: int) -> None:
        self._each(lambda target: target.create(size))

    def write(self, view: memoryview, offset: int) -> int:
        return max(self._each(lambda target: target.write(view, offset)),
                   default=0)

    def zero(self, offset: int, length: int) -> None:
        self._each(lambda target: target.zero(offset, length))

    def resize(self, size: int) -> None:
        self._each(lambda target: target.resize(size))

    def seal(self) -> None:
        self._each(lambda target: target.seal())
        self._abort(self.failures)

    def read_back(self, check: Callable[[sources.Source], None]) -> None:
        """Look at what each place has of an image that is sealed.

        :param check: raises if it is not what it should be
        """
        before = set(self.failures)
        self._each(lambda target: check(target.read_back()))
        self._abort(self.failures.keys() - before)

    def _abort(self, names: Iterable[str]) -> None:
        for name in names:
            self._targets[name].abort()

    def publish(self) -> None:
        self._each(lambda target: target.publish())

    def sealed(self) -> dict[str, sinks.StoredSink]:
        """Those that hold the whole image."""
        return {name: target for name, target in self._targets.items()
                if name not in self.failures}

    def interrupt(self) -> None:
        for target in self._targets.values():
            target.interrupt()

    def abort(self) -> None:
        for target in self._targets.values():
            target.abort()
