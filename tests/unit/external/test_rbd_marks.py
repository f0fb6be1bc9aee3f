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
from glance_conversion_plugins.external import rbd_index
from glance_conversion_plugins.external import rbd_marks
from glance_conversion_plugins.external import rbd_names
from glance_conversion_plugins.external import rbd_pool
from tests.simulation import ceph
from tests.unit import clusters

IMAGE = '11111111-2222-3333-4444-555555555555'
MARK = marks.Mark(IMAGE, 'aaaaaaaa', '0123abcd', 'node1')
LATER = marks.Mark(IMAGE, 'ffffffff', '0123abcd', 'node2')
FOREIGN = MARK._replace(deployment='deadbeef')
PARTIAL = MARK.name(marks.PARTIAL)
REMOVED = MARK.name(marks.REMOVED)

POOL = rbd_pool.Pool('', '', clusters.POOL)

CONTENT = b'A' * 4096


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
    cluster.before['read rbd_directory'] = sink.publish
    assert rbd_marks.name_of(ioctx, MARK) == IMAGE
    sink.release()


def test_what_is_taken_between_two_looks_is_not_missed(cluster, agent):
    sink, ioctx = _sealed(), agent[1]
    other_rados, other = cluster.client()
    cluster.before['read rbd_directory'] = (
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


def test_two_who_take_an_image_both_have_it(cluster, agent):
    sink, (rados, ioctx) = _sealed(), agent
    other_rados, other = cluster.client()
    cluster.before[f'write rbd_id.{REMOVED}'] = (
        lambda: rbd_marks.fence(other_rados, other, MARK))
    assert rbd_marks.fence(rados, ioctx, MARK)
    assert [*cluster.images] == [REMOVED]
    sink.release()


def test_what_is_published_just_before_the_fence_is_not_taken(cluster,
                                                              agent):
    sink, (rados, ioctx) = _sealed(), agent
    address = rbd_marks.read(ioctx, PARTIAL).client
    cluster.before[f'blocklist {address}'] = sink.publish
    assert not rbd_marks.fence(rados, ioctx, MARK)
    assert [*cluster.images] == [IMAGE]


def test_what_is_handed_over_just_before_the_fence_is_not_taken(cluster,
                                                                agent):
    sink, (rados, ioctx) = _published(), agent
    address = rbd_marks.read(ioctx, IMAGE).client
    cluster.before[f'blocklist {address}'] = sink.hand_over
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


@pytest.mark.parametrize('step', [
    f'write rbd_id.{REMOVED}', 'dir_rename_image rbd_directory',
    f'write rbd_id.{IMAGE}'])
def test_an_image_that_takes_the_name_meanwhile_is_left(cluster, ioctx, step):
    """What bore the mark was removed by somebody else."""
    _published().release()
    theirs = []

    def replaced():
        del cluster.images[REMOVED if REMOVED in cluster.images else IMAGE]
        cluster.objects(clusters.POOL).pop(f'rbd_id.{IMAGE}', None)
        theirs.append(_stock_image(cluster))

    cluster.before[step] = replaced
    rbd_marks.discard(ioctx, MARK)
    assert [*cluster.images.values()] == theirs
    assert _untouched(theirs[0])
    assert cluster.named(clusters.POOL) == {IMAGE}


def test_what_is_handed_over_just_before_is_left(cluster, ioctx):
    """It is the open image that is asked, and not what was seen before."""
    sink = _published()
    header = cluster.images[IMAGE]
    looks = []

    def hand_over():
        """At the second look: the first one found the mark."""
        looks.append(True)
        if len(looks) < 2:
            cluster.before[f'open {IMAGE}'] = hand_over
        else:
            sink.hand_over()

    cluster.before[f'open {IMAGE}'] = hand_over
    rbd_marks.discard(ioctx, MARK)
    assert len(looks) == 2
    assert [*cluster.images] == [IMAGE]
    assert _untouched(header)


@EVERY_STATE
def test_while_somebody_has_it_open_nothing_of_it_is_touched(cluster, ioctx,
                                                             write):
    sink = write()
    (name, header), = cluster.images.items()
    data, snaps = dict(header.data), dict(header.snaps)
    with pytest.raises(rbd_marks.rbd.ImageBusy):
        rbd_marks.discard(ioctx, MARK)
    assert cluster.images == {REMOVED: header}
    assert (header.data, header.snaps, header.size) == (data, snaps, 4096)
    sink.release()
    rbd_marks.discard(ioctx, MARK)
    assert cluster.images == {}


# The pool's part of it

def test_what_somebody_else_removes_meanwhile_is_no_failure(cluster, ioctx):
    _stock_image(cluster, 'name')
    cluster.before['remove name'] = lambda: cluster.images.pop('name')
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
    _published()
    with rbd_marks.rbd.Image(ioctx, IMAGE) as image:
        image.metadata_remove(rbd_marks.KEY)
        with pytest.raises(errors.Fenced):
            rbd_marks.erase(image, MARK)


def test_a_mark_that_goes_at_the_last_moment_is_told(cluster, ioctx):
    _published()
    cluster.before[f'remove {rbd_marks.KEY}'] = (
        lambda: cluster.images[IMAGE].meta.clear())
    with rbd_marks.rbd.Image(ioctx, IMAGE) as image:
        with pytest.raises(errors.Fenced):
            rbd_marks.erase(image, MARK)


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

    cluster.before['connect'] = fail
    assert sink.is_held()
    cluster.before[f'open {PARTIAL}'] = fail
    assert sink.is_held()
    sink.release()


# Who dies at any step leaves what the clean-up can take away.

def _clean(cluster):
    """What a pass does about the marks of the dead; returns how many."""
    # Longer than somebody who was killed is remembered.
    cluster.world.now += 100
    rados, ioctx = cluster.client()
    found = list(rbd_marks.marked(ioctx))
    for mark in [each.mark for each in found]:
        if rbd_marks.fence(rados, ioctx, mark):
            rbd_marks.discard(ioctx, mark)
        rbd_marks.strike_out(ioctx, mark)
    return len(found)


def _entries(cluster):
    return cluster.objects(clusters.POOL).get('glance_conversion.marks', {})


def _until_nobody_dies(cluster, work):
    """Let a process die at each step, and then at none."""
    steps = 0
    while cluster.dies(steps, work):
        yield steps
        steps += 1
    assert steps > 3


def test_a_writer_may_die_at_any_step(cluster):
    def write():
        sink = _published()
        sink.release()

    for _ in _until_nobody_dies(cluster, write):
        _clean(cluster)
        assert cluster.named(clusters.POOL) == set()
        assert _entries(cluster) == {}
    assert [*cluster.images] == [IMAGE]
    assert _clean(cluster) == 1
    assert cluster.objects(clusters.POOL).keys() == {
        ceph.DIRECTORY, 'glance_conversion.marks'}


@EVERY_STATE
def test_a_clean_up_may_die_at_any_step(cluster, write):
    def prepare():
        write()
        cluster.let_go()

    prepare()
    for _ in _until_nobody_dies(cluster, lambda: _clean(cluster)):
        _clean(cluster)
        assert cluster.named(clusters.POOL) == set()
        assert _entries(cluster) == {}
        prepare()
    assert cluster.named(clusters.POOL) == set()


def test_who_takes_a_mark_off_may_die_at_any_step(cluster):
    """What Glance has recorded stays, whole."""
    def hand_over():
        rbd_marks.hand_over(cluster.client()[1], MARK)

    _published()
    cluster.let_go()
    header = cluster.images[IMAGE]
    for _ in _until_nobody_dies(cluster, hand_over):
        assert cluster.images == {IMAGE: header}
        assert _untouched(header)
    assert header.meta == {}
    assert cluster.named(clusters.POOL) == {IMAGE}
    assert _entries(cluster) == {}


def test_a_name_that_was_half_given_by_who_died_can_be_given_again(cluster):
    """Its owner imports the image once more."""
    def die():
        raise clusters.Died

    cluster.before['dir_rename_image rbd_directory'] = die
    assert cluster.dies(1000, lambda: _published())
    assert rbd_names.is_taken(cluster.client()[1], IMAGE)
    _clean(cluster)
    later = _published(LATER)
    assert [*cluster.images] == [IMAGE]
    later.release()


def test_who_only_began_is_no_image_that_could_be_fenced(cluster, ioctx):
    rbd_index.add(ioctx, MARK)
    found, = rbd_marks.marked(ioctx)
    assert found == (MARK._replace(host=''), False, False)
    assert rbd_marks.look_up(ioctx, MARK) == (MARK, False, False)
    assert not rbd_marks.fence(*cluster.client(), MARK)
    rbd_marks.strike_out(ioctx, MARK)
    assert list(rbd_marks.marked(ioctx)) == []


@EVERY_STATE
def test_who_goes_on_after_all_is_not_struck_out(cluster, ioctx, write):
    """Whatever seemed to be dead, its image is found later."""
    rbd_index.add(ioctx, MARK)
    sinks = []
    cluster.before['read rbd_directory'] = lambda: sinks.append(write())
    rbd_marks.strike_out(ioctx, MARK)
    assert rbd_index.read(ioctx, MARK)
    assert sinks[0].is_held()
    assert [found.mark[:3] for found in rbd_marks.marked(ioctx)] == [MARK[:3]]
    sinks[0].release()


def test_who_was_struck_out_and_lives_is_listed_again(cluster, ioctx):
    """From then on its image may be found by nothing else."""
    sink = _sealed()
    rbd_index.remove(ioctx, MARK, rbd_index.read(ioctx, MARK))
    sink.publish()
    sink.release()
    found, = rbd_marks.marked(ioctx)
    assert (found.mark[:3], found.is_published) == (MARK[:3], True)


def test_a_mark_of_somebody_else_is_not_erased(cluster, ioctx):
    sink = _published(LATER)
    with rbd_marks.rbd.Image(ioctx, IMAGE) as image:
        with pytest.raises(errors.Fenced):
            rbd_marks.erase(image, MARK)
    assert rbd_marks.read(ioctx, IMAGE).is_of(LATER)
    sink.release()


def test_who_reads_a_mark_does_not_seem_to_write(cluster, ioctx):
    _published().release()
    seen = []
    cluster.before['metadata'] = lambda: seen.append(
        [*cluster.images[IMAGE].opened])
    assert rbd_marks.read(ioctx, IMAGE)
    assert seen == [[]]


def test_marks_of_earlier_versions_are_known():
    assert rbd_marks.KEY == 'glance_conversion.mark'


def test_what_was_taken_is_not_called_what_half_a_name_says(cluster, agent):
    """Its writer died while he published it."""
    rados, ioctx = agent
    _sealed()
    cluster.let_go()
    objects = cluster.objects(clusters.POOL)
    objects[f'rbd_id.{IMAGE}'] = objects[f'rbd_id.{PARTIAL}']
    assert rbd_marks.name_of(ioctx, MARK) == PARTIAL
    assert rbd_marks.fence(rados, ioctx, MARK)
    assert rbd_marks.name_of(ioctx, MARK) == REMOVED
    assert rbd_marks.look_up(ioctx, MARK) == (MARK, False, True)


def test_what_is_not_marked_yet_has_only_begun(cluster, ioctx):
    """Nobody has it open for as long as its store takes to answer."""
    steps = 0
    while cluster.dies(steps, lambda: _written().release()):
        steps += 1
        for found in rbd_marks.marked(ioctx):
            assert found.is_written == any(
                rbd_marks.KEY in header.meta
                for header in cluster.images.values())
        _clean(cluster)
    found, = rbd_marks.marked(ioctx)
    assert found.is_written


def test_what_is_recorded_and_is_led_to_no_more_is_led_to_again(cluster,
                                                                ioctx):
    """It is called so, and Glance looks for it by that name."""
    _published().release()
    header = cluster.images[IMAGE]
    del cluster.objects(clusters.POOL)[f'rbd_id.{IMAGE}']
    rbd_marks.hand_over(ioctx, MARK)
    assert cluster.images == {IMAGE: header}
    assert header.meta == {}
    assert _untouched(header)


# What Glance has recorded and is to go

def test_what_is_recorded_gets_a_mark_by_which_it_goes(cluster, ioctx):
    header = _stock_image(cluster)
    rbd_marks.mark_again(ioctx, MARK)
    assert list(rbd_marks.marked(ioctx)) == [marks.Found(
        MARK._replace(host=''), is_published=True)]
    assert header.opened == []
    rbd_marks.discard(ioctx, LATER)
    assert _untouched(header)
    rbd_marks.discard(ioctx, MARK)
    assert cluster.images == {}
    assert list(rbd_marks.marked(ioctx)) == []


def test_what_is_not_there_gets_no_mark(cluster, ioctx):
    rbd_marks.mark_again(ioctx, MARK)
    assert list(rbd_marks.marked(ioctx)) == []


def test_what_somebody_writes_gets_no_mark(cluster, ioctx):
    header = _stock_image(cluster)
    with rbd_marks.rbd.Image(cluster.client()[1], IMAGE):
        with pytest.raises(errors.Busy):
            rbd_marks.mark_again(ioctx, MARK)
    assert rbd_marks.read(ioctx, IMAGE) is None
    assert _untouched(header)
