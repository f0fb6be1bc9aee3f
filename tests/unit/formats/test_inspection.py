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


import os
import random
import struct
import subprocess

import pytest

from glance_conversion_plugins.copying.sources import nbd as nbd_source
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import inspection
from tests.contract import images

POLICY = detection.Policy(max_virtual_size=1 << 30)
PATTERN = 'A-0BCD--'


def _qcow2(path):
    return qemu_img.Image(str(path), 'qcow2')


def _make(folder, kind, size='1M', *arguments):
    """An empty image of any format that qemu-img writes."""
    path = folder / f'disk.{kind}'
    images.run('qemu-img', 'create', '-q', '-f', kind, *arguments, path, size)
    return str(path)


def _gpt(*, extra_partition=False, signature=b'EFI PART'):
    """The first sectors of a disk with a GUID partition table."""
    protective = struct.pack('<B3BB3BII', 0, 0, 2, 0, 0xEE, 255, 255, 255, 1,
                             2047)
    extra = struct.pack('<B3BB3BII', 0x80, 0, 2, 0, 0x83, 1, 1, 1, 64, 64)
    table = protective + (extra if extra_partition else bytes(16))
    mbr = bytes(446) + table + bytes(32) + b'\x55\xaa'
    assert len(mbr) == 512
    return mbr + signature.ljust(512, b'\0')


def _mbr():
    """The first sector of a disk with one partition of the old kind."""
    entry = struct.pack('<B3BB3BII', 0x80, 0, 2, 0, 0x83, 1, 1, 1, 64, 64)
    return bytes(446) + entry + bytes(48) + b'\x55\xaa'


def _make_encrypted(folder, kind, options):
    """LUKS or AES; qemu-img gives up where it can not time itself well."""
    for _ in range(50):
        try:
            return _make(folder, kind, '1M', '--object',
                         'secret,id=s,data=abc', '-o', options)
        except subprocess.CalledProcessError as e:
            said = e.stdout
            if 'accurate CPU usage' not in said:
                break
    return pytest.fail(said)


# Images that are what they claim

GOOD = {
    'v2': ['compat=0.10'],
    'v3': ['compat=1.1'],
    'zstd': ['compression_type=zstd'],
    'small clusters': ['cluster_size=4096'],
    'large clusters': ['cluster_size=2M'],
    'lazy refcounts': ['lazy_refcounts=on'],
    'preallocated tables': ['preallocation=metadata'],
}


@pytest.mark.parametrize(('options', 'make'), [
    (options, make) for options in GOOD.values()
    for make in (images.qcow2, images.compressed)
    # qemu-img does not compress what it has allocated before.
    if 'preallocation' not in options[0] or make is images.qcow2])
def test_sound_qcow2(tmp_path, options, make):
    path = make(tmp_path / 'disk', PATTERN, *options)
    info = inspection.inspect(path, 'qcow2', POLICY)
    assert info.path == path
    assert info.disk_format == 'qcow2'
    assert info.virtual_size == len(PATTERN) * images.BLOCK
    assert info.keeps_rules
    assert info.file_size == os.path.getsize(path)
    assert info.cluster_size == {
        'cluster_size=4096': 4096, 'cluster_size=2M': 2 << 20,
    }.get(options[0], 65536)
    inspection.check_intact(info)


def test_qcow2_with_internal_snapshots(tmp_path):
    path = images.qcow2(tmp_path / 'disk', PATTERN)
    images.run('qemu-img', 'snapshot', '-c', 'one', path)
    images.run('qemu-io', '-f', 'qcow2', '-c', 'write -P 90 0 64k', path)
    images.run('qemu-img', 'snapshot', '-c', 'two', path)
    info = inspection.inspect(path, 'qcow2', POLICY)
    assert info.virtual_size == len(PATTERN) * images.BLOCK
    inspection.check_intact(info)


def test_qcow2_of_no_whole_number_of_clusters(tmp_path):
    path = images.qcow2(tmp_path / 'disk', 'ABC', block=512)
    info = inspection.inspect(path, 'qcow2', POLICY)
    assert info.virtual_size == 3 * 512
    inspection.check_intact(info)


def test_qcow2_with_leaked_clusters(tmp_path):
    """Space that nothing refers to harms no one."""
    path = images.qcow2(tmp_path / 'disk', 'AB')
    images.run('qemu-img', 'snapshot', '-c', 'gone', path)
    images.patch(path, 60, bytes(4))        # nb_snapshots
    inspection.check_intact(inspection.inspect(path, 'qcow2', POLICY))


def test_image_that_was_not_closed_properly(tmp_path):
    path = images.qcow2(tmp_path / 'disk', PATTERN, 'lazy_refcounts=on')
    images.patch(path, 72, (1).to_bytes(8, 'big'))
    info = inspection.inspect(path, 'qcow2', POLICY)
    assert info.virtual_size == len(PATTERN) * images.BLOCK


@pytest.mark.parametrize('content', [
    b'A' * 4096, b'A', bytes(1 << 20), b'\xff' * 100_001, _gpt(), _mbr(),
    _gpt() + bytes(1 << 20), _mbr() + b'A' * 5000,
], ids=range(8))
def test_raw(tmp_path, content):
    path = tmp_path / 'disk'
    path.write_bytes(content)
    info = inspection.inspect(str(path), 'raw', POLICY)
    assert info == (str(path), 'raw', len(content), len(content), 0, (), True,
                    0, None)
    inspection.check_intact(info)


# Images that are not

@pytest.mark.parametrize('kind', ['vmdk', 'vhdx', 'vdi', 'vpc'])
@pytest.mark.parametrize('claim', ['qcow2', 'raw'])
def test_another_format(tmp_path, kind, claim):
    with pytest.raises(errors.FormatMismatch, match=f'declared as {claim}'):
        inspection.inspect(_make(tmp_path, kind), claim, POLICY)


def test_qcow2_that_is_raw(tmp_path):
    path = images.raw(tmp_path / 'disk', 'AB-')
    with pytest.raises(errors.FormatMismatch, match='its content is raw'):
        inspection.inspect(path, 'qcow2', POLICY)


def test_raw_that_is_qcow2(tmp_path):
    path = images.qcow2(tmp_path / 'disk', 'A')
    with pytest.raises(errors.FormatMismatch, match='its content is qcow2'):
        inspection.inspect(path, 'raw', POLICY)


def test_qcow2_that_is_a_disk_with_partitions(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(_gpt() + bytes(100_000))
    with pytest.raises(errors.FormatMismatch, match='its content is raw'):
        inspection.inspect(str(path), 'qcow2', POLICY)


def test_qcow2_of_a_few_bytes(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(b'QFI\xfb\0\0\0\3')
    with pytest.raises(errors.ImageRefused):
        inspection.inspect(str(path), 'qcow2', POLICY)


def test_qcow2_that_is_a_partition_table_too(tmp_path):
    """Two formats in one file: no one knows what a guest would see."""
    path = images.qcow2(tmp_path / 'disk', 'A')
    images.patch(path, 446, _mbr()[446:])
    with pytest.raises(errors.UnsafeImage, match='not certain'):
        inspection.inspect(path, 'qcow2', POLICY)


@pytest.mark.parametrize('claim', ['qcow2', 'raw'])
def test_qed_is_banned(tmp_path, claim):
    with pytest.raises(errors.UnsafeImage, match='not allowed'):
        inspection.inspect(_make(tmp_path, 'qed'), claim, POLICY)


def test_luks_is_not_raw(tmp_path):
    path = _make_encrypted(tmp_path, 'luks', 'key-secret=s,iter-time=10')
    with pytest.raises(errors.FormatMismatch, match='luks'):
        inspection.inspect(path, 'raw', POLICY)


@pytest.mark.parametrize('options', [
    'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10',
    'encrypt.format=aes,encrypt.key-secret=s',
])
def test_encrypted_qcow2(tmp_path, options):
    path = _make_encrypted(tmp_path, 'qcow2', options)
    with pytest.raises(errors.UnsafeImage, match='encrypted'):
        inspection.inspect(path, 'qcow2', POLICY)


def test_backing_file(tmp_path):
    images.raw(tmp_path / 'base', 'AB')
    path = tmp_path / 'disk'
    images.run('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'raw', '-b',
               tmp_path / 'base', path)
    with pytest.raises(errors.UnsafeImage, match='backing file') as caught:
        inspection.inspect(str(path), 'qcow2', POLICY)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize('raw', ['on', 'off'])
def test_data_file(tmp_path, raw):
    path = _make(tmp_path, 'qcow2', '1M', '-o',
                 f'data_file={tmp_path}/data,data_file_raw={raw}')
    with pytest.raises(errors.UnsafeImage, match='another file') as caught:
        inspection.inspect(path, 'qcow2', POLICY)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize('bit', [5, 31, 63])
def test_unknown_incompatible_feature(tmp_path, bit):
    path = images.qcow2(tmp_path / 'disk', 'A')
    images.patch(path, 72, (1 << bit).to_bytes(8, 'big'))
    with pytest.raises(errors.UnsafeImage, match='unknown'):
        inspection.inspect(path, 'qcow2', POLICY)


def test_unknown_version(tmp_path):
    path = images.qcow2(tmp_path / 'disk', 'A')
    images.patch(path, 4, (4).to_bytes(4, 'big'))
    with pytest.raises(errors.ImageRefused):
        inspection.inspect(path, 'qcow2', POLICY)


def test_image_that_is_marked_as_corrupt(tmp_path):
    path = images.qcow2(tmp_path / 'disk', 'A')
    images.patch(path, 72, (2).to_bytes(8, 'big'))
    with pytest.raises(errors.DamagedImage, match='corrupt'):
        inspection.inspect(path, 'qcow2', POLICY)


@pytest.mark.parametrize('claim', ['raw', 'qcow2'])
def test_empty_file(tmp_path, claim):
    (tmp_path / 'disk').touch()
    with pytest.raises(errors.DamagedImage, match='empty'):
        inspection.inspect(str(tmp_path / 'disk'), claim, POLICY)


def test_disk_of_no_size(tmp_path):
    with pytest.raises(errors.DamagedImage, match='empty'):
        inspection.inspect(_make(tmp_path, 'qcow2', '0'), 'qcow2', POLICY)


@pytest.mark.parametrize('kind', ['raw', 'qcow2'])
def test_size_limit(tmp_path, kind):
    path = _make(tmp_path, kind, '1G')
    assert inspection.inspect(path, kind, POLICY).virtual_size == 1 << 30
    with pytest.raises(errors.TooLarge, match='1.0 GiB'):
        inspection.inspect(path, kind, detection.Policy((1 << 30) - 512))


def test_gpt_with_further_partitions(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(_gpt(extra_partition=True) + bytes(100_000))
    with pytest.raises(errors.UnsafeImage, match='master boot record'):
        inspection.inspect(str(path), 'raw', POLICY)
    tolerant = POLICY._replace(gpt_safety_checks_nonfatal=['mbr'])
    assert inspection.inspect(str(path), 'raw',
                              tolerant).disk_format == 'raw'


def test_tolerance_is_for_partition_tables_only(tmp_path):
    tolerant = POLICY._replace(gpt_safety_checks_nonfatal=[
        'mbr', 'backing_file', 'data_file', 'unknown_features', 'banned'])
    path = images.qcow2(tmp_path / 'disk', 'A')
    images.patch(path, 72, (1 << 63).to_bytes(8, 'big'))
    with pytest.raises(errors.UnsafeImage):
        inspection.inspect(path, 'qcow2', tolerant)


# Damage

def _refused_or_right(path, expected):
    """Whether an image is refused; if it is not, nothing may be lost."""
    source = None
    try:
        info = inspection.inspect(path, 'qcow2', POLICY)
        inspection.check_intact(info)
        source = nbd_source.NbdSource(_qcow2(path), info.virtual_size, 1)
        buffer = b''.join(
            source.read(at, min(1 << 20, source.size - at))
            for at in range(0, source.size, 1 << 20))
    except errors.ConversionError as e:
        assert isinstance(e, errors.ImageRefused), repr(e)
        return True
    finally:
        if source:
            source.close()
    assert buffer == expected, 'content was lost without a word'
    return False


DAMAGED = 'ABCDEFGH'


@pytest.mark.parametrize('clusters', range(1, 13))
def test_cut_on_a_cluster_boundary(tmp_path, clusters):
    path = images.qcow2(tmp_path / 'disk', DAMAGED)
    assert os.path.getsize(path) == 13 * 65536
    os.truncate(path, clusters * 65536)
    with pytest.raises(errors.DamagedImage):
        inspection.check_intact(inspection.inspect(path, 'qcow2', POLICY))


@pytest.mark.parametrize('lost', [
    1, 511, 512, 513, 3000, 65535, 65536 + 1, 2 * 65536 + 4097, 9 * 65536 + 1,
])
def test_cut_within_a_cluster(tmp_path, lost):
    path = images.qcow2(tmp_path / 'disk', DAMAGED)
    os.truncate(path, os.path.getsize(path) - lost)
    with pytest.raises(errors.DamagedImage):
        inspection.check_intact(inspection.inspect(path, 'qcow2', POLICY))


@pytest.mark.parametrize('kind', ['zlib', 'zstd'])
@pytest.mark.parametrize('lost', [1, 511, 513, 4097, 65536, 100_000, 200_000])
def test_compressed_and_cut(tmp_path, lost, kind):
    """Some of it shows only when it is decoded."""
    size = 16 * images.BLOCK
    content = random.Random(1).randbytes(size // 2)  # noqa: S311
    content = bytes(b for byte in content for b in (byte, 65))
    (tmp_path / 'raw').write_bytes(content)
    path = tmp_path / 'disk'
    images.run('qemu-img', 'convert', '-q', '-f', 'raw', '-O', 'qcow2', '-c',
               '-o', f'compression_type={kind}', tmp_path / 'raw', path)
    assert not _refused_or_right(str(path), content)
    os.truncate(path, os.path.getsize(path) - lost)
    # What is cut may have been padding; then it is no loss.
    _refused_or_right(str(path), content)


def test_lost_tables(tmp_path):
    """Nothing is left but the header and what refers to the rest."""
    path = images.qcow2(tmp_path / 'disk', DAMAGED)
    os.truncate(path, images.number_at(path, 40) + 8)
    assert _refused_or_right(path, images.content(DAMAGED))


def test_table_beyond_the_end(tmp_path):
    path = images.qcow2(tmp_path / 'disk', DAMAGED)
    l1 = images.number_at(path, 40)
    images.patch(path, l1, (1 << 63 | 1000 << 16).to_bytes(8, 'big'))
    with pytest.raises(errors.DamagedImage):
        inspection.check_intact(inspection.inspect(path, 'qcow2', POLICY))


def test_first_table_beyond_the_end(tmp_path):
    path = images.qcow2(tmp_path / 'disk', DAMAGED)
    images.patch(path, 40, (1000 << 16).to_bytes(8, 'big'))
    with pytest.raises(errors.DamagedImage):
        inspection.check_intact(inspection.inspect(path, 'qcow2', POLICY))


def test_cluster_beyond_the_end(tmp_path):
    path = images.qcow2(tmp_path / 'disk', DAMAGED)
    l2 = images.number_at(path, images.number_at(path, 40))
    l2 &= 0x00fffffffffffe00
    images.patch(path, l2, (1 << 63 | 1000 << 16).to_bytes(8, 'big'))
    with pytest.raises(errors.DamagedImage):
        inspection.check_intact(inspection.inspect(path, 'qcow2', POLICY))


@pytest.mark.parametrize('seed', range(12))
def test_cut_anywhere(tmp_path, seed):
    rng = random.Random(seed)  # noqa: S311
    pattern = ''.join(rng.choices('ABCDE-0', k=12)) + 'Z'
    path = images.qcow2(tmp_path / 'disk', pattern,
                        f'cluster_size={rng.choice([4096, 65536])}')
    os.truncate(path, rng.randrange(4096, os.path.getsize(path)))
    refused = _refused_or_right(path, images.content(pattern))
    # What was written last was lost.
    assert refused


# What comes out

def _result(content, chunk=1 << 20, policy=POLICY):
    """Show a result to the inspector in chunks."""
    inspector = detection.ResultInspector(policy)
    for at in range(0, len(content), chunk):
        inspector.update(memoryview(content)[at:at + chunk])
    inspector.finish()


CHUNKS = [511, 512, 513, 4096, 65536, 1 << 20, 10 << 20]

PLAIN = {
    'letters': b'A' * 200_000,
    'zeros': bytes(200_000),
    'a single byte': b'A',
    'nothing': b'',
    'gpt': _gpt() + bytes(100_000),
    'mbr': _mbr() + b'A' * 100_000,
    'qcow2 deep inside': b'\1' * 65536 + b'QFI\xfb\0\0\0\3' * 1000,
}


@pytest.mark.parametrize('chunk', CHUNKS)
@pytest.mark.parametrize('content', PLAIN.values(), ids=PLAIN)
def test_ordinary_results_pass(content, chunk):
    inspector = detection.ResultInspector(POLICY)
    for at in range(0, len(content), chunk):
        inspector.update(memoryview(content)[at:at + chunk])
    assert inspector.finish() is None


# A first sector of nothing but text might be the descriptor of a vmdk.
TEXT = b'A' * 600 + b'\xfb\xff' * 50_000


@pytest.mark.parametrize('chunk', [64 * 1024, 1 << 20])
def test_result_that_no_inspector_decides_on(chunk):
    inspector = detection.ResultInspector(POLICY)
    for at in range(0, len(TEXT), chunk):
        inspector.update(memoryview(TEXT)[at:at + chunk])
    with pytest.raises(errors.UnsafeImage):
        inspector.finish()


def test_file_that_no_inspector_decides_on(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(TEXT)
    with pytest.raises(errors.UnsafeImage, match='not certain'):
        inspection.inspect(str(path), 'raw', POLICY)


@pytest.mark.parametrize('content', [b'A' * 3000, _gpt(), _mbr()])
def test_ordinary_results_byte_by_byte(content):
    inspector = detection.ResultInspector(POLICY)
    for at in range(len(content)):
        inspector.update(memoryview(content)[at:at + 1])
    assert inspector.finish() is None


@pytest.mark.parametrize('size', [512, 4096, 1 << 20, (1 << 20) + 512,
                                  1 << 40])
def test_zeros_pass(size):
    inspector = detection.ResultInspector(POLICY)
    inspector.zeros(size)
    assert inspector.finish() is None


@pytest.fixture(scope='module')
def hidden(tmp_path_factory):
    """{format: a small image of it}"""
    folder = tmp_path_factory.mktemp('hidden')
    found = {}
    for kind in ('qcow2', 'vmdk', 'vhdx', 'vdi', 'vpc', 'qed'):
        with open(_make(folder, kind), 'rb') as f:
            found[kind] = f.read(8 << 20)
    return found


@pytest.mark.parametrize('chunk', CHUNKS)
@pytest.mark.parametrize('kind', ['qcow2', 'vmdk', 'vhdx', 'vdi', 'vpc',
                                  'qed'])
def test_result_that_is_another_image(hidden, kind, chunk):
    with pytest.raises(errors.UnsafeImage):
        _result(hidden[kind], chunk)


@pytest.mark.parametrize('kind', ['qcow2', 'vmdk'])
def test_result_that_is_another_image_byte_by_byte(hidden, kind):
    with pytest.raises(errors.UnsafeImage):
        _result(hidden[kind][:2048], 1)


def test_result_that_hides_an_image_before_zeros(hidden):
    """As the pipeline tells it: data, then the length of a hole."""
    inspector = detection.ResultInspector(POLICY)
    inspector.update(memoryview(hidden['qcow2'][:65536]))
    inspector.zeros(100 << 30)
    with pytest.raises(errors.UnsafeImage, match='qcow2'):
        inspector.finish()


def test_result_with_a_bad_boot_record():
    content = _gpt(extra_partition=True) + bytes(100_000)
    with pytest.raises(errors.UnsafeImage):
        _result(content)
    tolerant = POLICY._replace(gpt_safety_checks_nonfatal=['mbr'])
    inspector = detection.ResultInspector(tolerant)
    inspector.update(memoryview(content))
    assert inspector.finish() is None


def test_result_that_is_two_formats_at_once(hidden):
    content = bytearray(hidden['qcow2'])
    content[446:512] = _mbr()[446:]
    with pytest.raises(errors.UnsafeImage):
        _result(bytes(content))
