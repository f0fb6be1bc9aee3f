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

"""Kills at any moment, and the clean-up after them."""

import contextlib
import hashlib
import os
import random
import signal
import threading
import time

import pytest

from glance_conversion_plugins.external import marks
from tests.functional import half_done
from tests.functional import support

MIB = support.MIB

SOURCE_HASH = 'os_glance_conversion_source_hash'


def kill_worker(glance, image_id):
    """Kill the one uWSGI process that converts, or all if none does."""
    makers = [pid for pid in glance.cloud.glance.pids()
              if has_open(pid, f'{image_id}.converted')]
    for pid in makers or glance.cloud.glance.pids():
        os.kill(pid, signal.SIGKILL)


def kill_glance(glance, _image_id):
    glance.cloud.glance.kill()


def has_open(pid, name):
    try:
        return any(os.readlink(f'/proc/{pid}/fd/{fd}').endswith(name)
                   for fd in os.listdir(f'/proc/{pid}/fd'))
    except OSError:
        return False


def clean(glance):
    """Clean up as an operator does, until nothing is left to clean.

    Ceph takes its time to notice that a client was killed, which until then
    holds what it was writing.
    """
    support.wait_for(lambda: not glance.qemu_processes(), 10)
    time.sleep(support.LEASE_SECONDS)
    # Only silence tells that the import is dead.
    done = glance.manage('cleanup', '--dead-after', '0')
    assert done.returncode == 0, done.stdout + done.stderr
    again = glance.manage('cleanup', '--dead-after', '0')
    assert support.findings(again.stdout) == support.NOTHING
    return done


def crashed_midway(glance, images):
    """Kill all of Glance while it converts; returns the image's id."""
    qcow2, _ = images.slow()
    image_id = glance.begin(qcow2)
    support.wait_for(lambda: 'Converting: ' in glance.message(image_id))
    glance.cloud.glance.kill()
    glance.cloud.glance.start()
    return image_id


# As many kills for each kind of store; more by hand.
KILLS = int(os.environ.get('GLANCE_TEST_KILLS', '2'))


@pytest.mark.parametrize('seed', range(KILLS))
@pytest.mark.parametrize('stores', [('ceph', 'ceph2'), ('ceph', 'files'),
                                    ('local',)], ids='+'.join)
def test_kill_at_a_random_point(glance, images, stores, seed):
    """Afterwards the image is whole, or its owner can import it again."""
    chance = random.Random(f'{stores} {seed}')    # noqa: S311
    qcow2, raw = images.qcow2('crash', size=192 * MIB, pieces=600)
    image_id = glance.begin(qcow2, stores=stores)
    time.sleep(chance.random() * 3)
    had_begun = glance.show(image_id)['status'] == 'importing'
    chance.choice([kill_worker, kill_glance])(glance, image_id)
    glance.cloud.glance.start()
    clean(glance)

    image = glance.show(image_id)
    assert 'os_glance_import_task' not in image
    assert image['status'] in ('queued', 'active', 'uploading')
    if image['status'] == 'active':
        assert_whole(glance, image, raw)
        return
    # What Glance's own upload into a stock store leaves is not ours.
    support.wait_for(
        lambda: {kind: things for kind, things in glance.present().items()
                 if kind != 'images/'} in ({}, {'staging': [image_id]}),
        20, what=glance.present)
    assert image['disk_format'] == 'qcow2'
    if image['status'] == 'queued':
        glance.stage(image_id, qcow2)
    if glance.message(image_id):
        assert 'interrupted' in glance.message(image_id)
        if had_begun:
            assert stores[0] in image['os_glance_failed_import']
    for path in (glance.cloud.glance.dir / 'images').iterdir():
        path.unlink()
    glance.start_import(image_id, stores)
    assert_whole(glance, glance.finish(image_id), raw)


def assert_whole(glance, image, raw):
    assert image['status'] == 'active'
    assert image['disk_format'] == 'raw'
    data = glance.api('GET', f"/v2/images/{image['id']}/file")
    assert data == raw.read_bytes()


def test_cleanup_leaves_the_living_alone(glance, images):
    """A live import, another host's too, and what others have stored."""
    ready = glance.imported(images.qcow2('ready')[0])
    qcow2, raw = images.full()
    glance.rbd('-p', 'images', 'create', '--size', '1M', 'of-another-tool')
    named = '4f0f0c1e-0000-4000-8000-0123456789ab'
    # The second is as another Glance would write it into the same pool.
    foreign = f'{named}.{named}.partial'
    for name in (named, foreign):
        glance.rbd('-p', 'images', 'create', '--size', '1M', name)
    (glance.cloud.glance.staging / 'README').write_text('not ours')

    image_id = glance.begin(qcow2)
    with glance.held(image_id):
        # As if the placeholder were on another host.
        hidden = glance.cloud.root / 'hidden.converted'
        placeholder = glance.cloud.glance.staging / f'{image_id}.converted'
        placeholder.rename(hidden)
        said = glance.manage('cleanup').stdout
        assert support.findings(said) == support.NOTHING
        hidden.rename(placeholder)
        glance.expect_message(image_id, 'Converting: ')
        said = glance.manage('cleanup').stdout
        assert support.findings(said) == support.NOTHING
    image = glance.finish(image_id)
    assert image['os_hash_value'] == support.digests(raw)[1]
    said = glance.manage('cleanup').stdout
    assert support.findings(said) == support.NOTHING

    assert set(glance.stored()) == {image_id, ready['id'], 'of-another-tool',
                                    named, foreign}
    (glance.cloud.glance.staging / 'README').unlink()
    for name in ('of-another-tool', named, foreign):
        glance.rbd('-p', 'images', 'rm', '--no-progress', name)


def test_dry_run_only_says_what_there_is(glance, images):
    image_id = crashed_midway(glance, images)
    time.sleep(support.LEASE_SECONDS)
    before = glance.stored(), glance.staged(), glance.show(image_id)
    dry = glance.manage('cleanup', '--dry-run', '--dead-after', '0')
    assert (glance.stored(), glance.staged(),
            glance.show(image_id)) == before
    done = glance.manage('cleanup', '--dead-after', '0')
    # Where it takes long it also says how far it is.
    removed = [line for line in done.stdout.splitlines()
               if not line.startswith('  ')]
    assert dry.stdout.replace('would remove', 'removing'
                              ).splitlines() == removed
    assert len(removed) == 3
    assert glance.present() == {'staging': [image_id]}


def test_image_deleted_after_the_crash(glance, images):
    image_id = crashed_midway(glance, images)
    glance.delete(image_id)
    assert glance.stored() != []
    clean(glance)
    assert glance.leftovers() == {}


def test_dead_import_of_another_host(glance, images):
    """Without its placeholder only silence tells that it is dead."""
    image_id = crashed_midway(glance, images)
    (glance.cloud.glance.staging / f'{image_id}.converted').unlink()
    time.sleep(support.LEASE_SECONDS)
    said = glance.manage('cleanup').stdout
    assert support.findings(said) == support.NOTHING
    done = glance.manage('cleanup', '--dead-after', '1')
    assert 'data of the dead import' in done.stdout
    assert glance.show(image_id)['status'] == 'queued'
    assert glance.leftovers() == {}


def test_digests_that_a_dead_process_owes(glance, configure, images):
    configure(conversion={'digests': 'deferred'})
    _, raw = images.slow(size=1024 * MIB)
    image_id = glance.begin(raw, 'raw')
    support.wait_for(lambda: glance.task(image_id)['status'] == 'success')
    glance.cloud.glance.kill()
    glance.cloud.glance.start()
    early = glance.show(image_id)
    assert (early['os_hash_value'], early[SOURCE_HASH]) == (None, '')
    dry = glance.manage('digests', '--dry-run')
    assert dry.stdout == f'would compute digests of image {image_id}\n'
    done = glance.manage('digests')
    assert done.returncode == 0, done.stdout + done.stderr
    image = glance.show(image_id)
    assert (image['checksum'], image['os_hash_value']) == support.digests(raw)
    with open(raw, 'rb') as f:
        upload = hashlib.file_digest(f, 'sha256').hexdigest()
    assert image[SOURCE_HASH] == f'sha256:{upload}'
    assert glance.manage('digests').stdout == 'nothing to compute\n'
    glance.manage('cleanup', '--dead-after', '0')


def test_deaths_between_two_steps_of_ceph(glance, images):
    """Nothing is left of them, and their images can be imported again."""
    left = {}
    with half_done.pool(glance) as ioctx:
        for make in half_done.STATES:
            image_id = glance.create('raw')
            make(glance, ioctx, marks.parse(
                glance.leftover_name(image_id), marks.PARTIAL))
            assert half_done.names(ioctx, image_id)
            left[image_id] = make
        clean(glance)
        for image_id, make in left.items():
            assert half_done.names(ioctx, image_id) == set(), make
            assert half_done.entries(ioctx, image_id) == [], make
    _, raw = images.qcow2('steps', size=8 * MIB, pieces=20)
    for image_id in left:
        assert glance.show(image_id)['status'] == 'queued'
        glance.stage(image_id, raw)
        glance.start_import(image_id)
        glance.finish(image_id)
        assert_whole(glance, glance.show(image_id), raw)


@contextlib.contextmanager
def unrecordable(glance, image_id):
    """No location of an image can be saved for as long as this lasts.

    The gap where it would be is locked, which others wait for; reading does
    not.
    """
    connection = glance.cloud.database.connect()
    try:
        connection.autocommit(False)
        with connection.cursor() as cursor:
            cursor.execute('SELECT id FROM image_locations '
                           'WHERE image_id = %s FOR UPDATE', [image_id])
            yield
    finally:
        connection.rollback()
        connection.close()


def begin_upload(glance, raw):
    image_id = glance.create('raw')
    sending = threading.Thread(target=glance.api, args=(
        'PUT', f'/v2/images/{image_id}/file'), kwargs={
            'data': raw.read_bytes(),
            'headers': {'Content-Type': 'application/octet-stream'}})
    sending.start()
    return image_id, sending.join


def begin_import(glance, raw):
    image_id = glance.begin(raw, disk_format='raw')
    return image_id, lambda: glance.finish(image_id)


@pytest.mark.parametrize('begin', [begin_upload, begin_import])
def test_cleanup_between_the_store_and_the_record(glance, images, begin):
    """The image is in the store, and Glance has not come to record it."""
    _, raw = images.qcow2('window', size=192 * MIB, pieces=100)
    image_id, finish = begin(glance, raw)
    support.wait_for(lambda: any(image_id in name
                                 for name in glance.stored()), interval=0.01)
    with unrecordable(glance, image_id):
        support.wait_for(lambda: image_id in glance.stored(), 30)
        assert glance.show(image_id)['status'] in ('saving', 'importing')
        for _ in range(2):
            done = glance.manage('cleanup', '--dead-after', '0')
            assert 'data of the dead' not in done.stdout
        assert glance.stored() == [image_id]
    finish()
    support.wait_for(lambda: glance.show(image_id)['status'] == 'active', 60)
    assert glance.content(image_id)[1] == support.digests(raw)[1]
    glance.settled(image_id)
