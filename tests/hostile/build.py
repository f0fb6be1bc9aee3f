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



"""Images made for the corpus: with qemu-img, and by hand where it can not.

An image is bytes here, for most cases change some of them.
"""

from collections.abc import Callable
import functools
import pathlib
import random
import struct
import tempfile
from typing import NamedTuple

from tests.contract import images

SECTOR = 512
KIB = 1024
MIB = 1024 * KIB

DRIVERS = {'qcow2': 'qcow2', 'raw': 'raw', 'vdi': 'vdi', 'vhd': 'vpc',
           'vhdx': 'vhdx', 'vmdk': 'vmdk'}


class Case(NamedTuple):
    """An image, and what has to become of it."""

    name: str
    disk_format: str                                # as declared
    build: Callable[[pathlib.Path], pathlib.Path]   # folder -> path
    outcome: type[Exception] | tuple[type[Exception], ...] | None = None
    words: str = ''                                 # a regular expression


def case(name: str, disk_format: str, content: Callable[[], bytes],
         outcome: type[Exception] | None = None, words: str = '') -> Case:
    """Make a case of what returns the bytes of a file."""
    def build(folder: pathlib.Path) -> pathlib.Path:
        path = folder / 'disk'
        path.write_bytes(content())
        return path
    return Case(name, disk_format, build, outcome, words)


def noise(length: int, seed: int = 1) -> bytes:
    """Bytes that do not compress, of no format."""
    return random.Random(seed).randbytes(length)  # noqa: S311


@functools.cache
def content(size: int) -> bytes:
    """What the guest sees of most images: data here and there."""
    disk = bytearray(size)
    for seed, at in enumerate((0, size // 2 - 100, size - 70_000)):
        at = max(0, at)
        data = noise(min(70_000, size - at), seed)
        disk[at:at + len(data)] = data
    return bytes(disk)


@functools.cache
def image(disk_format: str, *options: str, size: int = 5 * MIB,
          compress: bool = False, text: bool = False) -> bytes:
    """What qemu-img makes of content(), or of what compresses well."""
    data = content(size)
    if text:
        data = data.hex().encode()[:size]
    return converted(data, disk_format, options, compress)


@functools.cache
def converted(data: bytes, disk_format: str, options: tuple[str, ...],
              compress: bool = False) -> bytes:
    """What qemu-img makes of the bytes of a disk."""
    if disk_format == 'raw':
        return data
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, 'source')
        source.write_bytes(data)
        target = pathlib.Path(folder, 'target')
        arguments = [a for option in options for a in ('-o', option)]
        images.run('qemu-img', 'convert', '-q', '-f', 'raw', '-O',
                   DRIVERS.get(disk_format, disk_format),
                   *(['-c'] if compress else []), *arguments, source, target)
        return target.read_bytes()


def create(disk_format: str, size: int | str, *options: str
           ) -> Callable[[pathlib.Path], pathlib.Path]:
    """Make an empty image, however large its disk."""
    def build(folder: pathlib.Path) -> pathlib.Path:
        path = folder / 'disk'
        arguments = [a for option in options for a in ('-o', option)]
        images.run('qemu-img', 'create', '-q', '-f', DRIVERS[disk_format],
                   *arguments, path, size)
        return path
    return build


def patched(data: bytes, *changes: tuple[int, bytes]) -> bytes:
    """Overwrite bytes; an offset below zero counts from the end."""
    result = bytearray(data)
    for offset, new in changes:
        offset += len(data) if offset < 0 else 0
        assert len(data) - offset >= len(new) and offset >= 0
        result[offset:offset + len(new)] = new
    return bytes(result)


def le32(number: int) -> bytes:
    return struct.pack('<I', number)


def le64(number: int) -> bytes:
    return struct.pack('<Q', number)


def be32(number: int) -> bytes:
    return struct.pack('>I', number)


def be64(number: int) -> bytes:
    return struct.pack('>Q', number)
