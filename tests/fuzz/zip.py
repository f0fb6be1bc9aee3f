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

"""zip: a local header, data, a directory, and what they say of each other.

Half of what is wrong is said twice, for an archive says nearly all twice.
"""

from collections.abc import Callable
import io
import random
import struct
import warnings
import zipfile

from tests.fuzz import contents
from tests.fuzz import disks
from tests.fuzz.disks import KIB
from tests.fuzz import structure
from tests.fuzz.structure import Subject
from tests.hostile import build

_LOCAL = (
    ('magic', 0, 4), ('needed', 4, 2), ('flags', 6, 2), ('method', 8, 2),
    ('time', 10, 4), ('sum', 14, 4), ('packed', 18, 4), ('size', 22, 4),
    ('name', 26, 2), ('extra', 28, 2), ('letters', 30, 2))
_ENTRY = (
    ('magic', 0, 4), ('made', 4, 2), ('needed', 6, 2), ('flags', 8, 2),
    ('method', 10, 2), ('sum', 16, 4), ('packed', 20, 4), ('size', 24, 4),
    ('name', 28, 2), ('extra', 30, 2), ('comment', 32, 2), ('disk', 34, 2),
    ('attributes', 38, 4), ('place', 42, 4), ('letters', 46, 2))
_END = (
    ('magic', 0, 4), ('disk', 4, 2), ('first-disk', 6, 2), ('here', 8, 2),
    ('count', 10, 2), ('length', 12, 4), ('place', 16, 4), ('comment', 20, 2))
_NAMES = (b'', b'disk', b'../disk', b'/etc/passwd', b'folder/', b'a\0b',
          b'\xff\xfe', b'C:\\disk', b'-p', b'*', b'[a', b'd' * 70000,
          b'too much memory', b'__MACOSX/', b'__MACOSX/._disk', b'__macosx/x')
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2,
            zipfile.ZIP_LZMA)


class _Pipe(io.BytesIO):
    """Where no header can be mended once it is written."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise OSError


def archive(*files: tuple[bytes, bytes], method: int = zipfile.ZIP_DEFLATED,
            comment: bytes = b'', large: bool = False, piped: bool = False,
            attributes: int = 0) -> bytes:
    made = _Pipe() if piped else io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, 'w') as target:
        # That there are two files of a name is what is meant.
        warnings.simplefilter('ignore')
        for name, data in files:
            info = zipfile.ZipInfo(name.decode('latin-1').replace('\0', '?'))
            info.compress_type = method
            info.external_attr = attributes
            with target.open(info, 'w', force_zip64=large) as f:
                f.write(data)
        target.comment = comment
    return made.getvalue()


def _fields(data: bytes) -> list[structure.Field]:
    entry, end = data.index(b'PK\1\2'), data.index(b'PK\5\6')
    found = structure.fields('local', 0, *_LOCAL)
    found += structure.fields('entry', entry, *_ENTRY)
    found += structure.fields('end', end, *_END)
    return found + [structure.Field('packed', at, 4) for at in range(
        60, entry, max(1, entry // 40))]


def _again(data: bytearray, rng: random.Random) -> None:
    """Another archive, made in another way."""
    disk = disks.noise(rng.choice((0, 5, 4 * KIB, 20 * KIB)), KIB)
    files = [(b'disk', disk)] * rng.choice((1, 1, 1, 2))
    if rng.random() < .3:
        files.append((rng.choice(_NAMES), b'other'))
    data[:] = archive(*files, method=rng.choice(_METHODS),
                      large=rng.random() < .3, piped=rng.random() < .3,
                      comment=rng.choice((b'', b'', b'of a tool')),
                      attributes=rng.choice((0, 0, 0o120777 << 16, 16)))


def _filled(data: bytearray, rng: random.Random) -> None:
    """Have something else in it."""
    data[:] = archive((b'disk', rng.choice(contents.contents())))


def _name(data: bytearray, rng: random.Random) -> None:
    """Another name in the directory, or in the local header, or in both."""
    name, at = rng.choice(_NAMES)[:65535], data.rindex(b'PK\1\2')
    length, = struct.unpack_from('<H', data, at + 28)
    data[at + 28:at + 30] = struct.pack('<H', len(name))
    data[at + 46:at + 46 + length] = name
    _shift(data, len(name) - length, 0)
    if rng.random() < .7:
        length, = struct.unpack_from('<H', data, 26)
        data[26:28] = struct.pack('<H', len(name))
        data[30:30 + length] = name
        _shift(data, 0, len(name) - length)


def _shift(data: bytearray, longer: int, later: int) -> None:
    """Tell the end that its directory is longer, or comes later."""
    at = data.rindex(b'PK\5\6')
    length, place = struct.unpack_from('<II', data, at + 12)
    struct.pack_into('<II', data, at + 12, length + longer & 0xffffffff,
                     place + later & 0xffffffff)


def _comment(data: bytearray, rng: random.Random) -> None:
    """A comment, which may look like one more end of an archive."""
    at = data.rindex(b'PK\5\6')
    comment = rng.choice((
        b'of a tool', b'PK\5\6' * 9, bytes(data[at:]), b'x' * 65535,
        archive((b'disk', b'another one ' * 1000)), bytes(data[at:at + 22])))
    data[at + 20:] = struct.pack('<H', len(comment) + rng.choice(
        (0, 0, 0, 1, -1))) + comment


def _prefix(data: bytearray, rng: random.Random) -> None:
    """What makes an archive a program, or another archive."""
    piece = rng.choice((b'PK\3\4', b'PK\5\6' + bytes(18), bytes(data),
                        archive((b'disk', b'another one ' * 1000))))
    data[:0] = piece
    if rng.random() < .5:
        _shift(data, 0, len(piece))
        at = data.rindex(b'PK\1\2')
        place, = struct.unpack_from('<I', data, at + 42)
        struct.pack_into('<I', data, at + 42, place + len(piece))


def _large(data: bytearray, rng: random.Random) -> None:
    """Numbers where large ones are, all of them right, or not."""
    entry, end = data.rindex(b'PK\1\2'), data.rindex(b'PK\5\6')
    packed, size = struct.unpack_from('<II', data, entry + 20)
    extra = struct.pack('<HHQQ', 1, 16, size, packed)
    if rng.random() < .3:
        extra = rng.choice((extra[:12], extra[:7], b'\2\0\0\0' + extra,
                            b'\1\0\0\0' + extra, struct.pack(
                                '<HHQQ', 1, 16, size + 1, packed)))
    data[end:end] = extra
    data[entry + 20:entry + 28] = b'\xff' * 8
    data[entry + 30:entry + 32] = struct.pack('<H', len(extra))
    _shift(data, len(extra), 0)
    if rng.random() < .6:
        _large_end(data, entry, end + len(extra), rng)


def _large_end(data: bytearray, entry: int, end: int, rng: random.Random
               ) -> None:
    place = rng.choice((end, end, end, end, end + 1, 1 << 63, entry))
    data[end:end] = struct.pack(
        '<4sQHHIIQQQQ4sIQI', b'PK\6\6', 44, 45, 45, 0, 0,
        *rng.choice(((1, 1), (1, 1), (1, 2), (0, 0))), end - entry,
        rng.choice((entry, entry, entry, 0, 1 << 62)), b'PK\6\7', 0, place, 1)
    at = data.rindex(b'PK\5\6')
    data[at + 10:at + 20] = rng.choice((
        b'\xff' * 10, b'\1\0' + data[at + 12:at + 16] + b'\xff' * 4))


def _alike(data: bytearray, rng: random.Random) -> None:
    """Let a header of the data say what the directory does."""
    at = data.rfind(b'PK\1\2')
    if at > 0 and rng.random() < .5:
        data[4:28] = data[at + 6:at + 30]


def _subject(disk_format: str, image: Callable[[], bytes]) -> Subject:
    return Subject(disk_format, lambda: archive((b'disk', image())), _fields,
                   'little', _alike,
                   (_again, _filled, _name, _comment, _prefix, _large), .4,
                   'compressed')


SUBJECTS = {
    'zip': _subject('raw', lambda: disks.noise(48 * KIB, 4 * KIB)),
    'zip-qcow2': _subject('qcow2', lambda: build.converted(
        disks.noise(48 * KIB, 4 * KIB), 'qcow2', ('cluster_size=4k',))),
}
