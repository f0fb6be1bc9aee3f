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
"""Stored images that are not what they were, and whether that is seen."""

import hashlib
import uuid

import pytest

from tests.functional import support
from tests.functional import test_sparse

MIB = support.MIB
DATA = test_sparse.SHAPES['odd holes']


@pytest.fixture
def stored(glance, configure):
    """The same image in two stores: {store: id}."""
    configure()
    found = {store: test_sparse.upload(glance, DATA, store)
             for store in ('ceph', 'files')}
    for image_id in found.values():
        glance.settled(image_id)
    return found


def verify(glance, *args):
    """(exit status, {image id: what is said of it})."""
    done = glance.manage('verify', *args)
    assert not done.stderr.strip(), done.stderr
    return done.returncode, {
        line.split()[1]: line for line in done.stdout.splitlines()
        if line.startswith('image ')}


def test_all_is_as_it_was_recorded(glance, stored):
    assert verify(glance, '--all') == (0, {
        image_id: f'image {image_id} in store {store}: is as it was recorded'
        for store, image_id in stored.items()})
    image_id = stored['ceph']
    assert list(verify(glance, '--rate-limit', '500', image_id)[1]) == [
        image_id]
    assert list(verify(glance, '--all', '--store', 'files')[1]) == [
        stored['files']]
    missing = uuid.uuid4()
    assert verify(glance, str(missing)) == (2, {
        str(missing): f'image {missing} is in no store of this package'})


def test_a_file_that_has_changed(glance, stored):
    with open(glance.cloud.glance.dir / 'files' / stored['files'],
              'r+b') as f:
        f.seek(30 * MIB)
        f.write(b'!')
    status, said = verify(glance, '--all')
    assert status == 1
    assert said[stored['files']].startswith(
        f'image {stored["files"]} in store files DIFFERS: its sha512 is ')
    assert said[stored['files']].endswith(
        f' and {hashlib.sha512(DATA).hexdigest()} is recorded')
    assert said[stored['ceph']].endswith('is as it was recorded')


def object_of(glance, image_id):
    """An object that holds data of an image."""
    prefix = glance.cloud.ceph.json('rbd', 'info', f'images/{image_id}')[
        'block_name_prefix']
    listed = glance.cloud.ceph.run('rados', '-p', 'images', 'ls').stdout
    return min(name for name in listed.split() if name.startswith(prefix))


def test_an_object_that_has_changed(glance, stored, tmp_path):
    name = object_of(glance, stored['ceph'])
    path = tmp_path / 'object'
    glance.cloud.ceph.run('rados', '-p', 'images', 'get', name, path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    glance.cloud.ceph.run('rados', '-p', 'images', 'put', name, path)
    status, said = verify(glance, stored['ceph'])
    assert status == 1
    assert 'DIFFERS: its sha512 is ' in said[stored['ceph']]


def test_an_object_that_is_gone(glance, stored):
    glance.cloud.ceph.run('rados', '-p', 'images', 'rm',
                          object_of(glance, stored['ceph']))
    status, said = verify(glance, stored['ceph'])
    assert status == 1
    assert 'DIFFERS: its sha512 is ' in said[stored['ceph']]


def test_a_snapshot_that_is_not_protected_or_gone(glance, stored):
    image_id = stored['ceph']
    snapshot = f'images/{image_id}@snap'
    glance.rbd('snap', 'unprotect', snapshot)
    assert verify(glance, image_id) == (1, {
        image_id: f'image {image_id} in store ceph DIFFERS: its snapshot '
                  '"snap" is not protected'})
    glance.rbd('snap', 'rm', '--no-progress', snapshot)
    assert verify(glance, image_id) == (1, {
        image_id: f'image {image_id} in store ceph DIFFERS: it has no '
                  'snapshot "snap"'})
    glance.rbd('rm', '--no-progress', f'images/{image_id}')
    assert verify(glance, image_id) == (1, {
        image_id: f'image {image_id} in store ceph DIFFERS: there is no such '
                  'image in the pool'})


def test_a_clone_that_has_taken_the_place_of_an_image(glance, stored):
    """It reads the same, and goes with its parent."""
    image_id = stored['ceph']
    parent = test_sparse.upload(glance, DATA, 'ceph')
    for words in (('snap', 'unprotect', f'images/{image_id}@snap'),
                  ('snap', 'purge', '--no-progress', f'images/{image_id}'),
                  ('rm', '--no-progress', f'images/{image_id}'),
                  ('clone', f'images/{parent}@snap', f'images/{image_id}'),
                  ('snap', 'create', '--no-progress',
                   f'images/{image_id}@snap'),
                  ('snap', 'protect', f'images/{image_id}@snap')):
        glance.rbd(*words)
    assert verify(glance, image_id) == (1, {
        image_id: f'image {image_id} in store ceph DIFFERS: it is a clone of '
                  f'images/{parent}@snap'})
    glance.delete(image_id)


def test_data_that_is_gone(glance, stored):
    (glance.cloud.glance.dir / 'files' / stored['files']).unlink()
    assert verify(glance, stored['files']) == (1, {
        stored['files']: f'image {stored["files"]} in store files DIFFERS: '
                         'there is no data of it'})


def test_the_agent_verifies_by_and_by(glance, stored, tmp_path):
    commands = support.Commands(glance, tmp_path)
    commands.configure(
        cache_prefetch={'interval': 0},
        oslo_concurrency={'lock_path': tmp_path / 'locks'},
        conversion_agent={'cleanup_interval': 0, 'digests_interval': 0,
                          'verify_interval': 86400})

    def told():
        done = commands.run('glance-conversion-agent', '--once')
        assert done.returncode == 0, done.stdout + done.stderr
        return sorted(done.stdout.splitlines())

    glance.rbd('snap', 'unprotect', f'images/{stored["ceph"]}@snap')
    assert told() == sorted([
        f'verify: image {stored["ceph"]} in store ceph DIFFERS: its snapshot '
        '"snap" is not protected',
        f'verify: image {stored["files"]} in store files: is as it was '
        'recorded'])
    assert told() == ['verify: nothing to do']
