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

"""Marks in a pool, and who may remove what has one."""

import json

import pytest

from glance_conversion_plugins.copying.sinks import rbd as rbd_sink
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.external import rbd_fence
from glance_conversion_plugins.external import rbd_marks
from glance_conversion_plugins.external import rbd_pool
from tests.unit import simulated_ceph

IMAGE = '11111111-2222-3333-4444-555555555555'
MARK = marks.Mark(IMAGE, 'aaaaaaaa', '0123abcd', 'node1')
LATER = marks.Mark(IMAGE, 'ffffffff', '0123abcd', 'node2')
FOREIGN = MARK._replace(deployment='deadbeef')
PARTIAL = MARK.name(marks.PARTIAL)
REMOVED = MARK.name(marks.REMOVED)

POOL = rbd_pool.Pool('', '', simulated_ceph.POOL)

CONTENT = b'A' * 4096


@pytest.fixture
def cluster(monkeypatch):
    return simulated_ceph.replace(monkeypatch)


@pytest.fixture
def agent(cluster):
    return cluster.client()


@pytest.fixture
def ioctx(agent):
    return agent[1]


def _sink(mark=MARK):
    return rbd_sink.RbdSink(POOL, mark, order=22, zero_block_size=4096)


def _written(mark=MARK):
    sink = _sink(mark)
    sink.create(4096)
    sink.write(memoryview(CONTENT), 0)
    return sink


def _sealed(mark=MARK):
    sink = _written(mark)
    sink.seal()
    return sink


def _published(mark=MARK):
    sink = _sealed(mark)
    sink.publish()
    return sink


STATES = {'written': _written, 'sealed': _sealed, 'published': _published}

EVERY_STATE = pytest.mark.parametrize('write', STATES.values(), ids=STATES)


def _stock_image(cluster, name=IMAGE, **meta):
    """An image as others write them; returns what it is."""
    _, ioctx = cluster.client()
    rbd = rbd_marks.rbd
    rbd.RBD().create(ioctx, name, 4096)
    with rbd.Image(ioctx, name) as image:
        image.aio_write(b'theirs', 0, lambda completion: None)
        image.create_snap(rbd_pool.SNAPSHOT)
        image.protect_snap(rbd_pool.SNAPSHOT)
        for key, value in meta.items():
            image.metadata_set(key, value)
    return cluster.images[name]


def _untouched(header):
    return (not header.gone and header.size == 4096
            and header.snaps == {rbd_pool.SNAPSHOT: True}
            and bool(header.data))


# What a mark says

@EVERY_STATE
def test_a_mark_says_who_writes_and_by_which_client(cluster, ioctx, write):
    sink = write()
    name, = cluster.images
    said = rbd_marks.read(ioctx, name)
    with rbd_marks.rbd.Image(ioctx, name, read_only=True) as image:
        assert rbd_marks.bears(image, MARK)
        assert not rbd_marks.bears(image, LATER)
        assert not rbd_marks.bears(image, FOREIGN)
        assert [said.client] == rbd_fence.watchers(image)
    assert said[:3] == (MARK.task_id, MARK.deployment, MARK.host)
    sink.release()


def test_what_is_lost_while_it_is_read_is_not_there(cluster, ioctx,
                                                    monkeypatch):
    """The binding of Ceph 16 has no better word for it."""
    def lost(_):
        raise AttributeError("'NoneType' object has no attribute 'x'")

    _stock_image(cluster)
    monkeypatch.setattr(rbd_marks.rbd.Image, 'metadata_list', lost)
    assert rbd_marks.read(ioctx, IMAGE) is None


@pytest.mark.parametrize('openers', [0, 2])
def test_what_somebody_else_has_open_is_not_marked(cluster, ioctx, openers):
    """A clean-up takes what was only begun, of one who paused just then."""
    name = MARK.name('partial')
    rbd_marks.rbd.RBD().create(ioctx, name, 4096)
    with rbd_marks.rbd.Image(ioctx, name) as image:
        header = cluster.images[name]
        header.opened[:] = [cluster.client()[0] for _ in range(openers)]
        with pytest.raises(errors.Fenced):
            rbd_marks.write(image, MARK)
        assert header.meta == {}
        header.opened[:] = [ioctx.client]


@pytest.mark.parametrize('value', [
    'x', '{', '[]', '1', 'null', '"text"', '{"task": 1}', '{}',
    json.dumps({'task': MARK.task_id}),
    json.dumps({'task': None, 'deployment': [], 'later': 'more'})])
def test_a_mark_of_unknown_content_is_nobodys_and_nobody_minds(
        cluster, ioctx, value):
    header = _stock_image(cluster, **{rbd_marks.KEY: value})
    assert rbd_marks.read(ioctx, IMAGE) is not None
    assert list(rbd_marks.marked(ioctx)) == []
    assert rbd_marks.name_of(ioctx, MARK) is None
    rbd_marks.hand_over(ioctx, MARK)
    rbd_marks.discard(ioctx, MARK)
    assert header.meta == {rbd_marks.KEY: value}
    assert _untouched(header)


def test_what_is_not_marked_or_not_there_has_no_mark(cluster, ioctx):
    _stock_image(cluster, os='plan9')
    assert rbd_marks.read(ioctx, IMAGE) is None
    assert rbd_marks.read(ioctx, 'another') is None
    assert list(rbd_marks.marked(ioctx)) == []


# What it is called

@EVERY_STATE
def test_an_image_is_found_by_its_mark_whatever_it_is_called(cluster, agent,
                                                             write):
    sink, (rados, ioctx) = write(), agent
    name, = cluster.images
    assert rbd_marks.name_of(ioctx, MARK) == name
    assert rbd_marks.name_of(ioctx, LATER) is None
    assert rbd_marks.name_of(ioctx, FOREIGN) is None
    assert sink.is_held()
    assert rbd_marks.fence(rados, ioctx, MARK)
    name, = cluster.images
    assert rbd_marks.name_of(ioctx, MARK) == name


# Names are looked at in the order in which it may have them.

def test_what_is_published_between_two_looks_is_not_missed(cluster, ioctx):
    sink = _sealed()
    cluster.before(f'open {PARTIAL}', sink.publish)
    assert rbd_marks.name_of(ioctx, MARK) == IMAGE
    sink.release()


def test_what_is_taken_between_two_looks_is_not_missed(cluster, agent):
    sink, ioctx = _sealed(), agent[1]
    other_rados, other = cluster.client()
    cluster.before(f'open {PARTIAL}',
                   lambda: rbd_marks.fence(other_rados, other, MARK))
    assert rbd_marks.name_of(ioctx, MARK) == REMOVED
    assert not sink.is_held()
    sink.release()


# Who is shut out

@EVERY_STATE
def test_a_writer_that_is_fenced_can_do_nothing_more(cluster, agent, write):
    sink, (rados, ioctx) = write(), agent
    assert rbd_marks.fence(rados, ioctx, MARK)
    with pytest.raises(errors.SinkFailed):
        sink.write(memoryview(CONTENT), 0)
    with pytest.raises(errors.Fenced):
        sink.publish()
    with pytest.raises(errors.Fenced):
        sink.hand_over()


@pytest.mark.parametrize('write', [_written, _sealed])
def test_what_was_not_published_is_taken_from_its_writer(cluster, agent,
                                                         write):
    sink, (rados, ioctx) = write(), agent
    assert rbd_marks.fence(rados, ioctx, MARK)
    assert [*cluster.images] == [REMOVED]
    assert not sink.is_held()
    # Whoever has it taken again is told that it was.
    assert rbd_marks.fence(rados, ioctx, MARK)
    assert [*cluster.images] == [REMOVED]


@EVERY_STATE
def test_a_fence_is_of_one_writer(cluster, agent, write):
    sink, (rados, ioctx) = write(), agent
    before = {**cluster.images}
    for other in (LATER, FOREIGN):
        assert not rbd_marks.fence(rados, ioctx, other)
    assert cluster.images == before
    assert cluster.blocked == set()
    sink.write(memoryview(CONTENT), 0)
    sink.release()


def test_of_two_who_take_an_image_one_is_told_that_it_has(cluster, agent):
    sink, (rados, ioctx) = _sealed(), agent
    other_rados, other = cluster.client()
    cluster.before(f'rename {PARTIAL} to {REMOVED}',
                   lambda: rbd_marks.fence(other_rados, other, MARK))
    assert not rbd_marks.fence(rados, ioctx, MARK)
    assert [*cluster.images] == [REMOVED]
    sink.release()


def test_what_is_published_just_before_the_fence_is_not_taken(cluster,
                                                              agent):
    sink, (rados, ioctx) = _sealed(), agent
    address = rbd_marks.read(ioctx, PARTIAL).client
    cluster.before(f'blocklist {address}', sink.publish)
    assert not rbd_marks.fence(rados, ioctx, MARK)
    assert [*cluster.images] == [IMAGE]


def test_what_is_handed_over_just_before_the_fence_is_not_taken(cluster,
                                                                agent):
    sink, (rados, ioctx) = _published(), agent
    address = rbd_marks.read(ioctx, IMAGE).client
    cluster.before(f'blocklist {address}', sink.hand_over)
    assert not rbd_marks.fence(rados, ioctx, MARK)
    assert [*cluster.images] == [IMAGE]


def test_an_agent_never_shuts_itself_out(cluster, agent):
    rados, ioctx = agent
    rbd_fence.shut_out(rados, {rados.get_addrs(), '10.0.0.9:0/9', })
    assert cluster.blocked == {'10.0.0.9:0/9'}


# Removing

@EVERY_STATE
def test_all_that_a_writer_left_is_removed(cluster, ioctx, write):
    write().release()
    rbd_marks.discard(ioctx, MARK)
    assert cluster.images == {}
    rbd_marks.discard(ioctx, MARK)


@EVERY_STATE
def test_what_was_fenced_is_removed_too(cluster, agent, write):
    sink, (rados, ioctx) = write(), agent
    rbd_marks.fence(rados, ioctx, MARK)
    rbd_marks.discard(ioctx, MARK)
    assert cluster.images == {}
    sink.release()


@EVERY_STATE
def test_a_discard_is_of_one_writer(cluster, ioctx, write):
    write().release()
    before = {**cluster.images}
    for other in (LATER, FOREIGN):
        rbd_marks.discard(ioctx, other)
    assert cluster.images == before


@pytest.mark.parametrize('theirs', [
    lambda cluster: _stock_image(cluster),
    lambda cluster: (_published(LATER).release(), cluster.images[IMAGE])[1]],
    ids=['of stock', 'of another upload'])
@pytest.mark.parametrize('left', [_written, _sealed])
def test_what_has_the_final_name_and_not_the_mark_is_left(cluster, ioctx,
                                                          left, theirs):
    left().release()
    header = theirs(cluster)
    rbd_marks.discard(ioctx, MARK)
    assert [*cluster.images] == [IMAGE]
    assert _untouched(header)


def test_what_is_handed_over_just_before_is_left(cluster, ioctx):
    """It is the open image that is asked, and not what was seen before."""
    sink = _published()
    header = cluster.images[IMAGE]
    opened = []

    def hand_over():
        """At the second look: the first one found the mark."""
        opened.append(True)
        if len(opened) < 3:
            cluster.before(f'open {IMAGE}', hand_over)
        else:
            sink.hand_over()

    cluster.before(f'open {IMAGE}', hand_over)
    rbd_marks.discard(ioctx, MARK)
    assert len(opened) == 3
    assert [*cluster.images] == [IMAGE]
    assert _untouched(header)


def test_an_image_that_takes_the_name_at_the_last_moment_is_left(cluster,
                                                                 ioctx):
    """What was open is empty by then, and another one removed it."""
    _published().release()
    theirs = []

    def replaced():
        del cluster.images[IMAGE]
        theirs.append(_stock_image(cluster))

    cluster.before(f'remove {IMAGE}', replaced)
    rbd_marks.discard(ioctx, MARK)
    assert [*cluster.images.values()] == theirs
    assert _untouched(theirs[0])


def test_an_image_that_is_written_under_the_name_by_then_is_left(cluster,
                                                                 ioctx):
    """It has no snapshot yet, but its writer."""
    _published().release()
    rbd, written = rbd_marks.rbd, []

    def replaced():
        del cluster.images[IMAGE]
        _, other = cluster.client()
        rbd.RBD().create(other, IMAGE, 4096)
        written.append(rbd.Image(other, IMAGE))

    cluster.before(f'remove {IMAGE}', replaced)
    rbd_marks.discard(ioctx, MARK)
    assert not cluster.images[IMAGE].gone
    written[0].close()


@EVERY_STATE
def test_while_somebody_has_it_open_nothing_of_it_is_touched(cluster, ioctx,
                                                             write):
    sink = write()
    (name, header), = cluster.images.items()
    data, snaps = dict(header.data), dict(header.snaps)
    with pytest.raises(rbd_marks.rbd.ImageBusy):
        rbd_marks.discard(ioctx, MARK)
    assert cluster.images == {name: header}
    assert (header.data, header.snaps, header.size) == (data, snaps, 4096)
    sink.release()
    rbd_marks.discard(ioctx, MARK)
    assert cluster.images == {}


# The pool's part of it

def test_only_the_image_that_is_meant_is_removed(cluster, ioctx):
    header, asked = _stock_image(cluster, 'name'), []

    def is_it(image):
        asked.append(image.size())
        return False

    rbd_pool.remove(ioctx, 'name', is_it)
    assert asked == [4096]
    assert _untouched(header)
    rbd_pool.remove(ioctx, 'name', lambda image: True)
    assert cluster.images == {}


def test_what_is_not_there_is_removed_already(cluster, ioctx):
    rbd_pool.remove(ioctx, 'name', lambda image: pytest.fail('asked'))
    rbd_pool.remove(ioctx, 'name')


def test_what_somebody_else_removes_meanwhile_is_no_failure(cluster, ioctx):
    _stock_image(cluster, 'name')
    cluster.before('remove name', lambda: cluster.images.pop('name'))
    rbd_pool.remove(ioctx, 'name')
    assert cluster.images == {}


# Handing over

def test_only_a_mark_of_its_own_is_taken_off(cluster, ioctx):
    _published().release()
    header = cluster.images[IMAGE]
    for other in (LATER, FOREIGN):
        rbd_marks.hand_over(ioctx, other)
        assert rbd_marks.KEY in header.meta
    rbd_marks.hand_over(ioctx, MARK)
    assert header.meta == {}
    rbd_marks.hand_over(ioctx, MARK)
    assert _untouched(header)


def test_a_writer_whose_mark_is_off_already_is_told(cluster, ioctx):
    sink = _published()
    with rbd_marks.rbd.Image(ioctx, IMAGE) as image:
        image.metadata_remove(rbd_marks.KEY)
    with pytest.raises(errors.Fenced):
        sink.hand_over()


def test_a_mark_that_goes_at_the_last_moment_is_told(cluster, ioctx):
    sink = _published()
    cluster.before(f'remove {rbd_marks.KEY}', lambda:
                   cluster.images[IMAGE].meta.clear())
    with pytest.raises(errors.Fenced):
        sink.hand_over()


# Whether it is still the writer's

@EVERY_STATE
def test_what_nobody_took_is_held(cluster, write):
    sink = write()
    assert sink.is_held()
    sink.release()
    assert sink.is_held()


@EVERY_STATE
def test_what_was_removed_is_not_held(cluster, ioctx, write):
    sink = write()
    sink.release()
    rbd_marks.discard(ioctx, MARK)
    assert not sink.is_held()


def test_what_was_taken_and_replaced_is_not_held(cluster, agent):
    sink, (rados, ioctx) = _published(), agent
    rbd_marks.fence(rados, ioctx, MARK)
    rbd_marks.discard(ioctx, MARK)
    later = _published(LATER)
    assert not sink.is_held()
    assert later.is_held()
    sink.release()
    later.release()


def test_what_was_never_begun_was_not_taken(cluster):
    header = _stock_image(cluster)
    sink = _sink()
    assert sink.is_held()
    with pytest.raises(errors.AlreadyStored):
        sink.create(4096)
    assert sink.is_held()
    sink.abort()
    assert _untouched(header)


def test_a_cluster_that_does_not_answer_has_taken_nothing(cluster):
    sink = _written()

    def fail():
        raise rbd_marks.rbd.Error('no answer')

    cluster.before('connect', fail)
    assert sink.is_held()
    cluster.before(f'open {PARTIAL}', fail)
    assert sink.is_held()
    sink.release()
