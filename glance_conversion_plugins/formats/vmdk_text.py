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

"""The descriptor of a vmdk image, and files that are only a part of one.

Of a single sparse file qemu reads the header, and of its descriptor only
whether there is a parent. So the name in it may be in any encoding, and lines
that nobody knows do no harm.
"""

import re

from glance_conversion_plugins import errors

PART = 'it is one of several files of a disk'
_SECTOR = 512
_FIRST = b'disk descriptorfile'
# How the files begin that ESXi makes when a snapshot is taken.
_DELTAS = {
    b'COWD': 'COWD',
    b'\xbe\xba\xfe\xca\0\0\0\0': 'SESparse',
}

_TYPE = re.compile(r'^\s*createtype\s*=\s*"?\s*([^"\s]*)', re.MULTILINE)
_TYPES = {'monolithicsparse', 'streamoptimized'}
_EXTENT = re.compile(r'(?:rw|rdonly|noaccess)\s+\S+\s+(\S+)(.*)')
_PARENT_ID = re.compile(r'^\s*parentcid\s*=\s*"?([^"\s]*)', re.MULTILINE)
_NO_PARENT = 'ffffffff'


def check(descriptor: bytes) -> None:
    """Refuse a descriptor that says of more than a single sparse file.

    :raises errors.UnsafeImage: names what it is
    """
    text = descriptor.partition(b'\0')[0].decode('latin-1').lower()
    if not text.strip():
        raise refused(PART)
    if ('parentfilenamehint' in text
            or set(_PARENT_ID.findall(text)) - {_NO_PARENT}):
        raise refused('it holds only the changes to another image')
    if not _TYPES.issuperset(_TYPE.findall(text) or ['']):
        raise refused('its type is not that of a single sparse file')
    found = [_EXTENT.match(line.strip()) for line in text.split('\n')]
    extents = [(match[1], match[2]) for match in found if match]
    if [kind for kind, _ in extents] != ['sparse']:
        raise refused('its descriptor names other files')
    if '/' in extents[0][1]:
        raise refused('its descriptor names a file in another folder')


def explain(head: bytes) -> None:
    """Refuse what is a part of a vmdk, and can not be read alone.

    :param head: how the file begins
    :raises errors.UnsafeImage: names what it is
    """
    start = head[:_SECTOR]
    for magic, name in _DELTAS.items():
        if start.startswith(magic):
            raise refused('it holds only the changes since a snapshot was '
                          f'taken ({name})')
    if _FIRST in start.lower() and not start.startswith(b'KDMV'):
        raise refused('it is only a description that names other files')


def refused(why: str) -> errors.UnsafeImage:
    """The error for what is not a disk in a file."""
    return errors.UnsafeImage(
        f'The image is refused: {why}; export all of the disk as one file, or '
        'make one of its description and the files beside it: "qemu-img '
        'convert -O qcow2 FILE NEW".')
