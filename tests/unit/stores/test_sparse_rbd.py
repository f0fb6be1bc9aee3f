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

"""The driver for RBD over a cluster of the simulation."""

import errno
import io
import json
import types

import glance_store
from glance_store import exceptions
from glance_store import location
from oslo_config import cfg
import pytest

from glance_conversion_plugins import config
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.external import rbd_marks
from glance_conversion_plugins.external import rbd_pool
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.stores import handover
from glance_conversion_plugins.stores import sparse_rbd
from glance_conversion_plugins.stores import sparsify_rbd
from tests.simulation import ceph
from tests.unit import clusters

IMAGE = '11111111-2222-3333-4444-555555555555'
DATA = b'A' * 8192


@pytest.fixture
def cluster(monkeypatch):
    return clusters.in_memory(monkeypatch)


def _conf():
    conf = cfg.ConfigOpts()
    glance_store.register_opts(conf)
    config.register_opts(conf)
    conf([])
    return conf


@pytest.fixture
def store(cluster, override):
    override('deployment', 'test', 'conversion')
    made = sparse_rbd.Store(_conf())
    made.configure()
    return made


@pytest.fixture
def undecided(monkeypatch):
    """A Glance that has not recorded anything yet."""
    watches = {}
    monkeypatch.setattr(handover, '_watches', watches)
    monkeypatch.setattr(records, 'status', lambda image_id: 'saving')
    monkeypatch.setattr(records, 'is_recorded', lambda url: False)
    monkeypatch.setattr(compat, 'is_under_way', lambda work: True)
    yield
    for watching in watches.values():
        for each in watching._waiting:
            handover.release(each.store, each.image_id, None)
        watching._changed.set()
        if thread := watching._thread:
            thread.join(60)


@pytest.fixture
def deleted_by_stock(monkeypatch):
    """Names of images that the stock driver was asked to delete."""
    found = []
    monkeypatch.setattr(
        compat.rbd_driver.Store, 'delete',
        lambda self, where, context=None: found.append(
            where.store_location.image))
    return found


def _request(name):
    return types.SimpleNamespace(request_id=name)


def _upload(store, data=None, context=None, size=8192):
    return store.add(IMAGE, data or io.BytesIO(DATA), size, 'sha512',
                     context)[0]


def _location(store, uri=None):
    uri = uri or f'rbd://fsid/{store.pool}/{IMAGE}/snap'
    return location.Location('rbd', sparse_rbd.StoreLocation, store.conf,
                             uri=uri)


def _delete(store, context=None):
    store.delete(_location(store), context=context)


def _held(cluster):
    """An image that another process has published and holds."""
    _, ioctx = cluster.client()
    rbd = rbd_pool.rbd
    rbd.RBD().create(ioctx, IMAGE, 4096)
    image = rbd.Image(ioctx, IMAGE)
    image.create_snap(rbd_pool.SNAPSHOT)
    image.protect_snap(rbd_pool.SNAPSHOT)
    rbd_marks.write(image, marks.Mark(IMAGE, 'aaaaaaaa', 'deadbeef', 'host'))
    return image


# One of several stores

def test_glance_sees_a_type_of_store_that_it_knows(monkeypatch):
    conf = _conf()
    conf.register_opt(cfg.DictOpt('enabled_backends'))
    conf.set_override('enabled_backends', {'ceph': 'sparse_rbd',
                                           'files': 'file'})
    # It would ask a cluster.
    monkeypatch.setattr(compat.rbd_driver.Store, '_set_url_prefix',
                        lambda self: None)
    sparse_rbd.Store(conf, backend='ceph').configure()
    assert conf.enabled_backends == {'ceph': 'rbd', 'files': 'file'}


# Reading

@pytest.fixture
def sized(monkeypatch):
    """Stock, which looks up the length of an image, sees one."""
    monkeypatch.setattr(compat.rbd_driver.Store, 'get_size',
                        lambda self, where: len(DATA))


def test_what_was_stored_is_read(cluster, store, undecided, sized):
    _upload(store)
    data, size = store.get(_location(store))
    assert b''.join(data) == DATA
    assert size == len(DATA)


@pytest.mark.parametrize(('pool', 'uri'), [
    ('images', f'rbd://{IMAGE}'),
    ('of_old', f'rbd://fsid/of_old/{IMAGE}/snap')])
def test_what_is_read_is_in_the_pool_that_its_url_says(cluster, store, sized,
                                                       pool, uri):
    """Or in that of the store, if it says none."""
    store.pool = 'images'
    header = ceph.Header(len(DATA))
    header.data[0], header.snaps['snap'] = DATA, True
    cluster.put(pool, IMAGE, header)
    assert b''.join(store.get(_location(store, uri))[0]) == DATA


def test_who_reads_what_was_removed_is_told_that_it_is_gone(cluster, store,
                                                            sized):
    with pytest.raises(exceptions.NotFound):
        b''.join(store.get(_location(store))[0])


def test_a_cluster_that_does_not_answer_has_not_lost_an_image(
        cluster, store, undecided, sized, monkeypatch):
    _upload(store)

    def fail():
        raise ceph.TimedOut('no answer')

    cluster.before[f'open {IMAGE}'] = fail
    with pytest.raises(errors.SourceFailed):
        b''.join(store.get(_location(store))[0])


# Deleting

@pytest.mark.parametrize('checks, is_slow', [
    ([], False), (['OSD_NEARFULL'], False), (['SLOW_OPS'], True)])
def test_a_cluster_that_is_slow_suffers(cluster, store, monkeypatch, checks,
                                        is_slow):
    """One that is nearly full is read as quickly as ever."""
    health = json.dumps({'checks': dict.fromkeys(checks, {})}).encode()
    monkeypatch.setattr(ceph.Client, 'mon_command',
                        lambda self, command, data: (0, health, ''))
    assert store.is_slow() is is_slow


@pytest.mark.parametrize('answer, is_slow', [
    ((-errno.ETIMEDOUT, b'', ''), True), ((0, b'no JSON', ''), True),
    ((-errno.EACCES, b'', ''), False)], ids=['late', 'else', 'forbidden'])
def test_a_cluster_that_does_not_say_suffers(cluster, store, monkeypatch,
                                             answer, is_slow):
    """But where one may not ask it is not known to."""
    monkeypatch.setattr(ceph.Client, 'mon_command', lambda *_: answer)
    assert store.is_slow() is is_slow


def test_a_cluster_that_does_not_answer_suffers(cluster, store, monkeypatch):
    def connect(pool):
        raise errors.SinkFailed('away')

    monkeypatch.setattr(rbd_pool, 'connect', connect)
    assert store.is_slow()


def test_what_its_writer_holds_is_in_use_and_not_touched(cluster, store,
                                                         deleted_by_stock):
    """The stock driver removes the snapshot before it sees that."""
    image = _held(cluster)
    with pytest.raises(exceptions.InUseByStore):
        _delete(store)
    assert deleted_by_stock == []
    assert cluster.images[IMAGE].snaps == {rbd_pool.SNAPSHOT: True}
    image.close()
    _delete(store)
    assert deleted_by_stock == [IMAGE]


def test_what_is_being_replaced_is_in_use(cluster, store, deleted_by_stock):
    """What is about to take its name would stay."""
    _held(cluster).close()
    sparsify_rbd.put_aside(cluster.client()[1], IMAGE, marks.Mark(
        IMAGE, 'aaaaaaaa-bbbb', 'deadbeef'))
    with pytest.raises(exceptions.InUseByStore):
        _delete(store)
    assert deleted_by_stock == []
    store.put_back(IMAGE)
    _delete(store)
    assert deleted_by_stock == [IMAGE]


def test_a_writer_is_waited_for(cluster, store, deleted_by_stock,
                                monkeypatch):
    image, slept = _held(cluster), []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            image.close()

    monkeypatch.setattr(sparse_rbd.time, 'sleep', sleep)
    _delete(store)
    assert deleted_by_stock == [IMAGE]
    assert len(slept) == 3


def test_for_what_has_no_mark_nobody_waits(cluster, store, deleted_by_stock):
    image = _held(cluster)
    image.metadata_remove(rbd_marks.KEY)
    _delete(store)
    assert deleted_by_stock == [IMAGE]
    image.close()


def test_what_is_not_there_is_stocks_business(cluster, store,
                                              deleted_by_stock):
    _delete(store)
    assert deleted_by_stock == [IMAGE]


def test_what_a_request_published_it_deletes_and_nothing_else(
        cluster, store, undecided, deleted_by_stock):
    _upload(store, context=_request('req-1'))
    assert [*cluster.images] == [IMAGE]
    _delete(store, _request('req-1'))
    assert cluster.images == {}
    assert deleted_by_stock == []


@pytest.mark.parametrize('context', [
    _request('req-2'), _request(None), None])
def test_what_another_request_published_is_let_go_and_stocks(
        cluster, store, undecided, deleted_by_stock, context):
    _upload(store, context=_request('req-1'))
    _delete(store, context)
    assert deleted_by_stock == [IMAGE]
    header = cluster.images[IMAGE]
    assert header.opened == []


def test_nothing_tells_of_an_image_that_was_deleted_before_its_hand_over(
        cluster, store, undecided):
    _upload(store)
    _delete(store)
    assert cluster.images == {}
    assert store.marked() == []


def test_an_image_is_deleted_though_something_goes_on_telling_of_it(
        cluster, store, undecided, monkeypatch, caplog):
    _upload(store)

    def fail(ioctx, mark):
        raise errors.SinkFailed('Ceph hangs')

    monkeypatch.setattr(rbd_marks, 'strike_out', fail)
    _delete(store)
    assert cluster.images == {}
    assert f'{IMAGE}: its entry is left to the clean-up' in caplog.text


def test_a_request_leaves_what_took_the_place_of_its_own(
        cluster, store, undecided, deleted_by_stock):
    _upload(store, context=_request('req-1'))
    found, = store.marked()
    assert store.fence(found.mark)
    store.discard(found.mark)
    later = store.sink(IMAGE, 'ffffffff')
    later.create(4096)
    later.seal()
    later.publish()
    _delete(store, _request('req-1'))
    assert [*cluster.images] == [IMAGE]
    assert later.is_held()
    assert deleted_by_stock == []
    later.release()


# Taken while it is written

class _Interrupted(io.BytesIO):
    """Data between whose parts something happens."""

    def __init__(self, happens):
        super().__init__(DATA)
        self._happens = [happens]

    def read(self, size=-1):
        if self.tell() and self._happens:
            self._happens.pop()()
        return super().read(1000)


@pytest.mark.parametrize('size', [len(DATA), len(DATA) - 1, 0])
def test_an_upload_that_is_taken_meanwhile_is_told_so_and_left(
        cluster, store, undecided, size):
    def take():
        found, = store.marked()
        assert store.is_open(found)
        assert store.fence(found.mark)

    with pytest.raises(exceptions.NotFound, match='counted as dead'):
        _upload(store, _Interrupted(take), size=size)
    name, = cluster.images
    assert name.endswith('.removed')
    found, = store.marked()
    assert not store.is_open(found)
    store.discard(found.mark)
    assert cluster.images == {}


def test_an_upload_that_fails_otherwise_leaves_nothing(cluster, store,
                                                       undecided):
    with pytest.raises(exceptions.Invalid):
        _upload(store, size=len(DATA) - 1)
    assert cluster.images == {}
