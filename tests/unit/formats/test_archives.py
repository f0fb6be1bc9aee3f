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

"""What is known to be no disk is named; a disk may hold anything."""

import lzma

import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import archives
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import inspection
from tests.contract import packages
from tests.hostile import build
from tests.hostile import qcow2
from tests.hostile import raw

POLICY = detection.Policy(max_virtual_size=4 << 30)
NOISE = build.noise(10_000)
XML = b'<?xml version="1.0" encoding="UTF-8"?>\n'



def _v7(data):
    """The first header as tar wrote it before there was a magic."""
    header = bytearray(data[:512])
    header[257:265] = bytes(8)
    header[148:156] = b' ' * 8
    header[148:156] = b'%06o\0 ' % sum(header)
    return bytes(header) + data[512:]


FOUND = {
    **{kind: (lambda kind=kind: packages.compressed(kind, NOISE),
              f'compressed by {kind}; import it with the container format '
              '"compressed"') for kind in packages.KINDS},
    'empty-bzip2': (lambda: packages.compressed('bzip2', b''),
                    'compressed by bzip2'),
    'zstd-of-pieces': (lambda: b'\x50\x2a\x4d\x18\4\0\0\0' + NOISE,
                       'compressed by zstd'),
    'ova': (lambda: packages.ova(NOISE), 'container format "ova"'),
    '7-zip': (lambda: b"7z\xbc\xaf'\x1c\0\4" + NOISE, 'archive of 7-Zip'),
    'rar': (lambda: b'Rar!\x1a\7\0' + NOISE, 'archive of RAR'),
    'lz4': (lambda: b'\x04"M\x18' + NOISE, 'archive of LZ4'),
    'lzma': (lambda: lzma.compress(NOISE, lzma.FORMAT_ALONE),
             'archive of LZMA'),
    'lzma-of-a-known-length': (lambda: b'\x5d\0\0\x80\0\x10\x27'
                               + bytes(6) + NOISE, 'archive of LZMA'),
    'compress': (lambda: b'\x1f\x9d\x90' + NOISE, 'archive of compress'),
    'lrzip': (lambda: b'LRZI\0\6' + NOISE, 'archive of LRZIP'),
    'tar-of-before-posix': (lambda: _v7(packages.ova(NOISE)),
                            'it is a tar archive'),
    'xml': (lambda: XML + b'<domain type="kvm"/>', 'a text of XML'),
    'error-of-a-bucket': (lambda: b'<Error><Code>AccessDenied</Code></Error>',
                          'a text of XML; look at what the address'),
    'json': (lambda: b'{\n  "error": {"code": 404}\n}\n', 'a text of JSON'),
    'pointer-of-git-lfs': (
        lambda: b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n',
        'only names a file that is kept by git-lfs'),
    'page': (lambda: b'\n<!DOCTYPE HTML PUBLIC "x">\n<html>', 'web page'),
    'page-of-xml': (lambda: XML + b'<!-- it is\n one -->\n<!DOCTYPE html '
                    b'PUBLIC "-//W3C//DTD XHTML 1.0">', 'web page'),
    'page-without-a-type': (lambda: b'<HTML lang="en"><head>', 'web page'),
    'ovf': (lambda: packages.ovf('disk.vmdk'), 'it is an OVF'),
    'ovf-of-a-prefix': (lambda: b'\xef\xbb\xbf' + XML
                        + b'<ovf:Envelope xmlns:ovf="x">', 'it is an OVF'),
    'vmx': (lambda: b'#!/usr/bin/vmware\n.encoding = "UTF-8"\n'
            b'config.version = "8"\n', 'it is a VMX'),
    'vmx-of-today': (lambda: b'.encoding = "UTF-8"\nconfig.version = "8"\n',
                     'it is a VMX'),
    'cowd': (lambda: b'COWD\1\0\0\0' + NOISE, 'since a snapshot was taken'),
    'sesparse': (lambda: b'\xbe\xba\xfe\xca\0\0\0\0' + NOISE,
                 'since a snapshot was taken'),
    'descriptor': (lambda: b'# Disk DescriptorFile\nversion=1\n',
                   'description that names other files'),
}


@pytest.mark.parametrize('declared', ['raw', 'qcow2', 'vmdk'])
@pytest.mark.parametrize('name', FOUND)
def test_what_is_no_disk_is_named(tmp_path, name, declared):
    make, words = FOUND[name]
    path = tmp_path / 'disk'
    path.write_bytes(make())
    with pytest.raises(errors.ImageRefused) as caught:
        inspection.inspect(str(path), declared, POLICY)
    assert words in str(caught.value)
    assert str(path) not in str(caught.value)


DISKS = {
    'noise': NOISE,
    'zeros': bytes(10_000),
    'nothing': b'',
    'text': b'A web page begins with <html> as a rule.\n' * 9,
    'nearly-json': b'{ "a" and more }' * 9,
    'nearly-lzma': b'\x5d\0\0\x80\0' + b'x' * 99,
    'gpt': raw.gpt(),
    'boots-by-what-gzip-begins-with': build.patched(
        raw.mbr() + NOISE, (0, b'\x1f\x8b\x08\0')),
    'hybrid-that-begins-as-zip': build.patched(
        raw.iso(raw.mbr()), (0, b'PK\3\4')),
    'gzip-of-no-known-flags': b'\x1f\x8b\x08\xff' + NOISE,
    'bzip2-of-nothing-known': b'BZh9' + NOISE,
    'tar-that-does-not-add-up': build.patched(
        packages.ova(NOISE), (0, b'X')),
    'iso': raw.iso(),
    'qcow2': qcow2.plain(),
}


@pytest.mark.parametrize('name', DISKS)
def test_what_is_a_disk_is_not(name):
    archives.refuse(DISKS[name][:archives.HEAD])
    assert archives.compression(DISKS[name]) is None or (
        DISKS[name][510:512] == b'\x55\xaa')


def test_an_archive_that_has_the_signature_of_a_boot_sector_is_none():
    """As one of 65,536 has."""
    found = build.patched(packages.compressed('xz', NOISE),
                          (510, b'\x55\xaa'))
    with pytest.raises(errors.FormatMismatch, match='compressed by xz'):
        archives.refuse(found[:archives.HEAD])
    assert archives.container(found) == 'compressed'


@pytest.mark.parametrize('make, container', [
    (lambda: packages.compressed('xz', NOISE), 'compressed'),
    (lambda: packages.ova(NOISE), 'ova'),
    (lambda: NOISE, 'bare'),
    (lambda: b'', 'bare'),
    # A boot sector is one of a disk, whatever it begins with.
    (lambda: b'PK\3\4'.ljust(510, b'\0') + b'\x55\xaa', 'bare')])
def test_the_container_that_is_right(make, container):
    assert archives.container(make()) == container
