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

"""What may be in a package in place of the disk that it is said to have."""

import functools
import gzip

from tests.contract import packages
from tests.fuzz import disks
from tests.fuzz.disks import KIB
from tests.fuzz.disks import MIB
from tests.fuzz import vdi
from tests.fuzz import vhd
from tests.fuzz import vhdx
from tests.fuzz import vmdk
from tests.hostile import build
from tests.hostile import raw

_BOOTABLE = bytes(510) + b'\x55\xaa'
# So that what it is shows only behind what is looked at first.
_LATE = 2 * MIB


@functools.cache
def contents() -> tuple[bytes, ...]:
    disk = disks.noise(8 * KIB, KIB)
    footer = vhd.SUBJECTS['vhd-fixed'].image()[-512:]
    # Up to where its tables are; this process may not grow with its images.
    large = vhdx.SUBJECTS['vhdx'].image()[:4 * MIB]
    long = disks.noise(_LATE, 64 * KIB)
    return (
        b'', b'x', bytes(4095), bytes(4096), bytes(5000), disk, long,
        disk + footer, long + footer, footer + disk, disk + footer[:511],
        build.converted(disk, 'qcow2', ()), vdi.SUBJECTS['vdi'].image(),
        vhd.SUBJECTS['vhd'].image(), vmdk.SUBJECTS['vmdk'].image(),
        large, large[:_LATE], b'vhdxfile' + bytes(_LATE),
        raw.gpt(), raw.gpt(extra=True), raw.iso(), b'\xeb\x3c\x90' + bytes(
            507) + b'\x55\xaa' + disk,
        *(begin.ljust(4096, b' ') for begin in (
            b'<html>', b'<?xml version="1.0"?><!-- -->\n<Envelope>',
            b'config.version = "8"', b"7z\xbc\xaf'\x1c", b'Rar!\x1a\x07',
            b'LUKS\xba\xbe\0\1', b'COWD',
            b'# Disk DescriptorFile\n', b'<?xml ')),
        gzip.compress(disk, mtime=0).ljust(4096, b'\0'), packages.ova(disk),
        b'PK\3\4' + _BOOTABLE[4:] + disk)
