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
"""Images whose data is in another pool than their names."""

import hashlib

import pytest

from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying.sinks import rbd as rbd_sink
from glance_conversion_plugins.copying.sources import rbd as rbd_source
from glance_conversion_plugins.copying import upload
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.external import rbd_pool
from tests.functional import conftest
from tests.functional import support
from tests.functional import test_sparse

DATA = test_sparse.SHAPES['odd holes']
MARK = marks.Mark('11111111-2222-3333-4444-555555555555',
                    '22222222-2222-3333-4444-555555555555', 'h')


def data_pool(ceph_, image_id):
    return ceph_.json('rbd', 'info', f'images/{image_id}').get('data_pool')


def test_uploads_and_imports_use_the_data_pool(glance, configure, images):
    configure(sparse_store={'data_pools': 'ceph:images2'})
    uploaded = test_sparse.upload(glance, DATA, 'ceph')
    qcow2, raw = images.qcow2('data-pool')
    imported = glance.imported(qcow2, stores=('ceph', 'files'))
    for image_id, expected in (
            (uploaded, hashlib.sha512(DATA).hexdigest()),
            (imported['id'], support.digests(raw)[1])):
        assert data_pool(glance.cloud.ceph, image_id) == 'images2'
        assert glance.content(image_id)[1] == expected
    configure()
    assert glance.api('GET', f'/v2/images/{uploaded}/file') == DATA


@pytest.fixture
def erasure_coded():
    """A cluster of three OSDs with an erasure-coded pool."""
    cloud = conftest.fresh_cloud(f'{conftest.ROOT}-ec', conftest.PORT + 100)
    try:
        found = cloud.ceph
        found.up()
        found.add_osd()
        found.add_osd()
        # A memstore will do.
        found.run('ceph', 'config', 'set', '--force', 'mon',
                  'mon_debug_no_require_bluestore_for_ec_overwrites', 'true')
        found.run('ceph', 'osd', 'erasure-code-profile', 'set', 'small',
                  'k=2', 'm=1', 'crush-failure-domain=osd')
        found.run('ceph', 'osd', 'pool', 'create', 'coded', '8', '8',
                  'erasure', 'small')
        found.run('ceph', 'osd', 'pool', 'set', 'coded',
                  'allow_ec_overwrites', 'true')
        found.run('ceph', 'osd', 'pool', 'application', 'enable', 'coded',
                  'rbd')
        yield found
    finally:
        cloud.destroy()


def test_an_erasure_coded_pool(erasure_coded):
    pool = rbd_pool.Pool(str(erasure_coded.conf), 'admin', 'images')
    sink = rbd_sink.RbdSink(pool, MARK, order=22, zero_block_size=4096,
                            data_pool='coded')
    stored = upload.upload(
        [DATA], sink, 0, digest.Digests(digest.DigestSpec('sha512')))
    assert stored.digest.os_hash_value == hashlib.sha512(DATA).hexdigest()
    sink.publish()
    assert data_pool(erasure_coded, MARK.image_id) == 'coded'
    source = rbd_source.RbdSource(pool, MARK.image_id)
    assert source.read(0, len(DATA)) == DATA
    source.close()
    sink.abort()
    assert erasure_coded.json('rbd', '-p', 'images', 'ls') == []
    assert 'rbd_data' not in erasure_coded.run('rados', '-p', 'coded',
                                               'ls').stdout
