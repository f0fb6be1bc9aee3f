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


"""Several nodes of one Glance, another Glance on their pools, and owners."""

import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import signal
import subprocess
import threading
import time
from typing import NamedTuple
import uuid

import rados
import rbd

from tests.functional import support

MIB = support.MIB

MARK = 'glance_conversion.mark'

KILL, STOP, CONT = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT

# A living import says something every four seconds.
SILENCE = 12

CUT = (OSError, http.client.HTTPException)


class Disk(NamedTuple):
    """Something to upload, and what it holds."""

    raw: pathlib.Path
    qcow2: pathlib.Path
    sha512: str

    def __repr__(self):
        return self.raw.stem


def make_disks(images, count, **kwargs):
    """Disks of which no two are alike."""
    disks = []
    for n in range(count):
        qcow2, raw = images.qcow2(f'disk-{n}', seed=f'disk {n}', **kwargs)
        disks.append(Disk(raw, qcow2, support.digests(raw)[1]))
    return disks


class Record(NamedTuple):
    """What Glance has recorded of an image that is not deleted."""

    status: str
    os_hash_value: str | None
    task_id: str | None         # that holds the lock
    urls: frozenset[str]
    silence: int | None         # seconds, of the last task

    @property
    def is_final(self):
        """Whether nobody is waited for, but perhaps the owner.

        An upload whose process dies before it has anything in a store, or
        after it has given up, leaves nothing to tell it from one that lives,
        but its status.
        """
        return self.task_id is None and self.status in (
            'active', 'queued', 'uploading', 'killed', 'saving')


class Node(support.Service):
    """One Glance API, and the clean-up with its configuration."""

    def __init__(self, cloud, sections):
        super().__init__(cloud)
        self.name = cloud.glance.name
        self._sections = sections
        # Held by who starts, kills or stops it.
        self.fate = threading.Lock()

    def __repr__(self):
        return self.name

    def up(self):
        if self.name == 'glance':
            self.configure(**self._sections)
        elif not self._configured:
            self.cloud.glance.configure(self._sections)
        self._configured = True
        self.cloud.glance.up()

    def kill(self):
        """As a node that has lost its power, except that it comes again."""
        self.cloud.glance.kill()

    def start(self):
        self.cloud.glance.start()

    def workers(self):
        """Those uWSGI processes that serve requests, and import."""
        log = str(self.cloud.glance.log)
        return [pid for pid in self.cloud.glance.pids()
                if any(target == log for target in open_files(pid))]

    @contextlib.contextmanager
    def paused(self):
        """All of it stands still, as on a hypervisor that has no time."""
        with stopped(self.cloud.glance.daemon.pids()):
            yield

    def start_managing(self, *args):
        """glance-conversion-manage, which somebody may kill or stop."""
        env = dict(os.environ,
                   OS_GLANCE_CONFIG_DIR=str(self.cloud.glance.config_dir))
        return subprocess.Popen(
            [self.cloud.settings.bin('glance-conversion-manage'), *args],
            env=env, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def attempt(self, method, path, **kwargs):
        """A request that may come to nothing: its status, 0 if it was cut."""
        try:
            return self.cloud.api(method, path, **kwargs)[0]
        except CUT:
            return 0

    def put(self, path, data, **headers):
        """Send data; returns the status, 0 if the connection was cut."""
        return self.attempt('PUT', path, data=data, headers={
            'Content-Type': 'application/octet-stream'} | headers)


class Nodes:
    """Two nodes of one Glance, and another Glance with the same pools.

    Keeps account of what each image may hold.
    """

    def __init__(self, cloud):
        deferred = {'conversion': {'digests': 'deferred'}}
        self.cloud = cloud
        self.a = Node(cloud, deferred)
        self.b = Node(cloud.beside('glance-b', 4), deferred)
        self.other = Node(cloud.beside(
            'glance-other', 5, cloud.database.beside('other')), {})
        self._held = {}     # image id -> digests of the disks
        self.said = []     # what clean-ups found for good
        self._foreign = {}  # what dead writers of the other Glance have left
        # Without a limit a call that an OSD does not answer never ends, and
        # no signal ends it.
        self._cluster = rados.Rados(
            conffile=str(cloud.ceph.conf), rados_id='admin',
            conf={'rados_osd_op_timeout': '300',
                  'rados_mon_op_timeout': '300'})
        self._cluster.connect()
        self._ioctxs = {pool: self._cluster.open_ioctx(pool)
                        for pool in cloud.ceph.pools}

    def up(self):
        """Start those that are down."""
        threads = [threading.Thread(target=node.up)
                   for node in (self.a, self.b, self.other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def down(self):
        for node in (self.b, self.other):
            node.kill()
        self._cluster.shutdown()

    def clean(self, *args):
        """Passes of all nodes at once, each of which may be in another's way.
        """
        passes = [node.start_managing('cleanup', *args)
                  for node in (self.a, self.b)]
        return [each.communicate()[0] for each in passes]

    def clean_once(self, node, *args, command='cleanup'):
        """A pass that must succeed; returns what it says."""
        cleaning = node.start_managing(command, *args)
        said = cleaning.communicate()[0]
        self.said.append(said)
        assert cleaning.returncode == 0, (node.name, said)
        return said

    def _clean_for_good(self):
        """One pass of each node, for the dead; nobody is alive any more.

        The other Glance knows nothing of deaths here, so it waits as long as
        ever.
        """
        theirs = self.other.start_managing('cleanup')
        for node in (self.a, self.b):
            self.clean_once(node, '--dead-after', '0')
        assert support.findings(theirs.communicate()[0]) == support.NOTHING

    def all_are_silent(self, seconds, silence=0):
        """As if so much time had gone by since anybody was at work.

        :param silence: who is silent for so many seconds already
        """
        with contextlib.closing(self.cloud.database.connect()) as connection:
            for table in 'tasks', 'images':
                _age(connection, table, seconds, silence)

    def may_hold(self, image_id, disk):
        self._held.setdefault(image_id, set()).add(disk.sha512)

    def forget(self, image_id):
        """What it was is nothing that it may be from now on."""
        self._held[image_id] = set()

    # What is really there.

    def records(self):
        """{image id: record} of all images."""
        return records(self.cloud.database)

    def stored(self, pool='images'):
        return set(rbd.RBD().list(self._ioctxs[pool]))

    def watchers(self, pool, name):
        """Who has an image open, except to read it."""
        with contextlib.suppress(rbd.ImageNotFound):
            with rbd.Image(self._ioctxs[pool], name, read_only=True) as image:
                return list(image.watchers_list())
        return []

    def mark(self, pool, name):
        with contextlib.suppress(rbd.ImageNotFound):
            with rbd.Image(self._ioctxs[pool], name, read_only=True) as image:
                return dict(image.metadata_list()).get(MARK)
        return None

    def is_written(self, pool):
        """Whether an image is begun there, and is more than a name."""
        return any(self.mark(pool, name) for name in self.stored(pool)
                   if name.endswith('.partial'))

    def marks(self):
        """Everything that is not, or not yet, this Glance's: (where, name).
        """
        found = {(pool, name) for pool in self.cloud.ceph.pools
                 for name in self.stored(pool)
                 if '.' in name or self.mark(pool, name)}
        return (found | {('files', name) for name in os.listdir(self._files)
                         if name.startswith('.')}) - set(self._foreign)

    @property
    def _files(self):
        return self.cloud.glance.dir / 'files'

    def _expected(self):
        """What both Glances have recorded, as ``_present()`` has it."""
        return {self._place(url) for database in (
            self.cloud.database, self.other.cloud.database)
            for record in records(database).values() for url in record.urls
            } - {('files', '')}

    def _place(self, url):
        if url.startswith('rbd://'):
            return tuple(url.split('/')[3:5])
        folder, _, name = url.removeprefix('file://').rpartition('/')
        return 'files', name if folder == str(self._files) else ''

    def _present(self):
        return ({(pool, name) for pool in self.cloud.ceph.pools
                 for name in self.stored(pool)}
                | {('files', name) for name in os.listdir(self._files)}
                ) - set(self._foreign)

    def content(self, url):
        """sha512 of what a URL leads to."""
        if url.startswith('file://'):
            return support.digests(url.removeprefix('file://'))[1]
        pool, name, snapshot = url.split('/')[3:]
        found = hashlib.sha512()
        with rbd.Image(self._ioctxs[pool], name, snapshot=snapshot,
                       read_only=True) as image:
            size = image.size()
            for offset in range(0, size, 4 * MIB):
                found.update(image.read(offset, min(4 * MIB, size - offset)))
        return found.hexdigest()

    # The other Glance.

    @contextlib.contextmanager
    def neighbour(self):
        """The other Glance has images, and what dead writers have left."""
        for store in ('ceph', 'ceph2', 'files'):
            self._neighbours_image(store)
        self._foreign = self._make_marks()
        try:
            yield
        finally:
            for pool, name in self._foreign:
                rbd.RBD().remove(self._ioctxs[pool], name)
            self._foreign = {}
            self.other.forget_images()

    def _neighbours_image(self, store):
        image_id = self.other.create('raw')
        data = os.urandom(MIB) + bytes(MIB)
        self.other.api('PUT', f'/v2/images/{image_id}/file', data=data,
                       headers={'Content-Type': 'application/octet-stream',
                                'X-Image-Meta-Store': store})
        self.other.settled(image_id)
        return image_id

    def _make_marks(self):
        """As of images whose records are lost, which nobody may judge."""
        found = {}
        for pool in self.cloud.ceph.pools:
            image_id = str(uuid.uuid4())
            name = self.other.leftover_name(image_id)
            _, task_id, deployment, _ = name.split('.')
            mark = json.dumps({'task': task_id, 'deployment': deployment,
                               'host': 'elsewhere', 'client': '-'})
            for each in (name, image_id):
                rbd.RBD().create(self._ioctxs[pool], each, MIB)
                with rbd.Image(self._ioctxs[pool], each) as image:
                    image.metadata_set(MARK, mark)
                found[pool, each] = mark
        return found

    def _assert_neighbour_untouched(self):
        for place, mark in self._foreign.items():
            assert self.mark(*place) == mark
        for record in records(self.other.cloud.database).values():
            if record.urls:
                assert record.status == 'active'
            for url in record.urls:
                assert self.content(url) == record.os_hash_value

    # All of it.

    def settle(self):
        """Wait until who lives has ended, and let clean-ups pass once."""
        support.wait_for(self._is_quiet, 180, interval=0.5,
                         what=self.records)
        self._clean_for_good()

    def is_tidy(self):
        """Whether there is nothing that a clean-up could do."""
        found = self.records()
        return (all(record.is_final for record in found.values())
                and not self.marks() and not self._strays(found))

    def forget_images(self):
        """Delete all of them, by the node that may have them staged."""
        for image_id in self.records():
            self.a.delete(image_id)
        assert self.records() == {}

    def _is_quiet(self):
        """Whether nobody is at work, nor holds a lease."""
        for record in self.records().values():
            if record.task_id and (record.silence or 0) < SILENCE:
                return False
        return self.is_free()

    def is_free(self):
        """Whether nobody holds a lease any more."""
        return not any(self.watchers(*place) for place in self.marks()
                       if place[0] != 'files')

    def assert_all_is_well(self):
        found = self.records()
        assert {i: r for i, r in found.items() if not r.is_final} == {}
        assert [i for i, r in found.items() if r.status == 'saving'
                and any(i in words for words in self.said)] == []
        assert self.marks() == set()
        assert self._present() == self._expected()
        for image_id, record in found.items():
            if record.status == 'active':
                self.assert_whole(image_id)
            else:
                assert not record.urls
        assert self._strays(found) == set()
        self._assert_neighbour_untouched()

    def assert_whole(self, image_id):
        """Each of its stores holds what its owner last brought."""
        record = self.records()[image_id]
        assert record.urls
        for url in record.urls:
            content = self.content(url)
            assert content in self._held[image_id], url
            assert record.os_hash_value in (None, content), url

    def _strays(self, found):
        """What is staged and belongs to nobody.

        What was being staged on a node that died, of an image that another
        one deletes before it was imported, Glance removes when that node
        starts the next time.
        """
        waiting = {image_id for image_id, record in found.items()
                   if record.status == 'uploading'}
        return {(node.name, name) for node in (self.a, self.b)
                for name in node.staged() if name not in waiting
                and (name in found or name in self._imported()
                     or '.' in name)}

    def _imported(self):
        """Ids of all images that were ever imported, deleted or not."""
        with contextlib.closing(self.cloud.database.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute('SELECT image_id FROM tasks')
            return {image_id for image_id, in cursor.fetchall()}


def records(database):
    connection = database.connect()
    with contextlib.closing(connection), connection.cursor() as cursor:
        def rows(query):
            cursor.execute(query)
            return cursor.fetchall()
        urls, tasks, silence = {}, {}, {}
        for image_id, url in rows('SELECT image_id, value FROM '
                                  'image_locations WHERE deleted = 0'):
            urls.setdefault(image_id, set()).add(url)
        tasks.update(rows('SELECT image_id, value FROM image_properties '
                          'WHERE deleted = 0 AND '
                          "name = 'os_glance_import_task'"))
        silence.update(rows(
            'SELECT image_id, TIMESTAMPDIFF(SECOND, MAX(updated_at), '
            'UTC_TIMESTAMP()) FROM tasks GROUP BY image_id'))
        return {image_id: Record(
            status, os_hash, tasks.get(image_id),
            frozenset(urls.get(image_id, ())), silence.get(image_id))
            for image_id, status, os_hash in rows(
                'SELECT id, status, os_hash_value FROM images '
                'WHERE deleted = 0')}


def open_files(pid):
    try:
        return [os.readlink(f'/proc/{pid}/fd/{fd}')
                for fd in os.listdir(f'/proc/{pid}/fd')]
    except OSError:
        return []


def send(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextlib.contextmanager
def stopped(pids):
    send(pids, STOP)
    try:
        yield
    finally:
        send(pids, CONT)


class Slow:
    """A file that takes its time to be read, as an upload does."""

    def __init__(self, path, seconds=0.0, pause_at=None, pause=None):
        """Describe it.

        :param pause_at: the share of it after which it waits for ``pause``
        """
        self._file = open(path, 'rb')   # noqa: SIM115
        self._size = os.path.getsize(path)
        self._seconds = seconds
        self._pause_at = pause_at
        self._pause = pause

    def __len__(self):
        return self._size

    def read(self, size=-1):
        share = size / self._size
        if self._seconds * share > 0.0001:
            time.sleep(self._seconds * share)
        if self._pause and self._file.tell() >= self._pause_at * self._size:
            assert self._pause.wait(300)
        return self._file.read(size)


def _age(connection, table, seconds, silence):
    """Make rows older, but for those that somebody has locked and pauses."""
    connection.begin()
    cursor = connection.cursor()
    cursor.execute(
        f'SELECT id FROM {table} WHERE updated_at <= '      # noqa: S608
        'UTC_TIMESTAMP() - INTERVAL %s SECOND FOR UPDATE SKIP LOCKED',
        [silence])
    if found := [row[0] for row in cursor.fetchall()]:
        cursor.execute(
            f'UPDATE {table} SET updated_at = '     # noqa: S608
            'updated_at - INTERVAL %s SECOND WHERE id IN %s',
            [seconds, found])
    connection.commit()
