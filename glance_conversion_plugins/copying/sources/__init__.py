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

"""Where the bytes of an image come from.

A source is opened by its constructor and read by several threads at a time.
"""

from collections.abc import Iterator
from typing import Protocol

from glance_conversion_plugins.copying import extent

Data = bytes | bytearray | memoryview


class Source(Protocol):
    """The contract; tests/contract holds every source to it."""

    @property
    def size(self) -> int:
        """Size in bytes of what the guest sees."""

    def extents(self, start: int, length: int) -> Iterator[extent.Extent]:
        """Describe a range, in order and without a gap.

        Called by one thread, also while others read. What is called a zero
        or a hole reads as zeros; data may turn out to be zeros too.
        """

    def read(self, offset: int, length: int) -> Data:
        """All bytes of a range; nobody changes them afterwards.

        Called by many threads at once. Each source gives them as it comes by
        them: 1 MiB is copied in 0.3 ms, and read from a file in 0.1 ms.

        :param length: at most 32 MiB, which is what NBD allows

        :raises errors.DamagedImage: if the content does not decode
        :raises errors.SourceFailed: if reading stops for another reason
        """

    def interrupt(self) -> None:
        """Make reads under way and later ones fail soon.

        Called by another thread than those that read.
        """

    def close(self) -> None:
        """Release everything once no one reads. May be called twice."""
