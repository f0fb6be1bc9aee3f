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

"""Out of plain stores: by the driver, through the API, and between them."""

import json
import os
import pathlib
import time

from benchmark import cases
from benchmark import drivers
from benchmark import part
from benchmark import transfer
from cloud import processes

READER = pathlib.Path(__file__).parent / 'read_store.py'


class Read(part.Part):
    """From the store to its end, by the driver alone."""

    title = 'read through the driver'
    # As stock stores an image by default, and when told to store it thin.
    contestants = ('thick', *part.Part.contestants)
    slow = False

    def run(self, key, case, verify):
        store = self._ground.start(key)
        url = self._ground.kept(key, case).show()['direct_url']
        found = self._read(url, store, case)
        if verify:
            digest = self._read(url, store, case, '--digest=md5')['digest']
            found['same'] = digest == drivers.digests(case.path)[0]
        if key == 'thick':
            # It fills the memory of a memstore.
            self._ground.forget(key, case)
        return found

    def _read(self, url, store, case, *options):
        config = self._cloud.glance.config_dir
        found = json.loads(processes.run(
            self._cloud.settings.bin('python'), READER, url, store.name,
            *options,
            env=os.environ | {'OS_GLANCE_CONFIG_DIR': str(config)}).stdout)
        if found['bytes'] != case.virtual:
            raise processes.CloudError(f'{found["bytes"]} bytes were read')
        return found


class Download(part.Part):
    """Through the API, bytes counted; once with the real client too."""

    title = 'download through the API'

    def run(self, key, case, verify):
        self._ground.start(key)
        image = self._ground.kept(key, case)
        with self._ground.measured() as found:
            size = transfer.get(self._cloud, image.id)
        if size != case.virtual:
            raise processes.CloudError(f'{size} bytes came')
        if verify:
            found['client'] = self._client_seconds(image)
        return found

    def _client_seconds(self, image):
        """The client compares digests, and fails if they differ."""
        start = time.monotonic()
        self._cloud.client('image-download', '--file', '/dev/null', image.id,
                           timeout=part.TIMEOUT)
        return time.monotonic() - start


class Copy(part.Part):
    """Into the store of the other kind, by way of staging."""

    title = 'copy-image from this store into one of the other kind'
    targets = {'rbd': drivers.STORES['file'],
               'sparse_rbd': drivers.STORES['sparse_file'],
               'file': drivers.STORES['rbd'],
               'sparse_file': drivers.STORES['sparse_rbd']}

    def run(self, key, case, verify):
        self._ground.start(key)
        image, target = self._ground.kept(key, case), self.targets[key]
        with self._ground.measured() as found:
            image.start_import([target.name], 'copy-image', 'admin')
            image.wait_stored(target.name)
        image.wait_idle()
        found |= self._ground.look(target.kind, case, image, verify)
        image.delete_from(target.name)
        return found


class DenseRead(Read):
    """The same for reading."""

    title = 'read of incompressible data through the driver'
    contestants = part.Part.contestants

    @staticmethod
    def case():
        return cases.dense()
