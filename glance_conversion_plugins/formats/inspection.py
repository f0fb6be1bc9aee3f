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

from typing import NamedTuple

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.formats import archives
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import layout as layout_
from glance_conversion_plugins.formats import qcow2
from glance_conversion_plugins.formats import remarks as remarks_
from glance_conversion_plugins.formats import tables
from glance_conversion_plugins.formats import vhd
from glance_conversion_plugins.formats import vhd_footer
from glance_conversion_plugins.formats import vhdx_log
from glance_conversion_plugins.formats import vmdk
from glance_conversion_plugins.formats import vmdk_text
from glance_conversion_plugins import units

# Glance's disk_format: qemu's driver.
DRIVERS = {'qcow2': 'qcow2', 'raw': 'raw', 'vdi': 'vdi', 'vhd': 'vpc',
           'vhdx': 'vhdx', 'vmdk': 'vmdk'}

# What else to say where an image is not what it is declared as.
HINTS = {
    ('raw', 'vhd'): '; the footer at its end is missing or damaged',
    ('raw', 'vmdk'): '; a file that is called NAME-flat.vmdk is a raw disk, '
                     'and is declared as raw',
    ('vhd', 'raw'): '; declare it as vhd, for what a VHD has beside its disk '
                    'would become a part of a raw one',
}


def for_qemu(path: binary.Where, disk_format: str) -> qemu_img.Image:
    """An image as qemu is to open it.

    :param disk_format: one of ``DRIVERS``
    """
    driver = DRIVERS[disk_format]
    if disk_format == 'vhd':
        view = _vhd_view(path)
        by = 'chs' if view.by_geometry else 'current_size'
        return _within(path, qemu_img.Image(
            '', driver, {'force_size_calc': by}, view.length))
    length = 0
    if disk_format == 'vmdk':
        with binary.opened(path) as f:
            length = vmdk.image_length(f, binary.size(path))
    return _within(path, qemu_img.Image('', driver, length=length))


def _within(where: binary.Where, image: qemu_img.Image) -> qemu_img.Image:
    """Say where the file of an image is, or the part of one."""
    if isinstance(where, str):
        return image._replace(path=where)
    # qemu takes whole sectors, and what is around a part has them.
    return image._replace(path=where.path, offset=where.offset, length=(
        image.length or -(-where.length // 512) * 512))


def _vhd_view(path: binary.Where) -> vhd.View:
    with binary.opened(path) as f:
        return vhd.view(f, binary.size(path))


class ImageInfo(NamedTuple):
    """An image that passed inspection."""

    path: binary.Where
    disk_format: str
    virtual_size: int       # in bytes
    file_size: int          # in bytes
    cluster_size: int       # in bytes; 0 where the format has no clusters
    remarks: tuple[str, ...] = ()   # what its owner is to know
    keeps_rules: bool = True        # Glance takes it as it is
    uploaded: int = 0       # bytes of the package that it came in, if any
    layout: layout_.Layout | None = None    # once it is seen to be intact

    @property
    def for_qemu(self) -> qemu_img.Image:
        return for_qemu(self.path, self.disk_format)


def inspect(path: binary.Where, disk_format: str, policy: detection.Policy,
            cancel: cancel_.Cancel = cancel_.NEVER, *, replayed: bool = False
            ) -> ImageInfo:
    """Look at a file without trusting it.

    :param disk_format: what its owner says it is, one of ``DRIVERS``
    :param cancel: when set, the inspection ends with errors.Cancelled
    :param replayed: its log, if any, was seen to
    :raises errors.LogNotReplayed: if ``replay`` has to be called before
    :raises errors.ImageRefused: names the rule that the image breaks
    """
    file_size = binary.size(path)
    if not file_size:
        raise errors.DamagedImage('The image is empty: it has no content.')
    found = find_format(path, policy, cancel)
    _check_format(path, found.name, disk_format)
    # Once before qemu sees the file, for what the header says, and once for
    # what qemu makes of it.
    _check_size(found.virtual_size, policy)
    if disk_format == 'vhdx' and not replayed:
        vhdx_log.check(path)
    remarks = tables.check(path, disk_format, file_size, cancel)
    if disk_format == 'raw':
        virtual_size, cluster_size = file_size, 0
    else:
        virtual_size, cluster_size = _describe(path, disk_format, policy,
                                               cancel)
    _check_size(virtual_size, policy)
    return ImageInfo(path, disk_format, virtual_size, file_size, cluster_size,
                     tuple(remarks),
                     found.keeps_rules and found.name == disk_format)


def find_format(path: binary.Where, policy: detection.Policy,
                cancel: cancel_.Cancel = cancel_.NEVER) -> detection.Found:
    """Find what a file is.

    :raises errors.ImageRefused: names the rule that the file breaks
    """
    found = detection.detect(path, policy, cancel)
    # A fixed VHD is a raw disk and a footer, which the inspectors pass over.
    if found.name == 'raw' and vhd_footer.is_fixed(path):
        return found._replace(name='vhd', keeps_rules=False)
    return found


def see_kept(path: str, disk_format: str, policy: detection.Policy) -> None:
    """See that Glance will take an image which is kept.

    It says so itself, in words of its own and when all is stored.

    :raises errors.ImageRefused: names the rule that the file breaks
    """
    # By its inspectors a GPT disk is one more format; declared so it is left
    # to them, as what they do not know.
    if disk_format not in detection.KNOWN - {'gpt'}:
        return
    try:
        found = detection.detect(path, policy).name
    except detection.HybridIso:
        if disk_format != 'iso':
            raise
        found = disk_format
    if disk_format not in ('raw', found):
        raise mismatch(found, disk_format)


def _check_format(path: binary.Where, found: str, disk_format: str) -> None:
    if found in ('raw', 'vmdk'):
        with binary.opened(path) as f:
            head = archives.read_head(f)
        vmdk_text.explain(head)
        if found == 'raw':
            archives.refuse(head)
    if found == disk_format:
        return
    # Something may follow the footer.
    if (found, disk_format) == ('raw', 'vhd') and vhd_footer.is_fixed(
            path, vhd_footer.WINDOW):
        return
    raise mismatch(found, disk_format)


def mismatch(found: str, disk_format: str) -> errors.FormatMismatch:
    """The error for what is not as it is declared."""
    return errors.FormatMismatch(
        f'The image is declared as {disk_format}, but its content is {found}'
        f'{HINTS.get((found, disk_format), "")}.')


def _check_size(virtual_size: int, policy: detection.Policy) -> None:
    if virtual_size > policy.max_virtual_size:
        raise errors.TooLarge(
            f'The image is too large: it has {units.amount(virtual_size)} '
            f'once converted, and {units.amount(policy.max_virtual_size)} '
            'are allowed.')


def _describe(path: binary.Where, disk_format: str, policy: detection.Policy,
              cancel: cancel_.Cancel) -> tuple[int, int]:
    """Ask qemu for the virtual size and the cluster size, in bytes."""
    info = qemu_img.info(for_qemu(path, disk_format), cancel)
    specific = info.get('format-specific', {}).get('data', {})
    if info.get('encrypted') or 'encrypt' in specific:
        raise errors.UnsafeImage(qcow2.ENCRYPTED)
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
        raise errors.DamagedImage(
            'The image is marked as corrupt; "qemu-img check -r all FILE" '
            'repairs what can be repaired.')
    if not info['virtual-size']:
        raise errors.DamagedImage('The image is empty: its disk has no size.')
    if (disk_format == 'vhd'
            and info['virtual-size'] != _vhd_view(path).virtual_size):
        raise binary.senseless('footer')
    return info['virtual-size'], info.get('cluster-size', 0)


def _check_vmdk_type(create_type: str | None, policy: detection.Policy
                     ) -> None:
    if create_type not in policy.vmdk_allowed_types:
        raise errors.UnsafeImage(
            f'The image is refused: its VMDK type {create_type} is not '
            f"allowed; {' and '.join(policy.vmdk_allowed_types) or 'none'} "
            'can be imported.')


def replay(path: str, disk_format: str,
           cancel: cancel_.Cancel = cancel_.NEVER) -> list[str]:
    """Mend a file that was not closed, in its place.

    :returns: what its owner is to know
    :raises errors.DamagedImage: if that can not be done
    """
    vhdx_log.straighten(path, cancel)
    qemu_img.replay(qemu_img.Image(path, DRIVERS[disk_format]), cancel)
    return [remarks_.LOG]


def check_intact(image: ImageInfo, cancel: cancel_.Cancel = cancel_.NEVER
                 ) -> ImageInfo:
    """Refuse an image whose tables are damaged or point past its end.

    qemu reads what lies beyond the end of a file as zeros and says nothing.
    A qcow2 file that was cut on a cluster boundary shows only as corruptions,
    one that lost its tables only in the end offset; an intact compressed file
    may end within a cluster. Wrong counts of references show there as well,
    and harm nobody who reads.

    :returns: the image, with its layout and what its owner is to know
    :raises errors.DamagedImage: in the owner's words
    """
    if image.disk_format == 'raw':
        return image
    layout = (tables.layout(image.path, image.disk_format, cancel)
              or _layout(image, cancel))
    # The limits were held against that size.
    if layout.size == image.virtual_size:
        image = image._replace(layout=layout)
    if image.disk_format == 'qcow2':
        return image._replace(
            remarks=(*image.remarks, *_check_qcow2(image, cancel)))
    return image


def _layout(image: ImageInfo, cancel: cancel_.Cancel) -> layout_.Layout:
    """By qemu."""
    layout = layout_.Layout()
    for found in qemu_img.extents(image.for_qemu, image.virtual_size,
                                  cancel):
        # Compressed clusters have no offset; zeros may have one, where what
        # is around them is stored. What is beyond the end is still data.
        offset = found.get('offset') if found['data'] else None
        if offset is not None and offset + found['length'] > image.file_size:
            raise binary.truncated()
        layout.add(found['length'], layout_.place(found))
    return layout


def _check_qcow2(image: ImageInfo, cancel: cancel_.Cancel) -> list[str]:
    report = qemu_img.check(image.for_qemu, cancel)
    clusters = -(-image.file_size // image.cluster_size)
    found = []
    if (report.get('corruptions', 0) or report.get('image-end-offset', 0)
            > clusters * image.cluster_size):
        qcow2.check_tables(image.path, cancel)
        found.append(remarks_.REFCOUNTS)
    if qcow2.ends_early(image.path, cancel):
        raise binary.truncated()
    return found
