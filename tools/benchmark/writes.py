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

"""Into plain stores: imports and uploads, one alone and several at once."""

from concurrent import futures
import re

from benchmark import cases
from benchmark import images
from benchmark import part
from benchmark import transfer
from cloud import processes

AT_ONCE = 4


class Import(part.Part):
    """From staging into the store."""

    title = 'import of a staged file'
    contestants = ('rbd', 'thick', 'sparse_rbd', 'file', 'sparse_file')

    def run(self, key, case, verify):
        store = self._ground.start(key)
        image = images.Image(self._cloud, case)
        with self._ground.measured() as found:
            image.start_import([store.name])
            image.wait_active()
        image.wait_idle()
        found |= self._ground.look(store.kind, case, image, verify)
        if key == 'thick':
            # It fills the memory of a memstore.
            image.delete()
        else:
            self._ground.keep(key, case, image)
        return found


class Upload(part.Part):
    """The upload of a user, with the client that users have."""

    title = 'upload with the glance client'
    contestants = (*part.Part.contestants, 'null')

    def run(self, key, case, verify):
        found, image = self._upload(key, case, verify)
        image.delete()
        return found

    def _upload(self, key, case, verify):
        store = self._ground.start(key)
        image = images.Image(self._cloud, case, staged=False)
        with self._ground.measured() as found:
            self._cloud.client(
                'image-upload', '--file', case.path, '--store', store.name,
                image.id, timeout=part.TIMEOUT)
        found |= {'client': found['seconds'],
                  'seconds': self._request_seconds(image.id)}
        return (found | self._ground.look(store.kind, case, image, verify),
                image)

    def _request_seconds(self, image_id):
        """The PUT alone, as uWSGI logs it."""
        request = re.compile(
            rf'PUT /v2/images/{image_id}/file => .* in (\d+) msecs')
        logged = processes.wait_until(
            lambda: request.search(self._cloud.glance.daemon.log.read_text(
                errors='replace')), 10, 'the log of the upload')
        return int(logged[1]) / 1000


class Four(part.Part):
    """Several uploads that share the machine, and Glance's workers."""

    title = f'{AT_ONCE} uploads at once, over HTTP, to two workers'
    contestants = ('rbd', 'sparse_rbd')
    slow = False

    @staticmethod
    def case():
        return cases.first_gib()

    def run(self, key, case, verify):
        store = self._ground.start(key)
        uploads = [images.Image(self._cloud, case, staged=False)
                   for _ in range(AT_ONCE)]
        with self._ground.measured() as found:
            with futures.ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda image: transfer.put(
                    self._cloud, image.id, store.name, case.path), uploads))
        found |= self._ground.look(store.kind, case, uploads[0], verify)
        for image in uploads:
            image.delete()
        return found


class DenseUpload(Upload):
    """Nothing to gain; there must be nothing to lose."""

    title = 'upload of incompressible data with the glance client'
    contestants = part.Part.contestants

    @staticmethod
    def case():
        return cases.dense()

    def run(self, key, case, verify):
        found, image = self._upload(key, case, verify)
        self._ground.keep(key, case, image)
        return found
