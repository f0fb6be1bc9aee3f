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

"""What an OVF says of disks.

Of all that describes a machine only this is read: which disks there are, and
in which files. The layout is that of DMTF's DSP0243, in any of its versions.
"""

import re
from typing import Any
from typing import NamedTuple
from xml.parsers import expat

from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import binary

LARGEST = 4 << 20           # bytes


class File(NamedTuple):
    """A file beside the OVF that holds a disk."""

    name: str
    compression: str        # as in HTTP; '': none
    is_split: bool          # into several files


def disks(data: bytes) -> list[File]:
    """The files of all disks that have one, in the order of the disks.

    :raises errors.DamagedImage: if that can not be read
    :raises errors.UnsafeImage: if it is more than elements and text
    """
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=' ')
    parser.StartElementHandler = reader.start
    # Where entities are declared, which may grow without end, or be files.
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(data, True)
    # expat knows few encodings, and Python's are asked for others.
    except (expat.ExpatError, LookupError, ValueError) as e:
        raise errors.DamagedImage(
            'The image is damaged: its OVF can not be read.') from e
    return reader.disks()


def _refuse(*_: object) -> None:
    raise errors.UnsafeImage(
        'The image is refused: its OVF has a document type, which no OVF '
        'needs.')


def _given(attributes: dict[str, Any], name: str) -> str | None:
    """An attribute; some tools give it a name space, and some do not."""
    values = {str(value) for key, value in attributes.items()
              if key.rpartition(' ')[2] == name}
    if len(values) > 1:
        raise binary.senseless('OVF')
    return values.pop() if values else None


class _Reader:
    """Notes each file and each disk; where in the text they are is free."""

    def __init__(self) -> None:
        self._files: dict[str, File] = {}
        self._references: list[str] = []

    def start(self, element: str, attributes: dict[str, Any]) -> None:
        kind = element.rpartition(' ')[2]
        if kind == 'File':
            self._add(attributes)
        elif kind == 'Disk' and (name := _given(attributes, 'fileRef')):
            self._references.append(name)

    def _add(self, attributes: dict[str, Any]) -> None:
        compression = _given(attributes, 'compression') or ''
        file = File(_given(attributes, 'href') or '',
                    '' if compression == 'identity' else compression,
                    _given(attributes, 'chunkSize') is not None)
        name = _given(attributes, 'id')
        # Which of two that differ is meant each reader decides for itself.
        if name is not None and self._files.setdefault(name, file) != file:
            raise binary.senseless('OVF')

    def disks(self) -> list[File]:
        # A disk of several machines is one disk.
        wanted = list(dict.fromkeys(self._references))
        if missing := [name for name in wanted if name not in self._files]:
            name = re.sub(r'[^\w.-]', '?', missing[0][:100])
            raise errors.DamagedImage(
                f'The image is damaged: its OVF refers to the file "{name}", '
                'and does not say which one that is.')
        return [self._files[name] for name in wanted]
