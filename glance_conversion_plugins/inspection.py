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

"""What an image is, and whether it may be converted.

The only caller of oslo.utils' inspectors. A file is inspected before any qemu
process touches it, and the raw result while it is written, so that no format
hides inside another.
"""

from collections.abc import Sequence
import logging
import os
from typing import cast
from typing import IO
from typing import NamedTuple

from oslo_utils.imageutils import format_inspector

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors
from glance_conversion_plugins import extent
from glance_conversion_plugins import progress
from glance_conversion_plugins import qcow2
from glance_conversion_plugins import qemu

LOG = logging.getLogger(__name__)

# Glance's disk_format: qemu's driver.
DRIVERS = {'qcow2': 'qcow2', 'raw': 'raw'}

_RULES = {
    'backing_file': 'it refers to a backing file; convert it into a '
                    'standalone image and upload that',
    'data_file': 'it keeps its content in another file; convert it into a '
                 'standalone image and upload that',
    'unknown_features': 'it uses features of its format that are unknown '
                        'here',
    'banned': 'its format is not allowed',
    'mbr': 'its master boot record is not valid',
}

_TRUNCATED = 'The image is truncated: it refers to content beyond its end.'


class Policy(NamedTuple):
    """What this deployment allows."""

    max_virtual_size: int                           # in bytes
    gpt_safety_checks_nonfatal: Sequence[str] = ()


class ImageInfo(NamedTuple):
    """An image that passed inspection."""

    path: str
    disk_format: str
    virtual_size: int       # in bytes
    file_size: int          # in bytes
    cluster_size: int       # in bytes; 0 where the format has no clusters


def inspect(path: str, disk_format: str, policy: Policy,
            cancel: cancel_.Cancel = cancel_.NEVER) -> ImageInfo:
    """Look at a file without trusting it.

    :param disk_format: what its owner says it is, one of ``DRIVERS``
    :param cancel: when set, the inspection ends with errors.Cancelled
    :raises errors.ImageRefused: names the rule that the image breaks
    """
    file_size = os.path.getsize(path)
    if not file_size:
        raise errors.DamagedImage('The image is empty: it has no content.')
    _check_format(_detect(path, policy), disk_format)
    if disk_format == 'raw':
        virtual_size, cluster_size = file_size, 0
    else:
        virtual_size, cluster_size = _describe(path, disk_format, cancel)
    if virtual_size > policy.max_virtual_size:
        raise errors.TooLarge(
            f'The image is too large: it has {progress.amount(virtual_size)} '
            f'once converted, and {progress.amount(policy.max_virtual_size)} '
            'are allowed.')
    return ImageInfo(path, disk_format, virtual_size, file_size, cluster_size)


def _detect(path: str, policy: Policy) -> str:
    try:
        inspector = format_inspector.detect_file_format(path)
        return _safe_format(inspector, policy)
    except errors.ImageRefused:
        raise
    # An inspector that stumbles over its input has not decided either.
    except Exception as e:
        LOG.warning('Inspection failed: %r', e)
        raise errors.UnsafeImage(
            'The format of the image is not certain: its content matches '
            'several formats, or only a part of one.') from e


def _safe_format(inspector: format_inspector.FileInspector | None,
                 policy: Policy) -> str:
    """Run the safety checks; GPT and MBR disks count as raw, as in Glance."""
    if inspector is None:
        raise format_inspector.ImageFormatError('no decision')
    try:
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as e:
        tolerated = (set(policy.gpt_safety_checks_nonfatal)
                     if inspector.NAME == 'gpt' else set())
        if fatal := sorted(e.failures.keys() - tolerated):
            LOG.warning('The image breaks the safety rule %s: %s', fatal[0],
                        e.failures[fatal[0]])
            why = _RULES.get(fatal[0], f'it breaks the rule "{fatal[0]}"')
            raise errors.UnsafeImage(f'The image is refused: {why}.') from e
    return 'raw' if inspector.NAME == 'gpt' else str(inspector.NAME)


def _check_format(found: str, disk_format: str) -> None:
    if found != disk_format:
        raise errors.FormatMismatch(
            f'The image is declared as {disk_format}, but its content is '
            f'{found}.')


def _describe(path: str, disk_format: str, cancel: cancel_.Cancel
              ) -> tuple[int, int]:
    """Ask qemu for the virtual size and the cluster size, in bytes."""
    info = qemu.info(path, DRIVERS[disk_format], cancel)
    specific = info.get('format-specific', {}).get('data', {})
    if info.get('encrypted') or 'encrypt' in specific:
        raise errors.UnsafeImage(
            'The image is refused: it is encrypted, and can not be converted.')
    for key, rule in (('backing-filename', 'backing_file'),
                      ('full-backing-filename', 'backing_file')):
        if info.get(key):
            raise errors.UnsafeImage(f'The image is refused: {_RULES[rule]}.')
    if specific.get('data-file'):
        raise errors.UnsafeImage(
            f"The image is refused: {_RULES['data_file']}.")
    if specific.get('corrupt'):
        raise errors.DamagedImage('The image is marked as corrupt.')
    if not info['virtual-size']:
        raise errors.DamagedImage('The image is empty: its disk has no size.')
    return info['virtual-size'], info.get('cluster-size', 0)


def check_intact(image: ImageInfo,
                 cancel: cancel_.Cancel = cancel_.NEVER) -> None:
    """Refuse an image whose tables are damaged or point past its end.

    qemu reads what lies beyond the end of a file as zeros and says nothing.
    A qcow2 file that was cut on a cluster boundary shows only as corruptions,
    one that lost its tables only in the end offset; an intact compressed file
    may end within a cluster.

    :raises errors.DamagedImage: in the owner's words
    """
    if image.disk_format == 'raw':
        return
    driver = DRIVERS[image.disk_format]
    for found in qemu.extents(image.path, driver, cancel):
        # Zeros, holes and compressed clusters have no offset.
        offset = found.get('offset')
        if offset is not None and offset + found['length'] > image.file_size:
            raise errors.DamagedImage(_TRUNCATED)
    if image.disk_format == 'qcow2':
        _check_qcow2(image, cancel)


def _check_qcow2(image: ImageInfo, cancel: cancel_.Cancel) -> None:
    report = qemu.check(image.path, DRIVERS[image.disk_format], cancel)
    if corruptions := report.get('corruptions', 0):
        raise errors.DamagedImage(
            f'The image is damaged or truncated: {corruptions} errors in its '
            'tables.')
    clusters = -(-image.file_size // image.cluster_size)
    if (report.get('image-end-offset', 0) > clusters * image.cluster_size
            or qcow2.ends_early(image.path)):
        raise errors.DamagedImage(_TRUNCATED)


class ResultInspector:
    """Looks at the raw result while it passes by.

    A consumer of the pipeline. It stops looking when no known format can
    match any more, which takes less than 1 MiB of anything but an attack.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._chunk = b''
        self._wrapper = format_inspector.InspectWrapper(
            cast(IO[bytes], self))

    def read(self, _size: int) -> bytes:
        """Hand the wrapper what update() was given."""
        return self._chunk

    def _undecided(self) -> bool:
        try:
            return self._wrapper.formats is None
        # An inspector that stumbles over its input; finish() refuses it.
        except Exception as e:
            LOG.warning('Inspection of the result failed: %r', e)
            return False

    def update(self, view: memoryview) -> None:
        if self._undecided():
            self._chunk = bytes(view)
            self._wrapper.read(len(view))

    def zeros(self, length: int) -> None:
        while length and self._undecided():
            step = min(length, len(extent.ZEROS))
            self.update(extent.ZEROS[:step])
            length -= step

    def finish(self) -> None:
        """Decide.

        :raises errors.UnsafeImage: if the result is anything but raw
        """
        self._wrapper.close()
        try:
            found = _safe_format(self._wrapper.format, self._policy)
        except errors.ImageRefused:
            raise
        except Exception as e:
            LOG.warning('Inspection of the result failed: %r', e)
            found = 'of no certain format'
        if found != 'raw':
            raise errors.UnsafeImage(
                f'The image is refused: inside it hides another image, '
                f'{found}.')
