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

"""The proof that an import is right: a clone of the image boots."""

from cloud import boot
from cloud import debian_image


def test_clone_of_a_real_image_boots(glance):
    image = debian_image.debian_image()
    image_id = glance.imported(image.qcow2, timeout=300)['id']
    used = sum(extent['length'] for extent in glance.cloud.ceph.json(
        'rbd', '-p', 'images', 'diff', f'{image_id}@snap'))
    assert used < 0.6 * 2 ** 30
    log = boot.boot_clone(glance.cloud, 'images', image_id,
                          echo=lambda line: None)
    assert 'demo login:' in log
