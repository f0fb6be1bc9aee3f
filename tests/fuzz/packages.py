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

"""The disk in a package: where an import finds it, and what it should be."""

from collections.abc import Iterator
import contextlib
import pathlib

from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import unpack
from glance_conversion_plugins.formats import archives
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import ova
from glance_conversion_plugins.formats import zip_directory
from tests.fuzz.disks import MIB
from tests import judges
from tests.judges import ova as ova_judge
from tests.judges import streams
from tests.judges import zip as zip_judge

POLICY = detection.Policy(max_virtual_size=16 * MIB)

# By how they begin.
_READERS = {b'\x1f\x8b': streams.gzip, b'\xfd7zXZ\0': streams.xz,
            b'BZh': streams.bzip2, b'PK': zip_judge.read,
            b'': streams.zstd}


def package(path: pathlib.Path, container: str) -> unpack.Package:
    return unpack.Package(str(path), container, POLICY)


def place(path: str, container: str) -> binary.Where | None:
    """Where in a file the disk is; None if a program has to make one.

    :raises errors.ImageRefused: if that shows before it runs
    """
    if container == 'bare':
        return path
    if container == 'ova':
        disk = ova.find(path)
        return binary.Part(path, disk.offset, disk.length)
    with open(path, 'rb') as f:
        kind = archives.compression(archives.read_head(f))
    if kind == 'zip':
        zip_directory.member_size(path)
    return None


@contextlib.contextmanager
def disk(path: pathlib.Path, container: str, conversion: conversion_.Conversion
         ) -> Iterator[binary.Where]:
    """A disk that is no raw one as an import reads it."""
    if container == 'bare':
        yield str(path)
    elif container == 'ova':
        yield unpack.see_part(package(path, container), conversion)
    else:
        target = path.with_name('unpacked')
        unpack.unpack(package(path, container), str(target), conversion)
        try:
            yield str(target)
        finally:
            target.unlink()


def content(data: bytes, container: str) -> bytes:
    """What an independent reader finds in a file."""
    if container == 'bare':
        return data
    if container == 'ova':
        return ova_judge.read(data)
    for begin, read in _READERS.items():
        if data.startswith(begin):
            return read(data)
    raise judges.Unreadable('of no known kind')
