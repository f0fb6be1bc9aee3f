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

import io
import os
import random
import socket
import time
from typing import NamedTuple

import glance_store
from glance_store.common import utils
from glance_store import exceptions
from glance_store import location
from oslo_config import cfg
import pytest

from glance_conversion_plugins import config
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import folder
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import deployment
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.stores import adoption
from glance_conversion_plugins.stores import driver
from glance_conversion_plugins.stores import handover
from glance_conversion_plugins.stores import liveness
from glance_conversion_plugins.stores import placeholder
from glance_conversion_plugins.stores import sparse_file
from tests.unit import fakes

CONTENT = random.Random(1).randbytes(300_000)  # noqa: S311
IMAGE = '11111111-2222-3333-4444-555555555555'
TASK = 'aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee'
DIGEST = digest.Digest('md5', 'sha')


class Unreadable:
    """Data that must not be touched."""

    def read(self, size=None):
        raise AssertionError('data was read')


@pytest.fixture(autouse=True)
def empty():
    yield
    adoption.forget(TASK)


@pytest.fixture
def placeholder_file(tmp_path):
    made = placeholder.Placeholder(
        str(tmp_path), placeholder.Header('i', 'task', 'raw', 'bare'))
    made.create()
    made.hand_on(made.path, 1 << 20)
    with open(made.path, 'rb') as f:
        yield f
    made.release()


class Request(NamedTuple):
    """What Glance calls a store with."""

    request_id: str | None


@pytest.fixture
def watched(monkeypatch):
    """Everything that would be watched; nobody asks a database."""
    found = []
    monkeypatch.setattr(handover, 'watch', found.append)
    yield found
    for each in found:
        each.sink.release()


@pytest.fixture
def datadir(tmp_path):
    made = tmp_path / 'images'
    made.mkdir()
    return made


@pytest.fixture(params=[None, 'files'])
def store(request, datadir, override):
    """A real store of files: the only one, or one of several."""
    override('deployment', 'test', 'conversion')
    conf = cfg.ConfigOpts()
    glance_store.register_opts(conf)
    config.register_opts(conf)
    conf([])
    group = 'glance_store'
    if request.param:
        group = request.param
        conf.register_opt(cfg.DictOpt('enabled_backends'))
        conf.set_override('enabled_backends', {'files': 'sparse_file'})
        conf.register_opts(sparse_file.Store.OPTIONS, group=group)
    conf.set_override('filesystem_store_datadir', str(datadir), group)
    made = sparse_file.Store(conf, backend=request.param)
    made.configure()
    return made


def _names(path):
    return sorted(os.listdir(path))


def _sealed(store):
    """Offer a complete image, as an import does."""
    sink = store.sink(IMAGE, TASK)
    sink.create(len(CONTENT))
    sink.write(memoryview(CONTENT), 0)
    sink.seal()
    return _offer(store, sink)


def _offer(store, sink):
    adoption.offer(store.backend_group or '', IMAGE, TASK,
                   adoption.Sealed(sink, len(CONTENT), DIGEST))
    return sink


def _adopt(store, context=None):
    return store.add(IMAGE, Unreadable(), len(CONTENT), 'sha512', context)


def _upload(store, size=300_000, data=CONTENT, context=None):
    return store.add(IMAGE, io.BytesIO(data), size, 'sha512', context)


# What a task wrote is adopted

def test_what_a_task_wrote_is_published_and_nothing_is_read(store, datadir,
                                                            watched):
    sink = _sealed(store)
    assert IMAGE not in _names(datadir)
    metadata = {'store': 'files'} if store.backend_group else {}
    url = f'file://{datadir / IMAGE}'
    assert _adopt(store) == (url, len(CONTENT), 'md5', 'sha', metadata)
    assert (datadir / IMAGE).read_bytes() == CONTENT
    given, = watched
    assert given[:-1] == (store.backend_group, IMAGE, None, url, sink)


def test_what_is_adopted_keeps_its_mark_and_its_lease(store, watched):
    """Glance has not recorded it yet, and others see that somebody waits."""
    _sealed(store)
    _adopt(store)
    found, = store.marked()
    assert found.is_published
    assert found.mark.is_same(driver.mark(IMAGE, TASK))
    assert store.is_open(found)
    watched[0].sink.hand_over()
    assert store.marked() == []
    assert not store.is_open(found)


@pytest.mark.parametrize('publish', [_adopt, _upload])
@pytest.mark.parametrize(('context', 'expected'), [
    (Request('req-1'), 'req-1'), (Request(None), None), (object(), None),
    (None, None)])
def test_who_asked_for_an_image_is_known(store, watched, publish, context,
                                         expected):
    if publish is _adopt:
        _sealed(store)
    before = time.monotonic()
    publish(store, context=context)
    given, = watched
    assert given.request == expected
    assert before <= given.since <= time.monotonic()


def test_an_image_is_adopted_once(store, watched):
    _sealed(store)
    _adopt(store)
    with pytest.raises(exceptions.Duplicate):
        _adopt(store)
    assert len(watched) == 1
    assert len(store.marked()) == 1


def test_a_file_of_another_size_is_not_adopted(store, watched):
    sink = _sealed(store)
    with pytest.raises(AssertionError, match='data was read'):
        store.add(IMAGE, Unreadable(), len(CONTENT) - 1, 'sha512')
    assert watched == []
    _adopt(store)
    assert watched[0].sink is sink


@pytest.mark.parametrize(('ours', 'stock'), [
    (errors.StoreFull('There is no room.'), exceptions.StorageFull),
    (errors.WriteDenied('There is no room.'), exceptions.StorageWriteDenied),
    (errors.SinkFailed('There is no room.'), exceptions.BackendException)])
def test_a_failure_is_told_in_its_own_words(store, watched, ours, stock):
    adoption.offer(store.backend_group or '', IMAGE, TASK, ours)
    with pytest.raises(stock, match='There is no room'):
        _adopt(store)
    assert watched == []


@pytest.mark.parametrize(('ours', 'stock'), [
    (errors.AlreadyStored('taken'), exceptions.Duplicate),
    (errors.SinkFailed('no answer'), exceptions.BackendException),
    (ZeroDivisionError(), ZeroDivisionError)])
def test_what_can_not_be_published_is_removed(store, watched, ours, stock):
    sink = _offer(store, fakes.FakeSink(fail_at={'publish': ours}))
    with pytest.raises(stock):
        _adopt(store)
    assert sink.names() == ['publish', 'abort']
    assert watched == []


def test_who_was_shut_out_removes_nothing(store, watched):
    """Without the data a clean-up would not know that it has to go on."""
    sink = _offer(store, fakes.FakeSink(fail_at={'publish': errors.Fenced()}))
    with pytest.raises(exceptions.NotFound):
        _adopt(store)
    assert sink.names() == ['publish', 'release']
    assert watched == []


def test_who_was_taken_for_dead_says_so(store, watched):
    """In that one way after which Glance leaves the record as it is."""
    _offer(store, fakes.FakeSink(fail_at={'publish': errors.Fenced()},
                                 held=False))
    with pytest.raises(exceptions.NotFound,
                       match='counted as dead; import the image again'):
        _adopt(store)


# All that can come of it while the data is an upload's, or a task's.
FAILURES = [errors.AlreadyStored('taken'), errors.StoreFull('full'),
            errors.SinkFailed('no answer'), errors.Fenced(),
            errors.WrongSize('too short'), OSError('broken pipe'),
            ZeroDivisionError(), KeyboardInterrupt()]


@pytest.mark.parametrize('ours', FAILURES, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize('at', ['create', 'write', 'seal', 'publish'])
def test_whatever_an_upload_fails_of_that_was_taken_it_is_left(
        store, watched, monkeypatch, at, ours):
    """It could be the next one's that is removed, or tells of a failure."""
    sink = fakes.FakeSink(fail_at={at: ours}, held=False)
    monkeypatch.setattr(store, 'sink', lambda *_: sink)
    with pytest.raises(exceptions.NotFound, match='counted as dead'):
        _upload(store)
    assert sink.names()[-1] == 'release'
    assert 'abort' not in sink.names()
    assert watched == []


@pytest.mark.parametrize('ours', FAILURES, ids=lambda e: type(e).__name__)
def test_whatever_an_import_fails_of_that_was_taken_it_is_left(store, watched,
                                                               ours):
    sink = _offer(store, fakes.FakeSink(fail_at={'publish': ours},
                                        held=False))
    with pytest.raises(exceptions.NotFound, match='counted as dead'):
        _adopt(store)
    assert sink.names() == ['publish', 'release']
    assert watched == []


@pytest.mark.parametrize('at', ['create', 'write', 'seal', 'publish'])
def test_what_an_upload_fails_of_is_told_and_it_is_removed(
        store, watched, monkeypatch, at):
    sink = fakes.FakeSink(fail_at={at: errors.StoreFull('full')})
    monkeypatch.setattr(store, 'sink', lambda *_: sink)
    with pytest.raises(exceptions.StorageFull):
        _upload(store)
    assert [name for name in sink.names()
            if name in ('release', 'abort')][-1] == 'abort'
    assert watched == []


@pytest.mark.parametrize(('error', 'stock'), [
    (errors.SinkFailed('no answer'), exceptions.BackendException),
    (KeyboardInterrupt(), KeyboardInterrupt)])
def test_what_has_no_address_is_removed(store, watched, datadir, monkeypatch,
                                        error, stock):
    def fail(image_id):
        raise error

    _sealed(store)
    monkeypatch.setattr(store, 'location', fail)
    with pytest.raises(stock):
        _adopt(store)
    assert watched == []
    assert _names(datadir) == []


def test_a_name_that_another_has_by_now_is_left_to_it(store, watched,
                                                      datadir):
    _sealed(store)
    (datadir / IMAGE).write_bytes(b'of another')
    with pytest.raises(exceptions.Duplicate):
        _adopt(store)
    assert _names(datadir) == [IMAGE]
    assert (datadir / IMAGE).read_bytes() == b'of another'
    assert watched == []


def test_what_was_taken_from_its_writer_is_not_published(store, watched,
                                                         datadir):
    _sealed(store)
    found, = store.marked()
    assert store.fence(found.mark)
    before = _names(datadir)
    with pytest.raises(exceptions.NotFound, match='counted as dead'):
        _adopt(store)
    assert IMAGE not in _names(datadir)
    assert watched == []
    # By that the clean-up finds it, which took it.
    assert _names(datadir) == before
    assert not store.is_open(found)


class Interrupted:
    """Data between whose parts something happens."""

    def __init__(self, *happens):
        self._happens = [*happens]
        self._data = io.BytesIO(CONTENT)

    def read(self, size=None):
        if self._data.tell() and self._happens:
            self._happens.pop(0)()
        return self._data.read(1000)


@pytest.mark.parametrize('size', [len(CONTENT), len(CONTENT) - 1])
def test_an_upload_that_is_taken_meanwhile_is_told_so_and_left(
        store, datadir, watched, size):
    """Also if its data turns out to be wrong."""
    def take():
        found, = store.marked()
        assert store.fence(found.mark)

    with pytest.raises(exceptions.NotFound, match='counted as dead'):
        store.add(IMAGE, Interrupted(take), size, 'sha512')
    left, = _names(datadir)
    assert left.endswith('.removed')
    assert watched == []


def test_an_upload_fails_of_the_next_ones_name_and_leaves_it(store, datadir,
                                                             watched):
    """The one that slept was taken for dead, and another one came."""
    def take():
        found, = store.marked()
        for each in store._opened():
            each.discard(found.mark)
        (datadir / IMAGE).write_bytes(b'of another')

    with pytest.raises(exceptions.NotFound, match='counted as dead'):
        store.add(IMAGE, Interrupted(take), len(CONTENT), 'sha512')
    assert _names(datadir) == [IMAGE]
    assert (datadir / IMAGE).read_bytes() == b'of another'


# An upload goes the same way

@pytest.mark.parametrize('size', [len(CONTENT), 0])
def test_an_upload_is_published_and_watched_like_an_import(store, datadir,
                                                           watched, size):
    url, stored, md5, sha, _ = _upload(store, size)
    assert (url, stored) == (f'file://{datadir / IMAGE}', len(CONTENT))
    assert (len(md5), len(sha)) == (32, 128)
    assert (datadir / IMAGE).read_bytes() == CONTENT
    given, = watched
    assert given[:4] == (store.backend_group, IMAGE, None, url)
    found, = store.marked()
    assert found.is_published
    assert store.is_open(found)
    given.sink.hand_over()
    assert store.marked() == []
    assert _names(datadir) == [IMAGE]


def test_an_upload_has_a_mark_of_its_own(store, watched):
    _upload(store)
    found, = store.marked()
    assert found.mark.deployment == deployment.identifier()
    # It says which process it is of, and that lives.
    process, _, _ = found.mark.task_id.partition('-')
    assert process == liveness.new_id().partition('-')[0]
    assert not liveness.is_dead(found.mark.task_id)
    watched.pop().sink.abort()
    _upload(store)
    later, = store.marked()
    assert later.mark.task_id != found.mark.task_id


def test_an_upload_that_is_given_up_leaves_nothing(store, datadir, watched):
    _upload(store)
    watched.pop().sink.abort()
    assert _names(datadir) == []


def test_an_upload_that_is_let_go_waits_for_the_clean_up(store, watched):
    _upload(store)
    watched[0].sink.release()
    found, = store.marked()
    assert not store.is_open(found)


@pytest.mark.parametrize('size', [1, len(CONTENT) + 1])
def test_an_upload_that_fails_leaves_nothing(store, datadir, watched, size):
    with pytest.raises(exceptions.Invalid):
        _upload(store, size)
    assert _names(datadir) == []
    assert watched == []


def test_a_placeholder_that_nobody_adopts_is_refused(store, datadir, watched,
                                                     placeholder_file):
    with pytest.raises(exceptions.Invalid, match='placeholder'):
        store.add(IMAGE, placeholder_file, 1 << 20, 'sha512')
    assert _names(datadir) == []
    assert watched == []


def test_nothing_is_read_before_others_can_see_that_it_is_written(store,
                                                                  watched):
    """What takes long to come is an upload that lives."""
    def look():
        found, = store.marked()
        assert store.is_open(found)
        assert not found.is_published
        looked.append(found)

    looked = []

    class Data(io.BytesIO):
        def read(self, size=-1):
            if not looked:
                look()
            return super().read(size)

    store.add(IMAGE, Data(CONTENT), len(CONTENT), 'sha512')
    assert looked


def test_a_second_upload_of_an_image_is_a_duplicate(store, watched):
    _upload(store)
    with pytest.raises(exceptions.Duplicate):
        _upload(store)
    assert len(watched) == 1


def test_a_mark_says_whose_an_image_is(store):
    assert driver.mark(IMAGE, TASK) == marks.Mark(
        IMAGE, TASK, deployment.identifier(), socket.gethostname())


# Deleting

@pytest.fixture
def undecided(monkeypatch):
    """A Glance that has not recorded anything yet."""
    watches = {}
    monkeypatch.setattr(handover, '_watches', watches)
    monkeypatch.setattr(records, 'status', lambda image_id: 'active')
    monkeypatch.setattr(records, 'is_recorded', lambda url: False)
    yield watches
    for watching in watches.values():
        for each in watching._waiting:
            handover.release(each.store, each.image_id, None)
        watching._changed.set()
        if thread := watching._thread:
            thread.join(60)


@pytest.fixture
def deleted_by_stock(monkeypatch):
    """URLs that the stock driver was asked to delete."""
    found, delete = [], compat.filesystem_driver.Store.delete

    def noted(self, where, context=None):
        found.append(where.store_location.get_uri())
        delete(self, where, context=context)

    monkeypatch.setattr(compat.filesystem_driver.Store, 'delete', noted)
    return found


def _delete(store, url, context=None):
    store.delete(location.Location('file', sparse_file.StoreLocation,
                                   store.conf, uri=url), context=context)


def test_what_is_deleted_is_not_waited_for_any_more(store, undecided,
                                                    datadir):
    """Its second link, by which its room is taken, would stay for ever."""
    url = _upload(store)[0]
    watching = undecided[store.backend_group]
    assert watching._waiting
    _delete(store, url)
    assert not watching._waiting
    assert IMAGE not in _names(datadir)


def test_what_a_request_published_it_deletes_and_nothing_else(
        store, undecided, datadir, deleted_by_stock):
    """Glance does so if it can not record what it was given."""
    url = _upload(store, context=Request('req-1'))[0]
    _delete(store, url, Request('req-1'))
    assert _names(datadir) == []
    assert deleted_by_stock == []


def test_a_later_image_of_that_name_is_not_that_requests(
        store, undecided, datadir, deleted_by_stock):
    url = _upload(store, context=Request('req-1'))[0]
    _delete(store, url, Request('req-1'))
    _upload(store, context=Request('req-2'))
    before = _names(datadir)
    assert IMAGE in before
    (found,) = store.marked()
    watching = undecided[store.backend_group]
    watching._lost.append((IMAGE, 'req-1'))
    _delete(store, url, Request('req-1'))
    assert _names(datadir) == before
    assert store.marked() == [found]
    assert deleted_by_stock == []


@pytest.mark.parametrize('context', [
    Request('req-2'), Request(None), object(), None])
def test_what_another_request_published_is_deleted_as_stock_does(
        store, undecided, datadir, deleted_by_stock, context):
    url = _upload(store, context=Request('req-1'))[0]
    _delete(store, url, context)
    assert deleted_by_stock == [url]
    assert IMAGE not in _names(datadir)


def test_what_is_settled_is_deleted_as_stock_does(store, watched, datadir,
                                                  deleted_by_stock):
    url = _upload(store, context=Request('req-1'))[0]
    watched.pop().sink.hand_over()
    _delete(store, url, Request('req-1'))
    assert deleted_by_stock == [url]
    assert _names(datadir) == []


def test_while_a_store_does_not_answer_nothing_is_deleted(
        store, datadir, watched, monkeypatch, deleted_by_stock):
    def release(*_):
        raise errors.SinkFailed('The store did not answer in time.')

    url = _upload(store)[0]
    monkeypatch.setattr(handover, 'release', release)
    with pytest.raises(exceptions.BackendException, match='did not answer'):
        _delete(store, url)
    assert IMAGE in _names(datadir)
    assert deleted_by_stock == []


# Removing what others left

@pytest.mark.parametrize('end', ['release', 'fence'])
def test_one_at_a_time_removes_what_a_writer_left(store, watched, datadir,
                                                  end):
    _upload(store)
    watched.pop().sink.release()
    found, = store.marked()
    if end == 'fence':
        assert store.fence(found.mark)
    before = _names(datadir)
    with (folder.Folder(str(datadir)) as here, here.claimed(found.mark),
          pytest.raises(errors.Busy)):
        store.discard(found.mark)
    assert _names(datadir) == before
    store.discard(found.mark)
    assert _names(datadir) == []


def test_what_a_living_writer_holds_is_not_removed(store, watched, datadir):
    _upload(store)
    found, = store.marked()
    before = _names(datadir)
    with pytest.raises(errors.Busy):
        store.discard(found.mark)
    assert _names(datadir) == before
    assert watched[0].sink.is_held()


def test_what_is_not_stored_has_no_address(store):
    with pytest.raises(errors.NotStored, match='no data of the image'):
        store.location(IMAGE)
    with pytest.raises(errors.NotStored):
        store.source(IMAGE)


def test_what_is_deleted_before_it_is_handed_over_leaves_no_mark(
        store, datadir, undecided):
    url = _upload(store)[0]
    assert len(_names(datadir)) == 2
    store.delete(location.Location('file', sparse_file.StoreLocation,
                                   store.conf, uri=url))
    assert _names(datadir) == []


# A probe

def test_a_probe_leaves_nothing(store, datadir, watched):
    store.probe()
    assert _names(datadir) == []
    assert watched == []


@pytest.mark.parametrize('call', ['create', 'write', 'seal', 'publish'])
def test_a_probe_tells_what_is_refused_and_leaves_nothing(
        store, monkeypatch, call):
    sink = fakes.FakeSink(fail_at={call: errors.WriteDenied('no')})
    monkeypatch.setattr(store, 'sink', lambda *_: sink)
    with pytest.raises(errors.WriteDenied):
        store.probe()
    assert sink.names()[-2:] == [call, 'abort']


def test_a_probe_tells_that_what_it_wrote_can_not_be_removed(
        store, monkeypatch):
    class Staying(fakes.FakeSink):
        def abort(self):
            pass

    def sink(image_id, task_id):
        monkeypatch.setattr(store, 'marked', lambda: [marks.Found(
            marks.Mark(image_id, task_id), True)])
        return Staying()

    monkeypatch.setattr(store, 'sink', sink)
    with pytest.raises(errors.SinkFailed, match='could not be removed'):
        store.probe()


# What is uploaded

def _pieces(data, size):
    return utils.chunkreadable(data, size)


@pytest.mark.parametrize('size', [1, 64, 4096, 8 << 20])
def test_refuses_a_placeholder(placeholder_file, size):
    with pytest.raises(exceptions.Invalid, match='placeholder'):
        next(driver.refuse_placeholder(_pieces(placeholder_file, size)))


def test_refuses_a_placeholder_of_one_sector(placeholder_file):
    with pytest.raises(exceptions.Invalid, match='placeholder'):
        next(driver.refuse_placeholder([placeholder_file.read(512)]))


def test_takes_an_image_that_quotes_a_placeholder(placeholder_file):
    content = b'x' + placeholder_file.read(4096)
    assert b''.join(driver.refuse_placeholder([content])) == content


@pytest.mark.parametrize('size', [1, 7_001, 8 << 20])
def test_gives_everything(size):
    found = driver.refuse_placeholder(_pieces(io.BytesIO(CONTENT), size))
    assert b''.join(found) == CONTENT


def test_no_data_at_all():
    assert b''.join(driver.refuse_placeholder([])) == b''


def test_error_of_the_data_is_passed_on():
    with pytest.raises(AssertionError, match='data was read'):
        next(driver.refuse_placeholder(_pieces(Unreadable(), 100)))


# What Glance is told

@pytest.mark.parametrize('ours, stock', [
    (errors.AlreadyStored, exceptions.Duplicate),
    (errors.StoreFull, exceptions.StorageFull),
    (errors.WriteDenied, exceptions.StorageWriteDenied),
    (errors.NotStored, exceptions.BackendException),
    (errors.WrongSize, exceptions.Invalid),
    (errors.SinkFailed, exceptions.BackendException),
    (errors.Cancelled, exceptions.BackendException)])
def test_raises_what_stock_would(ours, stock):
    with pytest.raises(stock), driver.as_stock('i'):
        raise ours('why')


def test_what_the_system_said_is_passed_on_as_stock_does():
    with pytest.raises(NotADirectoryError), driver.as_stock('i'):
        try:
            raise NotADirectoryError
        except OSError as e:
            raise errors.SinkFailed('why') from e
