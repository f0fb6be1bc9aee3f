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

"""What the tables of an image say, read without qemu.

qemu takes what lies beyond the end of a file for zeros and says nothing, and
opens some files whose tables no tool would write. So each format has a module
that reads its tables, and refuses an image for what it finds. They read files
that mean harm: nothing that a file says is believed before it is compared
with the size of the file, and no table is held as a whole that may be large.
"""

from collections.abc import Callable
from typing import BinaryIO

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import layout as layout_
from glance_conversion_plugins.formats import qcow2
from glance_conversion_plugins.formats import vdi
from glance_conversion_plugins.formats import vhd
from glance_conversion_plugins.formats import vhdx
from glance_conversion_plugins.formats import vmdk

# Glance's disk_format: what reads its tables. Those of qcow2 are left to
# qemu-img check, and are looked at where that finds something wrong.
_CHECKS: dict[str, Callable[[BinaryIO, int], list[str]]] = {
    'qcow2': qcow2.check,
    'vdi': vdi.check,
    'vhd': vhd.check,
    'vhdx': vhdx.check,
    'vmdk': vmdk.check,
}


def check(path: binary.Where, disk_format: str, size: int,
          cancel: cancel_.Cancel = cancel_.NEVER) -> list[str]:
    """Refuse an image for its tables, before qemu sees it.

    :param size: of the file, in bytes
    :returns: what its owner is to know
    :raises errors.DamagedImage: if they are not all there, or make no sense
    :raises errors.UnsafeImage: if they refer to other files
    :raises errors.TooLarge: if they are not worth the time
    """
    if disk_format not in _CHECKS:
        return []
    with binary.opened(path, cancel) as f:
        return _CHECKS[disk_format](f, size)


def layout(path: binary.Where, disk_format: str,
           cancel: cancel_.Cancel = cancel_.NEVER) -> layout_.Layout | None:
    """Where in the file each part of the disk is.

    :returns: None if qemu tells as much
    """
    if disk_format != 'vhdx':
        return None
    with binary.opened(path, cancel) as f:
        return vhdx.layout(f, binary.size(path))
