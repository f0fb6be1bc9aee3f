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

"""OVF: elements that refer to each other, and what XML makes possible."""

import random

_OVF = b'http://schemas.dmtf.org/ovf/envelope/1'
_NAMES = (
    b'disk', b'./disk', b'../disk', b'a/../disk', b'/disk', b'file:///disk',
    b'http://x/disk', b'disk%20', b'', b'other', b'vm.ovf', b'DISK', b' disk',
    b'disk&#10;', b'&#x2e;/disk', b'd&lt;sk', b'\xc3\xa4', b'd' * 9000)
_DOCTYPE = (b'<!DOCTYPE Envelope [<!ENTITY a "disk">'
            b'<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>')
_INSERTED = (
    b'<!-- -->', b'<?pi x?>', b'<![CDATA[<Disk/>]]>', b'&a;', b'&amp;',
    b'<x>', b'</x>', b'<x/>', b'\0', b'\xff', b'x' * 100_000,
    b'<y>' * 9000 + b'</y>' * 9000, b'<Disk/>', b'<File/>',
    b'<Disk ovf:fileRef="file0"/>', b'<Disk ovf:fileRef="file1"/>',
    b'<Disk ovf:fileRef="file&#10;/1"/>', b'<Disk fileRef="file0"/>',
    b'<Disk xmlns="urn:x" fileRef="file0"/>', b'<Disk ovf:fileRef=""/>',
    b'<Disk xmlns="urn:x" fileRef="other"/>',
    b'<File ovf:id="file0" ovf:href="other"/>',
    b'<File ovf:id="file1" ovf:href="disk"/>',
    b'<File ovf:id="file1" ovf:href="other"/>',
    b'<File xmlns="urn:x" id="file0" href="other"/>',
    b'<Disk ' + b''.join(b'a%d="" ' % n for n in range(3000)) + b'/>')
_ATTRIBUTES = (
    b'ovf:compression="gzip"', b'ovf:compression="identity"',
    b'ovf:compression=""', b'ovf:chunkSize="1"', b'ovf:size="-1"',
    b'ovf:capacity="99999999999999999999"', b'href="other"', b'id="other"',
    b'fileRef="other"', b'ovf:href="other"', b'xmlns:x="urn:x" x:id="file0"',
    b'xmlns:x="urn:x" x:href="other"', b'xmlns:x="urn:x" x:fileRef="other"',
    b'ovf:capacityAllocationUnits="byte * 2^1000000000"')
_ENCODINGS = (
    'utf-8', 'utf-16', 'utf-16-le', 'utf-8-sig', 'latin-1', 'utf-7',
    'utf-32', 'cp037', 'hex', 'idna', 'klingon', 'unicode_escape', 'big5',
    'undefined', 'cp1252', '../x', 'é')
_SPACES = (b'http://www.vmware.com/schema/ovf/1/envelope', b'urn:x', b'',
           b'http://schemas.dmtf.org/ovf/envelope/2')


def changed(text: bytes, rng: random.Random) -> bytes:
    """An OVF of which something is another."""
    return rng.choice((_named, _named, _inserted, _inserted, _attributed,
                       _attributed, _encoded, _spaced, _cut))(text, rng)


def _named(text: bytes, rng: random.Random) -> bytes:
    name = rng.choice(_NAMES)
    return text.replace(*rng.choice((
        (b'href="disk"', b'href="%s"' % name),
        (b'fileRef="file0"', b'fileRef="%s"' % name),
        (b':id="file0"', b':id="%s"' % name),
        (b'"file0"', b'"%s"' % name),
        (b'ovf:href="disk"', b"href='%s'" % name))))


def _inserted(text: bytes, rng: random.Random) -> bytes:
    """Put something between two elements, or in front of all."""
    places = [at for at in range(1, len(text)) if text[at:at + 1] == b'<']
    if rng.random() < .1 or not places:
        return text.replace(b'?>', b'?>' + _DOCTYPE, 1)
    at = rng.choice(places)
    return text[:at] + rng.choice(_INSERTED) + text[at:]


def _attributed(text: bytes, rng: random.Random) -> bytes:
    """Give an element one more attribute, in front of its others."""
    element = rng.choice((b'<File ', b'<Disk ', b'<Envelope '))
    return text.replace(element, element + rng.choice(_ATTRIBUTES) + b' ',
                        rng.choice((1, -1)))


def _encoded(text: bytes, rng: random.Random) -> bytes:
    """Name an encoding, and have it or another one."""
    name, had = rng.choice(_ENCODINGS), rng.choice(_ENCODINGS[:5])
    told = text.replace(b'"1.0"?', b'"1.0" encoding="%s"?' % name.encode())
    return told.decode(errors='replace').encode(had, errors='replace')


def _spaced(text: bytes, rng: random.Random) -> bytes:
    """Other name spaces, or none."""
    old = rng.choice((b'xmlns="%s"' % _OVF, b'xmlns:ovf="%s"' % _OVF, b'ovf:',
                      _OVF))
    space = rng.choice(_SPACES)
    return text.replace(old, b'' if old == b'ovf:' else space if old == _OVF
                        else old[:-len(_OVF) - 1] + space + b'"',
                        rng.choice((1, -1)))


def _cut(text: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(text) or 1)
    return rng.choice((text[:at], text[:at] + text[at + 1:], text + b' ' * (
        5 << 20), text + text, bytes(len(text)), text + b'\n<x/>'))
