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

"""OVA: headers of tar, what is said beside them, an OVF and a manifest.

What changes is a list of members, which is written anew: each with a header
whose sum is right, unless that is what is wrong.
"""

from collections.abc import Callable
import hashlib
import random
import re
import struct

from tests.contract import packages
from tests.fuzz import contents
from tests.fuzz import disks
from tests.fuzz.disks import KIB
from tests.fuzz import ovf
from tests.fuzz import structure
from tests.fuzz.structure import Subject
from tests.fuzz import vmdk
from tests.hostile import build

_BLOCK = 512
_NAME, _SIZE, _SUM, _KIND, _LINK, _MAGIC, _PREFIX = (
    slice(0, 100), slice(124, 136), slice(148, 156), slice(156, 157),
    slice(157, 257), slice(257, 265), slice(345, 500))
_KINDS = b'0001\0' + b'1234567gxLKSDVMNAXQ'
_NAMES = (
    b'', b'.', b'..', b'/', b'/etc/passwd', b'../vm.ovf', b'a/../../disk',
    b'disk', b'./disk', b'a/../disk', b'disk/', b'disk\0more', b'vm.ovf',
    b'VM.OVF', b'vm.mf', b'other.mf', b'other', b'x' * 100, b'd\xff\xfesk',
    'dïsk'.encode(), b'disk\nx', b'a/b/disk', b'.mf', b'.ovf')
_MAGICS = (b'ustar\0' + b'00', b'ustar  \0', bytes(8), b'ustar\0\0\0')
_LINES = (
    b'SHA256(disk)= 00', b'SHA1(disk)= ' + b'0' * 40, b'MD5(disk)= 00',
    b'SHA256(other)= 00', b'SHA512(../disk)= 00', b'', b'nothing',
    b'SHA3(disk)= 00', b'\xff\xfe', b'SHA256(disk)=', b'SHA256 () = 0',
    b'sha256(disk)= 00', 'SHA２５６(disk)= 00'.encode(), b'#comment',
    b'SHA256(disk)= 00 11', b'SHA256((disk)= 0)= 1')


class _File:
    """A member: its header, and its content without what fills its block."""

    def __init__(self, header: bytes, content: bytes) -> None:
        self.header = bytearray(header)
        self.content = content

    @property
    def name(self) -> bytes:
        return bytes(self.header[_NAME]).partition(b'\0')[0]

    def resize(self) -> None:
        self.header[_SIZE] = b'%011o\0' % len(self.content)


def _split(data: bytes) -> tuple[list[_File], bytes]:
    """The members, as far as they make sense, and what follows them."""
    found, at = [], 0
    while any(header := data[at:at + _BLOCK]) and len(header) == _BLOCK:
        text = header[_SIZE].strip(b'\0 ')
        if not re.fullmatch(b'[0-7]{1,12}', text):
            break
        at += _BLOCK
        length = int(text, 8)
        found.append(_File(header, data[at:at + length]))
        at += -(-length // _BLOCK) * _BLOCK
    return found, data[at:]


def _joined(files: list[_File], end: bytes, filler: bytes = b'\0') -> bytes:
    # Python's tarfile takes what follows a note for more of it.
    return b''.join(
        bytes(file.header) + file.content
        + (filler if file.header[_KIND] == b'0' else b'\0')
        * (-len(file.content) % _BLOCK) for file in files) + end


def _change(how: Callable[[list[_File], random.Random], None]
            ) -> structure.Change:
    """Make a change of an archive of one of its members."""
    def change(data: bytearray, rng: random.Random) -> None:
        files, end = _split(data)
        how(files, rng)
        data[:] = _joined(files, end)
    return change


def _any_header(files: list[_File], rng: random.Random) -> None:
    header = rng.choice(files).header
    kind = rng.randrange(5)
    if kind == 0:
        header[_KIND] = bytes([rng.choice(_KINDS)])
    elif kind == 1:
        header[_MAGIC] = rng.choice(_MAGICS)
    elif kind == 2:
        header[_PREFIX] = rng.choice(_NAMES).ljust(155, b'\0')
    elif kind == 3:
        header[_LINK] = rng.choice(_NAMES).ljust(100, b'\0')
    else:
        header[_NAME] = rng.choice(_NAMES).ljust(100, b'\0')


def _any_size(files: list[_File], rng: random.Random) -> None:
    """Write a size in another way, or another size."""
    file = rng.choice(files)
    size = len(file.content)
    file.header[_SIZE] = rng.choice((
        b'%012o' % size, b'%10o \0' % size, b'\0%010o\0' % size,
        b' %010o\0' % size, b'%o\0' % size, b'%05o\0junk' % size,
        b'\x80' + size.to_bytes(11), b'\x80' + bytes([1]) + bytes(10),
        b'\xff' * 12, b'\x81' + size.to_bytes(11), bytes(12), b' ' * 12,
        b'-1', b'+%o' % size, b'7' * 12, b'\x80' + b'\xff' * 11, b'99',
        b'%o' % max(0, size - 1), b'%o' % (size + rng.choice((1, 512)))
        )).ljust(12, b'\0')[:12]


def _record(keyword: bytes, value: bytes, more: int = 0) -> bytes:
    """What pax says, and how long that is, including how long it is."""
    text = b' %s=%s\n' % (keyword, value)
    length = len(text) + 1
    while len(b'%d' % length) + len(text) != length:
        length += 1
    return b'%d' % (length + more) + text


def _any_note(files: list[_File], rng: random.Random) -> None:
    """Say more of a member in front of it."""
    at = rng.randrange(len(files))
    size = len(files[at].content)
    name = rng.choice((*_NAMES, files[at].name, b'y' * 200))
    kind = rng.choice(b'xxxgLK')
    content = name + rng.choice((b'', b'\0', b'\0\0'))
    if kind in b'xg':
        content = b''.join(_any_record(size, name, rng)
                           for _ in range(rng.choice((1, 1, 2, 3))))
        content += rng.choice((b'', b'', b'', b'\n', b'\0', b'5'))
    note = _File(bytes(files[at].header), content)
    note.header[_KIND] = bytes([kind])
    note.header[_NAME] = b'note'.ljust(100, b'\0')
    note.resize()
    files[at:at] = [note]


def _any_record(size: int, name: bytes, rng: random.Random) -> bytes:
    keyword, value = rng.choice((
        (b'path', name), (b'path', name), (b'linkpath', name),
        (b'size', b'%d' % size), (b'size', b'%d' % size),
        (b'size', b'%d' % (size + rng.choice((-1, 1, 512)))),
        (b'size', rng.choice((b'', b'-1', b'0', b' %d' % size, b'+1',
                              b'1_0', b'9' * 30, '１'.encode(), b'0x10',
                              b'%d\0' % size))),
        (b'GNU.sparse.major', b'1'), (b'GNU.sparse.size', b'9'),
        (b'comment', b'c' * rng.choice((0, 9, 70000))), (b'mtime', b'1.5'),
        (b'hdrcharset', b'BINARY'), (b'SCHILY.realsize', b'5'),
        (b'charset', b'ISO-IR 8859 1 1998'), (b'k' * 300, b'v'), (b'', b'')))
    return _record(keyword, value, rng.choice(
        (0, 0, 0, 0, 0, 0, 1, -1, -5, 900)))


def _any_order(files: list[_File], rng: random.Random) -> None:
    """Members come in another order, twice, or not."""
    kind = rng.randrange(4)
    if kind == 0:
        rng.shuffle(files)
    elif kind == 1:
        del files[rng.randrange(len(files))]
    elif kind == 2:
        files.insert(rng.randrange(len(files) + 1), rng.choice(files))
    else:
        other = _File(bytes(rng.choice(files).header), rng.choice(
            (b'', b'x', b'y' * 512)))
        other.header[_NAME] = rng.choice(_NAMES).ljust(100, b'\0')
        other.header[_KIND] = rng.choice((b'0', b'0', b'5', b'\0'))
        other.resize()
        files.insert(rng.randrange(len(files) + 1), other)


def _any_end(data: bytearray, rng: random.Random) -> None:
    """Let an archive end otherwise."""
    files, end = _split(data)
    data[:] = _joined(files, rng.choice((
        b'', bytes(1), bytes(511), bytes(512), bytes(1024), b'x' * 512,
        bytes(512) + bytes(data), bytes(1024) + b'x', bytes(data), end * 3)))


def _any_text(files: list[_File], rng: random.Random) -> None:
    """Change the OVF, and how large it is."""
    for file in files:
        if file.name.lower().endswith(b'.ovf'):
            file.content = ovf.changed(file.content, rng)
            file.resize()


def _any_line(files: list[_File], rng: random.Random) -> None:
    """Change a manifest."""
    for file in files:
        if file.name.endswith(b'.mf'):
            lines = file.content.split(b'\n')
            at, kind = rng.randrange(len(lines)), rng.randrange(4)
            if kind == 0:
                lines[at] = rng.choice(_LINES)
            elif kind == 1:
                lines.insert(at, rng.choice((*_LINES, *lines)))
            elif kind == 2:
                del lines[at]
            else:
                lines[at] = lines[at].replace(*rng.choice((
                    (b'SHA256', b'SHA1'), (b'(', b' ('), (b'= ', b'='),
                    (b'(', b'(./'), (b'a', b'A'), (b')', b''))))
            file.content = rng.choice((b'\n', b'\n', b'\r\n')).join(lines)
            file.resize()


def _any_content(files: list[_File], rng: random.Random) -> None:
    """Have something else for a disk."""
    for file in files:
        if file.name == b'disk':
            file.content = rng.choice(contents.contents())
            file.resize()


def _hashed(files: list[_File]) -> None:
    """Let the manifest tell the truth again."""
    digests = {file.name: hashlib.sha256(file.content).hexdigest().encode()
               for file in files}
    for file in files:
        if file.name.endswith(b'.mf'):
            file.content = re.sub(
                rb'(SHA256 ?\((.+)\)= ?)[0-9a-f]{64}',
                lambda found: found[1] + digests.get(found[2], b'0' * 64),
                file.content)


def _mend(data: bytearray, rng: random.Random) -> None:
    files, end = _split(data)
    if rng.random() < .8:
        _hashed(files)
    data[:] = _joined(files, end, rng.choice(b'\0\0\0x').to_bytes())
    at = 0
    # Also where a size makes no sense, the headers behind it do.
    for file in files:
        _sum(data, at)
        at += _BLOCK + -(-len(file.content) // _BLOCK) * _BLOCK
    while at + _BLOCK <= len(data) and any(data[at:at + _BLOCK]):
        if data[at + 257:at + 262] == b'ustar':
            _sum(data, at)
        at += _BLOCK


def _sum(data: bytearray, at: int) -> None:
    header = data[at:at + _BLOCK]
    header[_SUM] = b' ' * 8
    data[at + 148:at + 156] = b'%06o\0 ' % sum(header)


def _fields(inner: Callable[[bytes], list[structure.Field]]
            ) -> Callable[[bytes], list[structure.Field]]:
    """Those of the disk, which is a part of the file."""
    def fields(data: bytes) -> list[structure.Field]:
        files, _ = _split(data)
        disk = next(file for file in files if file.name == b'disk')
        at = data.index(disk.content)
        return [field._replace(at=field.at + at)
                for field in inner(disk.content)]
    return fields


def _blocks(data: bytes) -> list[structure.Field]:
    return [structure.Field('content', at, 4)
            for at in range(0, len(data), 512)]


def _subject(disk_format: str, image: Callable[[], bytes],
             inner: Callable[[bytes], list[structure.Field]],
             order: str) -> Subject:
    changes = (_any_header, _any_size, _any_note, _any_note, _any_order,
               _any_text, _any_text, _any_line, _any_content)
    return Subject(disk_format, lambda: packages.ova(image(), 'disk'),
                   _fields(inner), order, _mend,
                   (*map(_change, changes), _any_end), .8, 'ova')


def _qcow2() -> bytes:
    return build.converted(disks.noise(48 * KIB, 4 * KIB), 'qcow2',
                           ('cluster_size=4k',))


def _qcow2_fields(data: bytes) -> list[structure.Field]:
    table, = struct.unpack_from('>Q', data, 40)
    return [structure.Field('header', at, 4) for at in range(0, 104, 4)] + [
        structure.Field('table', table, 8)]


SUBJECTS = {
    'ova': _subject('raw', lambda: disks.noise(20 * KIB + 7, 4 * KIB),
                    _blocks, 'little'),
    'ova-vmdk': _subject(
        'vmdk', vmdk.SUBJECTS['vmdk-stream'].image,
        vmdk.SUBJECTS['vmdk-stream'].fields, 'little'),
    'ova-qcow2': _subject('qcow2', _qcow2, _qcow2_fields, 'big'),
}
