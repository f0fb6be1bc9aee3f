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

"""Images in packages: compressed, and as a hypervisor exports them."""

import hashlib
import os

import pytest

from tests.contract import packages
from tests.functional import support
from tests.functional import test_crash
from tests.functional import test_formats
from tests.functional import test_import

MIB = support.MIB
SOURCE = test_import.SOURCE

DIRECT, STAGED = ('ceph', 'files'), ('local',)
STORES = pytest.mark.parametrize('stores', [DIRECT, STAGED],
                                 ids=['direct', 'staged'])


def packed(images, path, kind):
    """(path, container_format): a package of a file."""
    data = path.read_bytes()
    target = images.folder / f'{path.name}.{kind}'
    if kind == 'ova':
        target.write_bytes(packages.ova(data))
        return target, 'ova'
    target.write_bytes(packages.compressed(kind, data))
    return target, 'compressed'


def slow(images):
    """What takes long to decompress, and little room: much of one byte."""
    piece = packages.compressed('gzip', bytes(64 * MIB))
    path = images.folder / 'slow.gz'
    path.write_bytes(piece * 800)
    return path


@STORES
@pytest.mark.parametrize('kind', [*packages.KINDS, 'ova'])
def test_a_raw_disk(glance, images, kind, stores):
    raw = images.raw('packed')
    path, container_format = packed(images, raw, kind)
    image = glance.imported(path, 'raw', stores,
                            container_format=container_format)
    test_formats.assert_raw(image, raw)
    assert {name: found for name, found in image.items()
            if name.startswith(SOURCE)} == {
                f'{SOURCE}format': 'raw',
                f'{SOURCE}container': container_format,
                f'{SOURCE}size': str(path.stat().st_size),
                f'{SOURCE}hash': 'sha256:' + hashlib.sha256(
                    path.read_bytes()).hexdigest()}
    for store in stores:
        if store == 'ceph':
            assert glance.content(image['id']) == support.digests(raw)
        else:
            assert support.digests(test_formats.file_of(
                glance, image, store)) == support.digests(raw)
    support.wait_for(lambda: glance.staged() == [], 5)


@STORES
@pytest.mark.parametrize('variant, kind', [
    ('qcow2', 'xz'), ('vmdk-stream', 'ova'), ('vhd-fixed', 'zip'),
    ('vhdx-dynamic', 'gzip'), ('vdi-dynamic', 'ova')])
def test_every_other_format(glance, images, variant, kind, stores):
    inner, disk_format, raw = test_formats.made(images, variant)
    path, container_format = packed(images, inner, kind)
    image = glance.imported(path, disk_format, stores,
                            container_format=container_format)
    test_formats.assert_raw(image, raw)
    glance.expect_message(
        image['id'], f'Converted {container_format} {disk_format} to raw: ')
    support.wait_for(lambda: glance.staged() == [], 5)


def test_digests_that_come_later(glance, configure, images):
    configure(conversion={'digests': 'deferred'})
    raw = images.raw('later')
    path, container_format = packed(images, raw, 'zstd')
    image = glance.imported(path, 'raw', container_format=container_format)
    support.wait_for(lambda: glance.show(image['id'])['os_hash_value'])
    test_formats.assert_raw(glance.show(image['id']), raw)


def test_into_a_format_that_is_not_raw(glance, configure, images):
    configure(conversion={'output_format': 'qcow2'})
    qcow2, raw = images.qcow2('kept-so')
    path, container_format = packed(images, qcow2, 'xz')
    image = glance.imported(path, stores=STAGED,
                            container_format=container_format)
    assert (image['disk_format'], image['container_format']) == ('qcow2',
                                                                 'bare')
    assert image['os_hash_value'] == support.digests(qcow2)[1]
    assert image['virtual_size'] == raw.stat().st_size


def test_packages_that_are_not_unpacked(glance, configure, images):
    configure(conversion={'unpack': 'false'})
    for kind in ('xz', 'ova'):
        path, container_format = packed(images, images.raw('whole'), kind)
        image, message = glance.refused(path, 'raw', stores=('ceph', 'local'),
                                        container_format=container_format)
        assert 'it is a package' in message
        assert glance.leftovers() == {}


def test_the_plugin_of_stock_before_ours(glance, configure, images):
    """It unpacks what is declared as bare, ours what is declared so."""
    configure(image_import_opts={
        'image_import_plugins': "['image_decompression',"
        "'rbd_direct_convert','convert_image']"})
    qcow2, raw = images.qcow2('by-stock')
    path, container_format = packed(images, qcow2, 'gzip')
    for declared in ('bare', container_format):
        image = glance.imported(path, container_format=declared)
        test_formats.assert_raw(image, raw)
        assert glance.content(image['id']) == support.digests(raw)


def test_the_plugin_of_stock_after_ours(glance, configure, images):
    configure(image_import_opts={
        'image_import_plugins': "['rbd_direct_convert','convert_image',"
        "'image_decompression']"})
    raw = images.raw('before-stock')
    path, container_format = packed(images, raw, 'gzip')
    image = glance.imported(path, 'raw', container_format=container_format)
    test_formats.assert_raw(image, raw)
    _, message = glance.refused(path, 'raw')
    assert 'compressed by gzip' in message


def truncated(images):
    path, container_format = packed(images, images.raw('cut'), 'xz')
    os.truncate(path, path.stat().st_size * 2 // 3)
    return path, container_format, 'damaged or truncated'


def altered(images):
    path, container_format = packed(images, images.raw('altered'), 'ova')
    with open(path, 'r+b') as f:
        f.seek(-20_000, os.SEEK_END)
        f.write(b'altered')
    return path, container_format, 'does not have the checksum'


def twice(images):
    once, _ = packed(images, images.raw('twice'), 'xz')
    path, container_format = packed(images, once, 'gzip')
    return path, container_format, 'compressed by xz'


def bare(images):
    path, _ = packed(images, images.raw('bare'), 'zip')
    return path, 'bare', 'compressed by zip'


@STORES
@pytest.mark.parametrize('make', [truncated, altered, twice, bare],
                         ids=lambda make: make.__name__)
def test_what_is_refused_leaves_nothing(glance, images, make, stores):
    path, container_format, words = make(images)
    image, message = glance.refused(path, 'raw', stores,
                                    container_format=container_format)
    assert words in message
    assert (image['disk_format'], image['container_format']) == (
        'raw', container_format)
    assert glance.leftovers() == {}


def test_another_format_within(glance, images):
    path, container_format = packed(images, images.qcow2('other')[0], 'xz')
    image, message = glance.refused(path, 'vmdk',
                                    container_format=container_format)
    assert 'declared as vmdk, but its content is qcow2' in message
    assert (image['disk_format'], image['container_format']) == (
        'vmdk', container_format)
    assert glance.leftovers() == {}


def unpacking(glance, images, stores):
    image_id = glance.begin(slow(images), 'raw', stores,
                            container_format='compressed')
    support.wait_for(lambda: 'Unpacking: ' in glance.message(image_id))
    return image_id


@STORES
def test_a_delete_ends_it(glance, images, stores):
    image_id = unpacking(glance, images, stores)
    glance.delete(image_id)
    assert glance.leftovers() == {}


@STORES
def test_a_crash_leaves_the_upload(glance, images, stores):
    """It is what it was, and can be imported again."""
    image_id = unpacking(glance, images, stores)
    glance.cloud.glance.kill()
    glance.cloud.glance.start()
    test_crash.clean(glance)
    image = glance.show(image_id)
    assert image['status'] == 'uploading'
    assert (image['disk_format'], image['container_format']) == (
        'raw', 'compressed')
    support.wait_for(lambda: glance.present() == {'staging': [image_id]},
                     20, what=glance.present)
