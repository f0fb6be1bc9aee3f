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

"""The one disk of an OVA, and what an OVA may not have."""

import hashlib
import tarfile

import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import ova
from tests.contract import images
from tests.contract import packages
from tests.contract.packages import member
from tests.hostile import build
from tests.hostile import path as path_

DISK = build.noise(100_000)
OVF = packages.ovf('d.vmdk')
LAYOUTS = {'ustar': tarfile.USTAR_FORMAT, 'gnu': tarfile.GNU_FORMAT,
           'pax': tarfile.PAX_FORMAT}


def _found(tmp_path, data):
    """The disk that is found, or what it is refused with."""
    path = tmp_path / 'ova'
    path.write_bytes(data)
    try:
        disk = ova.find(str(path))
    except errors.ImageRefused as e:
        path_.assert_presentable(e, tmp_path)
        raise
    return data[disk.offset:disk.offset + disk.length], disk


@pytest.mark.parametrize('algorithm', ['SHA1', 'SHA256', 'SHA384', 'SHA512'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_the_disk_and_its_hash(tmp_path, layout, algorithm):
    content, disk = _found(tmp_path, packages.ova(
        DISK, algorithm=algorithm, layout=LAYOUTS[layout]))
    assert content == DISK
    assert disk.digest == hashlib.new(algorithm, DISK).hexdigest()
    assert disk.algorithm == algorithm.lower()


@pytest.mark.parametrize('layout', ['v7', 'ustar', 'oldgnu', 'gnu', 'pax',
                                    'posix'])
def test_archives_by_the_tool(tmp_path, layout):
    (tmp_path / 'd.vmdk').write_bytes(DISK)
    (tmp_path / 'vm.ovf').write_bytes(OVF)
    images.run('tar', '-C', tmp_path, f'--format={layout}', '-cf',
               tmp_path / 'made', './vm.ovf', './d.vmdk')
    data = (tmp_path / 'made').read_bytes()
    assert _found(tmp_path, data)[0] == DISK


@pytest.mark.parametrize('layout', ['gnu', 'pax'])
@pytest.mark.parametrize('length', [99, 100, 101, 255, 300])
def test_names_of_any_length(tmp_path, layout, length):
    name = 'ü' + 'd' * (length - 2)
    data = packages.ova(DISK, name, layout=LAYOUTS[layout])
    assert _found(tmp_path, data)[0] == DISK


def test_a_name_of_two_parts(tmp_path):
    name = 'a' * 90 + '/' + 'b' * 90
    assert _found(tmp_path, packages.ova(DISK, name))[0] == DISK


def test_a_size_that_takes_more_digits_than_there_are():
    """12 GiB, of which nothing is there but the header."""
    for layout in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info, _ = member('d.vmdk', size=12 << 30)
        data = info.tobuf(layout)
        notes = len(data) - 512
        assert ova.tar._described(data[notes:], {
            'size': str(12 << 30).encode()} if notes else {}) == (
                b'0', 'd.vmdk', 12 << 30)


FINE = {
    'any-order': [member('d.vmdk', DISK), member('VM.OVF', OVF)],
    'others-beside-it': [
        member('vm.ovf', packages.ovf('d.vmdk', files=['vm.nvram'])),
        member('vm.nvram', b'x' * 600), member('d.vmdk', DISK),
        member('vm.cert', b'-----BEGIN')],
    'in-a-folder': [member('vm', type=tarfile.DIRTYPE),
                    member('vm/vm.ovf', OVF), member('vm/d.vmdk', DISK)],
    'a-manifest-of-others': [
        member('vm.ovf', OVF), member('d.vmdk', DISK),
        member('vm.mf', packages.manifest('SHA1', {'vm.nvram': b'x'}))],
    'a-manifest-with-blanks': [
        member('vm.ovf', OVF), member('d.vmdk', DISK),
        member('vm.mf', packages.manifest('SHA256', {'d.vmdk': DISK}).replace(
            b'(', b' (').replace(b'\n', b'\r\n\r\n'))],
    'a-manifest-of-openssl-3': [
        member('vm.ovf', OVF), member('d.vmdk', DISK),
        member('vm.mf', packages.manifest('SHA512', {'d.vmdk': DISK}).replace(
            b'SHA512', b'SHA2-512'))],
    'what-macos-says-of-a-file': [
        member('._vm.ovf', b'\0\5\x16\7'), member('vm.ovf', OVF),
        member('._d.vmdk', b'\0\5\x16\7'), member('d.vmdk', DISK)],
    'a-name-as-a-reference': [
        member('vm.ovf', packages.ovf('My%20d%C3%BCsk.vmdk')),
        member('My düsk.vmdk', DISK)],
    'a-name-that-is-no-reference': [
        member('vm.ovf', packages.ovf('d%20.vmdk')),
        member('d%20.vmdk', DISK), member('d .vmdk', b'another')],
    'an-empty-disk-too': [
        member('vm.ovf', OVF.replace(
            b'</DiskSection>', b'<Disk ovf:diskId="e" ovf:capacity="9"/>'
            b'</DiskSection>')), member('d.vmdk', DISK)],
    'a-disk-of-two-machines': [
        member('vm.ovf', OVF.replace(
            b'</DiskSection>', b'<Disk ovf:diskId="e" ovf:fileRef="file0"/>'
            b'</DiskSection>')), member('d.vmdk', DISK)],
    'a-remark-on-all': [member('x', b'15 comment=abc\n',
                               type=tarfile.XGLTYPE),
                        member('vm.ovf', OVF), member('d.vmdk', DISK)],
    'the-same-twice': [
        member('vm.ovf', OVF.replace(b'<File ', b'<File id="file0" ')),
        member('d.vmdk', DISK), member('vm.mf', 2 * packages.manifest(
            'SHA1', {'d.vmdk': DISK}))],
    'no-compression': [member('vm.ovf', packages.ovf(
        'd.vmdk', attributes='ovf:compression="identity"')),
        member('d.vmdk', DISK)],
    'in-utf-16': [member('vm.ovf', OVF.decode().encode('utf-16')),
                  member('d.vmdk', DISK)],
    'without-name-spaces': [
        member('vm.ovf', b'<Envelope><References><File id="f" href="d.vmdk"/>'
               b'</References><DiskSection><Disk fileRef="f"/></DiskSection>'
               b'</Envelope>'), member('d.vmdk', DISK)],
}


@pytest.mark.parametrize('name', FINE)
def test_what_is_read(tmp_path, name):
    assert _found(tmp_path, packages.tar(*FINE[name]))[0] == DISK


ENTITIES = ('<?xml version="1.0"?><!DOCTYPE Envelope [<!ENTITY a "aaaaaaaa">'
            + ''.join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">'
                      for n in range(9)) + ']>')
OUTSIDE = ('<?xml version="1.0"?><!DOCTYPE Envelope '
           '[<!ENTITY x SYSTEM "file:///etc/passwd">]>')
D = member('d.vmdk', DISK)
O = member('vm.ovf', OVF)   # noqa: E741

REFUSED = {
    'no-ovf': ([D], 'no OVF'),
    'two-ovfs': ([O, member('b.ovf', OVF), D], '2 OVF'),
    'no-disk': ([member('vm.ovf', packages.ovf()), D], 'names no disks'),
    'two-disks': ([member('vm.ovf', packages.ovf('d.vmdk', 'e.vmdk')), D,
                   member('e.vmdk', DISK)], 'names 2 disks'),
    'another-name': ([member('vm.ovf', packages.ovf('e.vmdk')), D],
                     'not in the archive'),
    'a-name-outside': ([member('vm.ovf', packages.ovf('../d.vmdk')), D],
                       'not in the archive'),
    'a-url': ([member('vm.ovf', packages.ovf('http://x/d.vmdk')), D],
              'not in the archive'),
    'no-name': ([member('vm.ovf', packages.ovf('')), D],
                'not in the archive'),
    'no-file': ([member('vm.ovf', OVF.replace(b'ovf:id="file0"', b'')), D],
                'the file "file0"'),
    'compressed': ([member('vm.ovf', packages.ovf(
        'd.vmdk', attributes='ovf:compression="gzip"')), D], 'is compressed'),
    'split': ([member('vm.ovf', packages.ovf(
        'd.vmdk', attributes='ovf:chunkSize="7"')), D], 'is split'),
    'absolute': ([O, D, member('/etc/passwd', b'x')], 'leads out'),
    'upwards': ([O, D, member('a/../../x', b'x')], 'leads out'),
    'just-upwards': ([O, D, member('..', b'x')], 'leads out'),
    'twice': ([O, D, member('./d.vmdk', b'x')], 'same name'),
    'link': ([O, member('d.vmdk', type=tarfile.SYMTYPE, linkname='x')],
             'a link'),
    'hard-link': ([O, member('d.vmdk', type=tarfile.LNKTYPE, linkname='x')],
                  'a link'),
    'long-link': ([O, member('d.vmdk', type=tarfile.SYMTYPE,
                             linkname='x' * 300)], 'a link'),
    'device': ([O, D, member('x', type=tarfile.BLKTYPE)], 'a device'),
    'pipe': ([O, D, member('x', type=tarfile.FIFOTYPE)], 'a pipe'),
    'sparse': ([O, member('d.vmdk', type=tarfile.GNUTYPE_SPARSE)], 'sparse'),
    'unknown': ([O, D, member('x', type=b'Q')], 'more than files'),
    'sparse-in-pax': ([O, member('d.vmdk', DISK, pax_headers={
        'GNU.sparse.major': '1'})], 'sparse'),
    'entities': ([member('vm.ovf', packages.ovf('d.vmdk', head=ENTITIES)), D],
                 'document type'),
    'outside': ([member('vm.ovf', packages.ovf('d.vmdk', head=OUTSIDE)), D],
                'document type'),
    'no-xml': ([member('vm.ovf', b'{}'), D], 'OVF can not be read'),
    'half-an-ovf': ([member('vm.ovf', OVF[:-20]), D], 'OVF can not be read'),
    'unknown-encoding': ([member('vm.ovf', OVF.replace(
        b'"1.0"?', b'"1.0" encoding="klingon"?')), D], 'OVF can not be read'),
    'large-ovf': ([member('vm.ovf', OVF + b' ' * (5 << 20)), D],
                  'OVF makes no sense'),
    'large-manifest': ([O, D, member('a.mf', b'\n' * (2 << 20))],
                       'manifest makes no sense'),
    'no-manifest': ([O, D, member('a.mf', b'nothing')],
                    'manifest makes no sense'),
    'unknown-algorithm': ([O, D, member('a.mf', b'SHA3 (d.vmdk)= 00')],
                          'manifest makes no sense'),
    'two-digests': ([O, D, member('a.mf', packages.manifest(
        'SHA256', {'d.vmdk': b'x'}) + packages.manifest(
        'SHA256', {'d.vmdk': DISK}))], 'manifest makes no sense'),
    'two-files-of-an-id': ([member('vm.ovf', OVF.replace(
        b'</References>', b'<File ovf:id="file0" ovf:href="e.vmdk"/>'
        b'</References>')), D], 'OVF makes no sense'),
    'two-names-of-a-file': ([member('vm.ovf', OVF.replace(
        b'<File ', b'<File href="e.vmdk" ')), D], 'OVF makes no sense'),
    'no-file-of-an-odd-name': ([member('vm.ovf', OVF.replace(
        b'fileRef="file0"', b'fileRef="a&#10;/b"')), D], 'the file "a..b"'),
    'folder-with-content': ([member('x', DISK, type=tarfile.DIRTYPE), O, D],
                            'archive makes no sense'),
    'folder-of-old': ([member('x/', b'x'), O, D], 'archive makes no sense'),
    'two-names': ([O, member('x', b'd.vmdk', type=tarfile.GNUTYPE_LONGNAME),
                   member('x', b'15 path=e.vmdk\n', type=tarfile.XHDTYPE),
                   D], 'archive makes no sense'),
    'a-name-with-a-nul': ([O, member('x', b'd.vmdk\0x', type=b'L'),
                           member('x', b'y'), D], 'archive makes no sense'),
    'a-name-of-nothing': ([O, D, member('x', b'd.vmdk', type=b'L')],
                          'truncated'),
    'a-name-of-all': ([O, member('x', b'15 path=d.vmdk\n',
                                 type=tarfile.XGLTYPE), D],
                      'archive makes no sense'),
    'a-size-of-all': ([O, member('x', b'10 size=5\n', type=tarfile.XGLTYPE),
                       D], 'archive makes no sense'),
    'another-ovf': ([O, D, member('a.mf', packages.manifest(
        'SHA256', {'vm.ovf': b'x'}))], 'checksum'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_refused(tmp_path, name):
    members, words = REFUSED[name]
    layout = (tarfile.PAX_FORMAT if 'pax' in name else tarfile.GNU_FORMAT)
    with pytest.raises(errors.ImageRefused, match=words):
        _found(tmp_path, packages.tar(*members, layout=layout))


def test_what_fills_the_last_sector_of_a_disk(tmp_path):
    data = bytearray(packages.tar(O, D))
    at = data.index(DISK) + len(DISK)
    assert len(DISK) % 512
    data[at] = 1
    with pytest.raises(errors.DamagedImage, match='archive makes no sense'):
        _found(tmp_path, bytes(data))


def test_too_many_files(tmp_path):
    many = [member(f'{number}') for number in range(1001)]
    with pytest.raises(errors.DamagedImage, match='archive makes no sense'):
        _found(tmp_path, packages.tar(*many))


def test_a_name_as_long_as_it_likes(tmp_path):
    data = packages.tar(O, member('x' * 100_000, b'x'),
                        layout=tarfile.GNU_FORMAT)
    with pytest.raises(errors.DamagedImage, match='archive makes no sense'):
        _found(tmp_path, data)


@pytest.mark.parametrize('kind', ['gzip', 'xz'])
def test_an_ova_that_is_compressed(tmp_path, kind):
    data = packages.compressed(kind, packages.ova(DISK))
    with pytest.raises(errors.FormatMismatch, match=f'compressed by {kind}'):
        _found(tmp_path, data)


def test_a_disk_that_is_no_ova(tmp_path):
    with pytest.raises(errors.FormatMismatch, match='no tar archive'):
        _found(tmp_path, DISK)


def test_a_name_leads_nowhere_else_as_a_reference(tmp_path):
    data = packages.tar(
        member('a/vm.ovf', packages.ovf('%2e%2e/%2e%2e/d.vmdk')),
        member('d.vmdk', DISK))
    with pytest.raises(errors.UnsafeImage, match='not in the archive'):
        _found(tmp_path, data)


def test_an_archive_that_has_no_end_says_so(tmp_path):
    whole = packages.tar(O, D).rstrip(b'\0')
    whole += bytes(-len(whole) % 512)
    with pytest.raises(errors.DamagedImage, match='archive has no end'):
        _found(tmp_path, whole)


def test_every_beginning_is_refused(tmp_path):
    """But those that lack nothing of what is read."""
    whole = packages.tar(O, D)
    end = len(whole.rstrip(b'\0'))
    needed = -(-end // 512) * 512 + 512
    for length in (0, 1, 100, 511, 512, 513, 1024, 1500, end - 1, end,
                   needed - 1):
        with pytest.raises(errors.ImageRefused):
            _found(tmp_path, whole[:length])
    assert _found(tmp_path, whole[:needed])[0] == DISK


@pytest.mark.parametrize('field', [
    slice(124, 136), slice(148, 156)], ids=['size', 'sum'])
@pytest.mark.parametrize('value', [
    b'-1', b'9' * 11, b'\xff' * 12, b'\x80' + b'\xff' * 11, b'7' * 11,
    b'\0%o' % len(DISK)])
def test_numbers_that_make_no_sense(tmp_path, field, value):
    data = bytearray(packages.tar(O, D))
    at = slice(512 * 2 + field.start, 512 * 2 + field.stop)
    header = data[1024:1536]
    assert header[257:262] == b'ustar'
    data[at] = value.ljust(field.stop - field.start, b'\0')[
        :field.stop - field.start]
    if field.start == 124:
        header = data[1024:1536]
        total = sum(header) - sum(header[148:156]) + 256
        data[1024 + 148:1024 + 156] = b'%06o\0 ' % total
    with pytest.raises(errors.DamagedImage):
        _found(tmp_path, bytes(data))


@pytest.mark.parametrize('size', [
    b'', b'-1', b'+%d', b' %d', b'0_%d', b'%d\0', b'0x%x'])
def test_sizes_beyond_a_header_that_are_none(tmp_path, size):
    if b'%' in size:
        size %= len(DISK)
    record = b' size=%s\n' % size
    record = b'%d' % (len(record) + 2 + (len(record) > 97)) + record
    data = packages.tar(O, member('x', record, type=tarfile.XHDTYPE), D)
    with pytest.raises(errors.DamagedImage, match='archive makes no sense'):
        _found(tmp_path, data)


@pytest.mark.timeout(10)
@pytest.mark.parametrize('data', [
    b'0 a=b\n', b'6 a=b\n0 a=b\n', b'1 a=b\n', b'3 a=b\n', b'99 a=b\n', b'\n',
    b'6 a=b', b'a=b\n'])
def test_records_of_a_length_that_makes_no_sense(tmp_path, data):
    """Also of none, after which the next one would be the same."""
    archive = packages.tar(O, member('x', data, type=tarfile.XHDTYPE), D)
    with pytest.raises(errors.DamagedImage, match='archive makes no sense'):
        _found(tmp_path, archive)
