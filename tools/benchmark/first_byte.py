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

"""The first byte of a download of a huge image: ours and stock's."""

from benchmark import images
from benchmark import measure
from benchmark import transfer


def first_byte(cloud, contest, case, runs):
    """Seconds for each, of the same image in the pool."""
    glance = contest.configure('deferred')
    image = images.Image(cloud, case)
    image.start_import()
    image.wait_active()
    found = {'runs': [{} for _ in range(runs)]}
    for key in ('ours', 'stock'):
        # Whoever computes digests meanwhile is killed with its process.
        glance.kill()
        glance.reconfigure({
            'DEFAULT': {'enabled_backends':
                        f'ceph:{"sparse_rbd" if key == "ours" else "rbd"}'},
            'image_import_opts': {'image_import_plugins': '[]'}})
        transfer.first_byte(cloud, image.id)
        for number in range(runs):
            measure.progress(f'(k) first byte, {key}, run {number + 1}')
            found['runs'][number][key] = transfer.first_byte(cloud, image.id)
    glance.kill()
    glance.start()
    image.delete()
    contest.empty()
    found['median'] = measure.median(found['runs'])
    return found
