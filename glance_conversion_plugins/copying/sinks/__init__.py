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
``create``, any number of ``write`` and ``zero``, then ``seal`` and
``publish``, or ``abort`` at any time.
"""

from collections.abc import Sequence
from typing import Protocol

from glance_conversion_plugins.copying import room as room_
from glance_conversion_plugins.copying import sources


class Sink(Protocol):
    """The contract; tests/contract holds every sink to it."""

    def room(self, size: int) -> Sequence[room_.Place]:
        """Where an image of so many bytes will be, and what is free there.

        Asked before ``create``. Nothing, where nobody can say.

        :raises errors.SinkFailed: if the place does not answer
        """

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
        """Make the image complete and durable, but not visible yet."""

    def publish(self) -> None:
        """Give a sealed image its name.

        :raises errors.AlreadyStored: if the name is taken
        :raises errors.Fenced: if the image was taken from this writer
        """

    def interrupt(self) -> None:
        """Make writes under way and later ones fail soon.

        Called by another thread than those that write.
        """

    def abort(self) -> None:
        """Leave nothing. Never raises; may be called at any time, also twice.

        A sealed target is removed too, and so is one that is published: that
        is for whoever knows that Glance has not recorded it, nor will.
        """


class StoredSink(Sink, Protocol):
    """A sink of a store, whose images Glance is to record.

    It holds on to what it writes, so that others see that its writer lives,
    until ``hand_over``, ``release`` or ``abort``.
    """

    def read_back(self) -> sources.Source:
        """What the place has of an image that is sealed.

        :raises errors.SourceFailed: if it can not be read
        """

    def hand_over(self) -> None:
        """Glance has recorded a published image: take the mark off.

        :raises errors.Fenced: if it was taken from this writer
        """

    def is_held(self) -> bool:
        """Say whether what was begun was not taken from this writer.

        Never raises; true where the place does not say.
        """

    def release(self) -> None:
        """Let go of the image and leave it to the clean-up. Never raises."""
