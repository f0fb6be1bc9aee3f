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

"""Archives, pages and texts: what may hold a disk, and is none itself.

A raw disk may hold anything, so whatever nobody knows is one. What is known,
and known to be none, is named, so that its owner does not get a server that
finds nothing to boot.
"""

import re
from typing import BinaryIO

from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import tar

# How they begin. Of some only a part of the bytes is fixed.
_COMPRESSED = {
    'bzip2': re.compile(rb'BZh[1-9](?:1AY&SY|\x17rE8P\x90)'),
    'gzip': re.compile(rb'\x1f\x8b\x08[\x00-\x1f]'),
    'xz': re.compile(rb'\xfd7zXZ\0\0'),
    'zip': re.compile(rb'PK(?:\x03\x04|\x05\x06)'),
    # A frame, or one of those that pzstd puts before the first.
    'zstd': re.compile(rb'\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18'),
}
_OTHERS = {
    '7-Zip': re.compile(rb"7z\xbc\xaf'\x1c"),
    'LZ4': re.compile(rb'\x04"M\x18'),
    # Its properties, a dictionary of a usual size, and the length if known.
    'LZMA': re.compile(rb'\x5d\0\0[\0-\x80][\0-\x08]'
                       rb'(?:\xff{8}|.{5}\0{3})', re.DOTALL),
    'LRZIP': re.compile(rb'LRZI\0'),
    'RAR': re.compile(rb'Rar!\x1a\x07'),
    'compress': re.compile(rb'\x1f\x9d[\x09-\x10\x89-\x90]'),
    'lzip': re.compile(rb'LZIP\x01'),
    'lzop': re.compile(rb'\x89LZO\0\r\n\x1a\n'),
}

# Behind a mark of the encoding, white space and what XML says of itself.
_TEXT = re.compile(rb'(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?'
                   rb'(?:<!--.{0,2000}?-->\s*)*', re.DOTALL)
_PAGE = re.compile(rb'<(?:!doctype\s+html|html)\b', re.IGNORECASE)
_OVF = re.compile(rb'<(?:\w+:)?Envelope\b')
_XML = re.compile(rb'(?:\xef\xbb\xbf)?\s*<(?:\?xml\s|'
                  rb'(?:Error|ListBucketResult)\b)')
_JSON = re.compile(rb'\s*\{\s*"[ -!#-~]*"\s*:')
_POINTER = re.compile(rb'version https://git-lfs\.')
_VMX = re.compile(rb'(?:#!/\S+\s+)?(?:\.encoding\s*=[^\n]*\s+)?'
                  rb'(?:config\.version|virtualHW\.version|displayName)'
                  rb'\s*=\s*"')

# So much of a file is looked at.
HEAD = 4096
# The last bytes of a sector that a machine boots from.
_BOOTABLE = 510, b'\x55\xaa'
# What it says first of each of its partitions.
_STATES = slice(446, 510, 16)

REFUSED = {
    'compressed': 'it is compressed by {}; import it with the container '
                  'format "compressed", or decompress it before',
    'tar': 'it is a tar archive; if it is an OVA, import it with the '
           'container format "ova", else unpack it before',
    'other': 'it is an archive of {}, which is not read here; unpack it '
             'before, or compress the disk by xz or zstd',
    'page': 'it is a web page; look at what the address of the image answers',
    'text': 'it is a text of {}; look at what the address of the image '
            'answers',
    'pointer': 'it only names a file that is kept by git-lfs; fetch that file',
    'ovf': 'it is an OVF, which only describes a machine; import the disk '
           'that it names, or the OVA of both with the container format '
           '"ova"',
    'vmx': 'it is a VMX, which only describes a machine; import the disk '
           'that it names',
}


def compression(head: bytes) -> str | None:
    """What a file is compressed by that begins so, of those read here."""
    return next((name for name, begin in _COMPRESSED.items()
                 if begin.match(head)), None)


def container(head: bytes) -> str:
    """Which container format is the right one for a file that begins so."""
    if _is_bootable(head):
        return 'bare'
    if compression(head):
        return 'compressed'
    return 'ova' if tar.is_header(head) else 'bare'


def read_head(f: BinaryIO) -> bytes:
    """What the others here look at of a file."""
    f.seek(0)
    return f.read(HEAD)


def refuse(head: bytes) -> None:
    """Refuse what is known not to be a disk.

    :param head: how the file begins
    :raises errors.FormatMismatch: names what it is
    """
    if not _is_bootable(head) and (why := _why(head)):
        raise errors.FormatMismatch(f'The image is no disk: {why}.')


def _is_bootable(head: bytes) -> bool:
    """Say whether it is a boot sector, which begins with any instruction.

    One of 65,536 archives has its signature. What is no file system, which
    begins with a jump, has a table of partitions: each is active or not.
    """
    at, signature = _BOOTABLE
    return (head[at:at + len(signature)] == signature
            and set(head[_STATES]) <= {0, 0x80})


def _why(head: bytes) -> str | None:
    if name := compression(head):
        return REFUSED['compressed'].format(name)
    for name, begin in _OTHERS.items():
        if begin.match(head):
            return REFUSED['other'].format(name)
    if tar.is_header(head):
        return REFUSED['tar']
    text = _TEXT.match(head)
    at = text.end() if text else 0
    for kind, begin in (('page', _PAGE), ('ovf', _OVF), ('vmx', _VMX)):
        if begin.match(head, at):
            return REFUSED[kind]
    if _POINTER.match(head):
        return REFUSED['pointer']
    for name, begin in (('XML', _XML), ('JSON', _JSON)):
        if begin.match(head):
            return REFUSED['text'].format(name)
    return None
