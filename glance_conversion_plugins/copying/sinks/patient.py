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

"""A sink in a place that may hang, which fails then."""

from collections.abc import Callable
import logging
from typing import Any

from glance_conversion_plugins.copying import patience
from glance_conversion_plugins.copying import room as room_
from glance_conversion_plugins.copying import sinks
from glance_conversion_plugins.copying.sources import patient as patient_source
from glance_conversion_plugins import errors

LOG = logging.getLogger(__name__)

UNANSWERED = 'The store did not answer in time.'

# All that was written may have to go to a slow disk first.
_SEAL_SECONDS = 1800


class PatientSink:
    """Does what another sink does, unless that takes too long."""

    def __init__(self, sink: sinks.StoredSink, name: str) -> None:
        """Describe it.

        :param name: of the store, for the log
        """
        self._sink = sink
        self._name = name
        self._patience = patience.Patience(name)

    def _call(self, function: Callable[..., Any], *args: Any,
              seconds: float = patience.SECONDS) -> Any:
        try:
            return self._patience.call(function, *args, seconds=seconds)
        except patience.Unanswered as e:
            raise errors.SinkFailed(UNANSWERED) from e

    def room(self, size: int) -> list[room_.Place]:
        return list(self._call(self._sink.room, size))

    def create(self, size: int) -> None:
        self._call(self._sink.create, size)

    def write(self, view: memoryview, offset: int) -> int:
        return int(self._call(self._sink.write, view, offset))

    def zero(self, offset: int, length: int) -> None:
        # A new file has only zeros: nothing is asked of its place.
        self._sink.zero(offset, length)

    def resize(self, size: int) -> None:
        self._call(self._sink.resize, size)

    def seal(self) -> None:
        self._call(self._sink.seal, seconds=_SEAL_SECONDS)

    def read_back(self) -> patient_source.PatientSource:
        return patient_source.PatientSource(self._sink.read_back, self._name)

    def publish(self) -> None:
        self._call(self._sink.publish)

    def hand_over(self) -> None:
        try:
            self._call(self._sink.hand_over)
        finally:
            self._patience.close()

    def is_held(self) -> bool:
        try:
            return bool(self._call(self._sink.is_held))
        except errors.SinkFailed:
            return True

    def interrupt(self) -> None:
        self._sink.interrupt()

    def release(self) -> None:
        self._let_go(self._sink.release)

    def abort(self) -> None:
        self._let_go(self._sink.abort)

    def _let_go(self, end: Callable[[], None]) -> None:
        """Do the last that is to be done, whenever its place answers."""
        try:
            self._patience.end(end)
        except patience.Unanswered:
            LOG.error('What was begun there is left to the clean-up')
