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

"""The sink of RBD images, in a Ceph in memory."""

import errno
import json
import threading
import time

import pytest

from glance_conversion_plugins.copying.sinks import rbd as rbd_sink
from glance_conversion_plugins.copying.sinks import window
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import rbd_marks
from glance_conversion_plugins.external import rbd_pool
from tests.simulation import ceph
from tests.unit import clusters

IMAGE = '11111111-2222-3333-4444-555555555555'
MARK = clusters.mark(IMAGE, 'deadbeef')
OTHER = MARK._replace(task_id='bbbbbbbb-bbbb-cccc-dddd-eeeeeeeeeeee')
PARTIAL = MARK.name('partial')
BLOCK = 4096
OBJECT = 1 << 22
CONTENT = b'x' * BLOCK
ZEROS = bytes(BLOCK)
# In bytes, of all writes that are under way.
ROOM = 32 << 20


@pytest.fixture(autouse=True)
def cluster(monkeypatch):
    return clusters.in_memory(monkeypatch)


def _sink(mark=MARK, **options):
    return rbd_sink.RbdSink(
        rbd_pool.Pool('', '', clusters.POOL), mark,
        **{'order': 22, 'zero_block_size': BLOCK} | options)


def _created(**options):
    sink = _sink(**options)
    sink.create(1 << 20)
    return sink


def _sealed(**options):
    sink = _created(**options)
    sink.write(memoryview(CONTENT), 0)
    sink.seal()
    return sink


def _published():
    sink = _sealed()
    sink.publish()
    return sink


@pytest.fixture
def writes(monkeypatch):
    """Writes under way: [(data, offset, what is called at their end)]"""
    writes = []

    def aio_write(self, data, offset, completed):
        self._do('write')
        writes.append((data, offset, completed))

    monkeypatch.setattr(ceph.Image, 'aio_write', aio_write)
    return writes


class _Ended:
    """A write that came to its end."""

    def __init__(self, status=0):
        self._status = status

    def get_return_value(self):
        return self._status


def _end(write, status=0):
    write[2](_Ended(status))


# Its names, and who is seen to write it

def test_it_is_marked_and_open_until_glance_has_recorded_it(cluster):
    sink = _created()
    assert [*cluster.images] == [PARTIAL]
    header = cluster.images[PARTIAL]
    assert header.size == 1 << 20
    assert len(header.opened) == 1
    assert rbd_marks.KEY in header.meta
    sink.write(memoryview(CONTENT), 0)
    sink.seal()
    assert [*cluster.images] == [PARTIAL]
    assert header.snaps == {'snap': True}
    sink.publish()
    assert cluster.images == {IMAGE: header}
    assert len(header.opened) == 1
    assert rbd_marks.KEY in header.meta
    sink.hand_over()
    assert cluster.images == {IMAGE: header}
    assert header.opened == []
    assert header.meta == {}
    assert header.data == {0: CONTENT}


def test_it_is_made_as_the_stock_driver_makes_it(monkeypatch):
    given, create = [], ceph.Rbd.create

    def noting(self, ioctx, name, size, order=None, **options):
        given.append((size, order, options))
        create(self, ioctx, name, size, order)

    monkeypatch.setattr(ceph.Rbd, 'create', noting)
    monkeypatch.setattr(ceph.Client, 'conf_get', lambda _, name: {
        'rbd_default_features': '61'}.get(name))
    _created(data_pool='data')
    monkeypatch.setattr(ceph.Client, 'conf_get', lambda *_: None)
    _sink(OTHER).create(7)
    assert given == [
        (1 << 20, 22, {'old_format': False, 'features': 61,
                       'data_pool': 'data'}),
        (7, 22, {'old_format': False, 'features': 1, 'data_pool': None})]


def test_a_name_that_is_taken_is_told_at_once(cluster):
    header = clusters.create(cluster, IMAGE)
    sink = _sink()
    with pytest.raises(errors.AlreadyStored):
        sink.create(1 << 20)
    sink.abort()
    assert cluster.images == {IMAGE: header}
    assert header.snaps == {'snap': True}


def test_a_name_that_is_taken_meanwhile_is_told(cluster):
    sink = _sealed()
    header = clusters.create(cluster, IMAGE)
    with pytest.raises(errors.AlreadyStored):
        sink.publish()
    sink.abort()
    assert cluster.images == {IMAGE: header}
    assert header.snaps == {'snap': True}


def test_who_lost_its_partial_image_is_fenced(cluster):
    sink = _sealed()
    cluster.images[MARK.name('removed')] = cluster.images.pop(PARTIAL)
    with pytest.raises(errors.Fenced):
        sink.publish()


@pytest.mark.parametrize('call', ['publish', 'hand_over'])
def test_who_was_shut_out_of_ceph_is_fenced(cluster, call):
    sink = _sealed() if call == 'publish' else _published()
    name = PARTIAL if call == 'publish' else IMAGE
    cluster.blocked.add(cluster.images[name].opened[0].address)
    with pytest.raises(errors.Fenced):
        getattr(sink, call)()


def test_who_lost_its_image_is_fenced(cluster):
    sink = _published()
    cluster.images[IMAGE].gone = True
    with pytest.raises(errors.Fenced):
        sink.hand_over()


def _rename(cluster, to):
    rbd_pool.rbd.RBD().rename(cluster.client()[1], IMAGE, to)


def test_who_lost_its_name_is_fenced(cluster):
    """Another image has it by now, which is none of ours."""
    sink = _published()
    cluster.images[IMAGE].meta.clear()
    _rename(cluster, 'taken')
    clusters.create(cluster, IMAGE)
    with pytest.raises(errors.Fenced):
        sink.hand_over()


def test_who_lost_its_mark_to_another_writer_is_fenced(cluster):
    sink = _published()
    meta = cluster.images[IMAGE].meta
    meta[rbd_marks.KEY] = meta[rbd_marks.KEY].replace(
        MARK.task_id, 'another')
    with pytest.raises(errors.Fenced):
        sink.hand_over()


def test_what_the_clean_up_has_handed_over_is_handed_over(cluster):
    """It saw the image recorded before its writer did."""
    sink = _published()
    cluster.images[IMAGE].meta.clear()
    sink.hand_over()
    assert cluster.images[IMAGE].opened == []


def test_an_entry_that_stays_makes_no_hand_over_fail(cluster, monkeypatch,
                                                     caplog):
    def fail(*_):
        raise errors.SinkFailed('no answer')

    sink = _published()
    monkeypatch.setattr(rbd_marks, 'strike_out', fail)
    sink.hand_over()
    assert cluster.images[IMAGE].meta == {}
    assert f'{IMAGE}: its entry is left to the clean-up' in caplog.text


def test_a_hand_over_that_fails_lets_go_all_the_same(cluster):
    sink = _published()
    header = cluster.images[IMAGE]
    header.meta.clear()
    _rename(cluster, 'taken')
    with pytest.raises(errors.Fenced):
        sink.hand_over()
    assert header.opened == []


# Letting go, and leaving nothing

@pytest.mark.parametrize('make', [_created, _sealed, _published])
def test_an_abort_leaves_nothing(cluster, make):
    sink = make()
    for _ in range(2):
        sink.abort()
        assert cluster.images == {}


def test_an_abort_before_anything_was_made_is_harmless(cluster):
    header = clusters.create(cluster, PARTIAL)
    _sink().abort()
    assert cluster.images == {PARTIAL: header}


def test_an_abort_touches_nothing_of_others(cluster):
    other, sink = _sealed(mark=OTHER), _published()
    sink.hand_over()
    before = dict(cluster.images)
    sink.abort()
    assert cluster.images == before
    assert before[IMAGE].snaps == {'snap': True}
    other.abort()


@pytest.mark.parametrize('make', [_created, _sealed, _published])
def test_an_abort_of_what_was_let_go_leaves_nothing(cluster, make):
    sink = make()
    sink.release()
    header, = cluster.images.values()
    assert header.opened == []
    assert rbd_marks.KEY in header.meta
    sink.release()
    sink.abort()
    assert cluster.images == {}


@pytest.mark.parametrize('end', ['hand_over', 'release', 'abort'])
def test_every_connection_is_closed_at_the_end(monkeypatch, end):
    open_, connect = [], ceph.Client.connect

    def connecting(self):
        connect(self)
        open_.append(self)

    monkeypatch.setattr(ceph.Client, 'connect', connecting)
    monkeypatch.setattr(ceph.Client, 'shutdown',
                        lambda self: open_.remove(self))
    sink = _published()
    assert len(open_) == 1
    getattr(sink, end)()
    assert open_ == []


def test_an_abort_that_fails_is_told_and_raises_nothing(cluster, caplog):
    sink = _sealed()

    def refuse():
        raise ceph.Error('refused')

    cluster.before['connect'] = refuse
    sink.abort()
    assert f'{PARTIAL} was not removed from pool images' in caplog.text
    assert [*cluster.images] == [PARTIAL]
    sink.abort()
    assert cluster.images == {}


def test_an_image_that_can_not_be_closed_hinders_nothing(cluster, caplog,
                                                         monkeypatch):
    sink = _sealed()
    close = ceph.Image.close

    def fail(self):
        close(self)
        raise ceph.Error('closed')

    with monkeypatch.context() as patch:
        patch.setattr(ceph.Image, 'close', fail)
        sink.release()
    assert f'{IMAGE} was not closed' in caplog.text
    sink.abort()
    assert cluster.images == {}


def test_an_image_that_was_made_but_not_marked_is_removed(cluster,
                                                          monkeypatch):
    sink = _sink()

    def fail(*_):
        raise ceph.Error('refused')

    monkeypatch.setattr(rbd_marks, 'write', fail)
    with pytest.raises(errors.SinkFailed):
        sink.create(1 << 20)
    assert [*cluster.images] == [PARTIAL]
    sink.abort()
    assert cluster.images == {}


def test_a_store_that_does_not_answer_holds_an_abort_up_only_so_long(
        cluster, writes, monkeypatch, caplog):
    monkeypatch.setattr(rbd_sink, '_ABORT_SECONDS', 0)
    sink = _created()
    sink.write(memoryview(CONTENT), 0)
    sink.abort()
    assert 'was not removed' in caplog.text
    # Somebody may still write it.
    assert [*cluster.images] == [PARTIAL]
    assert len(cluster.images[PARTIAL].opened) == 1
    _end(writes[0])
    sink.abort()
    assert cluster.images == {}


# Writing

def test_only_data_is_written_and_never_across_an_object(writes):
    sink = _created()
    view = memoryview(ZEROS + CONTENT * 2 + ZEROS + CONTENT)
    assert sink.write(view, OBJECT - 2 * BLOCK) == 3 * BLOCK
    assert [(len(data), offset) for data, offset, _ in writes] == [
        (BLOCK, OBJECT - BLOCK), (BLOCK, OBJECT), (BLOCK, OBJECT + 2 * BLOCK)]
    assert {data for data, _, _ in writes} == {CONTENT}


def test_each_object_gets_what_belongs_into_it(writes):
    sink = _created()
    view = memoryview(b'a' * BLOCK + b'b' * BLOCK)
    sink.write(view, OBJECT - BLOCK)
    assert [(data[:1], offset) for data, offset, _ in writes] == [
        (b'a', OBJECT - BLOCK), (b'b', OBJECT)]


def test_zeros_take_no_write(cluster, writes):
    sink = _created()
    assert sink.write(memoryview(ZEROS), 0) == 0
    sink.zero(0, BLOCK)
    assert writes == []


def test_a_block_of_zeros_is_never_larger_than_an_object(writes):
    sink = _created(order=12, zero_block_size=1 << 20)
    sink.write(memoryview(CONTENT + ZEROS), 0)
    assert [offset for _, offset, _ in writes] == [0]


def test_a_size_is_changed_once_everything_is_written(cluster, writes):
    sink = _created()
    sink.write(memoryview(CONTENT), 0)
    threading.Timer(0.05, lambda: _end(writes[0])).start()
    sink.resize(2 << 20)
    assert cluster.images[PARTIAL].size == 2 << 20


def test_it_is_complete_once_everything_is_written(cluster, writes):
    sink = _created()
    sink.write(memoryview(CONTENT), 0)
    seen = []
    cluster.before['flush'] = lambda: seen.append(ended.is_set())
    ended = threading.Event()

    def end():
        ended.set()
        _end(writes[0])

    threading.Timer(0.05, end).start()
    sink.seal()
    assert seen == [True]
    assert cluster.images[PARTIAL].snaps == {'snap': True}


@pytest.mark.parametrize(('status', 'expected'), [
    (-errno.ENOSPC, errors.StoreFull), (-errno.EDQUOT, errors.StoreFull),
    (-errno.EIO, errors.SinkFailed), (-errno.ETIMEDOUT, errors.SinkFailed)])
@pytest.mark.parametrize('call', [
    lambda sink: sink.write(memoryview(CONTENT), 0),
    lambda sink: sink.seal(), lambda sink: sink.resize(7)])
def test_a_write_that_fails_is_told_by_what_follows(cluster, writes, call,
                                                    status, expected):
    sink = _created()
    for _ in range(2):
        sink.write(memoryview(CONTENT), 0)
    _end(writes[0], status)
    # The first error is the one that counts.
    _end(writes[1], -errno.EPERM)
    with pytest.raises(errors.SinkFailed) as caught:
        call(sink)
    assert type(caught.value) is expected
    assert cluster.images[PARTIAL].snaps == {}
    assert len(writes) == 2
    sink.abort()
    assert cluster.images == {}


@pytest.mark.parametrize('status', [0, 1])
def test_a_write_that_went_well_stops_nothing(cluster, writes, status):
    sink = _created()
    sink.write(memoryview(CONTENT), 0)
    _end(writes[0], status)
    sink.seal()
    assert cluster.images[PARTIAL].snaps == {'snap': True}


def test_a_write_that_is_refused_at_once_is_told(cluster, monkeypatch):
    def refuse(*_):
        raise ceph.Error('refused')

    monkeypatch.setattr(ceph.Image, 'aio_write', refuse)
    sink = _created()
    with pytest.raises(errors.SinkFailed):
        sink.write(memoryview(CONTENT), 0)
    with pytest.raises(errors.SinkFailed):
        sink.seal()
    # It is not under way.
    sink.abort()
    assert cluster.images == {}


def test_of_writes_that_are_refused_those_before_are_waited_for(
        cluster, writes, monkeypatch):
    begin = ceph.Image.aio_write

    def refuse_the_second(self, data, offset, completed):
        if writes:
            raise ceph.Error('refused')
        begin(self, data, offset, completed)

    monkeypatch.setattr(ceph.Image, 'aio_write', refuse_the_second)
    monkeypatch.setattr(rbd_sink, '_ABORT_SECONDS', 0.05)
    sink = _created()
    with pytest.raises(errors.SinkFailed):
        sink.write(memoryview(CONTENT * 3), OBJECT - BLOCK)
    sink.abort()
    assert [*cluster.images] == [PARTIAL]
    _end(writes[0])
    sink.abort()
    assert cluster.images == {}


def test_of_what_is_not_even_handed_over_nothing_is_waited_for(
        cluster, writes, monkeypatch):
    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr(rbd_sink, '_content', no_memory)
    monkeypatch.setattr(rbd_sink, '_ABORT_SECONDS', 0.05)
    sink = _created()
    with pytest.raises(MemoryError):
        sink.write(memoryview(CONTENT), 0)
    sink.abort()
    assert cluster.images == {}


def _in_thread(call):
    """Whether a call ends by itself; how it ended, later."""
    outcome = []

    def run():
        try:
            outcome.append(call())
        except errors.ConversionError as e:
            outcome.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def _fill(sink, writes):
    """As much as may be under way."""
    chunk = memoryview(b'x' * OBJECT)
    for number in range(ROOM // OBJECT):
        sink.write(chunk, number * OBJECT)
    assert len(writes) == ROOM // OBJECT
    return chunk


def test_no_more_is_under_way_than_there_is_room_for(writes):
    sink = _created()
    chunk = _fill(sink, writes)
    thread, outcome = _in_thread(lambda: sink.write(chunk, ROOM))
    thread.join(0.2)
    assert thread.is_alive()
    _end(writes[0])
    thread.join(60)
    assert outcome == [OBJECT]


@pytest.mark.parametrize('stop', [
    lambda sink, writes: sink.interrupt(),
    lambda sink, writes: _end(writes[0], -errno.EIO)])
def test_who_waits_for_room_is_told_of_a_failure(writes, stop):
    sink = _created()
    chunk = _fill(sink, writes)
    thread, outcome = _in_thread(lambda: sink.write(chunk, ROOM))
    stop(sink, writes)
    thread.join(60)
    assert isinstance(outcome[0], errors.ConversionError)


def test_who_waits_for_room_is_told_of_an_abort(writes, monkeypatch):
    monkeypatch.setattr(rbd_sink, '_ABORT_SECONDS', 0)
    sink = _created()
    chunk = _fill(sink, writes)
    thread, outcome = _in_thread(lambda: sink.write(chunk, ROOM))
    sink.abort()
    thread.join(60)
    assert isinstance(outcome[0], errors.Cancelled)


def test_who_waits_for_the_end_is_told_when_it_is_stopped(writes):
    sink = _created()
    sink.write(memoryview(CONTENT), 0)
    thread, outcome = _in_thread(sink.seal)
    sink.interrupt()
    thread.join(60)
    assert isinstance(outcome[0], errors.Cancelled)


def test_an_abort_waits_for_what_is_under_way(cluster, writes):
    sink = _created()
    sink.write(memoryview(CONTENT), 0)
    thread, _ = _in_thread(sink.abort)
    thread.join(0.2)
    assert thread.is_alive()
    assert [*cluster.images] == [PARTIAL]
    _end(writes[0])
    thread.join(60)
    assert cluster.images == {}


def _answering(monkeypatch, answers):
    """Let the monitor say so, to what it is asked by its prefix."""
    def mon_command(self, command, _):
        found = answers.get(json.loads(command)['prefix'])
        return (-errno.EACCES, b'', 'no') if found is None else (
            0, json.dumps(found).encode(), '')

    monkeypatch.setattr(ceph.Client, 'mon_command', mon_command)


@pytest.mark.parametrize('checks, limit', [
    ([], window.MOST), (['POOL_NO_REDUNDANCY'], window.MOST),
    (['SLOW_OPS'], window.LEAST), (['OSD_NEARFULL', 'OTHER'], window.LEAST),
    (['POOL_NEARFULL'], window.LEAST), (None, window.MOST)])
def test_a_cluster_in_need_is_spared(cluster, monkeypatch, checks, limit):
    _answering(monkeypatch, {} if checks is None else _health(*checks))
    sink = _created()
    sink.write(memoryview(b'x'), 0)
    assert sink._window.limit == limit


def test_nothing_is_copied_that_librbd_takes_as_it_is(cluster, monkeypatch):
    """A copy of each byte is a tenth of what an import costs."""
    taken, write = [], ceph.Image.aio_write

    def aio_write(self, data, *rest):
        taken.append(data)
        return write(self, data, *rest)

    monkeypatch.setattr(ceph.Image, 'aio_write', aio_write)
    sink = _created()
    whole = CONTENT * 2
    sink.write(memoryview(whole), 0)
    sink.write(memoryview(whole)[BLOCK:], 2 * BLOCK)
    sink.write(memoryview(bytearray(whole)), 4 * BLOCK)
    sink.write(memoryview(CONTENT + ZEROS), 8 * BLOCK)
    sink.seal()
    assert taken == [whole, CONTENT, whole, CONTENT]
    assert [type(data) for data in taken] == [bytes] * 4
    assert taken[0] is whole


def _health(*checks):
    return {'health': {'checks': dict.fromkeys(checks, {})}}


def test_it_is_asked_again_during_a_copy(cluster, monkeypatch):
    monkeypatch.setattr(rbd_sink, '_HEALTH_SECONDS', 0)
    answers = _health()
    _answering(monkeypatch, answers)
    sink = _created()
    for checks, most in [((), window.MOST), (('SLOW_OPS',), window.LEAST),
                         (('OSD_NEARFULL',), window.LEAST),
                         ((), window.MOST)]:
        answers.update(_health(*checks))
        _written_until(sink, lambda m=most: sink._window._most == m)


def _written_until(sink, condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        assert sink.write(memoryview(b'x'), 0) == 1


@pytest.mark.parametrize('answer', [
    (-errno.ETIMEDOUT, b'', ''), (0, b'', ''), (0, b'{}', '')],
    ids=['late', 'empty', 'other'])
def test_one_that_does_not_say_how_it_is_is_as_it_was(
        cluster, monkeypatch, answer):
    monkeypatch.setattr(rbd_sink, '_HEALTH_SECONDS', 0)
    _answering(monkeypatch, _health('SLOW_OPS'))
    sink = _created()
    asked = []
    monkeypatch.setattr(ceph.Client, 'mon_command', lambda *_: (
        asked.append(1), answer)[1])
    _written_until(sink, lambda: len(asked) > 3)
    assert sink._window.limit == window.LEAST


def test_a_copy_does_not_wait_for_one_that_does_not_answer(
        cluster, monkeypatch):
    monkeypatch.setattr(rbd_sink, '_HEALTH_SECONDS', 0)
    _answering(monkeypatch, _health())
    sink = _created()
    asked, answer = threading.Event(), threading.Event()

    def mon_command(self, command, _):
        asked.set()
        answer.wait(60)
        return 0, b'{"checks": {}}', ''

    monkeypatch.setattr(ceph.Client, 'mon_command', mon_command)
    _written_until(sink, asked.is_set)
    sink.seal()
    sink.publish()
    sink.hand_over()
    answer.set()


def _pools(**stats):
    return {'df': {'pools': [{'name': 'other', 'stats': {'max_avail': 1}},
                             {'name': clusters.POOL, 'stats': stats}]}}


@pytest.mark.parametrize('answers, free', [
    (_pools(max_avail=1000), 1000),
    (_pools(max_avail=1000, quota_bytes=0, stored=10), 1000),
    (_pools(max_avail=1000, quota_bytes=500, stored=100), 400),
    (_pools(max_avail=1000, quota_bytes=5000, stored=100), 1000),
    (_pools(max_avail=1000, quota_bytes=50, stored=100), 0),
    (_pools(), None), ({'df': {'pools': []}}, None), ({}, None)])
def test_what_a_pool_still_takes(cluster, monkeypatch, answers, free):
    _answering(monkeypatch, answers)
    sink = _sink()
    assert [place.free for place in sink.room(1)] == (
        [] if free is None else [free])
    assert all(place.name == f'fsid/{clusters.POOL}'
               for place in sink.room(1))
    sink.abort()
    assert [*cluster.images] == []


def test_room_is_that_of_the_pool_with_the_data(cluster, monkeypatch):
    _answering(monkeypatch, _pools(max_avail=1000))
    place, = _sink(data_pool='other').room(1)
    assert place == ('fsid/other', 1)
