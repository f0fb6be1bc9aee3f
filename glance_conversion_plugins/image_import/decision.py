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

"""What is done with an image: the one place that decides.

Images are converted where their disk_format is one that qemu decodes and that
the inspectors know, and their container_format is ``bare``, or one that is
unpacked. All others are kept as they were uploaded, and Glance inspects them
as it always does. Of those that are converted, the raw ones go directly into
stores of ours, in one pass; all others by way of a file in staging, which
Glance uploads.
"""

from collections.abc import Mapping
from collections.abc import Set
import enum
import os
from typing import NamedTuple

from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.image_import import image
from glance_conversion_plugins.stores import placeholder

# Glance verifies a signature only where it has all of this.
_SIGNATURE = frozenset((
    'img_signature', 'img_signature_hash_method', 'img_signature_key_type',
    'img_signature_certificate_uuid'))
# What is unpacked: the disk_format is that of the disk in it.
PACKAGES = ('compressed', 'ova')
# By these Nova and Cinder find the key of an image; of each all are needed.
_KEYS = (frozenset(('os_encrypt_format', 'os_encrypt_key_id')),
         frozenset(('cinder_encryption_key_id',)))


class Action(enum.Enum):
    """What is done with an image."""

    KEEP = 'kept as it is'
    INSPECT = 'inspected, and kept as it is'
    DIRECT = 'written directly into its stores'
    STAGE = 'converted in staging'


class Decision(NamedTuple):
    """What is done, and why."""

    action: Action
    reason: str = ''
    concerns_owner: bool = False    # the reason lies in the image


def decide(declaration: image.Declaration, path: str,
           kinds: Mapping[str, str | None], output_format: str,
           unpacks: bool = True) -> Decision:
    """Decide what is done with one image.

    :param path: of what is staged
    :param kinds: for each target store the kind of ours that it is, or None
    :param output_format: what the deployment wants
    :param unpacks: whether it takes packages
    :raises errors.ImageRefused: if the image is one, and it does not
    """
    if path.endswith(placeholder.SUFFIX):
        return Decision(Action.KEEP, 'it is converted already')
    if reason := _why_kept(declaration, path):
        return Decision(Action.KEEP, reason, concerns_owner=True)
    is_packed = declaration.container_format in PACKAGES
    if is_packed and not unpacks:
        raise errors.ImageRefused(
            'The image is refused: it is a package, and here those are not '
            'unpacked; unpack it, and import the disk with the container '
            'format "bare".')
    # A deployment of a single store names none.
    if output_format == 'raw' and kinds and all(kinds.values()):
        if is_packed or os.path.getsize(path) >= placeholder.SMALLEST:
            return Decision(Action.DIRECT)
    if is_packed:
        return Decision(Action.STAGE)
    if declaration.disk_format == output_format:
        return Decision(Action.INSPECT, f'it is {output_format} already')
    return Decision(Action.STAGE)


def only_rbd(decision: Decision, kinds: Mapping[str, str | None]) -> Decision:
    """The same, for a plugin that does nothing but write into RBD."""
    if decision.action is Action.KEEP:
        return decision
    if decision.action is not Action.DIRECT:
        return Decision(Action.KEEP,
                        f'it would not be {Action.DIRECT.value}')
    if set(kinds.values()) != {'sparse_rbd'}:
        return Decision(Action.KEEP, 'not every target store is of type '
                        'sparse_rbd')
    return decision


def is_signed(names: Set[str]) -> bool:
    """Whether Glance verifies a signature of what has such properties."""
    return names >= _SIGNATURE


def has_key(names: Set[str]) -> bool:
    """Whether such properties name the key of an encrypted image."""
    return any(names >= key for key in _KEYS)


def _why_kept(declaration: image.Declaration, path: str) -> str | None:
    names = declaration.properties.keys()
    if is_signed(names):
        return ('it is signed, and a converted image would not match its '
                'signature')
    # A property alone would let anyone avoid conversion, and its checks.
    if has_key(names) and detection.is_encrypted(path,
                                                 declaration.disk_format):
        return 'it is encrypted'
    if declaration.container_format not in ('bare', *PACKAGES):
        return f'its container format is {declaration.container_format}'
    if declaration.disk_format not in inspection.DRIVERS:
        return f'its disk format is {declaration.disk_format}'
    return None
