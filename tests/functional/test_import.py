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

"""Images that convert: content, record, and what is left behind."""

import hashlib
import os
import re
import shlex
import subprocess

import pytest

from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying.sources import file as file_source
from tests.functional import support
from tests.functional import test_stock

MIB = support.MIB


def assert_stored(glance, image, raw, pools=('images',)):
    """The image in Glance and in the pools is the raw file."""
    md5, sha512 = support.digests(raw)
    size = raw.stat().st_size
    assert image['status'] == 'active'
    assert image['disk_format'] == 'raw'
    assert image['container_format'] == 'bare'
    assert image['size'] == image['virtual_size'] == size
    assert image['os_hash_algo'] == 'sha512'
    assert (image['checksum'], image['os_hash_value']) == (md5, sha512)
    assert image['os_glance_failed_import'] == ''
    assert image['os_glance_importing_to_stores'] == ''
    for pool in pools:
        assert glance.content(image['id'], pool) == (md5, sha512)
        snaps = glance.cloud.ceph.json('rbd', '-p', pool, 'snap', 'ls',
                                       image['id'])
        assert [(s['name'], s['protected']) for s in snaps] == [
            ('snap', 'true')]
    assert glance.staged() == []


QCOW2 = {
    'v2': ['-o', 'compat=0.10'],
    'v3': [],
    'small-clusters': ['-o', 'cluster_size=4k'],
    'large-clusters': ['-o', 'cluster_size=2M'],
    'zlib': ['-c'],
    'zstd': ['-c', '-o', 'compression_type=zstd'],
    'preallocated': ['-o', 'preallocation=metadata'],
    'lazy-refcounts': ['-o', 'lazy_refcounts=on'],
}


@pytest.mark.parametrize('kind', QCOW2)
def test_every_kind_of_qcow2(glance, images, kind):
    qcow2, raw = images.qcow2(kind, *QCOW2[kind])
    assert_stored(glance, glance.imported(qcow2), raw)


@pytest.mark.parametrize('size', [512, 4096, 8 * MIB, 8 * MIB + 512,
                                  3 * MIB - 512])
def test_sizes_that_are_multiples_of_nothing(glance, images, size):
    qcow2, raw = images.qcow2(f'size-{size}', size=size, pieces=3)
    assert_stored(glance, glance.imported(qcow2), raw)


def test_only_zeros(glance, images):
    qcow2, raw = images.qcow2('zeros', pieces=0)
    image = glance.imported(qcow2)
    assert_stored(glance, image, raw)
    assert glance.cloud.ceph.json('rbd', '-p', 'images', 'diff',
                                  f"{image['id']}@snap") == []


def test_internal_snapshots_are_ignored(glance, images):
    qcow2, raw = images.qcow2('snapshots')
    subprocess.run(['qemu-img', 'snapshot', '-c', 'before', qcow2],
                   check=True)
    subprocess.run(['qemu-io', '-c', 'write -P 77 1M 5M', qcow2], check=True,
                   capture_output=True)
    subprocess.run(['qemu-img', 'convert', '-O', 'raw', qcow2, raw],
                   check=True)
    assert_stored(glance, glance.imported(qcow2), raw)


@pytest.mark.parametrize('size', [5 * MIB, 5 * MIB + 1, 4096])
def test_raw_takes_the_same_road(glance, images, size):
    raw = images.raw(f'raw-{size}', size=size, pieces=4)
    assert_stored(glance, glance.imported(raw, 'raw'), raw)


def test_tiny_raw_is_left_to_glance(glance, images):
    raw = images.folder / 'tiny.raw'
    raw.write_bytes(b'tiny')
    image = glance.imported(raw, 'raw')
    assert (image['size'], image['stores']) == (4, 'ceph')


def test_the_real_client(glance, images):
    qcow2, raw = images.qcow2('client')
    glance.configure()
    out = glance.cloud.client(
        'image-create-via-import', '--disk-format', 'qcow2',
        '--container-format', 'bare', '--name', 'client', '--file', qcow2,
        '--store', 'ceph').stdout
    image_id = glance.adopt(out)
    image = glance.finish(image_id)
    assert_stored(glance, image, raw)
    task = glance.task(image_id)
    assert task['message'].startswith('Converted qcow2 to raw: 48 MiB, ')
    stores = glance.cloud.client('stores-info', '--detail', user='admin')
    assert 'images2' in stores.stdout


def test_two_at_once(glance, images):
    made = [images.qcow2(f'at-once-{n}', seed=n) for n in range(2)]
    begun = [glance.begin(qcow2) for qcow2, _ in made]
    done = [glance.finish(image_id) for image_id in begun]
    for image, (_, raw) in zip(done, made, strict=True):
        assert_stored(glance, image, raw)


def test_workers_stay_as_they_were(glance, images):
    """Neither descriptors nor threads add up."""
    qcow2, _ = images.qcow2('stay', size=8 * MIB)

    def held(kind):
        return sum(len(os.listdir(f'/proc/{pid}/{kind}'))
                   for pid in glance.cloud.glance.pids())
    for _ in range(4):
        glance.imported(qcow2)
    before = held('fd'), held('task')
    for _ in range(8):
        glance.imported(qcow2)
    # Glance's own pools may grow by a connection and a thread a worker.
    support.wait_for(lambda: held('fd') <= before[0] + 5
                     and held('task') <= before[1] + 4)
    assert glance.stored()


@pytest.mark.parametrize('all_must', [True, False])
@pytest.mark.parametrize('options', support.STORES_AT_ONCE)
def test_two_stores_in_one_pass(glance, configure, images, options,
                                all_must):
    configure(**options)
    qcow2, raw = images.qcow2('two-stores')
    image = glance.imported(qcow2, stores=('ceph', 'ceph2'),
                            all_must=all_must)
    assert_stored(glance, image, raw, ('images', 'images2'))
    assert sorted(image['stores'].split(',')) == ['ceph', 'ceph2']


@pytest.mark.parametrize('mode', ['serial', 'parallel'])
def test_both_engine_modes(glance, configure, images, mode):
    configure(taskflow_executor={'engine_mode': mode})
    qcow2, raw = images.qcow2('engine')
    assert_stored(glance, glance.imported(qcow2), raw)


def test_web_download(glance, configure, images, http_server):
    # Glance refuses to fetch from loopback unless it is told to.
    configure(import_filtering_opts={
        'allowed_hosts': '[127.0.0.1]', 'disallowed_hosts': '[]',
        'allowed_ports': f"[{http_server.rpartition(':')[2]}]"})
    qcow2, raw = images.qcow2('web')
    image_id = glance.create()
    glance.start_import(image_id, name='web-download',
                        uri=f'{http_server}/{qcow2.name}')
    assert_stored(glance, glance.finish(image_id), raw)


def test_without_legacy_checksum(glance, configure, images):
    configure(conversion={'legacy_checksum': False})
    qcow2, raw = images.qcow2('no-md5')
    image = glance.imported(qcow2)
    assert image['checksum'] is None
    assert image['os_hash_value'] == support.digests(raw)[1]


def test_another_hash_algorithm(glance, configure, images):
    configure(DEFAULT={'hashing_algorithm': 'sha256'})
    qcow2, raw = images.qcow2('sha256')
    image = glance.imported(qcow2)
    assert image['os_hash_algo'] == 'sha256'
    assert image['os_hash_value'] == hashlib.sha256(
        raw.read_bytes()).hexdigest()


def test_deferred_digests_follow(glance, configure, images):
    configure(conversion={'digests': 'deferred'})
    qcow2, raw = images.slow('deferred', size=1024 * MIB)
    image_id = glance.begin(qcow2)
    early = glance.finish(image_id)
    assert early['status'] == 'active'
    assert early['os_hash_value'] is None and early['checksum'] is None
    # What an owner changes meanwhile must not be lost.
    glance.api('PATCH', f'/v2/images/{image_id}', data=(
        b'[{"op": "replace", "path": "/name", "value": "renamed"}]'),
        headers={'Content-Type':
                 'application/openstack-images-v2.1-json-patch'})
    image = support.wait_for(
        lambda: (found := glance.show(image_id))['os_hash_value'] and found)
    assert_stored(glance, image, raw)
    assert image['name'] == 'renamed'


@pytest.mark.parametrize('store', ['ceph', 'files'])
def test_what_was_stored_is_read_back(glance, configure, images, store):
    """Its digests are inline then, whatever is configured."""
    configure(conversion={'digests': 'deferred', 'verify_after_write': True})
    qcow2, raw = images.qcow2('read-back')
    image_id = glance.begin(qcow2, stores=[store])
    image = glance.finish(image_id)
    assert image['status'] == 'active', glance.message(image_id)
    assert image['os_hash_value'] == support.digests(raw)[1]
    glance.settled(image_id)


@pytest.mark.parametrize('all_must', [True, False])
def test_a_store_that_gives_back_something_else(glance, configure, images,
                                                all_must):
    configure(conversion={'verify_after_write': True})
    qcow2, _ = images.slow('not-given-back')
    image_id = glance.begin(qcow2, stores=['ceph', 'files'],
                            all_must=all_must)
    support.wait_for(lambda: 'Reading back' in glance.message(image_id))
    partial, = (glance.cloud.glance.dir / 'files').glob(
        f'.{image_id}.*.partial')
    # Ceph is read first, for some seconds.
    first, *_ = file_source.FileSource(str(partial)).extents(
        0, partial.stat().st_size)
    with open(partial, 'r+b') as f:
        f.seek(first.start if first.kind is extent.Kind.DATA
               else first.length)
        found = f.read(1)
        f.seek(-1, 1)
        f.write(bytes([found[0] ^ 1]))
    image = glance.finish(image_id)
    assert 'did not give back what was written' in glance.message(image_id)
    assert image['status'] == ('queued' if all_must else 'active')
    if not all_must:
        assert image['stores'] == 'ceph'
        glance.settled(image_id)
        assert glance.present() == {'images': [image_id]}


def test_a_later_delete_stops_nothing_else(glance, configure, images):
    configure(conversion={'digests': 'deferred'})
    qcow2, _ = images.slow('deferred-delete', size=3 * 1024 * MIB)
    image_id = glance.begin(qcow2)
    glance.finish(image_id)
    glance.delete(image_id)
    assert glance.leftovers() == {}


SOURCE = 'os_glance_conversion_source_'


@pytest.mark.parametrize('algorithm', ['sha256', 'sha1'])
def test_the_upload_that_was_expected(glance, images, algorithm):
    qcow2, raw = images.qcow2('expected')
    value = hashlib.new(algorithm, qcow2.read_bytes()).hexdigest()
    image = glance.imported(
        qcow2, conversion_expected_hash=f'{algorithm}:{value}')
    assert_stored(glance, image, raw)
    assert {name: found for name, found in image.items()
            if name.startswith(SOURCE)} == {
                f'{SOURCE}format': 'qcow2',
                f'{SOURCE}container': 'bare',
                f'{SOURCE}size': str(qcow2.stat().st_size),
                f'{SOURCE}hash': 'sha256:' + hashlib.sha256(
                    qcow2.read_bytes()).hexdigest()}


@pytest.mark.parametrize('digests', ['inline', 'deferred'])
def test_the_hash_of_an_upload_that_is_stored_as_it_is(
        glance, configure, images, digests):
    configure(conversion={'digests': digests})
    _, raw = images.qcow2('as-it-is', size=100 * MIB)
    image_id = glance.begin(raw, 'raw')
    glance.finish(image_id)
    image = support.wait_for(
        lambda: (found := glance.show(image_id))['os_hash_value'] and found)
    assert_stored(glance, image, raw)
    assert image[f'{SOURCE}hash'] == (
        'sha256:' + hashlib.sha256(raw.read_bytes()).hexdigest())
    assert image[f'{SOURCE}size'] == str(raw.stat().st_size)


def test_what_the_owner_is_told_can_be_left_out(glance, configure, images):
    configure(conversion={'source_hash': 'false'})
    image = glance.imported(images.qcow2('unhashed')[0])
    assert image[f'{SOURCE}hash'] == ''
    assert image['min_disk'] == 0


def test_min_disk_is_raised_where_that_is_wanted(glance, configure, images):
    configure(conversion={'raise_min_disk': 'true'})
    qcow2, _ = images.qcow2('two-and-a-bit', size=2 * 1024 * MIB + MIB)
    assert glance.imported(qcow2)['min_disk'] == 3
    assert glance.imported(qcow2, min_disk=4)['min_disk'] == 4


def test_nobody_else_says_what_was_uploaded(glance, images):
    glance.api('POST', '/v2/images', expect=(403,), json={
        'name': 'forged', 'disk_format': 'raw', 'container_format': 'bare',
        f'{SOURCE}hash': 'sha256:00'})


def test_record_is_what_stock_would_have_left(glance, configure, images):
    """Every field, and the RBD image too, byte for byte in its header."""
    qcow2, _ = images.qcow2('as-stock')
    ours = glance.imported(qcow2)
    ours_rbd = glance.cloud.ceph.json('rbd', '-p', 'images', 'info',
                                      ours['id'])
    locations = locations_of(glance.cloud, ours['id'])
    configure(**test_stock.STOCK)
    stock = glance.imported(qcow2)
    stock_rbd = glance.cloud.ceph.json('rbd', '-p', 'images', 'info',
                                       stock['id'])
    own = {'id', 'created_at', 'updated_at', 'file', 'self',
           *(name for name in ours if name.startswith(SOURCE))}
    assert ({k: v for k, v in ours.items() if k not in own}
            == {k: v for k, v in stock.items() if k not in own})
    stock_locations = locations_of(glance.cloud, stock['id'])
    assert list(locations) == [
        (value.replace(stock['id'], ours['id']), meta, status)
        for value, meta, status in stock_locations]
    for key in ('size', 'objects', 'order', 'object_size', 'format',
                'features', 'op_features', 'flags', 'snapshot_count'):
        assert ours_rbd[key] == stock_rbd[key], key
    glance.delete(ours['id'])   # by the stock driver


def locations_of(cloud, image_id):
    """(url, metadata, status) of an image, from Glance's database."""
    with cloud.database.connect() as db, db.cursor() as cursor:
        cursor.execute(
            'SELECT value, meta_data, status FROM image_locations '
            'WHERE image_id = %s AND deleted = 0', (image_id,))
        return cursor.fetchall()


def lines_of(glance, image_id):
    """What the log of Glance says of an import, for programs."""
    log = (glance.cloud.root / 'log' / 'glance-api.log').read_text()
    return [dict(word.split('=', 1) for word in shlex.split(found))
            for found in re.findall(r' import (image=.*)$', log, re.MULTILINE)
            if image_id in found]


def test_one_line_tells_of_an_import(glance, images):
    path, raw = images.qcow2('told')
    image = glance.imported(path)
    line, = lines_of(glance, image['id'])
    task = glance.task(image['id'])
    assert {name: line[name] for name in (
        'task', 'request', 'plugin', 'outcome', 'reason', 'format', 'to',
        'stores', 'upload_bytes', 'disk_bytes')} == {
            'task': task['id'], 'request': task['request_id'],
            'plugin': 'RbdDirectConvert', 'outcome': 'converted',
            'reason': '-', 'format': 'qcow2', 'to': 'raw', 'stores': 'ceph',
            'upload_bytes': str(path.stat().st_size),
            'disk_bytes': str(raw.stat().st_size)}
    assert 0 < int(line['written_bytes']) < int(line['disk_bytes'])
    assert float(line['read_seconds']) > 0

    path.write_bytes(path.read_bytes()[:-70_000])
    image, _ = glance.refused(path, stores=('local',))
    line, = lines_of(glance, image['id'])
    assert {name: line[name] for name in (
        'plugin', 'outcome', 'reason', 'stores')} == {
            'plugin': 'ConvertImage', 'outcome': 'refused',
            'reason': 'DamagedImage', 'stores': 'local'}
