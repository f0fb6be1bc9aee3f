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

"""A file in a place that may hang, which fails then."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import itertools
from typing import Any

from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import patience
from glance_conversion_plugins.copying import sources
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import staged

# How many extents are asked for at once.
_EXTENTS = 1000


class PatientSource:
    """Reads what a file has, unless that takes too long."""

    def __init__(self, open_source: Callable[[], sources.Source], name: str
                 ) -> None:
        """Open it.

        :param name: of the store, for the log
        :raises errors.SourceFailed: if it does not answer
        """
        self._patience = patience.Patience(name)
        self._source: sources.Source = self._call(open_source)
        self.size = self._source.size

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return self._patience.call(function, *args)
        except patience.Unanswered as e:
            raise errors.SourceFailed(staged.UNREADABLE) from e

    def extents(self, start: int, length: int) -> Iterator[extent.Extent]:
        found = self._source.extents(start, length)
        while some := self._call(lambda: [*itertools.islice(found, _EXTENTS)]):
            yield from some

    def read(self, offset: int, length: int) -> bytes:
        return self._call(   # type: ignore[no-any-return]
            self._source.read, offset, length)

    def interrupt(self) -> None:
        self._source.interrupt()

    def close(self) -> None:
        with contextlib.suppress(patience.Unanswered):
            self._patience.end(self._source.close)
