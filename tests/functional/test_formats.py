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

"""Every format in, every format out, into every kind of store."""

import json
import os
import pathlib
import subprocess
import uuid

import pytest

from tests.functional import support
from tests.hostile import build
from tests.hostile import qcow2
from tests.hostile import raw as raw_disks
from tests.hostile import vhdx
from tests.hostile import vmdk

MIB = support.MIB

# What is made of the same raw file: (disk_format, qemu's format, options).
VARIANTS = {
    'qcow2': ('qcow2', 'qcow2', ['-c']),
    'vmdk-sparse': ('vmdk', 'vmdk', ['-o', 'subformat=monolithicSparse']),
    'vmdk-stream': ('vmdk', 'vmdk', ['-o', 'subformat=streamOptimized']),
    'vdi-dynamic': ('vdi', 'vdi', []),
    'vdi-static': ('vdi', 'vdi', ['-o', 'static=on']),
    'vhd-dynamic': ('vhd', 'vpc', ['-o', 'subformat=dynamic,force_size=on']),
    'vhd-chs': ('vhd', 'vpc', ['-o', 'subformat=dynamic']),
    'vhd-fixed': ('vhd', 'vpc', ['-o', 'subformat=fixed,force_size=on']),
    'vhdx-dynamic': ('vhdx', 'vhdx', ['-o', 'subformat=dynamic']),
    'vhdx-fixed': ('vhdx', 'vhdx', ['-o', 'subformat=fixed']),
    'raw': ('raw', 'raw', []),
}
DRIVERS = {'vhd': 'vpc'}


def made(images, variant, **kwargs):
    """(path, disk_format, raw): an image, and what qemu-img makes of it."""
    disk_format, driver, options = VARIANTS[variant]
    path = images.folder / f'{variant}.{disk_format}.img'
    convert(images.raw(variant, **kwargs), 'raw', path, driver, *options)
    raw = images.folder / f'{variant}.expected'
    convert(path, driver, raw, 'raw')
    return path, disk_format, raw


def convert(source, source_format, target, target_format, *options):
    subprocess.run(['qemu-img', 'convert', '-q', '-f', source_format, '-O',
                    target_format, *options, source, target], check=True)


def file_of(glance, image, store='files'):
    folder = {'files': 'files', 'local': 'images'}[store]
    return pathlib.Path(glance.cloud.glance.dir / folder / image['id'])


def assert_raw(image, raw):
    """The record is that of the raw file."""
    assert (image['disk_format'], image['container_format']) == ('raw', 'bare')
    assert image['size'] == image['virtual_size'] == raw.stat().st_size
    assert (image['checksum'], image['os_hash_value']) == support.digests(raw)


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_format_into_stores_of_both_kinds(glance, images, variant):
    """One pass fills a pool and a folder; nothing else is left."""
    path, disk_format, raw = made(images, variant)
    image = glance.imported(path, disk_format, stores=('ceph', 'files'))
    assert_raw(image, raw)
    assert image['stores'] == 'ceph,files'
    assert glance.content(image['id']) == support.digests(raw)
    stored = file_of(glance, image)
    assert support.digests(stored) == support.digests(raw)
    assert stored.stat().st_blocks * 512 <= raw.stat().st_size // 2
    assert stored.stat().st_nlink == 1
    assert os.listdir(stored.parent) == [image['id']]
    support.wait_for(lambda: glance.staged() == [], 5)
    glance.delete(image['id'])
    assert os.listdir(stored.parent) == []


@pytest.mark.parametrize('variant', ['vmdk-sparse', 'vmdk-stream',
                                     'vdi-static', 'vhd-chs', 'vhd-fixed',
                                     'vhdx-fixed', 'raw'])
def test_formats_by_way_of_staging(glance, images, variant):
    """A stock store gets a real file, and staging is empty afterwards."""
    path, disk_format, raw = made(images, variant)
    image = glance.imported(path, disk_format, stores=('local',))
    assert_raw(image, raw)
    assert support.digests(file_of(glance, image, 'local')
                           ) == support.digests(raw)
    support.wait_for(lambda: glance.staged() == [], 5)


# What people's tools leave, and what the owner is told of it.
def uncounted(images):
    """As after a crash of the machine that used it."""
    path, raw = images.qcow2('uncounted')
    data = path.read_bytes()
    table = qcow2.number(data, qcow2.REFCOUNTS)
    path.write_bytes(build.patched(
        data, (qcow2.number(data, table), bytes(64))))
    return path, 'qcow2', raw


def unreplayed(images):
    path, disk_format, raw = made(images, 'vhdx-dynamic')
    data = path.read_bytes()
    table = vhdx.region(data, 'blocks')
    entry = vhdx.Entry(((table, data[table:table + 4096]),))
    path.write_bytes(vhdx.with_log(
        build.patched(data, (table, bytes(4096))), entry))
    return path, disk_format, raw


def appended(images):
    path, raw = images.folder / 'stream.vmdk', images.folder / 'raw'
    path.write_bytes(vmdk.stream(32 * MIB) + b'# made by a tool')
    raw.write_bytes(build.content(32 * MIB))
    return path, 'vmdk', raw


CROOKED = {
    uncounted: 'Its reference counts do not agree',
    unreplayed: 'what its log held was written to its place',
    appended: 'what is before or after its footer was left out',
}


@pytest.mark.parametrize('stores', [('ceph', 'files'), ('local',)],
                         ids=['direct', 'staged'])
@pytest.mark.parametrize('make', CROOKED, ids=lambda make: make.__name__)
def test_what_is_not_as_it_should_be(glance, images, make, stores):
    path, disk_format, raw = make(images)
    image = glance.imported(path, disk_format, stores=stores)
    assert_raw(image, raw)
    glance.expect_message(image['id'], CROOKED[make])
    assert glance.message(image['id']).startswith('Converted ')
    support.wait_for(lambda: glance.staged() == [], 5)


@pytest.mark.parametrize('disk_format, container_format, reason', [
    ('iso', 'bare', 'disk format is iso'),
    ('ami', 'ami', 'container format is ami'),
    ('aki', 'aki', 'container format is aki'),
    ('ari', 'ari', 'container format is ari'),
    ('ploop', 'bare', 'disk format is ploop'),
    ('qcow2', 'ovf', 'container format is ovf'),
    ('raw', 'docker', 'container format is docker'),
    ('iso', 'compressed', 'disk format is iso'),
])
def test_what_is_kept_as_it_was_uploaded(glance, images, disk_format,
                                         container_format, reason):
    path = images.folder / 'kept.img'
    write_iso(path) if disk_format == 'iso' else images.raw('x').rename(path)
    image = glance.imported(path, disk_format, stores=('ceph', 'local'),
                            container_format=container_format)
    assert (image['disk_format'], image['container_format']) == (
        disk_format, container_format)
    assert image['os_hash_value'] == support.digests(path)[1]
    glance.expect_message(image['id'], reason)


def test_hybrid_iso_is_an_iso(glance, images):
    """It can be booted from a disk as well, which Glance lets pass."""
    path = images.folder / 'hybrid.iso'
    path.write_bytes(raw_disks.iso(raw_disks.mbr()))
    image = glance.imported(path, 'iso', stores=('ceph', 'local'))
    assert image['os_hash_value'] == support.digests(path)[1]
    _, message = glance.refused(path, 'raw')
    assert 'hybrid ISO' in message and 'declare it as iso' in message


def test_what_glance_would_not_keep_is_refused_before(glance, images):
    path = images.folder / 'two.iso'
    path.write_bytes(raw_disks.iso(qcow2.plain()[:32 * 1024]))
    _, message = glance.refused(path, 'iso', stores=('ceph', 'local'))
    assert 'matches several, iso and qcow2' in message
    assert glance.leftovers() == {}


def write_iso(path):
    with open(path, 'wb') as f:
        f.truncate(MIB)
        f.seek(0x8000)
        f.write(b'\x01CD001\x01' + bytes(2000))
        f.seek(0x8000 + 80)
        f.write((512).to_bytes(4, 'little') + (512).to_bytes(4, 'big'))
        f.seek(0x8000 + 128)
        f.write((2048).to_bytes(2, 'little') + (2048).to_bytes(2, 'big'))


def test_encrypted_images_are_kept(glance, images):
    raw = images.raw('encrypted')
    with open(raw, 'r+b') as f:
        f.write(b'LUKS\xba\xbe\0\1')
    image = glance.imported(raw, 'raw', cinder_encryption_key_id=str(
        uuid.uuid4()))
    assert image['os_hash_value'] == support.digests(raw)[1]
    glance.expect_message(image['id'], 'it is encrypted')


# What an attacker may try, and words of the refusal.
def hidden(images, outer):
    """An image whose guest sees another image."""
    inner, _ = images.qcow2('inner')
    path = images.folder / f'hiding.{outer}'
    driver = DRIVERS.get(outer, outer)
    convert(inner, 'raw', path, driver)
    return path


@pytest.mark.parametrize('stores', [('ceph', 'files'), ('local',)],
                         ids=['direct', 'staged'])
@pytest.mark.parametrize('outer', ['qcow2', 'vmdk', 'vdi', 'vhd', 'vhdx'])
def test_image_hidden_in_an_image(glance, images, outer, stores):
    image, message = glance.refused(hidden(images, outer), outer,
                                    stores=stores)
    assert 'inside it hides another image' in message
    assert image['disk_format'] == outer
    assert glance.leftovers() == {}


@pytest.mark.parametrize('claimed', ['raw', 'vmdk', 'vdi', 'vhd', 'vhdx'])
def test_image_under_another_name(glance, images, claimed):
    qcow2, _ = images.qcow2('misnamed')
    _, message = glance.refused(qcow2, claimed)
    assert message == (f'The image is declared as {claimed}, but its content '
                       'is qcow2.')
    assert glance.leftovers() == {}


@pytest.mark.parametrize('variant', [v for v in VARIANTS if v != 'raw'])
def test_truncated_image(glance, images, variant):
    """Cut in the middle of its data; qemu would take the rest for zeros."""
    path, disk_format, _ = made(images, variant, pieces=60)
    os.truncate(path, path.stat().st_size * 2 // 3)
    image, message = glance.refused(path, disk_format,
                                    stores=('ceph', 'files'))
    assert 'truncated' in message or 'damaged' in message or (
        'but its content is raw' in message)
    assert glance.leftovers() == {}


def test_message_of_a_staged_conversion(glance, images):
    """Glance's own upload puts its message over ours, for a moment."""
    qcow2, _ = images.qcow2('message', '-c')
    image_id = glance.begin(qcow2, stores=('local',))
    glance.finish(image_id)
    glance.expect_message(image_id, 'Converted qcow2 to raw: 48 MiB, ')


@pytest.mark.parametrize('variant', ['vmdk-stream', 'vdi-dynamic',
                                     'vhd-fixed', 'vhdx-dynamic'])
def test_formats_by_the_direct_plugin_alone(glance, configure, images,
                                            variant):
    configure(image_import_opts={'image_import_plugins':
                                 "['rbd_direct_convert']"})
    path, disk_format, raw = made(images, variant)
    image = glance.imported(path, disk_format)
    assert_raw(image, raw)
    assert glance.content(image['id']) == support.digests(raw)


def test_expansion_beyond_reason(glance, configure, images):
    """Few MiB that stand for 1.2 GiB are refused, whichever way it goes."""
    configure(conversion={'max_expansion': 50})
    bomb = images.folder / 'bomb.qcow2'
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-o',
                    'compression_type=zstd', bomb, '1200M'],
                   check=True)
    subprocess.run(['qemu-io', '-f', 'qcow2', *(
        word for at in range(0, 1200, 60) for word in
        ('-c', f'write -q -c -P 65 {at}M 60M')), bomb],
        check=True, capture_output=True)
    for stores in (('files',), ('local',)):
        _, message = glance.refused(bomb, stores=stores)
        assert 'far too small for its content' in message
    assert glance.leftovers() == {}


OUTPUTS = {
    'raw': ('raw', {}),
    'qcow2-zlib': ('qcow2', {'qcow2_compression': 'zlib'}),
    'qcow2-zstd': ('qcow2', {'qcow2_compression': 'zstd'}),
    'vmdk': ('vmdk', {}),
    'vdi': ('vdi', {}),
    'vhd': ('vhd', {}),
    'vhdx': ('vhdx', {}),
    # Last, as the next test wants it too.
    'qcow2': ('qcow2', {}),
}


@pytest.mark.parametrize('output', OUTPUTS)
def test_every_output_format(glance, configure, images, output, tmp_path):
    """Into a store of ours and a stock one: adopted only where raw."""
    target, options = OUTPUTS[output]
    configure(conversion={'output_format': target} | options)
    source = 'qcow2' if target != 'qcow2' else 'vdi-dynamic'
    path, disk_format, raw = made(images, source)
    image = glance.imported(path, disk_format, stores=('files', 'local'))
    assert (image['disk_format'], image['container_format']) == (target,
                                                                 'bare')
    assert image['virtual_size'] == raw.stat().st_size
    for store in ('files', 'local'):
        stored = file_of(glance, image, store)
        assert image['size'] == stored.stat().st_size
        assert support.digests(stored) == (image['checksum'],
                                           image['os_hash_value'])
        back = tmp_path / store
        convert(stored, DRIVERS.get(target, target), back, 'raw')
        assert support.digests(back) == support.digests(raw)
    if 'qcow2_compression' in options:
        info = json.loads(subprocess.run(
            ['qemu-img', 'info', '--output=json', stored], check=True,
            capture_output=True).stdout)
        assert (info['format-specific']['data']['compression-type']
                == options['qcow2_compression'])
    support.wait_for(lambda: glance.staged() == [], 5)


def test_what_has_the_output_format_is_inspected_and_kept(glance, configure,
                                                          images):
    configure(conversion={'output_format': 'qcow2'})
    path, raw = images.qcow2('kept')
    image = glance.imported(path, stores=('ceph', 'local'))
    assert image['disk_format'] == 'qcow2'
    assert image['os_hash_value'] == support.digests(path)[1]
    assert image['virtual_size'] == raw.stat().st_size
    subprocess.run(['qemu-img', 'rebase', '-u', '-b', '/etc/hostname', '-F',
                    'raw', path], check=True)
    _, message = glance.refused(path, stores=('ceph', 'local'))
    assert 'refers to a backing file' in message


def test_what_glance_would_refuse_is_written_anew(glance, configure, images):
    """Of extended entries its own inspection says unknown features."""
    configure(conversion={'output_format': 'qcow2'})
    path, raw = images.qcow2('extended', '-o', 'extended_l2=on')
    image = glance.imported(path, stores=('ceph', 'local'))
    assert image['disk_format'] == 'qcow2'
    assert image['os_hash_value'] != support.digests(path)[1]
    assert image['virtual_size'] == raw.stat().st_size
    back = images.folder / 'back'
    convert(file_of(glance, image, 'local'), 'qcow2', back, 'raw')
    assert support.digests(back) == support.digests(raw)
