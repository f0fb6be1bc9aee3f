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

"""Merely installed, the package changes nothing."""

import sys

from tests.functional import support

STOCK = {
    'DEFAULT': {'enabled_backends': 'ceph:rbd, ceph2:rbd, local:file'},
    'image_import_opts': {'image_import_plugins': "['image_conversion']"},
    # Without it stock conversion fails under uWSGI.
    'wsgi': {'python_interpreter': sys.executable},
}


def test_stock_conversion_and_stores(glance, configure, images):
    configure(**STOCK)
    qcow2, raw = images.qcow2('stock')
    image = glance.imported(qcow2, stores=('ceph', 'local'))
    assert image['disk_format'] == 'raw'
    assert image['os_hash_value'] == support.digests(raw)[1]
    assert image['stores'] == 'ceph,local'
    stores = glance.api('GET', '/v2/info/stores/detail',
                        user='admin')['stores']
    assert [(s['id'], s['type']) for s in stores] == [
        ('ceph', 'rbd'), ('ceph2', 'rbd'), ('local', 'file')]
    log = glance.cloud.glance.log.read_text()
    assert image['id'] in log
    assert not [line for line in log.splitlines()
                if image['id'] in line and 'glance_conversion_plugins' in line]


def test_there_and_back_again(glance, configure, images):
    """Either driver reads, deletes and describes what the other wrote."""
    configure()
    ours, raw = images.qcow2('written-by-ours')
    ours = glance.imported(ours)
    configure(**STOCK)
    assert glance.api('GET', f"/v2/images/{ours['id']}/file"
                      ) == raw.read_bytes()
    theirs = glance.imported(images.qcow2('written-by-stock')[0])
    glance.delete(ours['id'])
    configure()
    downloaded = glance.api('GET', f"/v2/images/{theirs['id']}/file")
    assert len(downloaded) == theirs['size']
    glance.delete(theirs['id'])
    assert glance.leftovers() == {}
