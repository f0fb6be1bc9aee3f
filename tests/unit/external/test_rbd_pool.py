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

"""A pool in a Ceph in memory: reaching it, and removing from it."""

import errno

import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import rbd_names
from glance_conversion_plugins.external import rbd_pool
from glance_conversion_plugins.glance_db import compat
from tests.simulation import ceph
from tests.unit import clusters

POOL = rbd_pool.Pool('/etc/ceph/ceph.conf', 'glance', clusters.POOL)
SNAPSHOTS = {'snap': True}


@pytest.fixture
def called(monkeypatch):
    """What is asked of a client: [(name, arguments)]"""
    called = []

    def noting(kind, name):
        call = getattr(kind, name)

        def noted(self, *arguments):
            called.append((name, *arguments))
            return call(self, *arguments)

        monkeypatch.setattr(kind, name, noted)

    for name in ('conf_set', 'connect', 'shutdown', 'open_ioctx'):
        noting(ceph.Client, name)
    for name in ('set_osdmap_full_try', '__exit__'):
        noting(ceph.Ioctx, name)
    return called


# Reaching it

def test_a_connection_lasts_as_long_as_its_block(cluster, called):
    with rbd_pool.connect(POOL) as (client, ioctx):
        assert [call for call in called if call[0] != 'conf_set'] == [
            ('connect',), ('open_ioctx', 'images'), ('set_osdmap_full_try',)]
        assert ioctx.client is client
        assert ioctx.objects is cluster.objects(clusters.POOL)
        called.clear()
    assert [call[0] for call in called] == ['__exit__', 'shutdown']


def test_a_connection_is_that_of_the_configured_user(cluster, monkeypatch):
    given = []
    rados, _ = cluster.bindings()
    make = rados.Rados
    monkeypatch.setattr(rbd_pool.rados, 'Rados', lambda **options: (
        given.append(options), make(**options))[1])
    with rbd_pool.connect(POOL):
        assert given == [{'conffile': '/etc/ceph/ceph.conf',
                          'rados_id': 'glance'}]


@pytest.mark.parametrize('timeout', [0, 5])
def test_a_time_limit_is_one_for_everything(cluster, called, timeout):
    with rbd_pool.connect(POOL._replace(timeout=timeout)):
        assert called[:4] == [
            ('conf_set', 'rados_osd_op_timeout', str(timeout)),
            ('conf_set', 'rados_mon_op_timeout', str(timeout)),
            ('conf_set', 'client_mount_timeout', str(timeout)), ('connect',)]


def test_without_a_time_limit_nothing_waits_for_ever(cluster, called):
    with rbd_pool.connect(POOL):
        assert [call[1:] for call in called if call[0] == 'conf_set'] == [
            (option, '240') for option in (
                'rados_osd_op_timeout', 'rados_mon_op_timeout',
                'client_mount_timeout')]


def test_a_cluster_that_does_not_answer_is_told(cluster, monkeypatch):
    def connect(_):
        raise ceph.RadosError('no answer')

    monkeypatch.setattr(ceph.Client, 'connect', connect)
    with pytest.raises(errors.SinkFailed):
        with rbd_pool.connect(POOL):
            pytest.fail('there is no connection')


def test_a_pool_that_can_not_be_opened_leaves_no_connection(
        cluster, called, monkeypatch):
    def open_ioctx(*_):
        raise ceph.RadosError('no pool')

    monkeypatch.setattr(ceph.Client, 'open_ioctx', open_ioctx)
    with pytest.raises(errors.SinkFailed):
        with rbd_pool.connect(POOL):
            pytest.fail('there is no pool')
    assert called[-1] == ('shutdown',)


# What went wrong

def _error(number, kind=ceph.Error):
    error = kind('it went wrong')
    error.errno = number
    return error


@pytest.mark.parametrize(('error', 'expected'), [
    (ceph.ImageExists(), errors.AlreadyStored),
    (_error(errno.ENOSPC), errors.StoreFull),
    (_error(errno.EDQUOT), errors.StoreFull),
    (_error(errno.ENOSPC, ceph.RadosError), errors.StoreFull),
    (_error(errno.ETIMEDOUT), errors.SinkFailed),
    (_error(errno.EIO), errors.SinkFailed),
    (ceph.ImageNotFound(), errors.SinkFailed),
    (ceph.RadosError(), errors.SinkFailed)])
def test_what_ceph_raises_is_an_error_of_ours(cluster, error, expected):
    with pytest.raises(errors.SinkFailed) as caught:
        with rbd_pool.translated():
            raise error
    assert type(caught.value) is expected
    assert caught.value.__cause__ is error


@pytest.mark.parametrize('error', [ValueError(), OSError(errno.ENOSPC, '')])
def test_what_others_raise_stays_what_it_is(cluster, error):
    with pytest.raises(type(error)):
        with rbd_pool.translated():
            raise error


def test_a_cluster_that_is_slow_is_told_from_one_that_refuses(cluster):
    said = {number: str(rbd_pool.failure_of(number))
            for number in (errno.ETIMEDOUT, errno.EIO, errno.ENOSPC)}
    assert len(set(said.values())) == 3
    assert 'in time' in said[errno.ETIMEDOUT]


# Removing

def test_a_snapshot_is_called_as_the_stock_driver_calls_it():
    assert rbd_pool.SNAPSHOT == compat.rbd_driver.DEFAULT_SNAPNAME


@pytest.mark.parametrize('snapshots', [
    {}, SNAPSHOTS, {'snap': False}, {'snap': True, 'other': False}])
def test_an_image_is_removed_with_its_snapshots(cluster, ioctx, snapshots):
    header = clusters.create(cluster, 'disk', ())
    header.snaps |= snapshots
    other = clusters.create(cluster, 'other')
    rbd_pool.remove(ioctx, 'disk')
    assert cluster.images == {'other': other}
    assert header.opened == []
    assert other.snaps == SNAPSHOTS


@pytest.mark.parametrize('protected', [True, False])
def test_a_snapshot_loses_its_protection_first(cluster, ioctx, protected):
    """Ceph refuses both to remove one that has it, and to take it twice."""
    header, seen = clusters.create(cluster, 'disk', ()), []
    header.snaps['snap'] = protected
    cluster.before['remove snap'] = lambda: seen.append(dict(header.snaps))
    rbd_pool.remove(ioctx, 'disk')
    assert seen == [{'snap': False}]
    assert ('unprotect' in cluster.done) is protected


def test_its_room_is_free_before_it_is_removed(cluster, ioctx):
    """Removing takes a write, which a pool over its quota has no room for."""
    header = clusters.create(cluster, 'disk')
    seen = []
    cluster.before['remove disk'] = lambda: seen.append(
        (header.size, header.data))
    rbd_pool.remove(ioctx, 'disk')
    assert seen == [(0, {})]


def test_what_is_not_there_need_not_be_removed(cluster, ioctx):
    rbd_pool.remove(ioctx, 'disk')
    assert cluster.world.now == 1_000_000


def test_nothing_of_an_image_is_touched_that_somebody_has_open(cluster,
                                                               ioctx):
    header = clusters.create(cluster, 'disk')
    begun = cluster.world.now
    with cluster.open('disk'):
        with pytest.raises(ceph.ImageBusy):
            rbd_pool.remove(ioctx, 'disk')
        # Longer than a client that was killed is remembered.
        assert cluster.world.now - begun > 30
    assert cluster.images == {'disk': header}
    assert header.snaps == SNAPSHOTS
    assert header.data


def test_what_is_let_go_in_time_is_removed(cluster, ioctx, monkeypatch):
    clusters.create(cluster, 'disk')
    image, sleep = cluster.open('disk'), rbd_pool.time.sleep

    def sleeping(seconds):
        sleep(seconds)
        if cluster.world.now >= 1_000_030:
            image.close()

    monkeypatch.setattr(rbd_pool.time, 'sleep', sleeping)
    rbd_pool.remove(ioctx, 'disk')
    assert cluster.images == {}


def test_what_is_refused_for_a_while_is_tried_again(cluster, ioctx):
    def refuse():
        raise ceph.Error('over its quota')

    clusters.create(cluster, 'disk')
    cluster.before['remove disk'] = refuse
    rbd_pool.remove(ioctx, 'disk')
    assert cluster.images == {}


def test_what_another_one_removes_meanwhile_is_not_missed(cluster, ioctx):
    clusters.create(cluster, 'disk')
    cluster.before['resize'] = lambda: cluster.images.pop('disk')
    rbd_pool.remove(ioctx, 'disk')
    assert cluster.images == {}
    assert cluster.world.now == 1_000_000


def test_what_is_only_listed_any_more_is_removed_with_its_snapshot(cluster,
                                                                   ioctx):
    """Somebody has died who renamed or removed it."""
    clusters.create(cluster, 'disk')
    objects = cluster.objects(clusters.POOL)
    del objects['rbd_id.disk']
    rbd_pool.remove(ioctx, 'disk')
    assert cluster.named(clusters.POOL) == set()
    assert not [name for name in objects if name.startswith('rbd_header.')]


def test_a_name_that_another_one_led_there_again_leads_nowhere(cluster,
                                                               ioctx):
    """As one does who removes the same, and dies of it then."""
    clusters.create(cluster, 'disk')
    image_id = rbd_names.id_of(ioctx, 'disk')

    def lead():
        rbd_names._lead(ioctx, 'disk', image_id)

    cluster.before['end disk'] = lead
    rbd_pool.remove(ioctx, 'disk')
    assert cluster.images == {}
    assert rbd_names.id_of(ioctx, 'disk') is None
