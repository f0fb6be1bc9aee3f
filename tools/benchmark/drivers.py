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

"""The stores that are compared, and Glance with one family of them."""

import contextlib
import functools
import hashlib
import os
import pathlib
import shutil
import time
import typing

from benchmark import images
from benchmark import pool
from benchmark import sampling
from cloud import ini
from cloud import processes

PLUGIN = pathlib.Path(__file__).parent / 'null_store.py'
DIGEST_TIMEOUT = 300


class Store(typing.NamedTuple):
    """A contestant: a store in a Glance that has only its family."""

    label: str
    family: str
    name: str
    kind: str


STORES = {
    'rbd': Store('stock rbd, thin', 'stock', 'ceph', 'rbd'),
    'thick': Store('stock rbd, not thin', 'stock', 'ceph2', 'rbd'),
    'sparse_rbd': Store('sparse_rbd', 'sparse', 'ceph', 'rbd'),
    'file': Store('stock file, thin', 'stock', 'files', 'file'),
    'sparse_file': Store('sparse_file', 'sparse', 'files', 'file'),
    'null': Store('a store that stores nothing', 'null', 'null', 'null'),
}
RIVALS = {'rbd': 'sparse_rbd', 'thick': 'sparse_rbd',
          'file': 'sparse_file'}
BACKENDS = {
    'stock': 'ceph:rbd, ceph2:rbd, files:file',
    'sparse': 'ceph:sparse_rbd, files:sparse_file',
    'null': 'null:null',
}


def overrides(store):
    """How Glance differs from the default of the cloud."""
    return {
        'DEFAULT': {'enabled_backends': BACKENDS[store.family],
                    'show_image_direct_url': True},
        'glance_store': {'default_backend': store.name},
        'image_import_opts': {'image_import_plugins': '[]'},
        'ceph': {'rbd_thin_provisioning': True},
        'ceph2': {'rbd_store_pool': pool.POOL,
                  'rbd_thin_provisioning': False},
        'files': {'filesystem_thin_provisioning': True},
    }


@functools.cache
def digests(path):
    """What Glance should say of a raw file: md5 and sha512."""
    md5, sha512 = hashlib.md5(), hashlib.sha512()
    with open(path, 'rb') as data:
        while chunk := data.read(2 ** 20):
            md5.update(chunk)
            sha512.update(chunk)
    return md5.hexdigest(), sha512.hexdigest()


class Ground:
    """One Glance after the other, and the images they have stored."""

    def __init__(self, cloud):
        self.cloud = cloud
        self._pool = pool.Pool(cloud)
        self._kept = {}

    def start(self, key, more=None):
        """A fresh Glance with the family of this store; the store.

        More options are as in ``overrides()``.
        """
        store, glance = STORES[key], self.cloud.glance
        # It may take half a minute to end by itself.
        glance.kill()
        glance.options.pop('pythonpath', None)
        if store.family == 'null':
            glance.options['pythonpath'] = self._plugin()
        glance.reconfigure(ini.merge(overrides(store), more))
        return store

    @contextlib.contextmanager
    def measured(self):
        """Seconds and CPU of Glance, from entry to exit."""
        # What was staged is written back at some time: not in ours.
        os.sync()
        pids, found = self.cloud.glance.pids(), {}
        cpu, start = sampling.cpu_seconds(pids), time.monotonic()
        yield found
        found['seconds'] = time.monotonic() - start
        found['cpu'] = sampling.cpu_seconds(pids) - cpu

    def look(self, kind, case, image, verify):
        """What is stored, and whether it is right."""
        name = image.id
        path = self.cloud.glance.dir / 'files' / name
        if kind == 'null':
            return {}
        if kind == 'rbd':
            found = {'used': self._pool.used(name)}
        else:
            found = {'used': path.stat().st_blocks * 512}
        if verify:
            found['same'] = (self._digests_right(case, image)
                             and (self._pool.same(case, name)
                                  if kind == 'rbd'
                                  else pool.same(case, path)))
        return found

    def keep(self, key, case, image):
        """Keep an image to read from, instead of the last one."""
        self.forget(key, case)
        self._kept[key, case.path] = image

    def forget(self, key, case):
        """Delete the image that was kept, if there is one."""
        if last := self._kept.pop((key, case.path), None):
            last.delete()

    def kept(self, key, case):
        """The image that was kept, imported if there is none.

        Needs the Glance of the store's family.
        """
        if (key, case.path) not in self._kept:
            image = images.Image(self.cloud, case)
            image.start_import([STORES[key].name])
            image.wait_active()
            image.wait_idle()
            self.keep(key, case, image)
        return self._kept[key, case.path]

    def clean(self):
        """Remove what a failure has left half done."""
        self.cloud.glance.kill()
        kept = {image.id for image in self._kept.values()}
        for name in self._pool.names():
            if name not in kept:
                self._pool.remove(name)
        for folder in ('files', 'staging'):
            for path in (self.cloud.glance.dir / folder).iterdir():
                if path.name not in kept:
                    path.unlink()

    def _digests_right(self, case, image):
        shown = processes.wait_until(
            lambda: (found := image.show())['os_hash_value'] and found,
            DIGEST_TIMEOUT, f'digests of {image.id}', 0.5)
        return digests(case.path) == (shown['checksum'],
                                      shown['os_hash_value'])

    def _plugin(self):
        """A folder with the store that Glance takes for installed."""
        folder = self.cloud.root / 'null-store'
        metadata = folder / 'bench_null_store-0.dist-info'
        metadata.mkdir(parents=True, exist_ok=True)
        shutil.copy(PLUGIN, folder)
        (metadata / 'METADATA').write_text(
            'Metadata-Version: 2.1\nName: bench-null-store\nVersion: 0\n')
        (metadata / 'entry_points.txt').write_text(
            f'[glance_store.drivers]\nnull = {PLUGIN.stem}:Store\n')
        return folder
