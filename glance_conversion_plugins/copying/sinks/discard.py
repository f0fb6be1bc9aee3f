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

"""A place for bytes that only the consumers of a copy want to see."""

from glance_conversion_plugins.copying import room as room_


class DiscardSink:
    """Takes everything and keeps nothing."""

    def room(self, size: int) -> list[room_.Place]:
        return []

    def create(self, size: int) -> None:
        pass

    def write(self, view: memoryview, offset: int) -> int:
        return 0

    def zero(self, offset: int, length: int) -> None:
        pass

    def resize(self, size: int) -> None:
        pass

    def seal(self) -> None:
        pass

    def publish(self) -> None:
        pass

    def interrupt(self) -> None:
        pass

    def abort(self) -> None:
        pass
