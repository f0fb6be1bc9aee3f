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

"""Images that lose their zeros: which, and what is left of them.

The database is a real one; the store is ours over a Ceph in memory.
"""

import hashlib
import types

import pytest

from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import deployment
from glance_conversion_plugins.maintenance import sparsify
from glance_conversion_plugins.maintenance import stored
from glance_conversion_plugins.stores import registry
from glance_conversion_plugins.stores import sparsify_rbd
from tests.simulation import ceph
from tests.unit import clusters
from tests.unit import databases

BLOCK = 4096
SIZE = 4 * BLOCK
CONTENT = b'x' * BLOCK
WHOLE = CONTENT.ljust(SIZE, b'\0')


@pytest.fixture(autouse=True)
def database(tmp_path):
    with databases.glance_database(tmp_path / 'glance.sqlite'):
        yield


@pytest.fixture(autouse=True)
def cluster(monkeypatch, override):
    override('deployment', 'test', 'conversion')
    return clusters.in_memory(monkeypatch)


@pytest.fixture(autouse=True)
def slept(monkeypatch):
    """How long it was waited for, which no test does."""
    found = []
    monkeypatch.setattr(sparsify, 'time',
                        types.SimpleNamespace(sleep=found.append))
    return found


@pytest.fixture(autouse=True)
def stores(monkeypatch):
    found = {'ceph': clusters.store()}
    monkeypatch.setattr(registry, 'find', found.get)
    monkeypatch.setattr(registry, 'find_replacing', found.get)
    return found


def _url(image_id, pool='images'):
    return f'rbd://fsid/{pool}/{image_id}/snap'


def _stored(cluster, status='active', store='ceph', url=None,
            algorithm='sha512', value=''):
    """An image with a block of data and one of zeros; returns its id."""
    if value == '':
        value = hashlib.new(algorithm or 'sha512', WHOLE).hexdigest()
    image_id = databases.add_image(status, os_hash_algo=algorithm,
                                   os_hash_value=value)
    databases.add_location(image_id, url or _url(image_id), store)
    header = clusters.create(cluster, image_id)
    header.size = SIZE
    header.data = {0: CONTENT, BLOCK: bytes(BLOCK)}
    return image_id


def _found(image_ids=(), store_ids=()):
    return [(image.image_id, image.store_id)
            for image in stored.images(image_ids, store_ids)]


# Which images

def test_images_in_our_stores_are_found(cluster):
    expected = [(_stored(cluster), 'ceph') for _ in range(3)]
    assert sorted(_found()) == sorted(expected)


@pytest.mark.parametrize('status', ['queued', 'saving', 'importing',
                                    'deactivated'])
def test_only_active_images_are_found(cluster, status):
    _stored(cluster, status)
    assert _found() == []


def test_images_in_other_stores_are_not_found(cluster):
    _stored(cluster, store='swift')
    assert _found() == []


def test_images_that_are_elsewhere_are_not_found(cluster):
    """As an image that Nova has made of a volume."""
    _stored(cluster, url='rbd://fsid/volumes/one/snap')
    assert _found() == []


def test_only_those_are_found_that_are_asked_for(cluster, stores):
    stores['near'] = stores['ceph']
    one, two = _stored(cluster), _stored(cluster)
    databases.add_location(two, _url(two), 'near')
    assert _found([one]) == [(one, 'ceph')]
    assert sorted(_found([two])) == [(two, 'ceph'), (two, 'near')]
    assert _found([two], ['near']) == [(two, 'near')]
    assert _found((), ['near']) == [(two, 'near')]
    assert _found([one], ['near']) == []
    assert _found(['another']) == []


# Losing them

def _sparsify(**options):
    image, = stored.images((), ())
    sparsify.sparsify(image, progress_.Progress())


def test_how_much_there_is_to_give_back(cluster):
    _stored(cluster)
    image, = stored.images((), ())
    assert sparsify.zeros(image, progress_.Progress()) == (2 * BLOCK, BLOCK)


@pytest.mark.parametrize('algorithm', ['sha512', 'sha256'])
def test_an_image_with_its_digest_loses_its_zeros(cluster, algorithm):
    image_id = _stored(cluster, algorithm=algorithm)
    old = cluster.images[image_id]
    _sparsify()
    assert cluster.images[image_id].data == {0: CONTENT}
    assert old.data == {0: CONTENT, BLOCK: bytes(BLOCK)}


@pytest.mark.parametrize('algorithm', ['sha512', None])
def test_an_image_without_a_digest_is_checked_against_itself(cluster,
                                                             algorithm):
    image_id = _stored(cluster, algorithm=algorithm, value=None)
    _sparsify()
    assert cluster.images[image_id].data == {0: CONTENT}


def test_an_image_that_is_damaged_stays_as_it_is(cluster):
    image_id = _stored(cluster, value='of something else')
    header = cluster.images[image_id]
    with pytest.raises(errors.DamagedImage):
        _sparsify()
    assert cluster.images == {image_id: header}
    assert header.opened == []


@pytest.mark.parametrize('value', ['', None])
def test_an_image_of_which_the_copy_differs_stays_as_it_is(
        cluster, monkeypatch, value):
    image_id = _stored(cluster, value=value)
    header, write = cluster.images[image_id], ceph.Image.aio_write

    def damage(self, data, offset, completed):
        write(self, data.replace(b'x', b'y'), offset, completed)

    monkeypatch.setattr(ceph.Image, 'aio_write', damage)
    with pytest.raises(errors.SinkFailed):
        _sparsify()
    assert cluster.images == {image_id: header}
    assert header.snaps == {'snap': True}


def test_each_attempt_has_a_name_of_its_own(cluster):
    image_id = _stored(cluster)
    for _ in range(2):
        _sparsify()
    assert len(cluster.images) == 3
    assert image_id in cluster.images


def test_how_far_it_is_can_be_seen(cluster):
    _stored(cluster)
    seen = []

    class Progress(progress_.Progress):
        def enter(self, phase, total=0):
            seen.append((phase, total))

    image, = stored.images((), ())
    sparsify.sparsify(image, Progress())
    assert seen == [('Verifying', SIZE), ('Copying', SIZE),
                    ('Verifying', SIZE)]


def test_who_reads_an_image_lets_go_of_it(cluster, stores, monkeypatch):
    _stored(cluster)
    closed, source = [], stores['ceph'].source

    def noting(image_id):
        opened = source(image_id)
        close = opened.close
        opened.close = lambda: (closed.append(image_id), close())
        return opened

    monkeypatch.setattr(stores['ceph'], 'source', noting)
    _sparsify()
    assert len(closed) == 2


# What is left of them

def _replaced(cluster, *, ours=True, recorded=True, named=True):
    """An image that was put aside; returns its id."""
    image_id = databases.add_image('active')
    databases.add_location(image_id, _url(
        image_id, 'images' if recorded else 'volumes'), 'ceph')
    clusters.create(cluster, image_id)
    sparsify_rbd.put_aside(cluster.client()[1], image_id, clusters.mark(
        image_id, deployment.identifier() if ours else '0b0b0b0b'))
    if named:
        clusters.create(cluster, image_id)
    return image_id


def _ids(found):
    return [mark.image_id for mark in found]


def test_what_was_replaced_and_is_recorded_is_of_no_use_any_more(cluster):
    image_id = _replaced(cluster)
    _replaced(cluster, ours=False)
    _replaced(cluster, recorded=False)
    assert _ids(sparsify.replaced('ceph', 0)) == [image_id]


def test_what_was_replaced_is_of_use_for_a_while(cluster):
    image_id = _replaced(cluster)
    assert sparsify.replaced('ceph', 10) == []
    cluster.world.now += 10
    assert _ids(sparsify.replaced('ceph', 10)) == [image_id]


def test_whoever_reads_it_has_hours_for_that():
    assert sparsify.GRACE == 6 * 3600


def test_only_what_is_recorded_and_has_no_name_is_nameless(cluster):
    image_id = _replaced(cluster, named=False)
    _replaced(cluster)
    _replaced(cluster, recorded=False, named=False)
    assert sparsify.nameless('ceph') == {image_id}


def test_what_is_recorded_is_given_its_name_back_whoever_took_it(cluster):
    """It is ours by its record; a version before named no deployment."""
    image_id = _replaced(cluster, ours=False, named=False)
    assert sparsify.nameless('ceph') == {image_id}


@pytest.mark.parametrize('asked', ['find', 'find_replacing'])
def test_a_store_that_replaces_nothing_has_nothing_of_it(cluster, monkeypatch,
                                                         asked):
    _replaced(cluster, named=False)
    _replaced(cluster)
    monkeypatch.setattr(registry, asked, lambda store_id: None)
    assert sparsify.replaced('ceph', 0) == []
    assert sparsify.nameless('ceph') == set()


@pytest.mark.parametrize('named', [True, False])
def test_what_was_replaced_and_is_deleted_is_of_no_use_any_more(cluster,
                                                                named):
    image_id = _replaced(cluster, recorded=False, named=named)
    assert sparsify.replaced('ceph', 0) == []
    databases.delete_image(image_id)
    mark, = sparsify.replaced('ceph', 0)
    sparsify.forget('ceph', mark)
    assert [*cluster.images] == ([image_id] if named else [])


def test_the_only_one_that_is_left_is_never_removed(cluster):
    image_id = _replaced(cluster, named=False)
    mark, = sparsify.replaced('ceph', 0)
    with pytest.raises(errors.SinkFailed):
        sparsify.forget('ceph', mark)
    sparsify.put_back('ceph', image_id)
    assert [*cluster.images] == [image_id]


def test_a_name_that_is_given_back_meanwhile_is_not_missing(cluster,
                                                            monkeypatch):
    image_id = _replaced(cluster, named=False)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        clusters.create(cluster, image_id)

    monkeypatch.setattr(sparsify, 'time', types.SimpleNamespace(sleep=sleep))
    assert sparsify.nameless('ceph') == set()
    assert slept == [3]
