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

"""The driver of RBD images beyond what stock has, in a Ceph in memory."""

import contextlib
import types

from glance_store import exceptions
import pytest

from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import rbd_index
from glance_conversion_plugins.external import rbd_marks
from glance_conversion_plugins.external import rbd_pool
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.stores import driver
from glance_conversion_plugins.stores import handover
from glance_conversion_plugins.stores import sparse_rbd
from tests.unit import clusters

IMAGE = '11111111-2222-3333-4444-555555555555'
TASK = 'aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee'
BLOCK = 4096
CONTENT = b'x' * BLOCK


@pytest.fixture(autouse=True)
def cluster(monkeypatch, override):
    override('deployment', 'test', 'conversion')
    return clusters.in_memory(monkeypatch)


@pytest.fixture
def store():
    return clusters.store()


def _write(store, published=False, task_id=TASK):
    sink = store.sink(IMAGE, task_id)
    sink.create(1 << 20)
    sink.write(memoryview(CONTENT), 0)
    sink.seal()
    if published:
        sink.publish()
    return sink


def _marked(store):
    found, = store.marked()
    return found


# What the clean-up asks

@pytest.mark.parametrize('published', [False, True])
def test_it_is_known_who_writes_and_whether_it_lives(store, published):
    assert store.marked() == []
    sink = _write(store, published)
    found = _marked(store)
    assert (found.mark.image_id, found.mark.task_id) == (IMAGE, TASK)
    assert found.is_published is published
    assert store.is_open(found)
    sink.release()
    assert not store.is_open(found)
    sink.abort()
    assert not store.is_open(found)


@pytest.mark.parametrize('published', [False, True])
def test_what_bears_a_mark_is_looked_up(store, published):
    sink = _write(store, published)
    found = _marked(store)
    assert store.look_up(found.mark) == found
    assert store.look_up(found.mark._replace(task_id='b' * 36)) is None
    sink.abort()
    assert store.look_up(found.mark) is None


def test_a_writer_that_publishes_meanwhile_still_lives(store):
    sink = _write(store)
    found = _marked(store)
    sink.publish()
    assert store.is_open(found)
    assert store.look_up(found.mark).is_published


@pytest.mark.parametrize('published', [False, True])
def test_a_writer_is_fenced_and_what_it_wrote_discarded(store, cluster,
                                                        published):
    sink = _write(store, published)
    mark = _marked(store).mark
    assert store.fence(mark)
    assert not store.is_open(_marked(store))
    with pytest.raises(errors.Fenced):
        (sink.hand_over if published else sink.publish)()
    store.discard(mark)
    assert cluster.images == {}
    assert not store.fence(mark)


def test_what_is_recorded_is_handed_over(store, cluster):
    _write(store, published=True).release()
    store.hand_over(_marked(store).mark)
    assert store.marked() == []
    assert [*cluster.images] == [IMAGE]


def test_what_is_recorded_is_marked_again_to_be_discarded(store, cluster):
    clusters.create(cluster, IMAGE)
    mark = driver.mark(IMAGE, TASK)
    store.mark_again(mark)
    found = _marked(store)
    assert found.mark.is_same(mark)
    assert found.is_published
    assert not store.is_open(found)
    store.discard(mark)
    assert cluster.images == {}


def test_a_store_is_cleaned_by_one_at_a_time(store, cluster):
    other = rbd_index.Turn(cluster.client()[1])
    with store.turn() as keep:
        for _ in range(3):
            cluster.world.now += 50
            keep()
            with pytest.raises(errors.Busy):
                other.keep()
    other.keep()


# How it is written

def test_options_are_those_of_the_store(store):
    assert store._sink_options() == {
        'order': 20, 'zero_block_size': 4096, 'data_pool': None}
    store.conf.sparse_store.data_pools |= {'ceph': 'data', 'other': 'data2'}
    assert store._sink_options()['data_pool'] == 'data'


@pytest.mark.parametrize(('configured', 'expected'), [
    (-1, 30), (0, 0), (5, 5)])
def test_what_is_done_in_moments_never_hangs(store, monkeypatch, configured,
                                             expected):
    store.store_conf.rados_connect_timeout = configured
    given = []

    @contextlib.contextmanager
    def connect(pool):
        given.append(pool.timeout)
        yield None, None

    monkeypatch.setattr(rbd_pool, 'connect', connect)
    with store._connect():
        assert given == [expected]


def test_its_address_is_that_of_the_stock_driver(store):
    url, metadata = sparse_rbd.Store.location(store, IMAGE)
    assert url == f'rbd://fsid/images/{IMAGE}/snap'
    assert metadata == {'store': 'ceph'}
    store.backend_group = None
    assert sparse_rbd.Store.location(store, IMAGE) == (url, {})


def test_a_probe_leaves_nothing(store, cluster):
    other = clusters.create(cluster, IMAGE)
    store.probe()
    assert cluster.images == {IMAGE: other}
    # It got its name, and lost it.
    assert cluster.done.count('dir_rename_image rbd_directory') == 2



def test_a_probe_says_what_does_not_work(store, cluster, monkeypatch):
    monkeypatch.setattr(rbd_marks, 'discard', lambda *_: None)
    with pytest.raises(errors.SinkFailed):
        store.probe()


# Deleting

@pytest.fixture
def deleted(monkeypatch, cluster):
    """When the stock driver was asked to delete an image."""
    deleted = []
    monkeypatch.setattr(
        compat.rbd_driver.Store, 'delete',
        lambda self, location, context=None: deleted.append(
            (location.store_location.image, cluster.world.now - 1_000_000)))
    return deleted


def _location():
    return types.SimpleNamespace(store_location=types.SimpleNamespace(
        image=IMAGE, pool='images', snapshot='snap'))


def _delete(store):
    store.delete(_location())


def test_an_image_that_is_glances_is_deleted_at_once(store, cluster, deleted):
    """Whoever has it open is none of ours."""
    clusters.create(cluster, IMAGE)
    with cluster.open(IMAGE):
        _delete(store)
    assert deleted == [(IMAGE, 0)]


def test_an_image_whose_writer_is_gone_is_deleted_at_once(store, deleted):
    _write(store, published=True).release()
    _delete(store)
    assert deleted == [(IMAGE, 0)]


def test_an_image_that_is_not_there_is_left_to_stock(store, deleted):
    _delete(store)
    assert deleted == [(IMAGE, 0)]


def test_whoever_has_just_written_an_image_may_let_go_of_it(
        store, cluster, deleted, monkeypatch):
    sink, sleep = _write(store, published=True), sparse_rbd.time.sleep

    def sleeping(seconds):
        sleep(seconds)
        if cluster.world.now >= 1_000_005:
            sink.hand_over()
            monkeypatch.setattr(sparse_rbd.time, 'sleep', sleep)

    monkeypatch.setattr(sparse_rbd.time, 'sleep', sleeping)
    _delete(store)
    (image, after), = deleted
    assert image == IMAGE
    assert after == pytest.approx(5, abs=0.5)


def test_whoever_does_not_let_go_is_not_waited_for_for_ever(store, cluster,
                                                            deleted):
    sink = _write(store, published=True)
    with contextlib.suppress(exceptions.InUseByStore):
        _delete(store)
    assert 5 < cluster.world.now - 1_000_000 < 60
    sink.release()


def test_whoever_does_not_let_go_keeps_the_image(store, cluster, deleted):
    """Stock would remove its snapshot before it saw that it is in use."""
    sink = _write(store, published=True)
    with pytest.raises(exceptions.InUseByStore):
        _delete(store)
    assert deleted == []
    assert cluster.images[IMAGE].snaps == {'snap': True}
    sink.release()


def test_this_process_lets_go_of_what_it_watches(store, deleted, monkeypatch):
    let_go = []
    monkeypatch.setattr(handover, 'release',
                        lambda *given: let_go.append(given[:2]))
    _delete(store)
    assert let_go == [('ceph', IMAGE)]
    assert len(deleted) == 1


# Giving back the room of zeros

def _stored(cluster):
    """An image with a block of data and one of zeros."""
    header = clusters.create(cluster, IMAGE)
    header.data = {0: CONTENT, BLOCK: bytes(BLOCK)}
    return header


def _sparsify(store, check=lambda copied: None):
    store.sparsify(IMAGE, TASK, check, progress_.Progress())


def test_an_image_is_replaced_by_one_without_its_zeros(store, cluster):
    old = _stored(cluster)
    _sparsify(store)
    mark, = store.replaced(0)
    new = cluster.images[IMAGE]
    assert cluster.images == {IMAGE: new, mark.name('replaced'): old}
    assert (mark.image_id, mark.task_id) == (IMAGE, TASK)
    assert new.data == {0: CONTENT}
    assert (new.size, new.snaps, new.meta) == (1 << 20, {'snap': True}, {})
    assert new.opened == []
    assert store.marked() == []


def test_it_is_seen_how_much_is_copied(store, cluster):
    _stored(cluster)
    progress = progress_.Progress()
    store.sparsify(IMAGE, TASK, lambda copied: None, progress)
    assert progress.fraction == 1
    assert str(progress).startswith('Copying')


def test_what_takes_its_place_is_checked_before(store, cluster):
    old = _stored(cluster)
    seen = []

    def check(copied):
        assert cluster.images[IMAGE] is old
        seen.append((copied.size, copied.read(0, 2 * BLOCK)))

    _sparsify(store, check)
    assert seen == [(1 << 20, CONTENT.ljust(2 * BLOCK, b'\0'))]


def test_what_does_not_pass_takes_no_place(store, cluster):
    old = _stored(cluster)

    def check(copied):
        raise ValueError('not the same')

    with pytest.raises(ValueError, match='not the same'):
        _sparsify(store, check)
    assert cluster.images == {IMAGE: old}
    assert old.snaps == {'snap': True}


def test_only_what_was_replaced_long_ago_is_told(store, cluster):
    _stored(cluster)
    _sparsify(store)
    cluster.world.now += 50
    mark, = store.replaced(50)
    assert store.replaced(51) == []
    store.forget_replaced(mark, False)
    assert [*cluster.images] == [IMAGE]


def test_an_image_gets_its_name_back(store, cluster):
    old = _stored(cluster)
    _sparsify(store)
    del cluster.images[IMAGE]
    assert store.nameless() == [IMAGE]
    store.put_back(IMAGE)
    assert cluster.images == {IMAGE: old}
    assert store.nameless() == []
