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

"""What format a stream of bytes has, and whether that is safe.

The only caller of oslo.utils' inspectors. They look at a file before any qemu
process touches it, and at the raw result while it is written, so that no
format hides inside another.
"""

from collections.abc import Sequence
import contextlib
import logging
from typing import cast
from typing import IO
from typing import NamedTuple

from oslo_utils.imageutils import format_inspector

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import binary

LOG = logging.getLogger(__name__)

RULES = {
    'backing_file': 'it refers to a backing file; "qemu-img convert -O qcow2 '
                    'FILE NEW" makes it standalone',
    'data_file': 'it keeps its content in another file; "qemu-img convert -O '
                 'qcow2 FILE NEW" makes it standalone',
    'banned': 'its format is not allowed',
    'version': 'it is encrypted by LUKS 2, and Glance takes LUKS 1 only; '
               'decrypt it before',
    'mbr': 'its master boot record is not valid, as where a disk has a file '
           'system and no partition table; the operator of this cloud can '
           'allow that ("gpt_safety_checks_nonfatal")',
}

# Rules that are wider than they need be here: the module of the format reads
# all that qemu does, and refuses what is not safe.
_LEFT = {
    # They know no entries of 16 bytes.
    'qcow2': frozenset({'unknown_features'}),
    # They know no names but ASCII ones, and no padding after a footer.
    'vmdk': frozenset({'descriptor', 'footer'}),
}

# What the inspectors read at a time; where a footer decides they read all of
# the file, and 4 KiB at a time take a minute for 10 GiB.
_CHUNK = 64 * 1024
# A header with its tables of regions is in the first MiB.
_MOST_CHUNKS = 64
_LUKS, _QCOW2 = b'LUKS\xba\xbe', b'QFI\xfb'
_QCOW2_LUKS = (2).to_bytes(4)
_ZEROS = memoryview(bytes(_CHUNK))


class Policy(NamedTuple):
    """What this deployment allows."""

    max_virtual_size: int                           # in bytes
    gpt_safety_checks_nonfatal: Sequence[str] = ()
    vmdk_allowed_types: Sequence[str] = ('streamOptimized',
                                         'monolithicSparse')
    # Bytes of data for each byte of an upload; 0: no limit.
    max_expansion: int = 0


# Every format that Glance can tell.
KNOWN = frozenset(format_inspector.ALL_FORMATS)


class HybridIso(errors.UnsafeImage):
    """It can be booted as a CD, and from a disk."""


class Found(NamedTuple):
    """What a file is by its content."""

    name: str               # a disk_format of Glance
    virtual_size: int       # in bytes, as the header claims; 0: unknown
    keeps_rules: bool       # all of the inspectors, so that Glance takes it


def detect(path: binary.Where, policy: Policy,
           cancel: cancel_.Cancel = cancel_.NEVER) -> Found:
    """Find the one format that a file has, and see that it is safe.

    But for the rules that the module of the format sees to, see ``_LEFT``.

    :raises errors.ImageRefused: names the rule that the file breaks
    """
    inspector, broken = _inspect(path, policy, cancel)
    left = _LEFT.get(inspector.NAME, frozenset())
    if others := [rule for rule in broken if rule not in left]:
        raise _unsafe(others[0])
    try:
        size = inspector.virtual_size
    # A vmdk that is text alone, or a vhdx with half a number. What is wrong
    # with them is for their tables to tell.
    except Exception as e:
        LOG.warning('Inspection failed: %r', e)
        size = 0
    return Found(_name(inspector), size, not broken)


def claimed_size(path: str) -> int:
    """How large a disk the header of a file claims; 0 if nobody can tell.

    Of a file that is kept, and that Glance inspects: nothing is decided here.
    """
    try:
        with open(path, 'rb') as f:
            wrapper = format_inspector.InspectWrapper(f)
            for _ in range(_MOST_CHUNKS):
                if not wrapper.read(_CHUNK) or wrapper.format:
                    break
            wrapper.close()
            found = wrapper.format
            return int(found.virtual_size) if found else 0
    except OSError:
        raise
    # Of several formats, or of half a one.
    except Exception as e:
        LOG.info('What an image claims to be is not certain: %r', e)
        return 0


def is_encrypted(path: str, disk_format: str) -> bool:
    """Say whether an image is LUKS, bare or within a qcow2."""
    with open(path, 'rb') as f:
        head = f.read(36)
    if disk_format == 'qcow2':
        return head.startswith(_QCOW2) and head[32:] == _QCOW2_LUKS
    return disk_format == 'raw' and head.startswith(_LUKS)


def check_result(path: str, disk_format: str, policy: Policy) -> None:
    """See that a converted file is what it shall be, and hides nothing.

    :raises errors.UnsafeImage: if not
    """
    found = detect(path, policy)
    if found.name != disk_format or not found.keeps_rules:
        raise _hidden(found.name)


def _inspect(path: binary.Where, policy: Policy, cancel: cancel_.Cancel
             ) -> tuple[format_inspector.FileInspector, list[str]]:
    """Find the one format that a file has, and the rules that it breaks."""
    try:
        with binary.opened(path, cancel) as f:
            wrapper = format_inspector.InspectWrapper(f)
            while wrapper.read(_CHUNK) and not wrapper.format:
                pass
            wrapper.close()
        found = wrapper.format
        if found and not found.complete:
            raise binary.truncated()
        inspector = _decided(found)
        return inspector, _broken_rules(inspector, policy)
    except (errors.ConversionError, OSError):
        raise
    # An inspector that stumbles over its input has not decided either.
    except Exception as e:
        LOG.warning('Inspection failed: %r', e)
        raise _uncertain(wrapper) from e


def _uncertain(wrapper: format_inspector.InspectWrapper
               ) -> errors.UnsafeImage:
    names = []
    # What an inspector stumbled over it may stumble over again.
    with contextlib.suppress(Exception):
        names = sorted(str(found) for found in wrapper.formats or ())
    if names == ['gpt', 'iso']:
        return HybridIso(
            'The image is a hybrid ISO, which begins with the partition table '
            'of a disk; declare it as iso.')
    if len(names) > 1:
        several = ' and '.join(names)
        return errors.UnsafeImage(
            'The format of the image is not certain: its content matches '
            f'several, {several}.')
    return errors.UnsafeImage(
        'The format of the image is not certain: its content matches only a '
        'part of one.')


def _decided(inspector: format_inspector.FileInspector | None
             ) -> format_inspector.FileInspector:
    if inspector is None:
        raise format_inspector.ImageFormatError('no decision')
    return inspector


def _broken_rules(inspector: format_inspector.FileInspector, policy: Policy
                  ) -> list[str]:
    """Run the safety checks; tell which of them count and fail."""
    try:
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as e:
        tolerated = (set(policy.gpt_safety_checks_nonfatal)
                     if inspector.NAME == 'gpt' else set())
        if fatal := sorted(e.failures.keys() - tolerated):
            LOG.warning('The image breaks the safety rule %s: %s', fatal[0],
                        e.failures[fatal[0]])
        return fatal
    return []


def _unsafe(rule: str) -> errors.UnsafeImage:
    why = RULES.get(rule, f'it breaks the rule "{rule}"')
    return errors.UnsafeImage(f'The image is refused: {why}.')


def _name(inspector: format_inspector.FileInspector) -> str:
    """Name a format as Glance does: GPT and MBR disks count as raw."""
    return 'raw' if inspector.NAME == 'gpt' else str(inspector.NAME)


def _hidden(found: str) -> errors.UnsafeImage:
    return errors.UnsafeImage(
        f'The image is refused: inside it hides another image, {found}.')


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

    @property
    def is_undecided(self) -> bool:
        """Whether it depends on what follows."""
        try:
            return self._wrapper.formats is None
        # An inspector that stumbles over its input; finish() refuses it.
        except Exception as e:
            LOG.warning('Inspection of the result failed: %r', e)
            return False

    def update(self, view: memoryview) -> None:
        if self.is_undecided:
            self._chunk = bytes(view)
            self._wrapper.read(len(view))

    def zeros(self, length: int) -> None:
        while length and self.is_undecided:
            step = min(length, len(_ZEROS))
            self.update(_ZEROS[:step])
            length -= step

    def finish(self) -> None:
        """Decide.

        :raises errors.UnsafeImage: if the result is anything but raw
        """
        if (name := self.name()) != 'raw':
            raise _hidden(name)

    def name(self) -> str:
        """What all of it is, as Glance names it.

        :raises errors.UnsafeImage: if that is not certain, or not safe
        """
        self._wrapper.close()
        try:
            inspector = _decided(self._wrapper.format)
            broken = _broken_rules(inspector, self._policy)
        except Exception as e:
            LOG.warning('Inspection of the result failed: %r', e)
            raise _hidden('of no certain format') from e
        if broken:
            raise _unsafe(broken[0])
        return _name(inspector)
