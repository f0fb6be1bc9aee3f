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

"""What the stand-ins of this folder have to do as the real things do it."""

import contextlib
import errno
import uuid

import pytest

from glance_conversion_plugins.glance_db import compat
from tests.simulation import ceph as stand_in

POOL = 'images'


class Ceph:
    """One kind of Ceph, and clients of it."""

    def __init__(self, rados, rbd, connect):
        self.rados, self.rbd = rados, rbd
        self._connect = connect

    @contextlib.contextmanager
    def client(self):
        """(cluster, ioctx)"""
        cluster = self._connect()
        cluster.connect()
        try:
            yield cluster, cluster.open_ioctx(POOL)
        finally:
            cluster.shutdown()

    def create(self, ioctx, name):
        self.rbd.RBD().create(ioctx, name, 1 << 20, 22, old_format=False,
                              features=1)


def _name():
    return str(uuid.uuid4())


def ceph_keeps_a_handle_over_a_rename(ceph):
    with ceph.client() as (_, one), ceph.client() as (_, two):
        name, to = _name(), _name()
        ceph.create(one, name)
        with ceph.rbd.Image(one, name) as image:
            ceph.rbd.RBD().rename(one, name, to)
            image.metadata_set('key', 'value')
            with ceph.rbd.Image(two, to, read_only=True) as seen:
                assert list(seen.metadata_list()) == [('key', 'value')]
                assert len(list(seen.watchers_list())) == 1
            with pytest.raises(ceph.rbd.ImageNotFound):
                ceph.rbd.Image(two, name, read_only=True)
        ceph.rbd.RBD().remove(one, to)


def ceph_renames_for_one_only(ceph):
    with ceph.client() as (_, one), ceph.client() as (_, two):
        name, to, other = _name(), _name(), _name()
        ceph.create(one, name)
        ceph.create(one, other)
        with pytest.raises(ceph.rbd.ImageExists):
            ceph.rbd.RBD().rename(two, name, other)
        ceph.rbd.RBD().rename(one, name, to)
        with pytest.raises(ceph.rbd.ImageNotFound):
            ceph.rbd.RBD().rename(two, name, _name())
        for each in (to, other):
            ceph.rbd.RBD().remove(one, each)


def ceph_sees_writers_and_not_readers(ceph):
    with ceph.client() as (cluster, one), ceph.client() as (_, two):
        name = _name()
        ceph.create(one, name)
        with ceph.rbd.Image(two, name, read_only=True) as reader:
            assert list(reader.watchers_list()) == []
            with ceph.rbd.Image(one, name):
                found, = reader.watchers_list()
                assert found['addr'] in cluster.get_addrs()
            assert list(reader.watchers_list()) == []
        ceph.rbd.RBD().remove(one, name)


def ceph_removes_nothing_that_is_open(ceph):
    with ceph.client() as (_, one), ceph.client() as (_, two):
        name = _name()
        ceph.create(one, name)
        with ceph.rbd.Image(one, name):
            with pytest.raises(ceph.rbd.ImageBusy):
                ceph.rbd.RBD().remove(two, name)
        ceph.rbd.RBD().remove(two, name)
        with pytest.raises(ceph.rbd.ImageNotFound):
            ceph.rbd.RBD().remove(two, name)


def ceph_shuts_a_client_out(ceph):
    with contextlib.ExitStack() as stack:
        _, one = stack.enter_context(ceph.client())
        cluster, two = stack.enter_context(ceph.client())
        name = _name()
        ceph.create(one, name)
        image = ceph.rbd.Image(one, name)
        with ceph.rbd.Image(two, name, read_only=True) as seen:
            address, = [w['addr'] for w in seen.watchers_list()]
        cluster.blocklist_add(address, 60)
        # By this those who store it see that map.
        assert ceph.rbd.RBD().list(two)
        with ceph.rbd.Image(two, name, read_only=True) as seen:
            assert list(seen.metadata_list()) == []
        with pytest.raises(ceph.rbd.ConnectionShutdown):
            image.metadata_set('key', 'value')
        with pytest.raises(ceph.rbd.Error):
            ceph.rbd.RBD().rename(one, name, _name())
        with contextlib.suppress(ceph.rbd.Error):
            image.close()
        with ceph.rbd.Image(two, name) as seen:
            assert list(seen.metadata_list()) == []
        ceph.rbd.RBD().remove(two, name)


def ceph_says_that_a_key_is_gone(ceph):
    with ceph.client() as (_, one):
        name = _name()
        ceph.create(one, name)
        with ceph.rbd.Image(one, name) as image:
            image.metadata_set('key', 'value')
            image.metadata_remove('key')
            with pytest.raises(KeyError):
                image.metadata_remove('key')
        ceph.rbd.RBD().remove(one, name)


_LOCK = {'name': 'turn', 'desc': '', 'duration': 60}
_RENEW, _MUST = 1, 2


def ceph_locks_an_object_for_one(ceph):
    with ceph.client() as (_, one), ceph.client() as (_, two):
        name = _name()
        one.lock_exclusive(name, cookie='one', flags=_RENEW, **_LOCK)
        one.lock_exclusive(name, cookie='one', flags=_RENEW, **_LOCK)
        taken = ceph.rados.ObjectBusy, ceph.rados.ObjectExists
        for ioctx, cookie, flags in ((two, 'two', _RENEW), (two, 'two', 0),
                                     (one, 'one', 0)):
            with pytest.raises(taken):
                ioctx.lock_exclusive(name, cookie=cookie, flags=flags, **_LOCK)
        with pytest.raises(ceph.rados.ObjectNotFound):
            two.lock_exclusive(_name(), cookie='two', flags=_MUST, **_LOCK)
        with pytest.raises(ceph.rados.ObjectNotFound):
            two.unlock(name, 'turn', 'two')
        one.unlock(name, 'turn', 'one')
        two.lock_exclusive(name, cookie='two', flags=_RENEW, **_LOCK)
        two.unlock(name, 'turn', 'two')


def ceph_lists_keys_in_their_order(ceph):
    with ceph.client() as (_, ioctx):
        name = _name()

        def keys(after, count):
            with ceph.rados.ReadOpCtx() as operation:
                found, _ = ioctx.get_omap_vals(operation, after, '', count)
                ioctx.operate_read_op(operation, name)
                return [key for key, _ in found]

        with pytest.raises(ceph.rados.ObjectNotFound):
            keys('', 9)
        for key in 'bca':
            with ceph.rados.WriteOpCtx() as operation:
                ioctx.set_omap(operation, (key,), (key.encode(),))
                ioctx.operate_write_op(operation, name)
        assert keys('', 9) == ['a', 'b', 'c']
        assert keys('', 2) == ['a', 'b']
        assert keys('b', 2) == ['c']
        with ceph.rados.WriteOpCtx() as operation:
            ioctx.remove_omap_keys(operation, ('b', 'x'))
            ioctx.operate_write_op(operation, name)
        assert keys('', 9) == ['a', 'c']


def ceph_removes_a_key_on_condition_of_its_value(ceph):
    with ceph.client() as (_, ioctx):
        name = _name()

        def remove(value):
            with ceph.rados.WriteOpCtx() as operation:
                operation.omap_cmp('key', value)
                ioctx.remove_omap_keys(operation, ('key',))
                ioctx.operate_write_op(operation, name)

        def found():
            with ceph.rados.ReadOpCtx() as operation:
                items, _ = ioctx.get_omap_vals_by_keys(operation, ('key',))
                ioctx.operate_read_op(operation, name)
                return list(items)

        with ceph.rados.WriteOpCtx() as operation:
            ioctx.set_omap(operation, ('key',), (b'value',))
            ioctx.operate_write_op(operation, name)
        with pytest.raises(ceph.rados.Error):
            remove('another')
        assert found() == [('key', b'value')]
        with ceph.rados.WriteOpCtx() as operation:
            ioctx.set_omap(operation, ('key',), (b'',))
            ioctx.operate_write_op(operation, name)
        with pytest.raises(ceph.rados.Error):
            remove('value')
        assert found() == [('key', None)]
        remove('')
        assert found() == []
        with ceph.rados.WriteOpCtx() as operation:
            ioctx.set_omap(operation, ('key',), (b'value',))
            ioctx.operate_write_op(operation, name)
        remove('value')
        assert found() == []
        with pytest.raises(ceph.rados.Error):
            remove('value')


def _id(ceph, ioctx, name):
    with ceph.rbd.Image(ioctx, name, read_only=True) as image:
        return image.id()


def _listed(ceph, ioctx, name):
    with ceph.rados.ReadOpCtx() as operation:
        found, _ = ioctx.get_omap_vals_by_keys(operation, (f'name_{name}',))
        ioctx.operate_read_op(operation, stand_in.DIRECTORY)
        return [value for _, value in found]


def ceph_keeps_names_in_objects(ceph):
    with ceph.client() as (_, ioctx):
        name, to = _name(), _name()
        ceph.create(ioctx, name)
        encoded = stand_in.encoded(_id(ceph, ioctx, name))
        assert ioctx.read(f'rbd_id.{name}') == encoded
        assert _listed(ceph, ioctx, name) == [encoded]
        ceph.rbd.RBD().rename(ioctx, name, to)
        assert _listed(ceph, ioctx, name) == []
        assert _listed(ceph, ioctx, to) == [encoded]
        assert ioctx.read(f'rbd_id.{to}') == encoded
        with pytest.raises(ceph.rados.ObjectNotFound):
            ioctx.read(f'rbd_id.{name}')
        ceph.rbd.RBD().remove(ioctx, to)
        assert _listed(ceph, ioctx, to) == []
        with pytest.raises(ceph.rados.ObjectNotFound):
            ioctx.read(f'rbd_id.{to}')


def ceph_removes_what_was_half_made(ceph):
    with ceph.client() as (_, ioctx):
        for lost in ('rbd_header.{1}',), ('rbd_header.{1}', 'rbd_id.{0}'):
            name = _name()
            ceph.create(ioctx, name)
            image_id = _id(ceph, ioctx, name)
            for each in lost:
                ioctx.remove_object(each.format(name, image_id))
            with pytest.raises(ceph.rbd.ImageNotFound):
                ceph.rbd.Image(ioctx, name, read_only=True)
            with pytest.raises(ceph.rbd.ImageNotFound):
                ceph.rbd.RBD().rename(ioctx, name, _name())
            assert name in ceph.rbd.RBD().list(ioctx)
            ceph.rbd.RBD().remove(ioctx, name)
            assert name not in ceph.rbd.RBD().list(ioctx)
            with pytest.raises(ceph.rados.ObjectNotFound):
                ioctx.read(f'rbd_id.{name}')


def ceph_finds_by_a_name_that_was_half_given(ceph):
    with ceph.client() as (_, ioctx):
        name, to = _name(), _name()
        ceph.create(ioctx, name)
        image_id = _id(ceph, ioctx, name)
        ioctx.write_full(f'rbd_id.{to}', stand_in.encoded(image_id))
        assert _id(ceph, ioctx, to) == image_id
        assert to not in ceph.rbd.RBD().list(ioctx)
        with pytest.raises(ceph.rbd.ImageExists):
            ceph.rbd.RBD().rename(ioctx, name, to)
        ceph.rbd.RBD().remove(ioctx, name)
        with pytest.raises(ceph.rbd.ImageNotFound):
            ceph.rbd.Image(ioctx, to, read_only=True)
        with pytest.raises(ceph.rbd.ImageNotFound):
            ceph.rbd.RBD().remove(ioctx, to)
        with pytest.raises(ceph.rados.ObjectNotFound):
            ioctx.read(f'rbd_id.{to}')


def ceph_removes_by_no_name_what_has_snapshots(ceph):
    with ceph.client() as (_, ioctx):
        name, alias = _name(), _name()
        ceph.create(ioctx, name)
        image_id = _id(ceph, ioctx, name)
        ioctx.write_full(f'rbd_id.{alias}', stand_in.encoded(image_id))
        with ceph.rbd.Image(ioctx, name) as image:
            image.create_snap('snap')
        for each in name, alias:
            with pytest.raises(ceph.rbd.ImageHasSnapshots):
                ceph.rbd.RBD().remove(ioctx, each)
        with ceph.rbd.Image(ioctx, alias) as image:
            image.remove_snap('snap')
        ioctx.remove_object(f'rbd_id.{alias}')
        ceph.rbd.RBD().remove(ioctx, name)


def _call(ceph, ioctx, method, *texts):
    with ceph.rados.WriteOpCtx() as operation:
        operation.execute('rbd', method, stand_in.encoded(*texts))
        ioctx.operate_write_op(operation, stand_in.DIRECTORY)


def ceph_renames_in_its_directory_what_has_the_name(ceph):
    def rename(source, target, image_id):
        _call(ceph, ioctx, 'dir_rename_image', source, target, image_id)

    with ceph.client() as (_, ioctx):
        name, to, other = _name(), _name(), _name()
        for each in name, other:
            ceph.create(ioctx, each)
        image_id = _id(ceph, ioctx, name)
        with pytest.raises(ceph.rados.OSError) as told:
            rename(name, to, _id(ceph, ioctx, other))
        assert told.value.errno == errno.ESTALE
        with pytest.raises(ceph.rados.ObjectExists):
            rename(name, other, image_id)
        rename(name, to, image_id)
        with pytest.raises(ceph.rados.ObjectNotFound):
            rename(name, to, image_id)
        assert to in ceph.rbd.RBD().list(ioctx)
        assert _id(ceph, ioctx, name) == image_id
        rename(to, name, image_id)
        for each in name, other:
            ceph.rbd.RBD().remove(ioctx, each)


def ceph_strikes_out_of_its_directory_what_has_the_name(ceph):
    def strike_out(name, image_id):
        _call(ceph, ioctx, 'dir_remove_image', name, image_id)

    with ceph.client() as (_, ioctx):
        name = _name()
        ceph.create(ioctx, name)
        image_id = _id(ceph, ioctx, name)
        for wrong in ((name, '77'), (_name(), image_id)):
            with pytest.raises(ceph.rados.ObjectNotFound):
                strike_out(*wrong)
        ioctx.stat(f'rbd_header.{image_id}')
        for each in f'rbd_header.{image_id}', f'rbd_id.{name}':
            ioctx.remove_object(each)
        with pytest.raises(ceph.rados.ObjectNotFound):
            ioctx.stat(f'rbd_header.{image_id}')
        strike_out(name, image_id)
        assert name not in ceph.rbd.RBD().list(ioctx)


def ceph_writes_and_removes_on_condition(ceph):
    def write(data):
        with ceph.rados.WriteOpCtx() as operation:
            operation.new(1)
            operation.write_full(data)
            ioctx.operate_write_op(operation, name)

    def remove(data):
        with ceph.rados.WriteOpCtx() as operation:
            operation.cmpext(data, 0)
            operation.remove()
            ioctx.operate_write_op(operation, name)

    with ceph.client() as (_, ioctx):
        name = _name()
        write(b'one')
        with pytest.raises(ceph.rados.ObjectExists):
            write(b'two')
        with pytest.raises(ceph.rados.Error):
            remove(b'two')
        assert ioctx.read(name) == b'one'
        remove(b'one')
        with pytest.raises(ceph.rados.Error):
            remove(b'one')
        with pytest.raises(ceph.rados.ObjectNotFound):
            ioctx.read(name)


def ceph_removes_nothing_that_has_snapshots_by_the_list_alone(ceph):
    with ceph.client() as (_, ioctx):
        name = _name()
        ceph.create(ioctx, name)
        image_id = _id(ceph, ioctx, name)
        with ceph.rbd.Image(ioctx, name) as image:
            image.create_snap('snap')
        ioctx.remove_object(f'rbd_id.{name}')
        with pytest.raises(ceph.rbd.ImageHasSnapshots):
            ceph.rbd.RBD().remove(ioctx, name)
        with ceph.rbd.Image(ioctx, image_id=image_id) as image:
            assert [each['name'] for each in image.list_snaps()] == ['snap']
            image.remove_snap('snap')
        ceph.rbd.RBD().remove(ioctx, name)
        with pytest.raises(ceph.rbd.ImageNotFound):
            ceph.rbd.Image(ioctx, image_id=image_id)


CEPH_CHECKS = [
    ceph_removes_nothing_that_has_snapshots_by_the_list_alone,
    ceph_keeps_names_in_objects,
    ceph_removes_what_was_half_made,
    ceph_finds_by_a_name_that_was_half_given,
    ceph_removes_by_no_name_what_has_snapshots,
    ceph_renames_in_its_directory_what_has_the_name,
    ceph_strikes_out_of_its_directory_what_has_the_name,
    ceph_writes_and_removes_on_condition,
    ceph_removes_a_key_on_condition_of_its_value,
    ceph_locks_an_object_for_one,
    ceph_lists_keys_in_their_order,
    ceph_keeps_a_handle_over_a_rename,
    ceph_renames_for_one_only,
    ceph_sees_writers_and_not_readers,
    ceph_removes_nothing_that_is_open,
    ceph_shuts_a_client_out,
    ceph_says_that_a_key_is_gone,
]


# Glance's records. new_image(status, url=None, **properties) makes one, which
# is stored at the URL; records are the calls of glance_db.records.

def records_save_on_condition_of_the_status(repo, new_image, records):
    image_id = new_image('importing')
    one, two = repo().get(image_id), repo().get(image_id)
    one.status = 'queued'
    repo().save(one, 'importing')
    two.status = 'active'
    with pytest.raises(compat.exception.Conflict):
        repo().save(two, 'importing')
    assert repo().get(image_id).status == 'queued'


def records_never_save_the_lock(repo, new_image, records):
    image_id = new_image('importing', **{compat.LOCK_PROPERTY: 'mine'})
    one, two = repo().get(image_id), repo().get(image_id)
    repo().delete_property_atomic(one, compat.LOCK_PROPERTY, 'mine')
    repo().save(two, 'importing')
    assert compat.LOCK_PROPERTY not in repo().get(image_id).extra_properties


def records_remove_the_lock_of_one_task(repo, new_image, records):
    image_id = new_image('importing', **{compat.LOCK_PROPERTY: 'mine'})
    with pytest.raises(compat.exception.NotFound):
        repo().delete_property_atomic(repo().get(image_id),
                                      compat.LOCK_PROPERTY, 'another')
    repo().delete_property_atomic(repo().get(image_id), compat.LOCK_PROPERTY,
                                  'mine')
    with pytest.raises(compat.exception.NotFound):
        repo().delete_property_atomic(repo().get(image_id),
                                      compat.LOCK_PROPERTY, 'mine')


def records_take_a_location_and_give_it_back_once(repo, new_image, records):
    image_id = new_image('importing', url='file:///a')
    first, = records.locations(image_id)
    assert (first['url'], first['status']) == ('file:///a', 'active')
    for deleted in (True, False):
        assert records.set_location_deleted(first['id'], deleted)
        assert not records.set_location_deleted(first['id'], deleted)
        assert len(records.locations(image_id)) == (not deleted)
    assert records.locations(image_id)[0]['url'] == 'file:///a'
    assert not records.set_location_deleted(first['id'] + 1000, True)


RECORDS_CHECKS = [
    records_save_on_condition_of_the_status,
    records_never_save_the_lock,
    records_remove_the_lock_of_one_task,
    records_take_a_location_and_give_it_back_once,
]


def name(check):
    return check.__name__
