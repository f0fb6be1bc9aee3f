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

"""The sparse_rbd store, used as any store is."""

import pytest

from glance_conversion_plugins.copying.sinks import fanout
from glance_conversion_plugins.copying.sinks import rbd as rbd_sink
from glance_conversion_plugins.copying.sources import rbd as rbd_source
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.external import rbd_pool
from glance_conversion_plugins.stores import placeholder
from tests.contract import checks
from tests.functional import support

MIB = support.MIB


def upload(glance, data, disk_format='raw', expect=(204,), **headers):
    image_id = glance.create(disk_format)
    glance.api('PUT', f'/v2/images/{image_id}/file', data=data, expect=expect,
               headers={'Content-Type': 'application/octet-stream',
                        'X-Image-Meta-Store': 'ceph'} | headers)
    return image_id


def test_upload_of_what_looks_like_a_placeholder(glance, tmp_path):
    """The guard: a placeholder is never stored, whoever offers it."""
    made = placeholder.Placeholder(str(tmp_path),
                                   placeholder.Header('i', 't', 'raw', 'bare'))
    made.create()
    made.hand_on(made.path, MIB)
    with open(made.path, 'rb') as f:
        image_id = upload(glance, f.read(), expect=(400, 500))
    assert glance.show(image_id)['status'] == 'queued'
    assert glance.stored() == []


def test_copy_image_between_stores(glance, images):
    qcow2, raw = images.qcow2('copied')
    image = glance.imported(qcow2)
    glance.api('POST', f"/v2/images/{image['id']}/import", user='admin', json={
        'method': {'name': 'copy-image'}, 'stores': ['ceph2', 'local']})
    support.wait_for(lambda: len(glance.show(image['id'])['stores']) > 15)
    copied = glance.finish(image['id'])
    assert copied['stores'] == 'ceph,ceph2,local'
    assert glance.content(image['id'], 'images2') == support.digests(raw)


def test_import_of_a_placeholder_is_refused(glance, images, tmp_path):
    """Nor when it comes by way of an import that our plugins leave alone."""
    made = placeholder.Placeholder(str(tmp_path),
                                   placeholder.Header('i', 't', 'raw', 'bare'))
    made.create()
    made.hand_on(made.path, MIB)
    glance.configure(image_import_opts={'image_import_plugins': '[]'})
    image_id = glance.begin(made.path, 'raw')
    # Stock Glance leaves such an image "importing".
    assert glance.finish(image_id)['status'] != 'active'
    assert glance.task(image_id)['status'] == 'failure'
    assert glance.stored() == []


ALONE = {'image_import_opts': {
    'image_import_plugins': "['rbd_direct_convert']"}}


@pytest.mark.parametrize('stores', [('local',), ('ceph', 'local'),
                                    ('ceph', 'files')])
def test_the_direct_plugin_leaves_other_stores_alone(glance, configure,
                                                     images, stores):
    configure(**ALONE)
    qcow2, _ = images.qcow2('as-it-is')
    image = glance.imported(qcow2, stores=stores)
    assert image['disk_format'] == 'qcow2'
    assert image['os_hash_value'] == support.digests(qcow2)[1]


@pytest.mark.parametrize('section, option, value', [
    ('image_conversion', 'output_format', 'qcow2'),
    ('conversion', 'output_format', 'qcow2')])
def test_the_direct_plugin_leaves_other_formats_alone(
        glance, configure, images, section, option, value):
    configure(**ALONE, **{section: {option: value}})
    qcow2, _ = images.qcow2('stays')
    image = glance.imported(qcow2)
    assert image['disk_format'] == 'qcow2'
    assert image['os_hash_value'] == support.digests(qcow2)[1]


MARK = marks.Mark('11111111-2222-3333-4444-555555555555',
                  '22222222-2222-3333-4444-555555555555', 'h')


def pool_of(cloud, name='images'):
    return rbd_pool.Pool(str(cloud.ceph.conf), 'glance', name)


def test_room_is_what_a_pool_takes_and_its_quota_allows(cloud, request):
    sink = rbd_sink.RbdSink(pool_of(cloud, 'images2'), MARK, order=20,
                            zero_block_size=4096)
    try:
        place, = sink.room(MIB)
        # A gibibyte and more: what the OSD of the cloud has.
        assert place.free > 1 << 30
        assert place.name.endswith('/images2')
        request.getfixturevalue('full_pool')
        place, = sink.room(MIB)
        assert place.free == 0
    finally:
        sink.abort()


@pytest.mark.parametrize('check', checks.SINK_CHECKS, ids=checks.name)
@pytest.mark.parametrize('kind', ['rbd', 'two pools'])
def test_contract_of_sinks(cloud, glance, check, kind):
    def one(pool):
        return rbd_sink.RbdSink(pool_of(cloud, pool), MARK, order=20,
                                zero_block_size=4096)

    def open_sink():
        if kind == 'rbd':
            return one('images')
        return fanout.FanOut({'a': one('images'), 'b': one('images2')}, True)

    def read_back():
        if MARK.image_id not in glance.stored():
            return None
        source = rbd_source.RbdSource(pool_of(cloud), MARK.image_id)
        try:
            return source.read(0, source.size)
        finally:
            source.close()
    check(open_sink, read_back)
    glance.sweep()


@pytest.mark.parametrize('check', checks.SOURCE_CHECKS, ids=checks.name)
def test_contract_of_the_source(cloud, glance, stored_pattern, check):
    check(lambda: rbd_source.RbdSource(pool_of(cloud), stored_pattern),
          checks.EXPECTED)
    glance.sweep()


@pytest.fixture
def stored_pattern(cloud, tmp_path):
    path = tmp_path / 'pattern'
    path.write_bytes(checks.EXPECTED)
    name = 'pattern'
    cloud.ceph.run('rbd', '-p', 'images', 'import', '--no-progress',
                   '--object-size', '64K', path, name)
    cloud.ceph.run('rbd', '-p', 'images', 'snap', 'create', '--no-progress',
                   f'{name}@snap')
    return name
