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
"""Images that were stored thick lose their zeros, and nothing else."""

import hashlib

import pytest

from tests.functional import half_done
from tests.functional import support
from tests.functional import test_sparse

MIB = support.MIB

# 24 MiB, in which each object has data and mostly zeros.
DATA = test_sparse.SHAPES['4 KiB grain']
THICK = {'DEFAULT': {'enabled_backends': 'ceph:rbd, files:file, local:file'},
         'ceph': {'rbd_thin_provisioning': False},
         'files': {'filesystem_thin_provisioning': False}}
FINE = {'sparse_store': {'zero_block_size': 4096}}
EXPECTED = hashlib.sha512(DATA).hexdigest()


@pytest.fixture
def thick(glance, configure):
    """Images that the stock drivers wrote with all their zeros: {store: id}.

    Glance runs with our drivers afterwards.
    """
    configure(**THICK)
    ids = {store: test_sparse.upload(glance, DATA, store)
           for store in ('ceph', 'files')}
    configure(**FINE)
    for store, image_id in ids.items():
        assert test_sparse.allocated(glance, image_id, store) >= len(DATA)
    return ids


def sparsify(glance, *args):
    return glance.manage('sparsify', '--grace', '0', *args)


def assert_same(glance, ids):
    for store, image_id in ids.items():
        assert test_sparse.content(glance, image_id, store)[1] == EXPECTED
        assert glance.api('GET', f'/v2/images/{image_id}/file') == DATA


def test_gives_zeros_back(glance, thick):
    dry = sparsify(glance, '--dry-run')
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.count('of zeros in 24 MiB stored') == 2
    assert 'given back' not in dry.stdout
    before = test_sparse.image_info(glance, thick['ceph'])
    for store, image_id in thick.items():
        assert test_sparse.allocated(glance, image_id, store) >= len(DATA)

    done = sparsify(glance)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('given back') == 2
    assert_same(glance, thick)
    path = glance.cloud.glance.dir / 'files' / thick['files']
    assert path.stat().st_blocks * 512 <= 1.05 * test_sparse.data_in(
        DATA, 4096)
    # Each object counts up to its last byte.
    assert test_sparse.allocated(glance, thick['ceph'], 'ceph') < len(DATA)
    assert test_sparse.image_info(glance, thick['ceph']) == before
    assert glance.stored() == [thick['ceph']]

    again = sparsify(glance)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count('0 B of zeros') >= 1
    assert_same(glance, thick)


def test_leaves_what_is_in_use_or_does_not_match(glance, thick):
    image_id = thick['ceph']
    glance.rbd('clone', f'images/{image_id}@snap', 'images/a-clone')
    path = glance.cloud.glance.dir / 'files' / thick['files']
    with open(path, 'r+b') as f:
        f.write(b'damaged')
    done = sparsify(glance)
    assert done.returncode == 1
    assert 'stays as it is: The image has copy-on-write clones: 1.' in (
        done.stdout)
    assert 'stays as it is: The stored data does not have the digest' in (
        done.stdout)
    assert path.stat().st_blocks * 512 >= len(DATA)
    assert test_sparse.allocated(glance, image_id, 'ceph') >= len(DATA)
    glance.rbd('rm', '--no-progress', 'images/a-clone')
    # One store, one image.
    done = sparsify(glance, '--store', 'ceph', image_id)
    assert done.returncode == 0, done.stdout
    assert 'files' not in done.stdout
    assert glance.content(image_id)[1] == EXPECTED


def test_one_that_was_killed_between_two_names(glance, thick):
    """The next run gives the old image its name back, and goes on."""
    image_id = thick['ceph']
    name = glance.leftover_name(image_id, 'replaced')
    glance.rbd('rename', f'images/{image_id}', f'images/{name}')
    done = sparsify(glance)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f'image {image_id} has its name back' in done.stdout
    assert_same(glance, thick)
    assert glance.stored() == [image_id]


def test_one_that_was_killed_while_ceph_renamed(glance, thick):
    """The name leads to the old image, and is not listed any more."""
    image_id = thick['ceph']
    name = glance.leftover_name(image_id, 'replaced')
    glance.rbd('rename', f'images/{image_id}', f'images/{name}')
    with half_done.pool(glance) as ioctx:
        half_done.lead(ioctx, image_id, half_done.id_of(ioctx, name))
    assert_same(glance, thick)
    done = sparsify(glance)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f'image {image_id} has its name back' in done.stdout
    assert_same(glance, thick)
    assert glance.stored() == [image_id]
    with half_done.pool(glance) as ioctx:
        assert half_done.names(ioctx, image_id) == {image_id}


def test_cleanup_gives_a_lost_name_back_too(glance, thick):
    image_id = thick['ceph']
    name = glance.leftover_name(image_id, 'replaced')
    glance.rbd('rename', f'images/{image_id}', f'images/{name}')
    assert (f'would remove store ceph: the name that a dead sparsify gave to '
            f'image {image_id}') in glance.manage('cleanup',
                                                  '--dry-run').stdout
    assert glance.stored() == [name]
    done = glance.manage('cleanup')
    assert done.returncode == 0, done.stdout + done.stderr
    assert glance.stored() == [image_id]
    assert_same(glance, thick)


def test_one_that_was_killed_before_it_had_a_copy(glance, thick):
    """What is left of the copy goes; what Glance has recorded stays."""
    image_id = thick['ceph']
    glance.leave_behind(image_id)
    done = glance.manage('cleanup')
    assert done.returncode == 0, done.stdout + done.stderr
    assert glance.stored() == [image_id]
    assert_same(glance, thick)
