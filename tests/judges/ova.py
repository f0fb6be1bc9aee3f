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

"""An OVA, as DMTF's DSP0243 and POSIX say, by Python's tarfile and XML.

Nothing that has two meanings is read: two files of a name, two numbers of a
file, two digests.
"""

import hashlib
import io
import posixpath
import re
import tarfile
from xml.etree import ElementTree

from tests import judges

_LINE = re.compile(r'(SHA1|SHA256|SHA384|SHA512) *\((.+)\) *= *([0-9a-f]+)',
                   re.IGNORECASE)


def read(data: bytes) -> bytes:
    files = _files(data)
    name, = _only([name for name in files if name.lower().endswith('.ovf')])
    disk = posixpath.normpath(posixpath.join(posixpath.dirname(name),
                                             _href(files[name])))
    _verify(files, (name, disk))
    return files[disk]


def _only(found: list[str]) -> list[str]:
    if len(found) != 1:
        raise judges.Unreadable(f'{len(found)} where one should be')
    return found


class _Info(tarfile.TarInfo):
    """Reads a prefix of a name where POSIX has one, and GNU's tar has times.

    Python's takes for a prefix whatever is there.
    """

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str
                ) -> tarfile.TarInfo:
        found = super().frombuf(buf, encoding, errors)
        if buf[257:263] != b'ustar\0' and found.name.count('/'):
            found.name = tarfile.nts(buf[:100], encoding, errors)
        return found


def _files(data: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode='r:',
                          tarinfo=_Info) as archive:
            for member in archive:
                name = posixpath.normpath(member.name)
                if name in files or not (member.isreg() or member.isdir()):
                    raise judges.Unreadable(f'{name}: {member.type!r}')
                if member.isreg():
                    content = archive.extractfile(member)
                    assert content
                    files[name] = judges.part(content.read(), 0, member.size)
    except tarfile.TarError as e:
        raise judges.Unreadable(str(e)) from e
    return files


def _href(text: bytes) -> str:
    """Which file the only disk is."""
    try:
        root = ElementTree.fromstring(text)     # noqa: S314
    except (ElementTree.ParseError, LookupError, ValueError) as e:
        raise judges.Unreadable(str(e)) from e
    used = {_attribute(disk, 'fileRef')
            for disk in root.findall('.//{*}Disk')} - {''}
    wanted, = _only(list(used))
    names = {_attribute(file, 'href') for file in root.findall('.//{*}File')
             if _attribute(file, 'id') == wanted}
    return _only(list(names))[0]


def _attribute(element: ElementTree.Element, name: str) -> str:
    """In whatever name space it is, as there are tools that give none."""
    values = {value for key, value in element.items()
              if key.rpartition('}')[2] == name}
    if len(values) > 1:
        raise judges.Unreadable(f'{name} has two values')
    return values.pop() if values else ''


def _verify(files: dict[str, bytes], names: tuple[str, ...]) -> None:
    """See that all manifests tell the same, and the truth, of some files."""
    for name, content in files.items():
        if not name.lower().endswith('.mf'):
            continue
        for line in content.decode().splitlines():
            match = _LINE.fullmatch(line.strip())
            named = match and posixpath.normpath(posixpath.join(
                posixpath.dirname(name), match[2]))
            if match and named in names and hashlib.new(
                    match[1].lower(), files[named], usedforsecurity=False
                    ).hexdigest() != match[3].lower():
                raise judges.Unreadable('a wrong digest')
