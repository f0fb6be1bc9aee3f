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

"""What the rest of this package asks of a store driver, feature by feature.

glance_store rebuilds a driver for nearly every use, so nothing of a transfer
lives on it: every call says which image it is about.
"""

from collections.abc import Callable
from collections.abc import Iterable
import contextlib
from typing import Any
from typing import Protocol
from typing import runtime_checkable

from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import sinks
from glance_conversion_plugins.copying import sources
from glance_conversion_plugins.external import marks


@runtime_checkable
class Adoptable(Protocol):
    """A store into which an import writes, so that ``add()`` can adopt it."""

    kind: str   # of the entry point

    def sink(self, image_id: str, task_id: str) -> sinks.StoredSink:
        """Where to write a raw image."""

    def source(self, image_id: str) -> sources.Source:
        """Read back what is stored for an image."""

    def is_slow(self) -> bool:
        """Say whether the store is known to suffer from what it has to do."""

    def places(self) -> list[str]:
        """Where it keeps images, in the same words as others of its kind.

        :raises errors.SinkFailed: if the store does not answer
        """

    def location(self, image_id: str) -> tuple[str, dict[str, Any]]:
        """The URL and the metadata that Glance records for an image."""

    def probe(self) -> None:
        """Do with a small image what an import does, and remove it.

        :raises errors.SinkFailed: if the store does not let us
        """


@runtime_checkable
class Recoverable(Protocol):
    """A store that tells what dead writers have left in it."""

    def marked(self) -> Iterable[marks.Found]:
        """Everything in the store that bears a mark."""

    def turn(self) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """Be the only one that cleans the store; waits for others.

        :returns: what to call now and then, to keep it so
        :raises errors.Busy: if another one does so for long
        """

    def look_up(self, mark: marks.Mark) -> marks.Found | None:
        """What bears a mark now."""

    def location(self, image_id: str) -> tuple[str, dict[str, Any]]:
        """The URL and the metadata that Glance records for an image."""

    def is_open(self, found: marks.Found) -> bool:
        """Say whether the writer of what was found holds its lease."""

    def hand_over(self, mark: marks.Mark) -> None:
        """Glance has recorded the image: take the mark off."""

    def mark_again(self, mark: marks.Mark) -> None:
        """Put a mark on what Glance has recorded, and is to be removed.

        :raises errors.Busy: if somebody has it open for writing
        """

    def fence(self, mark: marks.Mark) -> bool:
        """Shut the writer out of the store.

        :returns: whether what it wrote still bears the mark; if not, it was
            faster, and nothing may be removed
        """

    def discard(self, mark: marks.Mark, is_published: bool = True) -> None:
        """Remove what a writer has left that is shut out.

        :param is_published: whether it may have the name of the image by now
        :raises errors.Busy: if it has, and should not
        """

    def strike_out(self, mark: marks.Mark) -> None:
        """Forget a mark that nothing in the store bears any more."""


@runtime_checkable
class Sparsifiable(Protocol):
    """A store that can give back the room of zeros that it holds."""

    def source(self, image_id: str) -> sources.Source:
        """Read what is stored for an image."""

    def zeros(self, image_id: str, progress: progress_.Progress
              ) -> tuple[int, int]:
        """How many bytes are stored for an image, and how many are zeros."""

    def sparsify(self, image_id: str, task_id: str,
                 check: Callable[[sources.Source], None],
                 progress: progress_.Progress) -> None:
        """Give back the room that the zeros of an image take.

        :param check: raises if it does not find the content that it expects
        """


@runtime_checkable
class Replacing(Protocol):
    """A store that sparsifies by replacing an image, and may be interrupted.
    """

    def nameless(self) -> list[str]:
        """Ids of images whose names an interrupted replacement took."""

    def put_back(self, image_id: str) -> None:
        """Give an image its name back."""

    def replaced(self, grace: float) -> list[marks.Mark]:
        """What was replaced so many seconds ago and is still there."""

    def forget_replaced(self, mark: marks.Mark, is_deleted: bool) -> None:
        """Remove what was replaced.

        :param is_deleted: whether its image is, so that nothing is needed
        :raises errors.SinkFailed: if it is in use, or nothing took its place
        """


class Verifiable(Protocol):
    """A store that tells whether an image is kept as Glance's clients need.
    """

    def faults(self, image_id: str) -> Iterable[str]:
        """What is not as the stock driver leaves it, beside the content.

        :raises errors.SinkFailed: if the store does not answer
        """


class SparseStore(Adoptable, Recoverable, Sparsifiable, Verifiable, Protocol):
    """What each of our drivers is; some are ``Replacing`` too."""
