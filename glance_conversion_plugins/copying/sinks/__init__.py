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

"""Where the bytes of a raw image go.

A sink writes one image into one place. Its calls come in this order:
``create``, any number of ``write`` and ``zero``, then ``seal`` or ``abort``.
"""

from typing import Protocol


class Sink(Protocol):
    """The contract; tests/contract holds every sink to it."""

    def create(self, size: int) -> None:
        """Make a target of ``size`` bytes that reads as zeros.

        :raises errors.AlreadyStored: if the name is taken
        :raises errors.SinkFailed: if the place does not answer
        """

    def write(self, view: memoryview, offset: int) -> int:
        """Write what is not zeros of a view; return how many bytes that is.

        Called by many threads at once, on ranges that do not overlap, and
        may return before the data is stored. The view must not change until
        ``seal`` or ``abort`` has returned. A failure, also of an earlier
        write, is raised as ``errors.SinkFailed``.
        """

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros; a new target already does."""

    def resize(self, size: int) -> None:
        """Change the size of the target, where it was not known before.

        Called by the one thread that writes. New bytes read as zeros.
        """

    def seal(self) -> None:
        """Make the image complete, durable and visible under its name."""

    def interrupt(self) -> None:
        """Make writes under way and later ones fail soon.

        Called by another thread than those that write.
        """

    def abort(self) -> None:
        """Leave nothing. Never raises; may be called at any time, also twice.

        A sealed target is removed too.
        """
