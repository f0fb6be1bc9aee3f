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



"""The whole data path, as an import takes it, into a file."""

import filecmp
import os
import pathlib
import re
import shutil
import subprocess

from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import convert as convert_
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import detection
from tests.hostile import build

POLICY = detection.Policy(max_virtual_size=4 << 30)
NO_DIGEST = digest.DigestSpec(None, False)


# With an arena for each of its threads qemu-img runs out of address space now
# and then.
_LIMITED = ('export MALLOC_ARENA_MAX=1; ulimit -v 1048576; ulimit -t 30; '
            'exec "$@"')


_OPTIONS = {'vhd': ',force_size_calc=current_size'}


class FileSink:
    """Writes an image into a file, and notes how it ended."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.created = self.sealed = self.aborted = False

    def room(self, size: int) -> list:
        return []

    def create(self, size: int) -> None:
        self.created = True
        self._file = self.path.open('xb', buffering=0)
        self._file.truncate(size)

    def write(self, view: memoryview, offset: int) -> int:
        return os.pwrite(self._file.fileno(), view, offset)

    def zero(self, offset: int, length: int) -> None:
        pass

    def resize(self, size: int) -> None:
        self._file.truncate(size)

    def seal(self) -> None:
        self._file.close()
        self.sealed = True

    def publish(self) -> None:
        pass

    def interrupt(self) -> None:
        pass

    def abort(self) -> None:
        if self.created:
            self._file.close()
            self.path.unlink(missing_ok=True)
        self.aborted = True


def convert(path: pathlib.Path, disk_format: str, sink: FileSink,
            policy: detection.Policy = POLICY) -> conversion_.Conversion:
    conversion = conversion_.Conversion()
    info = convert_.inspect(str(path), disk_format, policy, conversion)
    convert_.convert(info, policy, sink, NO_DIGEST, conversion)
    return conversion


def converted(folder: pathlib.Path, data: bytes, disk_format: str
              ) -> tuple[bytes, list[str]]:
    """The bytes of the disk in a file, and what its owner is told."""
    path = folder / f'disk.{disk_format}'
    path.write_bytes(data)
    sink = FileSink(folder / 'result')
    conversion = convert(path, disk_format, sink)
    return sink.path.read_bytes(), conversion.remarks


def reference(path: pathlib.Path, disk_format: str, target: pathlib.Path
              ) -> bool:
    """Let qemu-img convert an image, within limits; say whether it did.

    It takes a raw file for whole sectors, and pads it; Glance does not. The
    size of a vhd it takes from the geometry, which is not meant.
    """
    if disk_format == 'raw':
        shutil.copyfile(path, target)
        return True
    done = subprocess.run(
        ['/bin/sh', '-c', _LIMITED, 'sh',
         'qemu-img', 'convert', '--image-opts',
         f'driver={build.DRIVERS[disk_format]},file.driver=file,'
         f'file.filename={path}' + _OPTIONS.get(disk_format, ''), '-O', 'raw',
         str(target)], stdin=subprocess.DEVNULL, timeout=60,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return not done.returncode


def same(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Compare two raw disks, skipping the holes of large ones."""
    size = one.stat().st_size
    if size != other.stat().st_size or size <= 64 * build.MIB:
        return filecmp.cmp(one, other, shallow=False)
    return not subprocess.run(
        ['qemu-img', 'compare', '-q', '-f', 'raw', '-F', 'raw', one, other],
        stdin=subprocess.DEVNULL, check=False).returncode


def qemu_major() -> int:
    said = subprocess.run(['qemu-img', '--version'], check=True, text=True,
                          stdout=subprocess.PIPE).stdout
    found = re.search(r'version (\d+)', said)
    assert found
    return int(found[1])


def assert_presentable(error: errors.ConversionError,
                       folder: pathlib.Path) -> None:
    """See that an owner may read the message."""
    said = str(error)
    assert said.strip().endswith('.'), said
    assert '\n' not in said, said
    # A command that mends the image is given as it is typed.
    said = re.sub(r'"qemu-img [A-Za-z0-9 -]+ FILE( NEW)?"', '', said)
    for secret in (str(folder), '/', 'Traceback', 'Error', 'qemu', 'struct'):
        assert secret not in said, said


def children() -> set[str]:
    """Processes that this one has started, by name and number."""
    found = set()
    for entry in pathlib.Path('/proc').iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / 'stat').read_text()
        except OSError:
            continue
        name, _, rest = stat.rpartition(') ')
        if int(rest.split()[1]) == os.getpid():
            found.add(name)
    return found


