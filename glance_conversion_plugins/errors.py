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

"""Every failure this package can raise, and its words for an image's owner.

::

    ConversionError
    ├── ImageRefused          the image itself is at fault
    │   ├── WrongUpload       it is not what its owner expected
    │   ├── FormatMismatch    it is not what its disk_format claims
    │   ├── UnsafeImage       it points outside itself, or hides something
    │   ├── DamagedImage      it is truncated or corrupt
    │   │   └── LogNotReplayed    it was not closed
    │   └── TooLarge          it exceeds a limit or a quota
    ├── SourceFailed          reading stopped although the image looked sound
    ├── WrongSize             a stream is not as long as was announced
    ├── SinkFailed            a store did not take the data
    │   ├── StoreFull
    │   ├── WriteDenied
    │   ├── NotStored
    │   ├── AlreadyStored
    │   └── Fenced            it was taken from its writer
    ├── ApiFailed             Glance did not do what it was asked to
    ├── StagingFull           the node has no room for what it converts
    ├── Busy                  another process does the same
    ├── Stalled               nothing moved for too long
    ├── Cancelled             there is nothing left to import
    │   ├── TakenOver         another task imports the image now
    │   └── Stopping          this node is about to end
    └── Misconfigured         this deployment can not do what it was asked to

``str()`` of any of them is one sentence for the owner of the image: no path,
no traceback, no name of a process, but for a command that the owner may type.
What an operator needs besides goes to the
log where the error is made.
"""


class ConversionError(Exception):
    """Base of all errors of this package."""


class ImageRefused(ConversionError):
    """The image is at fault; importing it again unchanged fails again."""


class WrongUpload(ImageRefused):
    """The file is not the one that its owner meant to upload."""


class FormatMismatch(ImageRefused):
    """The content is not of the format that the image claims."""


class UnsafeImage(ImageRefused):
    """The image breaks a rule that keeps the cloud safe."""


class DamagedImage(ImageRefused):
    """The image is truncated or corrupt."""


class LogNotReplayed(DamagedImage):
    """The tables of the image are not the last; its log has those."""


class TooLarge(ImageRefused):
    """The image exceeds a limit or a quota."""


class SourceFailed(ConversionError):
    """Reading the image stopped for a reason that is not the image's."""


class WrongSize(ConversionError):
    """A stream has more or fewer bytes than were announced."""


class SinkFailed(ConversionError):
    """A store did not take the data."""


class StoreFull(SinkFailed):
    """There is no room left in the store."""


class WriteDenied(SinkFailed):
    """Nothing may be written there, or it is not mounted."""


class NotStored(SinkFailed):
    """The store has no data under the name of this image."""


class AlreadyStored(SinkFailed):
    """The store already holds data under the name of this image."""

    def __init__(self, message: str = 'The store already holds data of this '
                 'image.') -> None:
        super().__init__(message)


class Fenced(SinkFailed):
    """What was written was taken from its writer, which seemed dead."""

    def __init__(self) -> None:
        super().__init__('The import was silent for so long that it counted '
                         'as dead; import the image again.')


class ApiFailed(ConversionError):
    """Glance did not do what its API was asked to."""


class StagingFull(ConversionError):
    """There is no room left where Glance stages uploads."""


class Busy(ConversionError):
    """Another process does the same at the moment."""


class Stalled(ConversionError):
    """Nothing moved for so long that nothing will."""


class Cancelled(ConversionError):
    """There is nothing left to import."""


class TakenOver(Cancelled):
    """Another task imports the image now; its files are not ours."""


class Stopping(Cancelled):
    """This node is about to end."""

    def __init__(self) -> None:
        super().__init__('The import was interrupted, for the node that did '
                         'it is being stopped.')


class Misconfigured(ConversionError):
    """This deployment lacks something that the conversion needs."""
