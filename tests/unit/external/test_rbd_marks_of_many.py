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

"""Marks on RBD images, and who may take them off, in a Ceph in memory."""

import json
import uuid

import pytest

from glance_conversion_plugins.copying.sinks import rbd as rbd_sink
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import rbd_marks
from glance_conversion_plugins.external import rbd_pool
from tests.simulation import ceph
from tests.unit import clusters

IMAGE = '11111111-2222-3333-4444-555555555555'
MINE = clusters.mark(IMAGE, 'deadbeef')
OTHERS = [
    MINE._replace(task_id='bbbbbbbb-bbbb-cccc-dddd-eeeeeeeeeeee'),
    MINE._replace(deployment='0b0b0b0b'), MINE._replace(deployment=''),
]
CONTENT = b'content'.ljust(4096, b'.')

# How far a writer has come.
STATES = ['partial', 'removed', 'published']


def _sink(mark=MINE):
    return rbd_sink.RbdSink(rbd_pool.Pool('', '', clusters.POOL), mark,
                            order=22, zero_block_size=4096)


def _sealed(mark=MINE):
    sink = _sink(mark)
    sink.create(1 << 20)
    sink.write(memoryview(CONTENT), 0)
    sink.seal()
    return sink


def _published(mark=MINE):
    sink = _sealed(mark)
    sink.publish()
    return sink


def _in_state(cluster, state, mark=MINE):
    """What a writer left that is gone."""
    sink = _sealed(mark)
    if state == 'published':
        sink.publish()
    sink.release()
    if state == 'removed':
        cluster.images[mark.name('removed')] = cluster.images.pop(
            mark.name('partial'))


def _name(state, mark=MINE):
    return mark.image_id if state == 'published' else mark.name(state)


def _meta(cluster, name=IMAGE):
    return cluster.images[name].meta.get(rbd_marks.KEY)


# What a mark says

def test_a_mark_says_who_writes_by_which_client(cluster, ioctx):
    clusters.create(cluster, IMAGE)
    client, writer = cluster.client()
    with ceph.Image(writer, IMAGE) as image:
        rbd_marks.write(image, MINE)
    assert rbd_marks.read(ioctx, IMAGE) == rbd_marks.Meta(
        task=MINE.task_id, deployment='deadbeef', host='host',
        client=client.address)


def test_what_is_not_marked_has_no_mark(cluster, ioctx):
    assert rbd_marks.read(ioctx, IMAGE) is None
    clusters.create(cluster, IMAGE)
    assert rbd_marks.read(ioctx, IMAGE) is None
    cluster.images[IMAGE].meta['key'] = 'value'
    assert rbd_marks.read(ioctx, IMAGE) is None


def test_a_mark_is_found_by_versions_to_come(cluster):
    sink = _published()
    said = json.loads(cluster.images[IMAGE].meta['glance_conversion.mark'])
    assert said.keys() == {'task', 'deployment', 'host', 'client'}
    sink.abort()


def test_a_mark_may_say_more_in_versions_to_come(cluster, ioctx):
    sink = _published()
    meta = cluster.images[IMAGE].meta
    meta[rbd_marks.KEY] = json.dumps(
        json.loads(meta[rbd_marks.KEY]) | {'rack': 7})
    assert rbd_marks.read(ioctx, IMAGE).is_of(MINE)
    assert (*MINE[:3], True) in _listed(ioctx)
    sink.abort()


@pytest.mark.parametrize('content', ['nonsense', '[]', '{}', '7', '"text"'])
def test_a_mark_that_is_none_is_nobodys(cluster, ioctx, content):
    clusters.create(cluster, IMAGE).meta[rbd_marks.KEY] = content
    assert rbd_marks.name_of(ioctx, MINE) is None
    assert not rbd_marks.fence(*cluster.client(), MINE)
    rbd_marks.discard(ioctx, MINE)
    assert [*cluster.images] == [IMAGE]


def test_who_reads_a_mark_does_not_seem_to_write(cluster, ioctx):
    _in_state(cluster, 'published')
    header, seen = cluster.images[IMAGE], []
    cluster.before['metadata'] = lambda: seen.append([*header.opened])
    assert rbd_marks.read(ioctx, IMAGE)
    assert seen == [[]]
    assert header.opened == []


# Taking it off

def test_a_writer_takes_its_own_mark_off(cluster):
    sink = _published()
    cluster.images[IMAGE].meta['key'] = 'value'
    sink.hand_over()
    assert cluster.images[IMAGE].meta == {'key': 'value'}
    assert cluster.images[IMAGE].opened == []


@pytest.mark.parametrize('other', OTHERS)
def test_a_writer_takes_no_mark_off_that_is_not_its_own(cluster, other):
    _published(other).release()
    before = _meta(cluster)
    with cluster.open(IMAGE) as image:
        with pytest.raises(errors.Fenced):
            rbd_marks.erase(image, MINE)
    assert _meta(cluster) == before


def test_without_its_mark_it_is_not_the_writers_any_more(cluster):
    clusters.create(cluster, IMAGE)
    with cluster.open(IMAGE) as image:
        with pytest.raises(errors.Fenced):
            rbd_marks.erase(image, MINE)


def test_what_glance_has_recorded_is_handed_over(cluster, ioctx):
    _in_state(cluster, 'published')
    rbd_marks.hand_over(ioctx, MINE)
    assert _meta(cluster) is None
    assert cluster.images[IMAGE].opened == []
    rbd_marks.hand_over(ioctx, MINE)


@pytest.mark.parametrize('other', OTHERS)
def test_only_what_bears_the_mark_is_handed_over(cluster, ioctx, other):
    rbd_marks.hand_over(ioctx, MINE)
    _in_state(cluster, 'published', other)
    before = _meta(cluster)
    rbd_marks.hand_over(ioctx, MINE)
    assert _meta(cluster) == before


# Where it is

@pytest.mark.parametrize('state', STATES)
def test_what_bears_a_mark_is_found_by_it(cluster, ioctx, state):
    assert rbd_marks.name_of(ioctx, MINE) is None
    _in_state(cluster, state)
    assert rbd_marks.name_of(ioctx, MINE) == _name(state)


def test_what_is_published_meanwhile_is_found_by_its_name(cluster, ioctx):
    sink = _sealed()
    cluster.before['read rbd_directory'] = sink.publish
    assert rbd_marks.name_of(ioctx, MINE) == IMAGE
    sink.abort()


@pytest.mark.parametrize('state', STATES)
@pytest.mark.parametrize('other', OTHERS)
def test_what_bears_another_mark_is_not_found(cluster, ioctx, state, other):
    clusters.create(cluster, IMAGE)
    cluster.images.clear()
    _in_state(cluster, state, other)
    assert rbd_marks.name_of(ioctx, MINE) is None


def test_what_bears_no_mark_or_was_replaced_is_not_found(cluster, ioctx):
    clusters.create(cluster, IMAGE)
    clusters.create(cluster, MINE.name('replaced'))
    assert rbd_marks.name_of(ioctx, MINE) is None


def test_the_host_does_not_count(cluster, ioctx):
    _in_state(cluster, 'published')
    assert rbd_marks.name_of(ioctx, MINE._replace(host='')) == IMAGE


# The fence

def test_a_fenced_writer_can_not_publish(cluster):
    sink = _sealed()
    assert rbd_marks.fence(*cluster.client(), MINE)
    assert [*cluster.images] == [MINE.name('removed')]
    with pytest.raises(errors.Fenced):
        sink.publish()
    assert [*cluster.images] == [MINE.name('removed')]


def test_a_fenced_writer_can_not_take_its_mark_off(cluster):
    sink = _published()
    before = _meta(cluster)
    assert rbd_marks.fence(*cluster.client(), MINE)
    assert [*cluster.images] == [IMAGE]
    with pytest.raises(errors.Fenced):
        sink.hand_over()
    assert _meta(cluster) == before


def test_only_the_writer_is_shut_out(cluster):
    client = json.loads(_sealed() and _meta(
        cluster, MINE.name('partial')))['client']
    other = OTHERS[0]
    sink = _published(other)
    assert rbd_marks.fence(*cluster.client(), MINE)
    assert cluster.blocked == {client}
    sink.hand_over()


@pytest.mark.parametrize('state', STATES)
def test_what_is_fenced_may_be_fenced_again(cluster, state):
    """Whoever did so before may have died before the end of it."""
    _in_state(cluster, state)
    for _ in range(2):
        assert rbd_marks.fence(*cluster.client(), MINE)
    assert [*cluster.images] == [
        IMAGE if state == 'published' else MINE.name('removed')]


@pytest.mark.parametrize('state', STATES)
@pytest.mark.parametrize('other', OTHERS)
def test_there_is_no_fence_around_what_is_others(cluster, state, other):
    assert not rbd_marks.fence(*cluster.client(), MINE)
    _in_state(cluster, state, other)
    assert not rbd_marks.fence(*cluster.client(), MINE)
    assert [*cluster.images] == [_name(state, other)]
    assert cluster.blocked == set()


def test_what_nobody_has_marked_yet_is_fenced_too(cluster):
    """Its writer died between making it and marking it."""
    clusters.create(cluster, MINE.name('partial'), ())
    assert rbd_marks.fence(*cluster.client(), MINE)
    assert [*cluster.images] == [MINE.name('removed')]
    assert cluster.blocked == set()


def test_a_writer_that_publishes_meanwhile_was_faster(cluster):
    sink = _sealed()
    cluster.before['dir_rename_image rbd_directory'] = (
        lambda: cluster.images.update({IMAGE: cluster.images.pop(
            MINE.name('partial'))}))
    assert not rbd_marks.fence(*cluster.client(), MINE)
    assert [*cluster.images] == [IMAGE]
    sink.release()


def test_a_writer_that_hands_over_meanwhile_was_faster(cluster):
    sink = _published()
    client = json.loads(_meta(cluster))['client']
    cluster.before[f'blocklist {client}'] = sink.hand_over
    assert not rbd_marks.fence(*cluster.client(), MINE)
    assert [*cluster.images] == [IMAGE]


# Removing

@pytest.mark.parametrize('state', STATES)
def test_what_bears_the_mark_is_removed(cluster, ioctx, state):
    _in_state(cluster, state)
    rbd_marks.discard(ioctx, MINE)
    assert cluster.images == {}
    rbd_marks.discard(ioctx, MINE)


@pytest.mark.parametrize('state', STATES)
@pytest.mark.parametrize('other', OTHERS)
def test_nothing_is_removed_that_bears_another_mark(cluster, ioctx, state,
                                                    other):
    _in_state(cluster, state, other)
    before = dict(cluster.images)
    rbd_marks.discard(ioctx, MINE)
    assert cluster.images == before
    assert before[_name(state, other)].snaps


def test_nothing_is_removed_that_bears_no_mark(cluster, ioctx):
    header = clusters.create(cluster, IMAGE)
    rbd_marks.discard(ioctx, MINE)
    assert cluster.images == {IMAGE: header}
    assert header.snaps == {'snap': True}
    assert header.data


def test_all_that_bears_the_mark_is_removed(cluster, ioctx):
    for state in ('removed', 'partial'):
        clusters.create(cluster, MINE.name(state))
    clusters.create(cluster, MINE.name('replaced'))
    rbd_marks.discard(ioctx, MINE)
    assert [*cluster.images] == [MINE.name('replaced')]


# Listing

def _listed(ioctx):
    return {(found.mark.image_id, found.mark.task_id, found.mark.deployment,
             found.is_published) for found in rbd_marks.marked(ioctx)}


@pytest.mark.parametrize('state', STATES)
def test_everything_that_is_marked_is_listed(cluster, ioctx, state):
    others = [mark._replace(image_id=str(uuid.uuid4())) for mark in OTHERS]
    for mark in (MINE, *others):
        _in_state(cluster, state, mark)
    assert _listed(ioctx) == {(*mark[:3], state == 'published')
                              for mark in (MINE, *others)}


def test_of_what_is_published_the_host_is_for_people(cluster, ioctx):
    _in_state(cluster, 'published')
    found, = rbd_marks.marked(ioctx)
    assert found.mark.is_same(MINE)
    assert found.mark.host in ('', 'host')


def test_what_is_not_marked_is_not_listed(cluster, ioctx):
    for name in (IMAGE, MINE.name('replaced'), 'volume-1', f'{IMAGE}.snap',
                 f'{IMAGE}.aaaa.else'):
        clusters.create(cluster, name)
    assert _listed(ioctx) == set()


def test_only_names_of_images_are_looked_into(cluster, ioctx):
    """Volumes, and what others have, may be many."""
    clusters.create(cluster, 'volume-1')
    _in_state(cluster, 'published')
    cluster.images['volume-2'] = cluster.images.pop(IMAGE)
    cluster.done.clear()
    assert _listed(ioctx) == {(*MINE[:3], False)}
    assert not {'open volume-1', 'open volume-2'} & {*cluster.done}


@pytest.mark.parametrize('happens', [
    lambda cluster, name: cluster.images.pop(name).meta.clear(),
    lambda cluster, name: _refuse()])
def test_what_can_not_be_read_hides_nothing_else(cluster, ioctx, happens):
    strange = '00000000-2222-3333-4444-555555555555'
    clusters.create(cluster, strange)
    _in_state(cluster, 'published')
    cluster.before[f'open {strange}'] = lambda: happens(cluster, strange)
    assert _listed(ioctx) == {(*MINE[:3], True)}


def _refuse():
    raise ceph.Error('refused')


@pytest.mark.parametrize('content', ['nonsense', '[]', '"text"', '7'])
def test_a_mark_that_is_none_of_ours_hides_nothing_else(cluster, ioctx,
                                                        content):
    strange = '00000000-2222-3333-4444-555555555555'
    clusters.create(cluster, strange).meta[rbd_marks.KEY] = content
    _in_state(cluster, 'published')
    found = _listed(ioctx)
    assert (*MINE[:3], True) in found
    # Nothing that this deployment could call its own.
    assert {deployment for _, _, deployment, _ in found} <= {'', 'deadbeef'}
    assert len(found) <= 2
