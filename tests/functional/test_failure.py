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

"""Imports that fail: a clear reason, nothing left, and a second chance."""

import contextlib
import hashlib
import os
import signal
import subprocess
import time

import pytest

from tests.functional import support

MIB = support.MIB


def assert_given_back(glance, image, message, reason, stores='ceph'):
    """What every failed import must end in."""
    assert reason in message
    assert 'Internal Error' not in message
    assert '/' not in message and 'Traceback' not in message
    assert message.endswith('.') and len(message) < 300
    assert image['status'] == 'queued'
    assert image['disk_format'] == 'qcow2'
    assert image['os_glance_failed_import'] == stores
    assert image['os_glance_importing_to_stores'] == ''
    assert image['size'] is None and image['virtual_size'] is None
    assert image['os_hash_value'] is None
    assert glance.leftovers() == {}


def assert_second_chance(glance, images, image_id):
    """The same image, given sound data, is imported."""
    qcow2, raw = images.qcow2('second-chance', seed=9)
    glance.stage(image_id, qcow2)
    glance.start_import(image_id)
    image = glance.finish(image_id)
    assert image['status'] == 'active', glance.message(image_id)
    assert image['os_hash_value'] == support.digests(raw)[1]
    assert 'ceph' not in image['os_glance_failed_import'].split(',')


def truncated(path):
    os.truncate(path, path.stat().st_size // 65536 // 2 * 65536)


def cut_within_the_last_cluster(path):
    os.truncate(path, path.stat().st_size - 5000)


def corrupt_table(path):
    """Point the first cluster somewhere else, misaligned."""
    with open(path, 'r+b') as f:
        f.seek(40)
        l1 = int.from_bytes(f.read(8), 'big')
        f.seek(l1)
        l2 = int.from_bytes(f.read(8), 'big') & 0x00fffffffffffe00
        f.seek(l2)
        f.write((0x8000000000050200).to_bytes(8, 'big') * 64)


def lost_header(path):
    with open(path, 'r+b') as f:
        f.write(b'\0' * 512)


def backing_file(path):
    subprocess.run(['qemu-img', 'rebase', '-u', '-b', '/etc/hostname', '-F',
                    'raw', path], check=True)


def data_file(path):
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-o',
                    f'data_file={path}.data', path, '8M'], check=True)


def unknown_feature(path):
    with open(path, 'r+b') as f:
        f.seek(72)
        f.write((1 << 60).to_bytes(8, 'big'))


def random_bytes(path):
    path.write_bytes(os.urandom(MIB))


def empty(path):
    path.write_bytes(b'')


BROKEN = {
    truncated: 'truncated',
    cut_within_the_last_cluster: 'is truncated',
    corrupt_table: 'damaged',
    lost_header: 'is declared as qcow2, but its content is raw',
    backing_file: 'refers to a backing file',
    data_file: 'keeps its content in another file',
    unknown_feature: 'uses features of its format that are unknown',
    random_bytes: 'is declared as qcow2, but its content is raw',
    empty: 'has no content',
}


@pytest.mark.parametrize('spoil', BROKEN, ids=lambda f: f.__name__)
def test_broken_image(glance, images, spoil):
    qcow2, _ = images.qcow2(spoil.__name__)
    spoil(qcow2)
    image, message = glance.refused(qcow2)
    assert_given_back(glance, image, message, BROKEN[spoil])


@pytest.mark.parametrize('kept', [False, True])
def test_another_upload_than_was_expected(glance, images, kept):
    qcow2, _ = images.qcow2('unexpected')
    wanted = hashlib.sha256(b'of another file').hexdigest()
    found = hashlib.sha256(qcow2.read_bytes()).hexdigest()
    image, message = glance.refused(
        qcow2, 'iso' if kept else 'qcow2',
        conversion_expected_hash=f'sha256:{wanted}')
    assert image['status'] == 'queued'
    assert f'sha256:{found}' in message and f'sha256:{wanted}' in message
    assert glance.leftovers() == {}


def test_another_upload_where_all_of_us_step_aside(glance, configure,
                                                   images):
    configure(image_import_opts={'image_import_plugins':
                                 "['rbd_direct_convert']"})
    qcow2, _ = images.qcow2('unexpected')
    image, message = glance.refused(
        qcow2, stores=('files',), conversion_expected_hash=f'md5:{"0" * 32}')
    assert image['status'] == 'queued'
    assert f'md5:{"0" * 32} was expected' in message
    assert glance.leftovers() == {}


def test_compressed_cluster_that_does_not_decode(glance, images):
    """Only reading shows it; by then much is written."""
    qcow2, _ = images.qcow2('corrupt-cluster', '-c', pieces=200)
    with open(qcow2, 'r+b') as f:
        f.seek(qcow2.stat().st_size * 3 // 4)
        f.write(b'\xff' * 300_000)
    image, message = glance.refused(qcow2)
    assert_given_back(glance, image, message, 'can not be decoded')
    assert_second_chance(glance, images, image['id'])


def test_claimed_raw_but_qcow2(glance, images):
    qcow2, _ = images.qcow2('claimed-raw')
    image, message = glance.refused(qcow2, 'raw')
    assert 'is declared as raw, but its content is qcow2' in message
    assert glance.leftovers() == {}


def test_an_image_within_the_image(glance, images):
    """Its raw content is itself a qcow2 image."""
    inner, _ = images.qcow2('inner')
    outer, _ = images.qcow2('outer', raw=inner)
    image, message = glance.refused(outer)
    assert_given_back(glance, image, message, 'hides another image, qcow2')


def test_killed_qemu(glance, images):
    qcow2, _ = images.qcow2('killed', '-c', size=1024 * MIB,
                            pieces=4000)
    image_id = glance.begin(qcow2)
    pids = support.wait_for(lambda: [
        pid for pid in glance.qemu_processes()
        if support.comm(pid) == 'qemu-nbd\n'], interval=0.005)
    os.kill(pids[0], signal.SIGKILL)
    image = glance.finish(image_id)
    assert_given_back(glance, image, glance.message(image_id),
                      'decodes the image stopped before the end')
    assert_second_chance(glance, images, image_id)


@pytest.mark.parametrize('all_must', [True, False])
def test_full_pool(glance, images, full_pool, all_must):
    qcow2, _ = images.qcow2('full')
    image_id = glance.begin(qcow2, stores=[full_pool], all_must=all_must)
    image = glance.finish(image_id)
    assert glance.message(image_id) == 'The store has no room for the image.'
    assert image['status'] == 'queued'
    assert image['os_glance_failed_import'] == full_pool
    assert glance.stored('images2') == ['fill']
    assert glance.staged() == []
    assert_second_chance(glance, images, image_id)


@pytest.mark.parametrize('order', [('ceph', 'ceph2'), ('ceph2', 'ceph')])
def test_one_of_two_stores_full_and_failure_is_allowed(
        glance, images, full_pool, order):
    qcow2, raw = images.qcow2('one-full-allowed')
    image = glance.imported(qcow2, stores=order, all_must=False)
    assert image['stores'] == 'ceph'
    assert image['os_glance_failed_import'] == 'ceph2'
    assert glance.content(image['id']) == support.digests(raw)
    assert glance.stored('images2') == ['fill']
    assert 'Store ceph2 failed: The store has no room' in glance.message(
        image['id'])


def test_name_taken_by_another_tool(glance, images):
    """What is in the pool under the image's name is not ours to touch."""
    qcow2, _ = images.qcow2('taken')
    image_id = glance.create()
    glance.rbd('-p', 'images', 'create', '--size', '1M', image_id)
    glance.stage(image_id, qcow2)
    glance.start_import(image_id)
    image = glance.finish(image_id)
    assert image['status'] == 'queued'
    assert 'already holds data of this image' in glance.message(image_id)
    assert glance.stored() == [image_id]
    glance.rbd('-p', 'images', 'rm', '--no-progress', image_id)
    assert_second_chance(glance, images, image_id)


def test_staging_without_room(glance, images, small_staging):
    """A file system so full that not even a placeholder fits."""
    qcow2, _ = images.qcow2('no-room')
    image_id = glance.create()
    glance.stage(image_id, qcow2)
    with open(small_staging / 'filler', 'wb') as f:
        try:
            while True:
                f.write(bytes(65536))
                f.flush()
        except OSError:
            pass
    glance.start_import(image_id)
    image = glance.finish(image_id)
    (small_staging / 'filler').unlink(missing_ok=True)
    assert_given_back(glance, image, glance.message(image_id),
                      'has a problem with its disk')


@pytest.fixture
def small_staging(glance, tmp_path):
    """A file system of 64 MiB in the place of the staging folder."""
    glance.configure()
    staging = glance.cloud.glance.staging
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64M', 'tmpfs',
                    staging], check=True)
    yield staging
    subprocess.run(['umount', staging], check=True)


@pytest.mark.parametrize('disk_format', ['qcow2', 'raw'])
def test_upload_that_is_gone(glance, images, disk_format):
    """Whatever goes wrong, the image is its owner's again."""
    qcow2, raw = images.qcow2('gone')
    image_id = glance.begin(
        qcow2 if disk_format == 'qcow2' else raw, disk_format,
        before=lambda path: path.unlink())
    image = glance.finish(image_id)
    assert image['status'] == 'queued'
    assert image['os_glance_failed_import'] == 'ceph'
    assert 'is gone from staging' in glance.message(image_id)
    assert glance.leftovers() == {}


def test_deleted_meanwhile(glance, images):
    qcow2, _ = images.slow()
    image_id = glance.begin(qcow2)
    support.wait_for(lambda: 'Converting: ' in glance.message(image_id))
    glance.delete(image_id)
    assert glance.leftovers() == {}


def test_progress_moves(glance, images):
    qcow2, _ = images.slow()
    image_id = glance.begin(qcow2)
    seen = []
    while glance.task(image_id)['status'] in ('pending', 'processing'):
        message = glance.message(image_id)
        if message.startswith('Converting: ') and message not in seen:
            seen.append(message)
    percents = [int(m.split(': ')[1].split('%')[0]) for m in seen]
    assert len(percents) > 1 and percents == sorted(percents)
    assert all(' of 4.0 GiB, ' in m and ' written), ' in m for m in seen)
    log = glance.cloud.glance.log.read_text()
    line = [x for x in log.splitlines() if f'Image {image_id}: Conv' in x][-1]
    for stage in ('inspect', 'check', 'read', 'write', 'wait for digests',
                  'seal'):
        assert f'{stage} ' in line


def test_no_thread_and_no_memory_stay(glance, images):
    """Failures in number leave the workers as they were."""
    qcow2, _ = images.qcow2('corrupt-many', '-c', pieces=200)
    with open(qcow2, 'r+b') as f:
        f.seek(qcow2.stat().st_size * 3 // 4)
        f.write(b'\xff' * 300_000)

    def settled():
        return sum(len(os.listdir(f'/proc/{pid}/task'))
                   for pid in glance.cloud.glance.pids())
    for _ in range(2):
        glance.refused(qcow2)
    before = settled()
    for _ in range(6):
        glance.refused(qcow2)
    # Glance's own pool of task threads may grow by one a worker.
    support.wait_for(lambda: settled() <= before + 4)
    assert glance.leftovers() == {}


def test_a_copy_of_staging_is_not_needed(glance, images):
    """Beyond the upload, staging holds 4 KiB."""
    qcow2, _ = images.full()
    image_id = glance.begin(qcow2)
    staging = glance.cloud.glance.staging
    extra = staging / f'{image_id}.converted'
    with glance.held(image_id):
        assert extra.stat().st_blocks * 512 <= 4096
        assert glance.staged() == [image_id, extra.name]
    assert glance.finish(image_id)['status'] == 'active'


@pytest.fixture
def pause(cloud):
    """Stops the OSD as a failing disk does: it neither answers nor ends."""
    pid = cloud.ceph.daemons['ceph-osd'].pid()

    @contextlib.contextmanager
    def paused():
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)
    return paused


def test_ceph_that_hangs_for_a_while(glance, images, pause):
    qcow2, _ = images.full()
    image_id = glance.begin(qcow2)
    glance.wait_until_stored_into(image_id)
    with pause():
        time.sleep(6)
        assert glance.task(image_id)['status'] == 'processing'
    image = glance.finish(image_id)
    assert image['status'] == 'active', glance.message(image_id)
    # That is the digest of what was read; this is what was written.
    assert image['os_hash_value'] == glance.content(image_id)[1]


def test_deleted_while_ceph_hangs(glance, images, pause):
    """The import lets go at once; what is left goes when Ceph answers."""
    qcow2, _ = images.slow()
    image_id = glance.begin(qcow2)
    support.wait_for(lambda: 'Converting: ' in glance.message(image_id))
    with pause():
        glance.delete(image_id)
        support.wait_for(lambda: not glance.qemu_processes(), 10)
    assert glance.leftovers() == {}


@pytest.mark.parametrize('options', support.STORES_AT_ONCE)
def test_one_of_two_stores_full_and_all_must_succeed(
        glance, configure, images, full_pool, options):
    configure(**options)
    qcow2, _ = images.qcow2('one-full')
    image, message = glance.refused(qcow2, stores=('ceph', full_pool))
    assert message == 'The store has no room for the image.'
    assert image['os_glance_failed_import'] == 'ceph,ceph2'
    assert glance.stored('images') == []
    assert glance.stored('images2') == ['fill']


def test_too_large_for_the_cloud(glance, configure, images):
    configure(conversion={'max_virtual_size': '40MB'})
    qcow2, _ = images.qcow2('too-large')
    image, message = glance.refused(qcow2)
    assert_given_back(glance, image, message,
                      'it has 48 MiB once converted, and 40 MiB are allowed')


def test_too_large_for_glance(glance, configure, images):
    configure(DEFAULT={'image_size_cap': 40 * MIB})
    qcow2, _ = images.qcow2('over-cap')
    image, message = glance.refused(qcow2)
    assert_given_back(glance, image, message, '40 MiB are allowed')


def test_over_the_storage_quota(glance, configure, images):
    configure(DEFAULT={'user_storage_quota': '40MB'})
    qcow2, _ = images.qcow2('over-quota')
    image, message = glance.refused(qcow2)
    assert_given_back(glance, image, message, 'quota of its project')


def test_over_the_keystone_limit(glance, configure, images):
    configure(DEFAULT={'use_keystone_limits': True})
    qcow2, _ = images.qcow2('over-limit')
    glance.cloud.keystone.set_limit('image_size_total', 40)
    try:
        image, message = glance.refused(qcow2)
    finally:
        glance.cloud.keystone.set_limit('image_size_total', 1_000_000)
    assert_given_back(glance, image, message, 'quota of its project')


def test_deleted_while_it_waits(glance, configure, images):
    configure(conversion={'max_concurrent': 1})
    qcow2, _ = images.full()
    small, _ = images.qcow2('waiting')
    first = glance.begin(qcow2)
    with glance.held(first):
        second = glance.begin(small)
        support.wait_for(lambda: glance.message(second).startswith(
            'Waiting for a free conversion slot, '))
        glance.expect_message(first, 'Converting: ')
        glance.delete(second)
        support.wait_for(lambda: not [
            name for name in glance.staged() if name.startswith(second)])
    assert glance.finish(first)['status'] == 'active'


def _is_being_written(glance, name):
    """One that has its snapshot only waits for Glance, without a slot."""
    found = glance.cloud.ceph.run('rbd', 'snap', 'ls', f'images/{name}',
                                  check=False)
    return not found.returncode and 'snap' not in found.stdout


def test_slots_serve_one_after_the_other(glance, configure, images):
    configure(conversion={'max_concurrent': 1})
    made = [images.qcow2(f'slot-{n}', seed=n, size=512 * MIB)
            for n in range(3)]
    begun = [glance.begin(qcow2) for qcow2, _ in made]
    partials = set()
    while any(glance.task(i)['status'] in ('pending', 'processing')
              for i in begun):
        partials.add(len([name for name in glance.stored()
                          if name.endswith('.partial')
                          and _is_being_written(glance, name)]))
    assert max(partials) == 1
    for image_id, (_, raw) in zip(begun, made, strict=True):
        image = glance.finish(image_id)
        assert image['os_hash_value'] == support.digests(raw)[1]
