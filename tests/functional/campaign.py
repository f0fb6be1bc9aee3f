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


"""Owners and operators at work, and what befalls their cloud meanwhile."""

import functools
import random
import subprocess
import threading
import time
import uuid

from tests.functional import nodes as nodes_
from tests.functional import support

# What is under way at once, and for how long things begin, in seconds.
_BEGINNINGS = 5
_KEPT = 6

# Longer than a lease; as long as anybody waits, where there are many.
PAUSES = support.LEASE_SECONDS, 20
LONG_PAUSES = 15, 60


class Campaign:
    """Rounds of work, each with some faults, until it is quiet again.

    All that is left to chance is drawn before a round begins, so that a seed
    says what happens, if not exactly when.
    """

    def __init__(self, nodes, disks, seed, folder, pauses=PAUSES):
        self._nodes = nodes
        self._both = nodes.a, nodes.b
        self._disks = disks
        self._chance = random.Random(seed)      # noqa: S311
        self._pauses = pauses
        self._commands = support.Commands(nodes.b, folder)
        # So that there are zeros to give back.
        self._commands.configure(sparse_store={'zero_block_size': 4096})
        self._start = time.monotonic()
        self._running = []      # commands that may be hit
        self._acknowledged = set()
        self._deleted = set()
        self._osd = threading.Lock()

    def round(self, points):
        """Let so many faults happen among all kinds of work."""
        self._say(f'--- {points} points')
        self._prepare()
        before = self._nodes.records()
        self._acknowledged = {image_id for image_id, record in before.items()
                              if record.status == 'active'}
        self._deleted = set()
        self._run([*self._works(before),
                   *(self._fault() for _ in range(points))])
        self._say('all has been done')
        self._settle()
        self._check(before)

    def _say(self, words):
        print(f'{time.monotonic() - self._start:6.1f} {words}', flush=True)

    def _node(self):
        return self._chance.choice(self._both)

    def _other(self, node):
        return next(each for each in self._both if each is not node)

    def _pause(self):
        return self._chance.uniform(*self._pauses)

    def _run(self, jobs):
        """Do all of it at once; each begins at its own moment."""
        failures = []

        def run(delay, job):
            time.sleep(delay)
            words = f'{job.func.__name__}{job.args}'
            self._say(words)
            try:
                self._say(f'  {words}: {job()}')
            except Exception as e:
                failures.append((words, e))
        threads = [threading.Thread(target=run, args=(
            self._chance.uniform(0, _BEGINNINGS), job)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures

    # What owners and operators do.

    def _prepare(self):
        """Images to work with, and not more and more of them."""
        found = self._nodes.records()
        ready = [i for i, r in found.items() if r.status == 'active']
        lost = [i for i, r in found.items()
                if r.status in ('uploading', 'killed', 'saving')]
        for image_id in [*lost, *ready[_KEPT:]]:
            self._node().delete(image_id)
        for _ in range(len(ready), 2):
            disk = self._chance.choice(self._disks)
            node = self._node()
            image_id = node.create('raw')
            assert self._upload(node, image_id, disk, 'ceph', 0) == 204
        for disk_format in ('raw', 'raw', 'qcow2', 'qcow2', 'qcow2'):
            self._node().create(disk_format)

    def _works(self, found):
        for image_id, record in found.items():
            if record.status == 'queued':
                self._nodes.forget(image_id)
                yield self._bring(image_id)
        ready = [i for i, r in found.items() if r.status == 'active']
        for work in (self._copy, self._sparsify, self._delete):
            yield functools.partial(work, self._node(),
                                    self._chance.choice(ready))
        begun = [i for i, r in found.items() if r.status == 'queued']
        yield functools.partial(self._delete, self._node(),
                                self._chance.choice(begun))
        yield functools.partial(self._digests, self._node())

    def _bring(self, image_id):
        node, disk = self._node(), self._chance.choice(self._disks)
        seconds = self._chance.uniform(0, 4)
        if node.show(image_id)['disk_format'] == 'raw':
            return functools.partial(
                self._upload, node, image_id, disk,
                self._chance.choice(['ceph', 'ceph2', 'files']), seconds)
        return functools.partial(
            self._import, node, image_id, disk, self._chance.choice([
                ('ceph',), ('ceph2', 'ceph'), ('files',), ('ceph', 'files'),
                ('files', 'ceph2')]), seconds)

    def _upload(self, node, image_id, disk, store, seconds):
        self._nodes.may_hold(image_id, disk)
        status = node.put(f'/v2/images/{image_id}/file',
                          nodes_.Slow(disk.raw, seconds),
                          **{'X-Image-Meta-Store': store})
        if status == 204:
            self._acknowledged.add(image_id)
        return status

    def _import(self, node, image_id, disk, stores, seconds):
        self._nodes.may_hold(image_id, disk)
        staged = node.put(f'/v2/images/{image_id}/stage',
                          nodes_.Slow(disk.qcow2, seconds))
        if staged != 204:
            return staged, 'not imported'
        return node.attempt('POST', f'/v2/images/{image_id}/import', json={
            'method': {'name': 'glance-direct'}, 'stores': list(stores),
            'all_stores_must_succeed': True})

    def _copy(self, node, image_id):
        return node.attempt(
            'POST', f'/v2/images/{image_id}/import', user='admin', json={
                'method': {'name': 'copy-image'},
                'stores': ['files', 'ceph2'],
                'all_stores_must_succeed': False})

    def _delete(self, node, image_id):
        self._deleted.add(image_id)
        return node.attempt('DELETE', f'/v2/images/{image_id}')

    def _sparsify(self, _node, image_id):
        command = self._commands.command('glance-conversion-manage',
                                         'sparsify', image_id)
        return self._wait_for(subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))

    def _digests(self, node):
        return self._wait_for(node.start_managing('digests'))

    def _wait_for(self, command):
        """See a command to its end, unless it is hit."""
        self._running.append(command)
        said = command.communicate()[0]
        self._running.remove(command)
        return command.returncode, said

    # What befalls them.

    def _fault(self):
        fault = self._chance.choice([
            self._kill_worker, self._kill_node, self._stop_worker,
            self._pause_node, self._kill_pass, self._stop_pass,
            self._kill_command, self._stop_osd, self._restart_osd])
        return functools.partial(fault, self._node(), self._chance.random(),
                                 self._pause())

    @staticmethod
    def _pick(things, share):
        return things[int(share * len(things))]

    def _kill_worker(self, node, share, _pause):
        with node.fate:
            pid = self._pick(node.workers(), share)
            nodes_.send([pid], nodes_.KILL)
        return pid

    def _kill_node(self, node, share, _pause):
        with node.fate:
            node.kill()
            time.sleep(3 * share)
            node.start()

    def _stop_worker(self, node, share, pause):
        with node.fate:
            pid = self._pick(node.workers(), share)
            with nodes_.stopped([pid]):
                self._pass_for(self._other(node), pause, share)
        return pid

    def _pause_node(self, node, share, pause):
        with node.fate, node.paused():
            self._pass_for(self._other(node), pause, share)

    def _pass_for(self, node, seconds, share):
        """Clean-ups on another node, for which those who are silent died."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if share < 0.5:
                self._nodes.all_are_silent(7200, nodes_.SILENCE)
            done = self._wait_for(node.start_managing('cleanup'))
            self._nodes.said.append(done[1])
            self._say(done)

    def _kill_pass(self, node, share, _pause):
        return self._hit(node.start_managing('cleanup'), 8 * share)

    def _stop_pass(self, node, share, pause):
        cleaning = node.start_managing('cleanup')
        time.sleep(8 * share)
        with nodes_.stopped([cleaning.pid]):
            self._pass_for(self._other(node), pause, share)
        return self._wait_for(cleaning)

    def _kill_command(self, _node, share, _pause):
        """Of those that somebody runs."""
        support.wait_for(lambda: self._running, 20)
        return self._hit(self._pick(list(self._running), share), 3 * share)

    @staticmethod
    def _hit(command, seconds):
        time.sleep(seconds)
        command.kill()
        return command.wait()

    def _stop_osd(self, _node, share, _pause):
        with self._osd, nodes_.stopped(
                self._nodes.cloud.ceph.daemons['ceph-osd'].pids()):
            time.sleep(10 * share)

    def _restart_osd(self, _node, share, _pause):
        with self._osd:
            self._nodes.cloud.ceph.stop_osd()
            time.sleep(3 * share)
            self._nodes.cloud.ceph.start_osd()

    # What has become of it.

    def _settle(self):
        self._nodes.settle()
        # Glance removes data before it says so: of a delete that was cut its
        # owner has to make sure.
        for image_id in sorted(self._deleted & self._nodes.records().keys()):
            self._nodes.b.attempt('DELETE', f'/v2/images/{image_id}')
        self._nodes.clean_once(self._nodes.a, command='digests')
        self._nodes.clean_once(
            self._nodes.b, '--grace', '0', str(uuid.uuid4()),
            command='sparsify')

    def _check(self, before):
        self._nodes.assert_all_is_well()
        after = self._nodes.records()
        for image_id in self._acknowledged - self._deleted:
            assert after[image_id].status == 'active', image_id
        for image_id, record in before.items():
            if image_id in after and image_id not in self._deleted:
                assert record.urls <= after[image_id].urls, image_id
        for image_id, record in after.items():
            if record.status == 'active':
                assert record.os_hash_value, image_id
