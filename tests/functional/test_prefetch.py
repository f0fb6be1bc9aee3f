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


"""The agent, on the cache of a node as Glance itself uses it."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
import urllib.request

import pytest

from cloud import ini

from tests.functional import support

MIB = support.MIB
# 16 MiB of data between 48 MiB of zeros.
DATA = b''.join(os.urandom(MIB) + bytes(3 * MIB) for _ in range(16))
DENSE = os.urandom(16 * MIB)
MANAGE = 'glance-cache-manage'


class Node(support.Commands):
    """The node whose Glance runs, or another one with a cache of its own."""

    def __init__(self, glance, folder, cache, url=None):
        self._folder = folder
        self.cache = pathlib.Path(cache)
        # Glance's worker is given nothing here, so there is no grace.
        self._default = {
            'DEFAULT': {'image_cache_dir': cache, 'log_file': '',
                        'use_stderr': True},
            'cache_prefetch': {'grace': 0},
            'conversion_agent': {'cleanup_interval': 0,
                                 'digests_interval': 0}}
        if url:
            self._default['DEFAULT']['worker_self_reference_url'] = url
        super().__init__(glance, folder)

    def configure(self, **sections):
        super().configure(**ini.merge(self._default, sections))

    def once(self, expect=0, **sections):
        """One pass; returns what it says."""
        self.configure(**sections)
        done = self.run('glance-conversion-agent', '--once')
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout

    @contextlib.contextmanager
    def daemon(self, **sections):
        self.configure(**sections)
        log = self._folder / 'agent.log'
        with open(log, 'w') as output:
            process = subprocess.Popen(
                self.command('glance-conversion-agent'), stderr=output,
                stdin=subprocess.DEVNULL)
        process.log = log
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def status(self):
        done = self.run('glance-conversion-manage', 'cache', 'status')
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def queue(self, *image_ids):
        """As Glance's cache classes do it."""
        folder = self.cache / 'queue'
        folder.mkdir(parents=True, exist_ok=True)
        for image_id in image_ids:
            (folder / image_id).touch()

    def files(self, folder=''):
        path = self.cache / folder
        return sorted(p.name for p in path.iterdir()
                      if p.is_file()) if path.exists() else []

    def partial(self):
        """What is being fetched at the moment."""
        return [name for name in self.files('prefetch')
                if name.endswith('.partial')]

    def assert_only(self, *image_ids):
        """These are cached, and there is not a piece of anything else."""
        assert [name for name in self.files() if name.count('-') == 4] == (
            sorted(image_ids))
        for folder in ('incomplete', 'invalid'):
            assert not self.files(folder)
        assert not [name for name in self.files('prefetch')
                    if name not in ('failures.json',
                                    'glance-conversion-prefetch')]


def sections(glance, **default):
    """Glance with a cache."""
    return {'DEFAULT': {'image_cache_dir': glance.cloud.glance.dir / 'cache',
                        **default},
            'paste_deploy': {'flavor': 'keystone+cachemanagement'}}


@pytest.fixture
def glance_with_cache(glance, configure):
    configure(**sections(glance))
    return glance


@pytest.fixture
def node(glance_with_cache, tmp_path):
    """The node of the Glance that runs, its cache empty."""
    glance = glance_with_cache
    cache = glance.cloud.glance.dir / 'cache'
    yield Node(glance, tmp_path, cache)
    glance.api('DELETE', '/v2/cache', user='admin')
    for path in [*cache.glob('*/*'), *cache.glob('cache.db*')]:
        path.unlink()


def raw(glance, data=DATA, store='ceph', **properties):
    image_id = glance.create('raw', **properties)
    glance.api('PUT', f'/v2/images/{image_id}/file', data=data, headers={
        'Content-Type': 'application/octet-stream',
        'X-Image-Meta-Store': store})
    return image_id


def in_both_stores(glance, data=DATA):
    image_id = glance.create('raw')
    glance.api('PUT', f'/v2/images/{image_id}/stage', data=data, headers={
        'Content-Type': 'application/octet-stream'})
    glance.start_import(image_id, ('ceph', 'files'))
    assert glance.finish(image_id)['status'] == 'active'
    glance.settled(image_id)
    return image_id


@contextlib.contextmanager
def without_data(glance, image_id):
    """Take what the pool holds of an image away for a while."""
    glance.rbd('rename', f'images/{image_id}', f'images/{image_id}.away')
    try:
        yield
    finally:
        glance.rbd('rename', f'images/{image_id}.away', f'images/{image_id}')


def corrupt_object(glance, image_id):
    """Change the first object of an image behind the back of RBD."""
    ceph = glance.cloud.ceph
    prefix = ceph.json('rbd', 'info', f'images/{image_id}')[
        'block_name_prefix']
    path = glance.cloud.root / 'corrupt'
    path.write_bytes(os.urandom(MIB))
    ceph.run('rados', '-p', 'images', 'put', f'{prefix}.{0:016x}', path)
    path.unlink()


def cache_manage(glance, *args):
    """Glance's own tool for its cache."""
    token = glance.cloud.keystone.token('admin')
    url = glance.cloud.glance.url
    port = url.rsplit(':', 1)[1]
    return subprocess.run(
        [glance.cloud.settings.bin(MANAGE), '--host', '127.0.0.1', '--port',
         port, '--os-auth-token', token, '--force', *args],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=True, timeout=60).stdout


@pytest.mark.parametrize('driver', ['centralized_db', 'sqlite', 'xattr'])
def test_queued_by_hand_and_seen_by_glance(glance, configure, node, driver):
    configure(**sections(glance, image_cache_driver=driver))
    image_id = raw(glance)
    cache_manage(glance, 'queue-image', image_id)
    assert node.files('queue') == [image_id]

    said = node.once()
    assert f'image {image_id}: fetched 64 MiB from ceph, 16 MiB on disk' in (
        said)
    node.assert_only(image_id)
    assert (node.cache / image_id).stat().st_blocks * 512 <= 1.05 * 16 * MIB
    assert not node.files('queue')
    assert image_id in cache_manage(glance, 'list-cached')
    shown = glance.api('GET', '/v2/cache', user='admin')
    assert [c['image_id'] for c in shown['cached_images']] == [image_id]
    assert shown['cached_images'][0]['size'] == len(DATA)

    with without_data(glance, image_id):
        assert glance.api('GET', f'/v2/images/{image_id}/file') == DATA
    shown = glance.api('GET', '/v2/cache', user='admin')
    assert shown['cached_images'][0]['hits'] == 1
    assert 'hits: 1' in node.status()

    # Once more: there is nothing to do.
    node.queue(image_id)
    assert 'cached already' in node.once()
    glance.api('DELETE', f'/v2/cache/{image_id}', user='admin')
    node.assert_only()


def test_pruner_and_cleaner_work_on_what_was_fetched(glance, configure,
                                                     node):
    image_id = raw(glance)
    node.queue(image_id)
    node.once()
    configure(**sections(glance, image_cache_max_size=1))
    for command in ('glance-cache-pruner', 'glance-cache-cleaner'):
        subprocess.run(node.command(command), check=True, timeout=60,
                       capture_output=True)
        node.assert_only()
    assert glance.api('GET', '/v2/cache', user='admin')[
        'cached_images'] == []


def test_an_image_that_is_deleted_leaves_the_cache(glance, node):
    image_id = raw(glance)
    node.queue(image_id)
    node.once()
    glance.delete(image_id)
    node.assert_only()


@pytest.mark.parametrize('store', ['ceph', 'files'])
def test_what_glance_itself_caches_of_our_stores(glance, node, store):
    """It reads through get(), and checks what it was given."""
    image_id = raw(glance, store=store)
    assert glance.api('GET', f'/v2/images/{image_id}/file') == DATA
    support.wait_for(lambda: image_id in node.files())
    assert (node.cache / image_id).read_bytes() == DATA
    assert node.status().startswith('cached: 1, 64 MiB of ')


def test_policy(glance, node):
    asked = raw(glance, DENSE, prefetch='true')
    other = raw(glance, DENSE[:MIB], prefetch='false')
    tagged = raw(glance, DENSE[:2 * MIB], store='files')
    glance.api('PUT', f'/v2/images/{tagged}/tags/edge')

    assert node.once() == 'prefetch: nothing to do\n'
    said = node.once(cache_prefetch={'properties': 'prefetch:true'})
    assert f'image {asked}: fetched' in said
    node.assert_only(asked)
    said = node.once(cache_prefetch={'tags': 'edge,elsewhere'})
    assert f'image {tagged}: fetched' in said
    node.assert_only(asked, tagged)
    # Nobody but its owner sees it, so it is not for everybody's cache.
    assert other not in node.once(cache_prefetch={
        'properties': 'prefetch:false', 'visibility': 'public'})

    glance.api('PATCH', f'/v2/images/{other}', user='admin', data=json.dumps(
        [{'op': 'replace', 'path': '/visibility', 'value': 'public'}]
    ).encode(), headers={
        'Content-Type': 'application/openstack-images-v2.1-json-patch'})
    said = node.once(cache_prefetch={'newest': 1})
    assert f'image {other}: fetched' in said
    node.assert_only(asked, tagged, other)


def test_what_other_nodes_serve_most(glance, node, tmp_path):
    popular, rare = raw(glance), raw(glance, DENSE)
    node.queue(popular, rare)
    node.once()
    for image_id in (popular, popular, rare):
        glance.api('GET', f'/v2/images/{image_id}/file')

    (tmp_path / 'edge').mkdir()
    edge = Node(glance, tmp_path / 'edge', tmp_path / 'edge/cache',
                'http://edge.example:9292')
    said = edge.once(cache_prefetch={'most_hit': 1})
    assert f'image {popular}: fetched' in said
    edge.assert_only(popular)
    node.assert_only(popular, rare)
    nodes = glance.api('GET', f'/v2/cache/nodes/{popular}', user='admin')
    assert sorted(nodes) == sorted([glance.cloud.glance.url,
                                    'http://edge.example:9292'])


def test_passed_over(glance, node):
    deleted, inactive = raw(glance, b'x'), raw(glance, b'y')
    large = raw(glance, DENSE)
    node.queue(deleted, inactive, large)
    glance.delete(deleted)
    glance.api('POST', f'/v2/images/{inactive}/actions/deactivate',
               user='admin')
    nothing = '11111111-2222-3333-4444-555555555555'
    node.queue(nothing)
    said = node.once(DEFAULT={'image_cache_max_size': 8 * MIB})
    assert f'{deleted}: passed over (queued): it was deleted' in said
    assert f'{nothing}: passed over (queued): there is no such image' in said
    assert f'{inactive}: passed over (queued): its status is deactivated' in (
        said)
    assert (f'{large}: passed over (queued): it is larger than a '
            'cache of 8 MiB') in said
    node.assert_only()
    # Those that can never be fetched are not asked for again.
    assert node.files('queue') == sorted([inactive, large])
    glance.api('POST', f'/v2/images/{inactive}/actions/reactivate',
               user='admin')


def test_what_glance_was_given_is_left_to_it(glance, node):
    image_id = raw(glance)
    node.queue(image_id)
    assert 'left to Glance for' in node.once(cache_prefetch={'grace': 60})
    node.assert_only()


def test_makes_room_by_the_rule_of_the_pruner(glance, node):
    first, second, third = [raw(glance, DENSE[:size * MIB])
                            for size in (4, 5, 6)]
    limit = {'DEFAULT': {'image_cache_max_size': 10 * MIB}}
    node.queue(first)
    node.once(**limit)
    time.sleep(1.1)     # what MariaDB can tell apart
    node.queue(second)
    node.once(**limit)
    time.sleep(1.1)
    glance.api('GET', f'/v2/images/{first}/file')
    node.queue(third)
    assert f'{second} would be evicted for it' in node.status()
    said = node.once(**limit)
    assert f'image {second}: evicted' in said
    node.assert_only(first, third)
    # Nothing goes that would be fetched again.
    node.queue(first, second, third)
    assert f'{second}: passed over (queued): no room' in node.once(**limit)
    node.assert_only(first, third)


def test_takes_the_location_that_is_right(glance, node):
    """Whichever store is asked first, both kinds of damage are survived."""
    ids = [in_both_stores(glance), in_both_stores(glance)]
    corrupt_object(glance, ids[0])
    path = glance.cloud.glance.dir / 'files' / ids[1]
    path.write_bytes(DENSE)
    node.queue(*ids)
    said = node.once()
    assert f'image {ids[0]}: fetched 64 MiB from files' in said
    assert f'image {ids[1]}: fetched 64 MiB from ceph' in said
    node.assert_only(*ids)
    assert support.digests(node.cache / ids[0]) == support.digests(
        node.cache / ids[1])


def test_what_is_corrupt_is_never_served(glance, node):
    """The others do not suffer; it is tried again, later and later."""
    image_id, sound = raw(glance), raw(glance, DENSE)
    corrupt_object(glance, image_id)
    node.queue(image_id, sound)
    said = node.once(expect=1)
    assert f'image {image_id}: failed: ceph: what is stored does not' in said
    assert '(attempt 1; the next one is in' in said
    assert f'image {sound}: fetched' in said
    node.assert_only(sound)
    assert node.files('queue') == [image_id]
    assert '(attempt 1; the next one is in' in node.once()
    assert 'failing: 1' in node.status()

    path = node.cache / 'prefetch' / 'failures.json'
    attempts, reason, _ = json.loads(path.read_text())[image_id]
    path.write_text(json.dumps({image_id: [attempts, reason, 0]}))
    assert '(attempt 2; the next one is in 2 min' in node.once(expect=1)
    glance.delete(image_id)
    assert 'it was deleted' in node.once()
    assert 'failing: 0' in node.status()


def test_a_store_that_is_away(glance, node):
    image_id = raw(glance)
    node.queue(image_id)
    with without_data(glance, image_id):
        assert f'image {image_id}: failed: ceph: ' in node.once(expect=1)
    node.assert_only()


def test_a_full_disk(glance, tmp_path):
    glance.configure(**sections(glance))
    large, small = raw(glance, DENSE), raw(glance, DENSE[:MIB])
    cache = tmp_path / 'cache'
    cache.mkdir()
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=8M', 'tmpfs', cache],
                   check=True)
    try:
        node = Node(glance, tmp_path, cache, 'http://full.example:9292')
        node.queue(large, small)
        said = node.once(expect=1, cache_prefetch={'workers': 1})
        assert f'image {large}: failed: The disk of the cache is full.' in said
        assert f'image {small}: fetched' in said
        node.assert_only(small)
        stats = os.statvfs(cache)
        assert stats.f_bavail * stats.f_frsize > 6 * MIB
    finally:
        subprocess.run(['umount', cache], check=True)


# Slow enough for another agent to start and to end meanwhile.
SLOW = {'rate_limit': '1MB'}


def test_killed_amid_a_fetch(glance, node):
    image_id = raw(glance, DENSE)
    node.queue(image_id)
    with node.daemon(cache_prefetch=SLOW) as agent:
        support.wait_for(node.partial, 30)
        # Another one on this node does not collide with it.
        assert 'Another agent fetches for this cache.' in node.once(
            expect=3, cache_prefetch=SLOW)
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    assert node.partial()
    assert not [name for name in node.files() if name == image_id]
    assert glance.api('GET', '/v2/cache', user='admin')[
        'cached_images'] == []
    assert f'image {image_id}: fetched' in node.once()
    node.assert_only(image_id)


def test_stopped_amid_a_fetch(glance, node):
    image_id = raw(glance, DENSE)
    node.queue(image_id)
    with node.daemon(cache_prefetch=SLOW) as agent:
        support.wait_for(node.partial, 30)
        agent.terminate()
        assert agent.wait(20) == 0
    node.assert_only()
    assert node.files('queue') == [image_id]
    assert 'failing: 0' in node.status()


def test_reload(glance, node):
    """SIGHUP: new policy, same process; what is wrong is not taken."""
    image_id = raw(glance, DENSE, prefetch='true')
    with node.daemon() as agent:
        support.wait_for(lambda: 'Started' in agent.log.read_text(), 30)
        node.configure(cache_prefetch={'interval': 'soon'})
        agent.send_signal(signal.SIGHUP)
        support.wait_for(lambda: 'The old configuration stays'
                         in agent.log.read_text())
        assert agent.poll() is None
        node.configure(cache_prefetch={'properties': 'prefetch:true'})
        agent.send_signal(signal.SIGHUP)
        support.wait_for(lambda: image_id in node.files(), 30,
                         what=agent.log.read_text)
        assert agent.poll() is None
        agent.terminate()
        assert agent.wait(20) == 0
    node.assert_only(image_id)


def imports_counted(found, outcome, reason):
    """The sum of a counter over all formats."""
    labels = f'outcome="{outcome}",reason="{reason}"'
    return sum(float(value) for value in re.findall(
        f'^glance_conversion_imports_total{{.*{labels}}} (.*)$', found,
        re.MULTILINE))


def test_metrics(glance, node, images):
    image_id = raw(glance, DENSE)
    node.queue(image_id)
    path, _ = images.qcow2('counted')
    glance.imported(path)
    path.write_bytes(path.read_bytes()[:-70_000])
    glance.refused(path)
    with socket.create_server(('127.0.0.1', 0)) as probe:
        port = probe.getsockname()[1]

    def metrics():
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(
                    f'http://127.0.0.1:{port}/metrics', timeout=5) as reply:
                return reply.read().decode()
        return ''

    with node.daemon(conversion_agent={'metrics_port': port}):
        support.wait_for(
            lambda: 'passes_total{job="prefetch",result="ok"} 1.0'
            in metrics(), 30, what=metrics)
        found = metrics()
    name = 'glance_conversion_agent'
    assert f'{name}_fetched_bytes_total 1.6777216e+07' in found
    assert f'{name}_cache_images 1.0' in found
    assert f'{name}_slots{{kind="conversion",state="held"}} 0.0' in found
    assert f'{name}_images_total{{job="prefetch",result="fetched"}} 1.0' in (
        found)
    assert imports_counted(found, 'converted', '') >= 1
    assert imports_counted(found, 'refused', 'DamagedImage') >= 1
    assert 'glance_conversion_stage_seconds_count{stage="check"}' in found


def test_says_what_is_wrong_with_the_configuration(glance, node):
    node.configure(cache_prefetch={'workers': 0})
    done = node.run('glance-conversion-agent')
    assert done.returncode == 2
    assert 'workers' in done.stderr
    assert 'Traceback' not in done.stderr


def forget_digests(glance, image_id, age):
    """As if they had been interrupted so many seconds ago."""
    with glance.cloud.database.connect() as connection:
        with connection.cursor() as cursor:
            cursor.execute('UPDATE images SET os_hash_value = NULL, '
                           'checksum = NULL WHERE id = %s', (image_id,))
            cursor.execute('UPDATE tasks SET updated_at = DATE_SUB('
                           'UTC_TIMESTAMP(), INTERVAL %s SECOND) '
                           'WHERE image_id = %s', (age, image_id))


def test_resumes_interrupted_digests(glance, node):
    dead, alive = in_both_stores(glance), in_both_stores(glance)
    forget_digests(glance, dead, 3600)
    forget_digests(glance, alive, 60)
    node.queue(alive)
    said = node.once(conversion_agent={'digests_interval': 300})
    assert f'digests: computed: digests of image {dead}\n' in said
    assert f'{alive}: passed over (queued): it has no digest yet' in said
    image = glance.show(dead)
    assert (image['checksum'], image['os_hash_value']) == (
        hashlib.md5(DATA).hexdigest(), hashlib.sha512(DATA).hexdigest())
    # Somebody may still be computing these.
    assert glance.show(alive)['os_hash_value'] is None


def test_removes_what_dead_imports_have_left(glance, node):
    image_id = glance.create('raw')
    name = glance.leave_behind(image_id)
    said = node.once(conversion_agent={'cleanup_interval': 600})
    assert 'cleanup: removed: store ceph: data of the dead import or ' in said
    assert name not in glance.stored()
