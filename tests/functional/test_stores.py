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

"""Conversion into stores of any kind, by every method of import."""

import sys

import pytest

from tests.functional import support
from tests.functional import test_formats

MIB = support.MIB


@pytest.fixture
def s3(cloud):
    """Ceph's own S3 gateway, up for as long as it is needed."""
    cloud.s3.up()
    yield cloud.s3
    cloud.s3.stop()


def test_s3_gets_a_converted_file(glance, configure, images, s3):
    configure(DEFAULT={'enabled_backends': 'ceph:sparse_rbd, s3:s3'},
              s3=s3.options())
    qcow2, raw = images.qcow2('to-s3')
    image = glance.imported(qcow2, stores=('ceph', 's3'))
    test_formats.assert_raw(image, raw)
    assert image['stores'] == 'ceph,s3'
    assert [found['name'] for found in s3.objects()] == [image['id']]
    assert glance.api('GET', f"/v2/images/{image['id']}/file"
                      ) == raw.read_bytes()
    glance.delete(image['id'])
    assert s3.objects() == []


def test_stock_rbd_gets_a_converted_file(glance, configure, images):
    configure(DEFAULT={'enabled_backends': 'ceph:rbd, ceph2:sparse_rbd'},
              ceph={'rbd_thin_provisioning': True})
    qcow2, raw = images.qcow2('to-stock-rbd')
    image = glance.imported(qcow2, stores=('ceph', 'ceph2'))
    test_formats.assert_raw(image, raw)
    for pool in ('images', 'images2'):
        assert glance.content(image['id'], pool) == support.digests(raw)
    support.wait_for(lambda: glance.staged() == [], 5)


@pytest.mark.parametrize('stores', [('ceph', 'ceph2', 'files'),
                                    ('files', 'local')],
                         ids=['ours', 'one of them stock'])
@pytest.mark.parametrize('parallel, mode', [(1, 'serial'), (3, 'parallel')])
def test_several_stores(glance, configure, images, parallel, mode, stores):
    configure(image_import_opts={'max_parallel_stores': parallel},
              taskflow_executor={'engine_mode': mode})
    qcow2, raw = images.qcow2('several')
    image = glance.imported(qcow2, stores=stores)
    test_formats.assert_raw(image, raw)
    assert set(image['stores'].split(',')) == set(stores)
    for pool, store in (('images', 'ceph'), ('images2', 'ceph2')):
        if store in stores:
            assert glance.content(image['id'], pool) == support.digests(raw)
    for store in {'files', 'local'} & set(stores):
        assert support.digests(test_formats.file_of(glance, image, store)
                               ) == support.digests(raw)
    support.wait_for(lambda: glance.staged() == [], 5)


@pytest.mark.parametrize('all_must', [True, False])
@pytest.mark.parametrize('way', ['direct', 'staged'])
def test_one_store_that_is_full(glance, configure, images, all_must,
                                     way, full):
    """With and without the leave to fail."""
    good, bad = (('ceph', 'files') if way == 'direct'
                 else ('local', 'other'))
    options = {'filesystem_store_datadir': full}
    configure(DEFAULT={'enabled_backends': (
        'ceph:sparse_rbd, local:file, '
        + ('files:sparse_file' if way == 'direct' else 'other:file'))},
        **{bad: options})
    qcow2, raw = images.qcow2('no-room')
    image_id = glance.begin(qcow2, stores=(good, bad), all_must=all_must)
    image = glance.finish(image_id)
    if all_must:
        assert image['status'] == 'queued'
        assert glance.leftovers() == {}
    else:
        assert (image['status'], image['stores']) == ('active', good)
        assert image['os_glance_failed_import'] == bad
        test_formats.assert_raw(image, raw)
    support.wait_for(lambda: glance.staged() == [], 5)


def from_loopback(url):
    """Options without which Glance fetches nothing from there."""
    return {'import_filtering_opts': {
        'allowed_hosts': '[127.0.0.1]', 'disallowed_hosts': '[]',
        'allowed_ports': f"[{url.rpartition(':')[2]}]"}}


def test_web_download(glance, configure, images, http_server):
    configure(**from_loopback(http_server))
    path, disk_format, raw = test_formats.made(images, 'vmdk-stream')
    image_id = glance.create(disk_format)
    glance.start_import(image_id, ('files', 'local'), name='web-download',
                        uri=f'{http_server}/{path.name}')
    image = glance.finish(image_id)
    assert image['status'] == 'active', glance.message(image_id)
    test_formats.assert_raw(image, raw)
    support.wait_for(lambda: glance.staged() == [], 5)


def test_glance_download(glance, configure, images):
    """From a Glance of the same cloud: this one, which kept a qcow2."""
    configure(conversion={'output_format': 'qcow2'})
    qcow2, raw = images.qcow2('far')
    far = glance.imported(qcow2, stores=('local',))
    configure(**from_loopback(glance.cloud.glance.url))
    image_id = glance.create('qcow2')
    glance.start_import(image_id, ('ceph', 'files'), name='glance-download',
                        glance_image_id=far['id'],
                        glance_region='RegionOne')
    image = glance.finish(image_id)
    assert image['status'] == 'active', glance.message(image_id)
    test_formats.assert_raw(image, raw)


def test_copy_image_passes_our_plugins_by(glance, images):
    qcow2, raw = images.qcow2('copied')
    image = glance.imported(qcow2, stores=('files',))
    glance.api('POST', f"/v2/images/{image['id']}/import", user='admin', json={
        'method': {'name': 'copy-image'}, 'stores': ['ceph', 'local']})
    support.wait_for(lambda: len(glance.show(image['id'])['stores']) > 15)
    copied = glance.finish(image['id'])
    assert copied['stores'] == 'files,ceph,local'
    assert glance.content(image['id']) == support.digests(raw)


@pytest.fixture
def python_in_uwsgi(cloud):
    """Glance's legacy import runs sys.executable, which must be a Python."""
    cloud.glance.options['py-sys-executable'] = sys.executable
    yield
    del cloud.glance.options['py-sys-executable']
    cloud.sections = None   # restart without it


def test_legacy_import_task(glance, configure, images, http_server,
                            python_in_uwsgi):
    """The flow of ``glance task-create`` has plugins of its own."""
    configure(**from_loopback(http_server))
    qcow2, _ = images.qcow2('legacy')
    task = glance.api('POST', '/v2/tasks', user='admin', json={
        'type': 'import', 'input': {
            'import_from': f'{http_server}/{qcow2.name}',
            'import_from_format': 'qcow2',
            'image_properties': {
                'name': 'legacy', 'disk_format': 'qcow2',
                'container_format': 'bare'}}})

    def ended():
        found = glance.api('GET', f"/v2/tasks/{task['id']}", user='admin')
        return found if found['status'] in ('success', 'failure') else None
    done = support.wait_for(ended, 60)
    assert done['status'] == 'success', done['message']
    image_id = done['result']['image_id']
    image = glance.api('GET', f'/v2/images/{image_id}', user='admin')
    assert image['status'] == 'active'
    assert image['os_hash_value'] == support.digests(qcow2)[1]
    glance.api('DELETE', f'/v2/images/{image_id}', user='admin')
