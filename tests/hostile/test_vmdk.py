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

"""VMDKs of other writers, beside the disk that they were made from."""

import functools
import struct
import zlib

import pytest
import VMDKstream

from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.formats import remarks
from tests.contract import images
from tests.hostile import build
from tests.hostile.build import MIB
from tests.hostile import path as path_
from tests.hostile import vmdk
from tests.judges import libraries

SIZE = 5 * MIB
_convert = functools.partial(path_.converted, disk_format='vmdk')


TEXTS = {
    'utf-8': vmdk.text(disk='K\xfchl-disk1'),
    'windows-1252': vmdk.text().replace(b'disk.', b'K\xfchl.'),
    'gbk': vmdk.text().replace(b'disk.', '\u865a\u62df\u673a.'.encode('gbk')),
    'big5': vmdk.text().replace(b'disk.',
                                '\u865b\u64ec\u6a5f.'.encode('big5')),
    'blanks': vmdk.text().replace(b'createType=', b'createType = '),
    'no-quotes': vmdk.text().replace(b'"streamOptimized"',
                                     b'streamOptimized'),
    'capitals': vmdk.text().replace(b'createType', b'CREATETYPE'),
    'windows-lines': vmdk.text().replace(b'\n', b'\r\n'),
    'unknown-line': vmdk.text() + b'made by hand\n',
    'long': vmdk.text() + b'#' * 8000,
}


@pytest.mark.parametrize('name', TEXTS)
def test_any_descriptor_of_a_single_file(tmp_path, name):
    found, said = _convert(tmp_path, vmdk.stream(descriptor=TEXTS[name]))
    assert found == build.content(SIZE)
    assert not said


def test_any_descriptor_of_a_sparse_file(tmp_path):
    found, _ = _convert(tmp_path, vmdk.described(
        vmdk.text('monolithicSparse', disk='K\xfchl')))
    assert found == build.content(SIZE)


@pytest.mark.parametrize('text', ['gbk', 'unknown-line'])
def test_what_glance_would_not_keep_is_known(tmp_path, text):
    path = tmp_path / 'disk'
    path.write_bytes(vmdk.stream(descriptor=TEXTS[text]))
    info = inspection.inspect(str(path), 'vmdk', path_.POLICY)
    assert not info.keeps_rules


@pytest.mark.parametrize('more', [
    b'\n', bytes(512), bytes(10240), b'# made by a tool\n' * 100, bytes(MIB)],
    ids=lambda more: f'{more[:1]}-{len(more)}')
def test_stream_that_is_followed_by_something(tmp_path, more):
    found, said = _convert(tmp_path, vmdk.stream() + more)
    assert found == build.content(SIZE)
    assert said == [remarks.BEYOND]


@pytest.mark.parametrize('size', [SIZE, 70 * MIB, SIZE + 512, 512])
def test_stream_by_vmdkstream(tmp_path, size):
    (tmp_path / 'raw').write_bytes(build.content(size))
    VMDKstream.convert_to_stream(str(tmp_path / 'raw'),
                                 str(tmp_path / 'stream'))
    found, said = _convert(tmp_path, (tmp_path / 'stream').read_bytes())
    assert found == build.content(size)
    assert not said


def _by_virtualbox(disk):
    """A stream as VirtualBox lays it out.

    The descriptor is followed by zeros up to the 64 KiB where the grains
    begin; the disk is rounded up to whole grains; every table is written that
    has a grain, its marker before it; the directory is followed by the footer.
    """
    grain = 128 * 512
    capacity = -(-len(disk) // grain) * 128
    head = vmdk.header(capacity, flags=0x30001)
    text = (b'# Disk DescriptorFile\nversion=1\nCID=1f2d3c4b\n'
            b'parentCID=ffffffff\ncreateType="streamOptimized"\n\n'
            b'# Extent description\nRDONLY %d SPARSE "disk.vmdk"\n\n'
            b'# The disk Data Base \n#DDB\n\n'
            b'ddb.virtualHWVersion = "4"\nddb.adapterType="ide"\n'
            b'ddb.uuid.image="8a7b6c5d-0000-4000-8000-000000000001"\n'
            b'ddb.uuid.parent="00000000-0000-0000-0000-000000000000"\n'
            b'ddb.comment=""\n' % capacity)
    out = bytearray(head + text.ljust(127 * 512, b'\0'))
    directory = []
    for first in range(0, capacity, 512 * 128):
        table = []
        for sector in range(first, min(capacity, first + 512 * 128), 128):
            piece = disk[sector * 512:sector * 512 + grain].ljust(grain,
                                                                  b'\0')
            table.append(len(out) // 512 if any(piece) else 0)
            if any(piece):
                packed = zlib.compress(piece, 6)
                out += struct.pack('<QI', sector, len(packed)) + packed
                out += bytes(-len(out) % 512)
        directory.append(0)
        if any(table):
            out += vmdk.marker(4, 1)
            directory[-1] = len(out) // 512
            out += struct.pack(f'<{len(table)}I', *table).ljust(2048, b'\0')
    count = -(-len(directory) * 4 // 512)
    out += vmdk.marker(count, 2)
    place = len(out) // 512
    out += struct.pack(f'<{len(directory)}I', *directory).ljust(count * 512,
                                                                b'\0')
    return bytes(out + vmdk.marker(1, 3) + vmdk.header(
        capacity, place, flags=0x30001) + vmdk.marker(0, 0))


@pytest.mark.parametrize('change', [
    [(10, b'\0')], [(77, b'\0')], [(-1024 + 10, b'\0')],
    [(10, b'\0'), (-1024 + 10, b'\0')]],
    ids=['flag', 'algorithm', 'flag at the end', 'flags'])
def test_what_is_compressed_by_half_of_its_header(tmp_path, change):
    """Some readers go by the flag, and others by the algorithm."""
    data = vmdk.stream()
    with pytest.raises(errors.DamagedImage):
        _convert(tmp_path, build.patched(data, *[
            (at % len(data), new) for at, new in change]))


@pytest.mark.parametrize('sectors', [1 << 16, 1 << 20])
def test_grains_that_take_more_memory_than_there_is(tmp_path, sectors):
    data = vmdk.stream()
    changes = [(at % len(data), sectors.to_bytes(8, 'little'))
               for at in (20, -1024 + 20)]
    with pytest.raises(errors.DamagedImage, match='header makes no sense'):
        _convert(tmp_path, build.patched(data, *changes))


@pytest.mark.parametrize('size', [SIZE, 140 * MIB, SIZE + 512])
def test_stream_by_virtualbox(tmp_path, size):
    data = _by_virtualbox(build.content(size))
    found, said = _convert(tmp_path, data)
    assert found[:size] == build.content(size)
    assert not any(found[size:])
    assert len(found) - size < 128 * 512
    assert not said
    assert found == libraries.vmdk(
        (tmp_path / 'disk.vmdk').read_bytes())


def _created(folder, kind, part):
    images.run('qemu-img', 'create', '-q', '-f', 'vmdk', '-o',
               f'subformat={kind}', folder / 'made.vmdk', SIZE)
    return (folder / part).read_bytes()


PARTS = {
    'description': (lambda folder: _created(
        folder, 'twoGbMaxExtentSparse', 'made.vmdk'),
        errors.UnsafeImage, 'only a description'),
    'description-of-a-flat-file': (lambda folder: _created(
        folder, 'monolithicFlat', 'made.vmdk'),
        errors.UnsafeImage, 'only a description'),
    'description-in-any-encoding': (lambda folder: vmdk.text(
        'monolithicFlat', 'RW 10240 FLAT "K\xfchl-flat.vmdk" 0'),
        errors.UnsafeImage, 'only a description'),
    'flat-file': (lambda folder: build.content(SIZE),
                  errors.FormatMismatch, 'called NAME-flat.vmdk is a raw'),
    'extent': (lambda folder: _created(
        folder, 'twoGbMaxExtentSparse', 'made-s001.vmdk'),
        errors.UnsafeImage, 'one of several files'),
    'extent-by-vmware': (lambda folder: build.patched(
        _created(folder, 'twoGbMaxExtentSparse', 'made-s001.vmdk'),
        (vmdk.DESCRIPTOR, bytes(16))),
        errors.UnsafeImage, 'one of several files'),
    'sesparse': (lambda folder: b'\xbe\xba\xfe\xca\0\0\0\0'
                 + bytes(MIB), errors.UnsafeImage, 'snapshot.*SESparse'),
    'cowd': (lambda folder: b'COWD\1\0\0\0' + bytes(MIB),
             errors.UnsafeImage, 'snapshot.*COWD'),
}


@pytest.mark.parametrize('name', PARTS)
def test_parts_of_disks_are_told_apart(tmp_path, name):
    make, error, words = PARTS[name]
    with pytest.raises(error, match=words) as caught:
        _convert(tmp_path, make(tmp_path))
    path_.assert_presentable(caught.value, tmp_path)


def test_description_that_is_declared_as_raw(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(vmdk.text('monolithicFlat', 'RW 1 FLAT "disk" 0'))
    with pytest.raises(errors.UnsafeImage, match='only a description'):
        inspection.inspect(str(path), 'raw', path_.POLICY)
