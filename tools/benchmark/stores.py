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

"""Plain stores, no import plugin: stock drivers and ours, side by side."""

from concurrent import futures
import json
import os
import pathlib
import re
import time

from benchmark import cases
from benchmark import drivers
from benchmark import images
from benchmark import measure
from benchmark import pool
from benchmark import transfer
from cloud import ini
from cloud import processes

READER = pathlib.Path(__file__).parent / 'read_store.py'
TIMEOUT = 3600
DENSE_RUNS = 5
AT_ONCE = 4


class _Part:
    """What is measured of each store; a contest for measure.compare()."""

    contestants = ('rbd', 'sparse_rbd', 'file', 'sparse_file')
    slow = True     # for stock: minutes

    def __init__(self, ground):
        self._ground = ground
        self._cloud = ground.cloud

    def empty(self):
        self._ground.clean()

    @staticmethod
    def case():
        return cases.case('d')


class Import(_Part):
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


class Upload(_Part):
    """The upload of a user, with the client that users have."""

    title = 'upload with the glance client'
    contestants = (*_Part.contestants, 'null')

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
                image.id, timeout=TIMEOUT)
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


class Read(_Part):
    """From the store to its end, by the driver alone."""

    title = 'read through the driver'
    # As stock stores an image by default, and when told to store it thin.
    contestants = ('thick', *_Part.contestants)
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


class Download(_Part):
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
                           timeout=TIMEOUT)
        return time.monotonic() - start


class Copy(_Part):
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


class Prefetch(_Part):
    """Into the cache of a node: Glance's own worker, and our agent."""

    title = "prefetch into a node's cache (stock: Glance's own worker)"

    def run(self, key, case, verify):
        glance = self._cloud.glance
        cache = glance.dir / 'cache'
        self._ground.start(key, {
            'DEFAULT': {'image_cache_dir': cache,
                        'image_cache_max_size': 2 * case.virtual},
            'paste_deploy': {'flavor': 'keystone+cachemanagement'}})
        image = self._ground.kept(key, case)
        fetch = self._ask if key in drivers.RIVALS else self._run_agent
        with self._ground.measured() as found:
            before = os.times()
            fetch(image.id, cache)
            after = os.times()
        # The agent is a process of its own.
        found['cpu'] += sum(after[2:4]) - sum(before[2:4])
        path = cache / image.id
        found['used'] = path.stat().st_blocks * 512
        if verify:
            found['same'] = pool.same(case, path)
        self._cloud.api('DELETE', f'/v2/cache/{image.id}', 'admin')
        return found

    def _ask(self, image_id, cache):
        self._cloud.api('PUT', f'/v2/cache/{image_id}', 'admin')
        processes.wait_until((cache / image_id).exists, TIMEOUT,
                             'the cache of Glance', 0.05)

    def _run_agent(self, image_id, cache):
        (cache / 'queue' / image_id).touch()
        glance = self._cloud.glance
        etc = glance.dir / 'agent.conf'
        ini.write(etc, {'cache_prefetch': {'grace': 0},
                        'conversion_agent': {'cleanup_interval': 0,
                                             'digests_interval': 0}})
        processes.run(self._cloud.settings.bin('glance-conversion-agent'),
                      '--config-file', glance.config_dir / 'glance-api.conf',
                      '--config-file', etc, '--once')


class Four(_Part):
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
    contestants = _Part.contestants

    @staticmethod
    def case():
        return cases.dense()

    def run(self, key, case, verify):
        found, image = self._upload(key, case, verify)
        self._ground.keep(key, case, image)
        return found


class DenseRead(Read):
    """The same for reading."""

    title = 'read of incompressible data through the driver'
    contestants = _Part.contestants

    @staticmethod
    def case():
        return cases.dense()


PARTS = {
    'import': {'import': Import},
    'upload': {'upload': Upload},
    'read': {'read': Read},
    'download': {'download': Download},
    'copy': {'copy': Copy},
    'four': {'four': Four},
    'prefetch': {'prefetch': Prefetch},
    'dense': {'dense upload': DenseUpload, 'dense read': DenseRead},
}


def stores(cloud, options, results):
    """All parts that were asked for, into results."""
    ground = drivers.Ground(cloud)
    labels = {key: store.label for key, store in drivers.STORES.items()}
    for name in options.stores:
        for key, part in PARTS[name].items():
            # The case goes by the name of the part in what is printed.
            case = part.case()._replace(key=key)
            results[key] = {
                'title': part.title, 'image': case.title,
                'virtual': case.virtual, 'data': case.data,
                'contestants': measure.compare(
                    part(ground), case, _runs(name, part, options), labels)}


def _runs(name, part, options):
    if name == 'dense':
        return dict.fromkeys(part.contestants, DENSE_RUNS)
    sparse = drivers.RIVALS.values()
    return {key: options.stock_runs
            if key == 'thick' or part.slow and key not in sparse
            else options.runs for key in part.contestants}
