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

Its content decides first, then its tables, then qemu; each sees only what the
one before has passed.
"""

import os
from typing import NamedTuple

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import qcow2
from glance_conversion_plugins.formats import tables
from glance_conversion_plugins.formats import vhd
from glance_conversion_plugins import units

# Glance's disk_format: qemu's driver.
DRIVERS = {'qcow2': 'qcow2', 'raw': 'raw', 'vdi': 'vdi', 'vhd': 'vpc',
           'vhdx': 'vhdx', 'vmdk': 'vmdk'}

def for_qemu(path: str, disk_format: str) -> qemu_img.Image:
    """An image as qemu is to open it.

    :param disk_format: one of ``DRIVERS``
    """
    cut = disk_format == 'vhd' and vhd.is_cut_by_qemu(path)
    return qemu_img.Image(path, DRIVERS[disk_format],
                          {'force_size_calc': 'current_size'} if cut else {})


class ImageInfo(NamedTuple):
    """An image that passed inspection."""

    path: str
    disk_format: str
    virtual_size: int       # in bytes
    file_size: int          # in bytes
    cluster_size: int       # in bytes; 0 where the format has no clusters

    @property
    def for_qemu(self) -> qemu_img.Image:
        return for_qemu(self.path, self.disk_format)


def inspect(path: str, disk_format: str, policy: detection.Policy,
            cancel: cancel_.Cancel = cancel_.NEVER) -> ImageInfo:
    """Look at a file without trusting it.

    :param disk_format: what its owner says it is, one of ``DRIVERS``
    :param cancel: when set, the inspection ends with errors.Cancelled
    :raises errors.ImageRefused: names the rule that the image breaks
    """
    file_size = os.path.getsize(path)
    if not file_size:
        raise errors.DamagedImage('The image is empty: it has no content.')
    found = detection.detect(path, policy, cancel)
    _check_format(path, found.name, disk_format)
    # Once before qemu sees the file, for what the header says, and once for
    # what qemu makes of it.
    _check_size(found.virtual_size, policy)
    tables.check(path, disk_format, file_size, cancel)
    if disk_format == 'raw':
        virtual_size, cluster_size = file_size, 0
    else:
        virtual_size, cluster_size = _describe(path, disk_format, policy,
                                               cancel)
    _check_size(virtual_size, policy)
    return ImageInfo(path, disk_format, virtual_size, file_size, cluster_size)


def _check_format(path: str, found: str, disk_format: str) -> None:
    # A fixed VHD is a raw disk and a footer, which the inspectors pass over.
    if (found, disk_format) == ('raw', 'vhd') and vhd.is_fixed(path):
        return
    if found != disk_format:
        raise errors.FormatMismatch(
            f'The image is declared as {disk_format}, but its content is '
            f'{found}.')


def _check_size(virtual_size: int, policy: detection.Policy) -> None:
    if virtual_size > policy.max_virtual_size:
        raise errors.TooLarge(
            f'The image is too large: it has {units.amount(virtual_size)} '
            f'once converted, and {units.amount(policy.max_virtual_size)} '
            'are allowed.')


def _describe(path: str, disk_format: str, policy: detection.Policy,
              cancel: cancel_.Cancel) -> tuple[int, int]:
    """Ask qemu for the virtual size and the cluster size, in bytes."""
    info = qemu_img.info(for_qemu(path, disk_format), cancel)
    specific = info.get('format-specific', {}).get('data', {})
    if info.get('encrypted') or 'encrypt' in specific:
        raise errors.UnsafeImage(
            'The image is refused: it is encrypted, and can not be converted.')
    for key in ('backing-filename', 'full-backing-filename'):
        if info.get(key):
            raise errors.UnsafeImage(
                f"The image is refused: {detection.RULES['backing_file']}.")
    if specific.get('data-file'):
        raise errors.UnsafeImage(
            f"The image is refused: {detection.RULES['data_file']}.")
    if disk_format == 'vmdk':
        _check_vmdk_type(specific.get('create-type'), policy)
    if specific.get('corrupt'):
        raise errors.DamagedImage('The image is marked as corrupt.')
    if not info['virtual-size']:
        raise errors.DamagedImage('The image is empty: its disk has no size.')
    return info['virtual-size'], info.get('cluster-size', 0)


def _check_vmdk_type(create_type: str | None, policy: detection.Policy
                     ) -> None:
    if create_type not in policy.vmdk_allowed_types:
        raise errors.UnsafeImage(
            f'The image is refused: its VMDK type {create_type} is not '
            f"allowed; {' and '.join(policy.vmdk_allowed_types) or 'none'} "
            'can be imported.')


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
    for found in qemu_img.extents(image.for_qemu, image.virtual_size,
                                  cancel):
        # Zeros, holes and compressed clusters have no offset.
        offset = found.get('offset')
        if offset is not None and offset + found['length'] > image.file_size:
            raise binary.truncated()
    if image.disk_format == 'qcow2':
        _check_qcow2(image, cancel)


def _check_qcow2(image: ImageInfo, cancel: cancel_.Cancel) -> None:
    report = qemu_img.check(image.for_qemu, cancel)
    if report.get('corruptions', 0):
        raise errors.DamagedImage(
            'The image is damaged or truncated: its tables have errors.')
    clusters = -(-image.file_size // image.cluster_size)
    if (report.get('image-end-offset', 0) > clusters * image.cluster_size
            or qcow2.ends_early(image.path, cancel)):
        raise binary.truncated()
