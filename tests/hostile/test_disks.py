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
"""Raw disks as other people's tools make them, and what Glance says of each.

Glance takes the first sector of a disk for a partition table if it ends like
one, which that of NTFS and exFAT does, and has rules for it.
"""

import subprocess

from oslo_utils.imageutils import format_inspector
import pytest

from glance_conversion_plugins import errors
from tests.hostile import path as path_

SIZE = 64 * 1024 * 1024
ALLOWED = path_.POLICY._replace(gpt_safety_checks_nonfatal=['mbr'])

# Made by such commands; whether the rules take them as they are.
DISKS = {
    'ext4': (['mkfs.ext4', '-qF'], True),
    'fat': (['mkfs.vfat'], True),
    'mbr': (['parted', '--script', '@', 'mklabel', 'msdos', 'mkpart',
             'primary', '1MiB', '60MiB'], True),
    'gpt': (['sgdisk', '--new=1:2048:0'], True),
    'ntfs': (['mkfs.ntfs', '-qF'], False),
    'exfat': (['mkfs.exfat'], False),
    'empty mbr': (['parted', '--script', '@', 'mklabel', 'msdos'], False),
    'hybrid gpt': (['sgdisk', '--new=1:2048:0', '--hybrid=1'], False),
}


@pytest.fixture
def disk(request, tmp_path):
    command, _ = DISKS[request.param]
    path = tmp_path / 'disk'
    with open(path, 'wb') as f:
        f.truncate(SIZE)
    named = [str(path) if part == '@' else part for part in command]
    if '@' not in command:
        named.append(str(path))
    subprocess.run(named, check=True, capture_output=True)
    return path


def _is_safe(path):
    """What Glance's own inspector says."""
    try:
        format_inspector.detect_file_format(str(path)).safety_check()
    except format_inspector.SafetyCheckFailed:
        return False
    return True


@pytest.mark.parametrize(('disk', 'is_taken'), [
    (name, is_taken) for name, (_, is_taken) in DISKS.items()],
    indirect=['disk'], ids=DISKS)
def test_disk_of_another_tool(disk, is_taken, tmp_path):
    assert _is_safe(disk) is is_taken
    sink = path_.FileSink(tmp_path / 'result')
    if not is_taken:
        with pytest.raises(errors.UnsafeImage,
                           match='gpt_safety_checks_nonfatal'):
            path_.convert(disk, 'raw', sink)
        assert not sink.created
    path_.convert(disk, 'raw', sink, ALLOWED)
    assert path_.same(sink.path, disk)
