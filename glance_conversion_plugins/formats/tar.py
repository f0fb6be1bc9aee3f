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

"""What is in a tar archive, and where.

An archive of strangers: nothing is extracted here, no name is used as one,
and a header is believed only within the file. The layout is that of POSIX's
pax; of GNU's tar, large numbers and long names are read too.
"""

from collections.abc import Iterator
import re
from typing import BinaryIO
from typing import NamedTuple

from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import binary

BLOCK = 512
_SUM = slice(148, 156)
_REGULAR, FOLDER = b'0', b'5'
_LONG_NAME, _LONG_LINK = b'L', b'K'
_EXTENDED, _GLOBAL = b'x', b'g'
# What says more of the next member, or of all that follow.
_NOTES = _LONG_NAME + _LONG_LINK + _EXTENDED + _GLOBAL
_LONGEST_NOTE = 64 * 1024
_MOST_MEMBERS = 1000
# Length, keyword and value, and a newline; the length counts all of it.
_RECORD = re.compile(rb'(\d{1,6}) ([^=\n]{1,255})=')

_KINDS = {b'1': 'a link', b'2': 'a link', b'3': 'a device', b'4': 'a device',
          b'6': 'a pipe', b'S': 'a sparse file'}


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    offset: int         # in bytes, from the begin of the archive
    length: int         # in bytes


def is_header(head: bytes) -> bool:
    """Say whether a file begins as a tar archive does.

    Those before POSIX have no magic, and a sum that nothing else has.
    """
    return len(head) >= BLOCK and _is_sound(head[:BLOCK])


def _is_sound(header: bytes) -> bool:
    try:
        return _number(header[_SUM]) == (
            sum(header) - sum(header[_SUM]) + 8 * ord(' '))
    except ValueError:
        return False


def _number(field: bytes) -> int:
    """A number in octal digits, or in binary with its first bit set.

    :raises ValueError: if it is none, or below zero
    """
    if field[0] == 0x80:
        return int.from_bytes(field[1:])
    # Of a NUL at its begin some readers make nothing, and others the end.
    text = field.lstrip(b' ').rstrip(b' \0')
    if not re.fullmatch(rb'[0-7]*', text):
        raise ValueError('no octal number')
    return int(text or b'0', 8)


def _decimal(text: bytes) -> int:
    """A number in digits, and nothing else that Python reads as one."""
    if not text.isdigit():
        raise ValueError('no number')
    return int(text)


def members(f: BinaryIO, size: int) -> Iterator[Member]:
    """The files of an archive, up to its end.

    :param size: of the archive in bytes
    :raises errors.DamagedImage: if it is not whole
    :raises errors.UnsafeImage: if there is something else but files
    """
    at = count = 0
    notes: dict[str, bytes] = {}
    while any(header := _block(f, at)):
        count += 1
        if not _is_sound(header) or count > _MOST_MEMBERS:
            raise binary.senseless('archive')
        kind, name, length = _described(header, notes)
        start, at = at + BLOCK, at + BLOCK - -length // BLOCK * BLOCK
        if start + length > size:
            raise binary.truncated()
        if kind in _NOTES:
            said = _note(kind, f, start, length)
            # Which of two is true each reader decides for itself.
            if notes.keys() & said.keys():
                raise binary.senseless('archive')
            notes |= said
            continue
        notes = {}
        if kind not in (_REGULAR, FOLDER):
            raise errors.UnsafeImage(
                'The image is refused: in its archive there is '
                f'{_KINDS.get(kind, "more than files")}; only files are read.')
        # In old archives this is a folder, and of none is there any content.
        if name.endswith('/') if kind == _REGULAR else length:
            raise binary.senseless('archive')
        if kind == _REGULAR:
            yield Member(name, start, length)
    # It is said of a member that is not there.
    if notes:
        raise binary.truncated()


def _block(f: BinaryIO, at: int) -> bytes:
    try:
        return binary.read(f, at, BLOCK)
    except errors.DamagedImage as e:
        raise errors.DamagedImage(
            'The image is truncated: its archive has no end.') from e


def _described(header: bytes, notes: dict[str, bytes]
               ) -> tuple[bytes, str, int]:
    """The kind, the name and the length of a member."""
    kind = header[156:157].replace(b'\0', _REGULAR).replace(b'7', _REGULAR)
    name = header[:100].partition(b'\0')[0]
    prefix = header[345:500].partition(b'\0')[0]
    # GNU has other things there.
    if prefix and header[257:263] == b'ustar\0':
        name = prefix + b'/' + name
    try:
        length = _number(header[124:136])
        if kind not in _NOTES:
            name = notes.get('path', name)
            length = _decimal(notes['size']) if 'size' in notes else length
    except ValueError as e:
        raise binary.senseless('archive') from e
    # For some readers that is where a name ends.
    if b'\0' in name:
        raise binary.senseless('archive')
    return kind, name.decode(errors='replace'), length


def _note(kind: bytes, f: BinaryIO, start: int, length: int
          ) -> dict[str, bytes]:
    """What is said of the next member beyond its header."""
    if length > _LONGEST_NOTE:
        raise binary.senseless('archive')
    data = binary.read(f, start, length)
    if kind == _LONG_NAME:
        return {'path': data.rstrip(b'\0')}
    # A link is refused, whatever its name.
    if kind == _LONG_LINK:
        return {}
    records = dict(_records(data))
    if kind == _EXTENDED:
        return records
    # What holds for all that follow is no size and no name.
    if records.keys() & {'path', 'size'}:
        raise binary.senseless('archive')
    return {}


def _records(data: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at < len(data):
        found = _RECORD.match(data, at)
        end = at + int(found[1]) if found else 0
        if not found or end <= found.end() or data[end - 1:end] != b'\n':
            raise binary.senseless('archive')
        keyword = found[2].decode(errors='replace')
        if keyword.startswith('GNU.sparse'):
            raise errors.UnsafeImage(
                'The image is refused: in its archive there is a sparse '
                'file; only files are read.')
        yield keyword, data[found.end():end - 1]
        at = end
