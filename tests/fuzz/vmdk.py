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

"""VMDK: a header, a text, a directory of tables; markers and a footer."""

import random
import re
import struct
import zlib

from tests.fuzz import disks
from tests.fuzz.disks import KIB
from tests.fuzz import structure
from tests.fuzz.structure import Field
from tests.fuzz.structure import Subject
from tests.hostile import build
from tests.hostile import vmdk

_HEADER = (
    ('magic', 0, 4), ('version', 4, 4), ('flags', 8, 4), ('capacity', 12, 8),
    ('grain', 20, 8), ('descriptor', 28, 8), ('descriptor-size', 36, 8),
    ('entries', 44, 4), ('backup', 48, 8), ('directory', 56, 8),
    ('overhead', 64, 8), ('unclean', 72, 1), ('lines', 73, 4),
    ('compression', 77, 2))
_SIZE = 500 * KIB
_LINES = (
    b'parentCID=12345678', b'parentFileNameHint="x"', b'createType="vmfs"',
    b'createType="monolithicSparse"', b'RW 10 FLAT "x" 0',
    b'RW 10 SPARSE "x"', b'RW 10 ZERO', b'rdonly 8 sparse "a/b"', b'CID=0',
    b'# ' + b'x' * 600, b'\xff\xfe', b'ddb.deletable = "true"', b'',
    b'createType=\tmonolithicSparse')


def _directory(data: bytes) -> int:
    directory, = struct.unpack_from('<Q', data, vmdk.DIRECTORY)
    if directory == vmdk.AT_END:
        directory, = struct.unpack_from('<Q', data,
                                        len(data) - 1024 + vmdk.DIRECTORY)
    return directory * 512


def _fields(data: bytes) -> list[Field]:
    found = structure.fields('header', 0, *_HEADER)
    if data[56:64] == b'\xff' * 8:
        found += structure.fields('footer', len(data) - 1024, *_HEADER)
        for at in (len(data) - 1536, len(data) - 512):
            found += structure.fields('marker', at, ('count', 0, 8),
                                      ('size', 8, 4), ('kind', 12, 4))
    directory = _directory(data)
    links = tuple(at for at in range(0, len(data) // 512 + 2,
                                     max(1, len(data) // 512 // 40)))
    found += [Field('directory', directory + number * 4, 4, links)
              for number in range(3)]
    table, = struct.unpack_from('<I', data, directory)
    entries = -(-_SIZE // (64 * KIB)) + 1
    for number in range(entries):
        at = table * 512 + number * 4
        found.append(Field('table', at, 4, links))
        grain, = struct.unpack_from('<I', data, at)
        if grain > 1 and data[77]:
            found += structure.fields('grain', grain * 512, ('lba', 0, 8),
                                      ('size', 8, 4), ('stream', 12, 4))
    return found


def _agree(data: bytearray, rng: random.Random) -> None:
    """Let the footer say what the header does, but for the directory."""
    at = len(data) - 1024
    if (rng.random() < .8 and at > 1024 and data.startswith(b'KDMV', at)
            and data[56:64] == b'\xff' * 8):
        place = data[at + 56:at + 64]
        data[at:at + 512] = data[:512]
        data[at + 56:at + 64] = place


def _rewrite(data: bytearray, rng: random.Random) -> None:
    """Change a line of the descriptor."""
    end = data.find(b'\0', 512)
    if 512 < end < len(data):
        room = 20 * 512
        lines = bytes(data[512:end]).split(b'\n')
        at = rng.randrange(len(lines))
        kind = rng.randrange(4)
        if kind == 0:
            lines[at] = rng.choice(_LINES)
        elif kind == 1:
            lines.insert(at, rng.choice(_LINES))
        elif kind == 2:
            del lines[at]
        else:
            line = bytearray(lines[at] or b' ')
            line[rng.randrange(len(line))] = rng.randrange(256)
            lines[at] = bytes(line)
        data[512:512 + room] = b'\n'.join(lines)[:room].ljust(room, b'\0')


def _repack(data: bytearray, rng: random.Random) -> None:
    """Compress a grain anew: too little, too much, or otherwise."""
    if not data[77]:
        return
    table, = struct.unpack_from('<I', data, min(_directory(data),
                                                len(data) - 4))
    at = table * 512 + 4 * rng.randrange(8)
    grain = int.from_bytes(data[at:at + 4], 'little') * 512
    if 1024 < grain < len(data) - 12:
        size = rng.choice((0, 1, 512, 60 * KIB, 64 * KIB, 64 * KIB + 1,
                           200 * KIB))
        content = rng.choice((b'A', b'\0')) * size
        packed = zlib.compress(content, rng.choice((0, 1, 9)))[:64 * KIB]
        if grain + 12 + len(packed) < len(data) - 2048:
            data[grain + 8:grain + 12] = len(packed).to_bytes(4, 'little')
            data[grain + 12:grain + 12 + len(packed)] = packed


def _append(data: bytearray, rng: random.Random) -> None:
    """What tools that align append to a stream; or a second end of it."""
    data += rng.choice((bytes(512), bytes(4096), b'\n', bytes(data[-1536:]),
                        bytes(data[-1024:])))


def _subject(image, *changes: structure.Change) -> Subject:
    return Subject('vmdk', image, _fields, 'little', _agree,
                   (_rewrite, *changes))


def _by_qemu(*options: str):
    return lambda: _named(build.converted(disks.noise(_SIZE, 64 * KIB),
                                          'vmdk', options))


def _named(data: bytes) -> bytes:
    """A mutant is to be the same each time, and names are not."""
    text = data[512:20 * 512].rstrip(b'\0')
    text = re.sub(rb'\nCID=\w+', b'\nCID=7e5b80a7', text)
    return build.patched(data, (512, text.ljust(19 * 512, b'\0')))


def _stream(at_end: bool):
    text = vmdk.text(extents=f'RDONLY {_SIZE // 512} SPARSE "disk.vmdk"')
    return lambda: vmdk.stream(_SIZE, text, at_end)


SUBJECTS = {
    'vmdk': _subject(_by_qemu()),
    'vmdk-zeros': _subject(_by_qemu('zeroed_grain=on')),
    'vmdk-stream': _subject(_stream(True), _repack, _append),
    'vmdk-stream-at-start': _subject(_stream(False), _repack),
    'vmdk-stream-by-qemu': _subject(_by_qemu('subformat=streamOptimized'),
                                    _repack, _append),
}
