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


"""The sink that shows what the contract of sinks means: a dictionary."""

import threading

from glance_conversion_plugins.copying import room as room_
from glance_conversion_plugins import errors


class MemorySink:
    """Writes an image into ``place[name]``."""

    def __init__(self, place: dict[str, bytes], name: str) -> None:
        self._place = place
        self._name = name
        self._target: bytearray | None = None
        self._published = False
        self._interrupted = threading.Event()

    def room(self, size: int) -> list[room_.Place]:
        return [room_.Place('memory', 1 << 40)]

    def create(self, size: int) -> None:
        if self._name in self._place:
            raise errors.AlreadyStored('taken')
        self._target = bytearray(size)

    def write(self, view: memoryview, offset: int) -> int:
        if self._interrupted.is_set():
            raise errors.Cancelled('stopped')
        assert offset + len(view) <= len(self._target), 'beyond the end'
        self._target[offset:offset + len(view)] = view
        return len(view) if any(bytes(view).strip(b'\0')) else 0

    def zero(self, offset: int, length: int) -> None:
        assert offset + length <= len(self._target), 'beyond the end'
        self._target[offset:offset + length] = bytes(length)

    def resize(self, size: int) -> None:
        del self._target[size:]
        self._target.extend(bytes(size - len(self._target)))

    def seal(self) -> None:
        pass

    def publish(self) -> None:
        self._place[self._name] = bytes(self._target)
        self._published = True

    def interrupt(self) -> None:
        self._interrupted.set()

    def abort(self) -> None:
        self._target = None
        if self._published:
            self._place.pop(self._name, None)
            self._published = False
