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

"""An OVA: a tar archive of an OVF and the one disk that is imported.

The disk is found by what the OVF says, and is a range of the archive. Sizes
in an OVF are often wrong, and are not looked at; checksums are.
"""

from collections.abc import Mapping
import hashlib
import os
import re
from typing import BinaryIO
from typing import NamedTuple
from urllib import parse

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import archives
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import ovf
from glance_conversion_plugins.formats import tar

# OpenSSL has called them SHA2 since its version 3.
_LINE = re.compile(r'(SHA(?:2-)?\d+)\s*\((.*)\)\s*=\s*([0-9A-Fa-f]+)')
_ALGORITHMS = {'SHA1': 'sha1', 'SHA256': 'sha256', 'SHA384': 'sha384',
               'SHA512': 'sha512', 'SHA2-256': 'sha256',
               'SHA2-384': 'sha384', 'SHA2-512': 'sha512'}
_LARGEST_MANIFEST = 1 << 20     # bytes


class Disk(NamedTuple):
    """Where in an OVA its disk is."""

    offset: int
    length: int                 # in bytes
    algorithm: str = ''         # one of hashlib's; '': its hash is not known
    digest: str = ''            # in hexadecimal digits, lower case


def find(path: str, cancel: cancel_.Cancel = cancel_.NEVER) -> Disk:
    """Find the disk; what its hash has to be is for the caller to see.

    :raises errors.ImageRefused: if there is not exactly one, or the archive
        has what none should
    """
    size = os.path.getsize(path)
    with binary.opened(path, cancel) as f:
        head = archives.read_head(f)
        if not tar.is_header(head):
            # It may say what it is; else that it is none.
            archives.refuse(head)
            raise errors.FormatMismatch(
                'The image is declared as an OVA, but it is no tar archive.')
        members: dict[str, tar.Member] = {}
        for member in tar.members(f, size):
            _add(members, member)
        return _find(f, members)


def _add(members: dict[str, tar.Member], member: tar.Member) -> None:
    name = os.path.normpath(member.name)
    if os.path.isabs(name) or name.split('/')[0] == '..':
        raise refused('its archive has a file whose name leads out of it')
    if name in members:
        raise refused('its archive has two files of the same name')
    members[name] = member


def _find(f: BinaryIO, members: Mapping[str, tar.Member]) -> Disk:
    # macOS puts what it has to say of a file beside it.
    described = [name for name in members if name.lower().endswith('.ovf')
                 and not os.path.basename(name).startswith('._')]
    if len(described) != 1:
        raise refused(f'its archive has {len(described) or "no"} OVF, and '
                      'one is needed')
    text = _read(f, members[described[0]], ovf.LARGEST, 'OVF')
    hashes = _hashes(f, members)
    if described[0] in hashes:
        algorithm, digest = hashes[described[0]]
        see_hash(hashlib.new(algorithm, text, usedforsecurity=False
                             ).hexdigest(), digest)
    name = _name(ovf.disks(text), os.path.dirname(described[0]))
    if name not in members:
        # It is a reference by RFC 3986, which some tools know.
        name = os.path.normpath(parse.unquote(name))
    if name not in members:
        raise refused('its OVF names a disk that is not in the archive')
    member = members[name]
    # qemu reads whole sectors, and would take this for the end of the disk.
    if any(binary.read(f, member.offset + member.length,
                       -member.length % tar.BLOCK)):
        raise binary.senseless('archive')
    return Disk(member.offset, member.length, *hashes.get(name, ()))


def _name(disks: list[ovf.File], folder: str) -> str:
    """The member that is the only disk."""
    if len(disks) != 1:
        raise refused(
            f'its OVF names {len(disks) or "no"} disks, and an image has one; '
            'unpack the archive, and import each disk by itself')
    disk, = disks
    if disk.compression or disk.is_split:
        how = 'split' if disk.is_split else 'compressed'
        raise refused(f'the disk in its archive is {how}; unpack the '
                      'archive, and import the disk by itself')
    return os.path.normpath(os.path.join(folder, disk.name))


def _read(f: BinaryIO, member: tar.Member, most: int, what: str) -> bytes:
    if member.length > most:
        raise binary.senseless(what)
    return binary.read(f, member.offset, member.length)


def _hashes(f: BinaryIO, members: Mapping[str, tar.Member]
            ) -> dict[str, tuple[str, str]]:
    """By the name of a member: an algorithm, and the digest."""
    found: dict[str, tuple[str, str]] = {}
    for name, member in members.items():
        if not name.lower().endswith('.mf'):
            continue
        text = _read(f, member, _LARGEST_MANIFEST, 'manifest')
        for line in text.decode(errors='replace').splitlines():
            if not line.strip():
                continue
            match = _LINE.fullmatch(line.strip())
            if not match or match[1] not in _ALGORITHMS:
                raise binary.senseless('manifest')
            named = os.path.normpath(os.path.join(os.path.dirname(name),
                                                  match[2]))
            said = _ALGORITHMS[match[1]], match[3].lower()
            # Of two that differ only one would be looked at.
            if found.setdefault(named, said) != said:
                raise binary.senseless('manifest')
    return found


def see_hash(found: str, wanted: str) -> None:
    """See that a file is what the manifest says.

    :raises errors.DamagedImage: if not
    """
    if found != wanted:
        raise errors.DamagedImage(
            'The image is damaged: a file in its archive does not have the '
            'checksum that its manifest says.')


def refused(why: str) -> errors.UnsafeImage:
    return errors.UnsafeImage(f'The image is refused: {why}.')
