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

"""Who is measured: each does one case once and says what it took."""

import hashlib
import os
import threading
import time

from benchmark import cases
from benchmark import images
from benchmark import pool
from benchmark import sampling

GIB = 2 ** 30
LABELS = {
    'stock': 'stock Glance',
    'inline': 'ours, digests inline',
    'deferred': 'ours, digests deferred',
    'sha256': 'ours, sha256 alone, inline',
    'unhashed': 'ours, nothing hashed before it is active',
    'stock-file': 'stock Glance, file store',
    'file': 'ours into sparse_file, inline',
    'staged': 'ours staged into stock file',
    'qemu': 'qemu-img straight to RBD',
    'import': 'qemu-img and rbd import',
    'alone': 'the decompressor alone',
    'md5': 'md5 alone',
    'sha512': 'sha512 alone',
    'bare-sha256': 'sha256 alone',
    'both': 'md5 and sha512, two threads',
}
FILES = ('stock-file', 'file', 'staged')
FLOORS = {'md5': ('md5',), 'sha512': ('sha512',),
          'both': ('md5', 'sha512'), 'bare-sha256': ('sha256',)}
# Zeros take as long as data, so that what is beyond this is computed.
HASHED = 10 * GIB
# Digests of more than that are not waited for.
_MOST_HASHED = 128 * GIB


def overrides(key, venv):
    """How Glance differs from the default of the cloud."""
    if key in FILES:
        kind = 'sparse_file' if key == 'file' else 'file'
        chosen = {'DEFAULT': {'enabled_backends': f'files:{kind}'},
                  'glance_store': {'default_backend': 'files'},
                  'files': {'filesystem_thin_provisioning': True}}
        return chosen | (_stock(venv) if key == 'stock-file' else {})
    if key == 'stock':
        return {
            'DEFAULT': {'enabled_backends': 'ceph:rbd'},
            'ceph': {'rbd_thin_provisioning': True},
        } | _stock(venv)
    ours = {'DEFAULT': {'enabled_backends': 'ceph:sparse_rbd'}}
    if key == 'sha256':
        ours['DEFAULT']['hashing_algorithm'] = 'sha256'
        return ours | {'conversion': {'legacy_checksum': False}}
    if key == 'unhashed':
        # Not even what was uploaded, which is not kept until later.
        return ours | {'conversion': {'digests': 'deferred',
                                      'source_hash': False}}
    return ours | {'conversion': {'digests': key}}


def _stock(venv):
    return {
        'image_import_opts': {
            'image_import_plugins': "['image_conversion']"},
        'image_conversion': {'output_format': 'raw'},
        # Under uWSGI stock conversion fails without it.
        'wsgi': {'python_interpreter': venv / 'bin' / 'python'},
    }


class Contestants:
    """Runs one contestant after the other on one cloud."""

    def __init__(self, cloud):
        self._cloud = cloud
        self._pool = pool.Pool(cloud)
        self._env = os.environ | {'CEPH_CONF': str(cloud.ceph.conf)}

    def run(self, key, case, verify):
        """Measure once; with verify, look closely at the result too."""
        if key in FLOORS:
            return floor(key, case)
        if key == 'alone':
            return decompressed(case)
        if key == 'qemu':
            return self._rival(case, verify, self._straight)
        if key == 'import':
            return self._rival(case, verify, self._by_file)
        return self._glance(key, case, verify)

    def configure(self, key):
        """Restart Glance for a contestant; it has nothing else to do."""
        glance = self._cloud.glance
        # It may take half a minute to end by itself.
        glance.kill()
        glance.reconfigure(overrides(key, self._cloud.settings.venv))
        return glance

    def warm_up(self):
        """Let the OSD have the memory that the largest image takes.

        A memstore gets it page by page when it is first used, for which the
        first contestant would pay: 19 s for 4 GiB that later take 6.
        """
        self._pool.fill('6G')
        self._pool.empty()

    def empty(self):
        """Leave nothing for the next contestant."""
        self._pool.empty()

    def _glance(self, key, case, verify):
        glance = self.configure(key)
        image = images.Image(self._cloud, case)
        pids = glance.pids()
        before = sampling.cpu_seconds(pids)
        with sampling.Sampler(pids, glance.staging) as sampler:
            start = time.monotonic()
            image.start_import()
            image.wait_active()
            seconds = time.monotonic() - start
            active = sampling.cpu_seconds(pids) - before
            # Digests of a huge image take minutes: once is enough.
            waits = case.virtual <= (_MOST_HASHED if verify else HASHED)
            later = self._digests(image, start) if waits else {}
        measured = {
            'seconds': seconds,
            'cpu': sampling.cpu_seconds(pids) - before, 'cpu_active': active,
            'memory': sampler.memory, 'staging': sampler.staging,
        } | later | (self._look_at_file(case, image.id, verify)
                     if key in FILES else self._look(case, image.id, verify))
        if not waits:
            glance.kill()
            glance.start()
        image.delete()
        self._pool.empty()
        return measured

    @staticmethod
    def _digests(image, start):
        shown = image.wait_digests()
        found = {'digests': time.monotonic() - start}
        # Of another algorithm it is another one.
        return found if not shown['checksum'] else found | {
            'digest': f'{shown["checksum"]} {shown["os_hash_value"]}'}

    def _rival(self, case, verify, convert):
        used = sampling.Used()
        start = time.monotonic()
        staging = convert(case, 'bench', used)
        converted = time.monotonic() - start
        for command in ('create', 'protect'):
            used.run('rbd', 'snap', command, f'{pool.POOL}/bench@snap',
                     env=self._env)
        measured = {
            'seconds': time.monotonic() - start, 'converted': converted,
            'cpu': used.cpu, 'memory': used.memory, 'staging': staging,
        } | self._look(case, 'bench', verify)
        self._pool.empty()
        return measured

    def _straight(self, case, name, used):
        used.run('qemu-img', 'convert', '-W', '-m', '16', '-f',
                 case.disk_format, '-O', 'raw', case.path,
                 self._pool.target(name))
        return 0

    def _by_file(self, case, name, used):
        folder = self._cloud.root / 'bench'
        folder.mkdir(exist_ok=True)
        raw = folder / 'bench.raw'
        try:
            with sampling.Sampler(folder=folder) as sampler:
                used.run('qemu-img', 'convert', '-f', case.disk_format,
                         '-O', 'raw', case.path, raw)
                used.run('rbd', 'import', '--no-progress', raw,
                         f'{pool.POOL}/{name}', env=self._env)
            return sampler.staging
        finally:
            raw.unlink(missing_ok=True)

    def _look_at_file(self, case, name, verify):
        path = self._cloud.glance.dir / 'files' / name
        found = {'used': path.stat().st_blocks * 512}
        if verify:
            found['same'] = pool.same(case, path)
        return found

    def _look(self, case, name, verify):
        found = {'used': self._pool.used(name)}
        if verify:
            found['same'] = self._pool.same(case, name)
            found['stored'] = self._pool.stored()
        return found


def floor(key, case):
    """The time that digests of the virtual size take, and nothing else."""
    names = FLOORS[key]
    size = min(case.virtual, HASHED)
    cpu, start = time.process_time(), time.monotonic()
    threads = [threading.Thread(target=_hash, args=(name, size))
               for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scale = case.virtual / size
    return {'seconds': (time.monotonic() - start) * scale,
            'cpu': (time.process_time() - cpu) * scale}


def decompressed(case):
    """The time that it takes to read a package, and throw all away."""
    used, start = sampling.Used(), time.monotonic()
    used.run(*cases.DECOMPRESSORS[case.key], case.path)
    return {'seconds': time.monotonic() - start, 'cpu': used.cpu,
            'memory': used.memory}


def _hash(name, size):
    digest, buffer = hashlib.new(name), bytes(2 ** 20)
    for _ in range(size // len(buffer)):
        digest.update(buffer)
