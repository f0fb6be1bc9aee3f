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

"""What the functional tests share: images, and a user of the cloud."""

import contextlib
import hashlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import time
import uuid

import pytest
import sqlalchemy

from cloud import ini

MIB = 2 ** 20

# What an import may start, as the kernel names them.
PROGRAMS = ('qemu', 'gzip', 'xz', 'bzip2', 'zstd', 'unzip')

# Options with which an import fills one store, or two at once.
STORES_AT_ONCE = [
    pytest.param({}, id='1'),
    pytest.param({'image_import_opts': {'max_parallel_stores': 2}}, id='2')]


class Images:
    """Makes images whose content is known."""

    def __init__(self, folder):
        self.folder = folder

    def raw(self, name, size=48 * MIB, seed=1, pieces=24):
        """A sparse raw file with data at odd places, each of odd size."""
        path = self.folder / f'{name}.raw'
        source = random.Random(seed)    # noqa: S311
        with open(path, 'wb') as f:
            f.truncate(size)
            for _ in range(pieces):
                data = source.randbytes(source.randrange(1, 200_000))
                f.seek(source.randrange(0, max(1, size - len(data))))
                f.write(data)
            f.truncate(size)
        return path

    def qcow2(self, name, *convert, raw=None, **kwargs):
        """(qcow2, raw) with the same content."""
        raw = raw or self.raw(name, **kwargs)
        path = self.folder / f'{name}.qcow2'
        subprocess.run(['qemu-img', 'convert', '-q', '-f', 'raw', '-O',
                        'qcow2', *convert, raw, path], check=True)
        return path, raw

    def slow(self, name='slow', size=4 * 1024 * MIB):
        """An image that takes some seconds, because of its digests."""
        return self.qcow2(name, size=size)

    def full(self, name='full-of-data', size=1024 * MIB):
        """An image that qemu reads for a second or two: 300 MB of data."""
        return self.qcow2(name, '-c', size=size, pieces=3000)


def digests(path):
    md5, sha512 = hashlib.md5(usedforsecurity=False), hashlib.sha512()
    with open(path, 'rb') as f:
        while chunk := f.read(4 * MIB):
            md5.update(chunk)
            sha512.update(chunk)
    return md5.hexdigest(), sha512.hexdigest()


def wait_for(answer, timeout=60, interval=0.05, what=lambda: ''):
    """Return the first true result of ``answer()``."""
    deadline = time.monotonic() + timeout
    while not (result := answer()):
        assert time.monotonic() < deadline, (
            f'waited {timeout} s in vain', what())
        time.sleep(interval)
    return result


class Service:
    """Glance, used through its API as the ordinary user."""

    def __init__(self, cloud):
        self.cloud = cloud
        self._images = []
        self._configured = False

    def configure(self, **sections):
        """Restart with other options, if Glance does not have them."""
        if (getattr(self.cloud, 'sections', None) != sections
                or not self.cloud.glance.daemon.pid()):
            # It would take its time to end, and has nothing left to do.
            self.cloud.glance.kill()
            self.cloud.glance.reconfigure(sections)
            self.cloud.sections = sections
        self._configured = True

    def configured_otherwise(self):
        """End Glance: the test itself writes a configuration and starts it."""
        self.cloud.glance.kill()
        self.cloud.sections = None
        self._configured = True

    def api(self, method, path, expect=(200, 201, 202, 204), **kwargs):
        if not self._configured:
            self.configure()
        status, body = self.cloud.api(method, path, **kwargs)
        assert status in expect, (status, body)
        return body

    def create(self, disk_format='qcow2', container_format='bare', **props):
        image = self.api('POST', '/v2/images', json={
            'name': 'test', 'disk_format': disk_format,
            'container_format': container_format, **props})
        self._images.append(image['id'])
        return image['id']

    def adopt(self, printed):
        """Take care of the image that the client has created.

        :param printed: what it has printed
        :returns: the image's id
        """
        image_id = re.search(r'\| id +\| (\S+)', printed)[1]
        self._images.append(image_id)
        return image_id

    def stage(self, image_id, path):
        with open(path, 'rb') as f:
            self.api('PUT', f'/v2/images/{image_id}/stage', data=f, headers={
                'Content-Type': 'application/octet-stream',
                'Content-Length': str(os.path.getsize(path))})

    def start_import(self, image_id, stores=('ceph',), all_must=True,
                     **method):
        self.api('POST', f'/v2/images/{image_id}/import', json={
            'method': {'name': 'glance-direct'} | method,
            'stores': list(stores), 'all_stores_must_succeed': all_must})

    def begin(self, path, disk_format='qcow2', stores=('ceph',),
              all_must=True, before=lambda path: None, **props):
        """Create, stage and start to import; returns the image's id.

        What is ``before`` the import is done to the staged file.
        """
        image_id = self.create(disk_format, **props)
        self.stage(image_id, path)
        before(self.cloud.glance.staging / image_id)
        self.start_import(image_id, stores, all_must)
        return image_id

    def finish(self, image_id, timeout=120):
        """Wait for the end of an import; returns the image."""
        # Each look costs the workers 10 ms, which they take from imports.
        wait_for(lambda: self.task(image_id)['status'] in
                 ('success', 'failure'), timeout, interval=0.1,
                 what=lambda: self.task(image_id))
        return wait_for(lambda: self.unlocked(image_id), 30)

    def unlocked(self, image_id):
        image = self.show(image_id)
        return None if 'os_glance_import_task' in image else image

    def imported(self, path, *args, timeout=120, **kwargs):
        """Import to the end and expect success; returns the image."""
        image_id = self.begin(path, *args, **kwargs)
        image = self.finish(image_id, timeout)
        assert image['status'] == 'active', self.message(image_id)
        self.settled(image_id)
        return image

    def refused(self, path, *args, **kwargs):
        """Import to the end and expect failure; returns image, message."""
        image_id = self.begin(path, *args, **kwargs)
        image = self.finish(image_id)
        assert image['status'] == 'queued'
        assert self.task(image_id)['status'] == 'failure'
        return image, self.message(image_id)

    def wait_until_stored_into(self, image_id):
        """Wait until the first pool gets an image's data."""
        wait_for(lambda: [name for name in self.stored() if
                          name.startswith(image_id)
                          and name.endswith('.partial')], interval=0.01)

    @contextlib.contextmanager
    def held(self, image_id):
        """Keep an import amid its conversion for as long as is needed.

        Its qemu is stopped, so the image needs enough data to be still read
        by then: that of ``Images.full()``.
        """
        self.wait_until_stored_into(image_id)
        pids = [pid for pid in self.qemu_processes()
                if comm(pid) == 'qemu-nbd\n']
        assert pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def settled(self, image_id):
        """Wait until our mark is off, which is shortly after the end."""
        for pool in self.cloud.ceph.pools:
            wait_for(lambda p=pool: not self.marked(p, image_id), 20)
        wait_for(lambda: not [name for name in os.listdir(
            self.cloud.glance.dir / 'files') if name.startswith('.')], 20)

    def show(self, image_id):
        return self.api('GET', f'/v2/images/{image_id}')

    def task(self, image_id):
        tasks = self.api('GET', f'/v2/images/{image_id}/tasks')['tasks']
        return max(tasks, key=lambda task: task['created_at'])

    def expect_message(self, image_id, words):
        """Wait for words in what the task says last."""
        wait_for(lambda: words in self.message(image_id), 20,
                 what=lambda: self.message(image_id))

    def message(self, image_id):
        return self.task(image_id)['message']

    def delete(self, image_id, expect=(204,)):
        self.api('DELETE', f'/v2/images/{image_id}', expect=expect)

    def forget_images(self):
        self._configured = True
        for image_id in self._images:
            self.delete(image_id, expect=(204, 404, 409))
        self._images.clear()

    # What is really there.

    def rbd(self, *args, check=True):
        return self.cloud.ceph.run('rbd', *args, check=check).stdout

    def stored(self, pool='images'):
        return self.cloud.ceph.json('rbd', '-p', pool, 'ls')

    def marked(self, pool, image_id):
        """Whether an image bears our mark."""
        return image_id in self.stored(pool) and (
            'glance_conversion.' in self.rbd('-p', pool, 'image-meta',
                                             'list', image_id))

    def content(self, image_id, pool='images'):
        """md5 and sha512 of the snapshot in the pool."""
        path = pathlib.Path(self.cloud.root) / f'export-{image_id}'
        try:
            self.rbd('-p', pool, 'export', '--no-progress',
                     f'{image_id}@snap', path)
            return digests(path)
        finally:
            path.unlink(missing_ok=True)

    def staged(self):
        return sorted(os.listdir(self.cloud.glance.staging))

    def qemu_processes(self):
        """Pids of programs that conversions of this Glance started.

        Others on the machine may convert too; ours only ever open what lies
        in our staging, which tells them apart even when their owner is dead.
        """
        folder = f'{self.cloud.glance.staging}/'.encode()
        return [int(pid) for pid in os.listdir('/proc') if pid.isdigit()
                and comm(pid).startswith(PROGRAMS) and is_conversion(pid)
                and folder in proc(pid, 'cmdline')]

    def present(self):
        """What an import must not leave: {kind: things}, empty if none."""
        found = {pool: self.stored(pool) for pool in self.cloud.ceph.pools}
        found['staging'] = self.staged()
        for folder in ('files', 'images'):
            # A pool has such a name too.
            found[f'{folder}/'] = os.listdir(self.cloud.glance.dir / folder)
        found['processes'] = self.qemu_processes()
        return {kind: things for kind, things in found.items() if things}

    def leftovers(self):
        """The same, once it had time to go."""
        deadline = time.monotonic() + 20
        while (left := self.present()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left

    def leftover_name(self, image_id, state='partial'):
        """What a dead writer of this deployment has left of an image."""
        url = sqlalchemy.make_url(self.cloud.database.url)
        name = f"{url.query['unix_socket']}/{url.database}"
        deployment = hashlib.sha256(name.encode()).hexdigest()[:8]
        return f'{image_id}.{uuid.uuid4()}.{deployment}.{state}'

    def leave_behind(self, image_id):
        """An image as a dead writer leaves it in Ceph; returns its name."""
        name = self.leftover_name(image_id)
        _, task_id, deployment, _ = name.split('.')
        self.rbd('create', '--size', '1M', f'images/{name}')
        self.rbd('image-meta', 'set', f'images/{name}',
                 'glance_conversion.mark', json.dumps({
                     'task': task_id, 'deployment': deployment,
                     'host': 'elsewhere', 'client': '192.0.2.1:0/1'}))
        return name

    def sweep(self):
        """Remove what a failed test has left, for the sake of the next."""
        for pool in self.cloud.ceph.pools:
            for name in self.stored(pool):
                self.rbd('-p', pool, 'snap', 'unprotect', f'{name}@snap',
                         check=False)
                self.rbd('-p', pool, 'snap', 'purge', name, check=False)
                self.rbd('-p', pool, 'rm', '--no-progress', name,
                         check=False)
        for folder in ('staging', 'files', 'images'):
            for path in (self.cloud.glance.dir / folder).iterdir():
                path.unlink()

    def manage(self, *args, user='admin'):
        """Run glance-conversion-manage on this Glance's configuration."""
        return subprocess.run(
            self.manage_command(*args), env=self.manage_environ(user),
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=300)

    def manage_command(self, *args):
        return [self.cloud.settings.bin('glance-conversion-manage'), *args]

    def manage_environ(self, user='admin'):
        return os.environ | self.cloud.environ(user) | {
            'OS_GLANCE_CONFIG_DIR': str(self.cloud.glance.config_dir)}


# Somewhat more than "osd client watch timeout" of the cloud.
LEASE_SECONDS = 10


class Commands:
    """Our commands, on Glance's configuration and some changes of it."""

    def __init__(self, glance, folder):
        self._glance = glance
        self._changes = folder / 'changes.conf'
        self.configure()

    def configure(self, **sections):
        ini.write(self._changes, sections)

    def command(self, name, *args):
        glance = self._glance.cloud.glance
        return [self._glance.cloud.settings.bin(name),
                '--config-file', glance.config_dir / 'glance-api.conf',
                '--config-file', glance.config_dir
                / 'glance-image-import.conf',
                '--config-file', self._changes, *args]

    def run(self, name, *args):
        return subprocess.run(self.command(name, *args), text=True,
                              stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=300)


NOTHING = ['nothing to remove']


def findings(said):
    """What a pass says, but for how far it was."""
    return [line for line in said.splitlines() if not line.startswith('  ')]


def proc(pid, name):
    """Read what the kernel says of a process; nothing if it is gone."""
    try:
        return pathlib.Path(f'/proc/{pid}/{name}').read_bytes()
    except OSError:
        return b''


def comm(pid):
    return proc(pid, 'comm').decode()


def is_conversion(pid):
    return b'GLANCE_CONVERSION_OWNER=' in proc(pid, 'environ')
