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

"""Images that take the place of others, in a Ceph in memory."""

import contextlib
import math

import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import rbd_marks
from glance_conversion_plugins.external import rbd_names
from glance_conversion_plugins.external import rbd_pool
from glance_conversion_plugins.stores import sparsify_rbd
from tests.simulation import ceph
from tests.unit import clusters

IMAGE = '11111111-2222-3333-4444-555555555555'
MARK = clusters.mark(IMAGE, 'deadbeef')
OTHER = clusters.mark('22222222-2222-3333-4444-555555555555', 'deadbeef')
REPLACED = MARK.name('replaced')
PARTIAL = MARK.name('partial')
CONTENT = b'new content'.ljust(4096, b'.')
SINCE = 'glance_conversion.replaced_at'


@pytest.fixture(autouse=True)
def cluster(monkeypatch):
    return clusters.in_memory(monkeypatch)


@pytest.fixture
def ioctx(cluster):
    return cluster.client()[1]


def _sink():
    return sparsify_rbd.ReplacingSink(
        rbd_pool.Pool('', '', clusters.POOL), MARK, order=22,
        zero_block_size=4096)


def _sealed():
    sink = _sink()
    sink.create(1 << 20)
    sink.write(memoryview(CONTENT), 0)
    sink.seal()
    return sink


def _put_aside(cluster, mark=MARK):
    clusters.create(cluster, mark.image_id)
    sparsify_rbd.put_aside(cluster.client()[1], mark.image_id, mark)


# The sink

def test_the_new_image_takes_the_name_of_the_old_one(cluster):
    old = clusters.create(cluster, IMAGE)
    sink = _sealed()
    assert cluster.images[IMAGE] is old
    new = cluster.images[PARTIAL]
    sink.publish()
    assert cluster.images == {REPLACED: old, IMAGE: new}
    assert new.snaps == old.snaps == {'snap': True}
    sink.hand_over()
    assert new.meta == {}
    assert new.data == {0: CONTENT}
    assert old.data == {0: b'content'}
    assert new.opened == old.opened == []


def test_what_others_have_noted_is_kept(cluster):
    old = clusters.create(cluster, IMAGE)
    old.meta |= {'key': 'value', 'other': ''}
    sink = _sealed()
    sink.publish()
    new = cluster.images[IMAGE]
    assert new.meta['key'] == 'value'
    sink.hand_over()
    assert new.meta == {'key': 'value', 'other': ''}


def test_a_mark_of_the_old_image_is_not_the_new_ones(cluster, ioctx):
    old = clusters.create(cluster, IMAGE)
    old.meta[rbd_marks.KEY] = 'of the old one'
    sink = _sealed()
    assert rbd_marks.read(ioctx, PARTIAL).task == MARK.task_id
    sink.abort()


@pytest.mark.parametrize('number', [0, 1])
def test_an_image_that_others_hold_on_to_is_not_replaced(cluster, monkeypatch,
                                                         number):
    old = clusters.create(cluster, IMAGE)
    if number:
        old.snaps['of another'] = False
    else:
        monkeypatch.setattr(ceph.Image, 'list_children2', lambda _: ['clone'])
    sink = _sink()
    with pytest.raises(errors.SinkFailed, match='clones|snapshots'):
        sink.create(1 << 20)
    sink.abort()
    assert cluster.images == {IMAGE: old}
    assert old.opened == []


def test_clones_are_looked_for_of_the_snapshot_that_has_them(cluster, ioctx,
                                                             monkeypatch):
    seen = []
    monkeypatch.setattr(ceph.Image, 'set_snap', lambda _, name: seen.append(
        name))
    clusters.create(cluster, IMAGE)
    sparsify_rbd.check_free(ioctx, IMAGE)
    assert seen == ['snap']


def test_who_only_looks_at_an_image_does_not_seem_to_write(cluster, ioctx):
    """Whoever deletes it meanwhile would wait for that one."""
    old, seen = clusters.create(cluster, IMAGE), []
    for step in ('snaps', 'metadata'):
        cluster.before[step] = lambda: seen.append([*old.opened])
    _sealed().abort()
    _put_aside(cluster)
    new = clusters.create(cluster, IMAGE)
    cluster.before['snap info'] = lambda: seen.append([*new.opened])
    sparsify_rbd.forget(ioctx, MARK, False)
    assert seen == [[], [], []]


def test_an_image_that_is_not_there_is_not_replaced(cluster):
    sink = _sink()
    with pytest.raises(errors.SinkFailed):
        sink.create(1 << 20)
    sink.abort()
    assert cluster.images == {}


def test_an_abort_before_the_names_change_leaves_the_old_image(cluster):
    old = clusters.create(cluster, IMAGE)
    _sealed().abort()
    assert cluster.images == {IMAGE: old}
    assert old.snaps == {'snap': True}


def test_who_dies_between_both_names_leaves_an_image_that_gets_its_name_back(
        cluster, ioctx):
    old = clusters.create(cluster, IMAGE)
    sink = _sealed()

    def die():
        raise ceph.ConnectionShutdown('shut out')

    cluster.before[f'write rbd_id.{IMAGE}'] = die
    with pytest.raises(errors.Fenced):
        sink.publish()
    assert sparsify_rbd.nameless(ioctx) == {IMAGE: MARK._replace(host='')}
    sparsify_rbd.put_back(*cluster.client(), IMAGE)
    assert cluster.images[IMAGE] is old
    assert old.meta == {}


def test_a_name_that_was_taken_without_an_answer_is_kept(cluster, ioctx,
                                                          monkeypatch):
    """It is the image that Glance has recorded, whoever knows of it."""
    clusters.create(cluster, IMAGE)
    sink = _sealed()
    move = rbd_names.move

    def answer_to_none(*args):
        move(*args)
        raise ceph.TimedOut('no answer')

    monkeypatch.setattr(rbd_names, 'move', answer_to_none)
    with pytest.raises(errors.SinkFailed):
        sink.publish()
    sink.abort()
    assert cluster.images[IMAGE].data == {0: CONTENT}
    assert cluster.images[IMAGE].snaps == {'snap': True}
    # A clean-up takes the mark off.
    assert rbd_marks.read(ioctx, IMAGE).is_of(MARK)


# What was put aside

def test_what_is_put_aside_says_since_when(cluster, ioctx):
    old = clusters.create(cluster, IMAGE)
    sparsify_rbd.put_aside(ioctx, IMAGE, MARK)
    assert cluster.images == {REPLACED: old}
    assert old.meta == {SINCE: '1000000'}
    assert old.opened == []
    cluster.world.now += 70.5
    assert sparsify_rbd.age(ioctx, MARK) == pytest.approx(70.5)


def test_who_asks_since_when_does_not_seem_to_write(cluster, ioctx):
    _put_aside(cluster)
    header, seen = cluster.images[REPLACED], []
    cluster.before['metadata'] = lambda: seen.append([*header.opened])
    sparsify_rbd.age(ioctx, MARK)
    assert seen == [[]]


def test_a_name_that_leads_nowhere_makes_nothing_older(cluster, ioctx):
    """It may yet be read by those who have it open."""
    clusters.create(cluster, IMAGE)
    sparsify_rbd.put_aside(ioctx, IMAGE, MARK)
    cluster.world.now += 5
    del cluster.objects(clusters.POOL)[f'rbd_id.{REPLACED}']
    assert sparsify_rbd.age(ioctx, MARK) == 5


def test_what_is_not_listed_any_more_is_old(ioctx):
    assert sparsify_rbd.age(ioctx, MARK) == math.inf


def test_what_does_not_say_since_when_is_young(cluster, ioctx):
    clusters.create(cluster, REPLACED)
    assert sparsify_rbd.age(ioctx, MARK) == 0


def test_all_that_was_put_aside_is_listed_and_nothing_else(cluster, ioctx):
    for mark in (MARK, OTHER):
        _put_aside(cluster, mark)
    for name in (IMAGE, PARTIAL, MARK.name('removed'), 'volume-1'):
        clusters.create(cluster, name)
    assert {mark.image_id for mark in sparsify_rbd.replaced(ioctx)} == {
        IMAGE, OTHER.image_id}


def test_those_whose_names_nobody_has_are_nameless(cluster, ioctx):
    for mark in (MARK, OTHER):
        _put_aside(cluster, mark)
    clusters.create(cluster, IMAGE)
    assert sparsify_rbd.nameless(ioctx) == {
        OTHER.image_id: OTHER._replace(host='')}


def test_an_image_is_nameless_while_only_the_old_one_is_left(cluster, ioctx):
    _put_aside(cluster)
    assert sparsify_rbd.is_nameless(ioctx, IMAGE)
    assert not sparsify_rbd.is_nameless(ioctx, OTHER.image_id)
    clusters.create(cluster, IMAGE)
    assert not sparsify_rbd.is_nameless(ioctx, IMAGE)


# Giving a name back

def test_a_name_is_given_back(cluster, ioctx):
    _put_aside(cluster)
    _put_aside(cluster, OTHER)
    old = cluster.images[REPLACED]
    sparsify_rbd.put_back(*cluster.client(), IMAGE)
    assert cluster.images == {
        IMAGE: old, OTHER.name('replaced'): cluster.images[
            OTHER.name('replaced')]}
    assert old.meta == {}
    assert old.opened == []


def test_a_name_is_given_back_to_what_does_not_say_since_when(cluster, ioctx):
    old = clusters.create(cluster, REPLACED)
    sparsify_rbd.put_back(*cluster.client(), IMAGE)
    assert cluster.images == {IMAGE: old}


@pytest.mark.parametrize('again', [False, True])
def test_a_name_that_is_in_use_is_left_to_who_has_it(cluster, ioctx, again):
    _put_aside(cluster)
    if again:
        sparsify_rbd.put_back(*cluster.client(), IMAGE)
    else:
        clusters.create(cluster, IMAGE)
    before = dict(cluster.images)
    sparsify_rbd.put_back(*cluster.client(), IMAGE)
    assert cluster.images == before


def test_a_name_is_given_to_nobody_else(cluster, ioctx):
    _put_aside(cluster, OTHER)
    sparsify_rbd.put_back(*cluster.client(), IMAGE)
    assert [*cluster.images] == [OTHER.name('replaced')]


# Removing it

def test_what_was_replaced_is_removed(cluster, ioctx):
    _put_aside(cluster)
    new = clusters.create(cluster, IMAGE)
    sparsify_rbd.forget(ioctx, MARK, False)
    assert cluster.images == {IMAGE: new}


@pytest.mark.parametrize('snaps', [{}, {'snap': False}])
def test_what_something_incomplete_took_the_place_of_is_not_removed(
        cluster, ioctx, snaps):
    _put_aside(cluster)
    before = cluster.images[REPLACED]
    clusters.create(cluster, IMAGE).snaps = snaps
    with pytest.raises(errors.SinkFailed):
        sparsify_rbd.forget(ioctx, MARK, False)
    assert cluster.images[REPLACED] is before


def test_what_nothing_took_the_place_of_is_never_removed(cluster, ioctx):
    _put_aside(cluster)
    old = cluster.images[REPLACED]
    with pytest.raises(errors.SinkFailed):
        sparsify_rbd.forget(ioctx, MARK, False)
    assert cluster.images == {REPLACED: old}
    assert old.snaps == {'snap': True}


def test_of_an_image_that_is_deleted_nothing_is_needed(cluster, ioctx):
    _put_aside(cluster)
    sparsify_rbd.forget(ioctx, MARK, True)
    assert cluster.images == {}


def test_what_the_name_only_leads_to_did_not_take_a_place(cluster, ioctx):
    """Somebody died before he had taken the name from the old image."""
    old = clusters.create(cluster, IMAGE)
    def die():
        raise clusters.Died

    cluster.before[f'forget {IMAGE}'] = die
    with pytest.raises(clusters.Died):
        sparsify_rbd.put_aside(ioctx, IMAGE, MARK)
    assert cluster.find(clusters.POOL, IMAGE) is old
    with pytest.raises(errors.SinkFailed):
        sparsify_rbd.forget(ioctx, MARK, False)
    assert cluster.images == {REPLACED: old}


def test_what_somebody_began_to_remove_is_old(cluster, ioctx):
    _put_aside(cluster)
    objects = cluster.objects(clusters.POOL)
    for name in [name for name, made in objects.items()
                 if made is cluster.images[REPLACED]]:
        del objects[name]
    assert sparsify_rbd.age(ioctx, MARK) == math.inf
    clusters.create(cluster, IMAGE)
    sparsify_rbd.forget(ioctx, MARK, False)
    assert [*cluster.images] == [IMAGE]
    assert cluster.named(clusters.POOL) == {IMAGE}


# Who dies at any step leaves an image that is whole.

def _clean(cluster):
    """What a pass of the clean-up does, once nobody is heard of any more."""
    rados, ioctx = cluster.client()
    for image_id in sparsify_rbd.nameless(ioctx):
        sparsify_rbd.put_back(rados, ioctx, image_id)
    for mark in sparsify_rbd.replaced(ioctx):
        sparsify_rbd.forget(ioctx, mark, False)
    for found in list(rbd_marks.marked(ioctx)):
        if found.is_published:
            rbd_marks.hand_over(ioctx, found.mark)
        elif rbd_marks.fence(rados, ioctx, found.mark):
            rbd_marks.discard(ioctx, found.mark)
        rbd_marks.strike_out(ioctx, found.mark)


def _is_whole(cluster):
    header = cluster.images[IMAGE]
    return header.snaps == {'snap': True} and header.data in (
        {0: b'content'}, {0: CONTENT})


def _replace():
    sink = _sealed()
    sink.publish()
    sink.hand_over()


@pytest.mark.parametrize('after', range(48))
def test_who_replaces_an_image_may_die_at_any_step(cluster, after):
    """And so may the clean-up after it."""
    steps = 0
    while True:
        cluster.pools.clear()
        clusters.create(cluster, IMAGE)
        is_dead = cluster.dies(after, _replace)
        if not cluster.dies(steps, lambda: _clean(cluster)):
            break
        for _ in range(2):
            _clean(cluster)
        assert _is_whole(cluster)
        assert cluster.named(clusters.POOL) == {IMAGE}
        assert cluster.objects(clusters.POOL).get(
            'glance_conversion.marks', {}) == {}
        assert rbd_marks.KEY not in cluster.images[IMAGE].meta
        steps += 1
    assert steps > 3
    assert is_dead == (after < 44)


@pytest.mark.parametrize('step', [
    f'rename {IMAGE} to {REPLACED}', 'dir_rename_image rbd_directory',
    f'forget {IMAGE}', f'write rbd_id.{IMAGE}'])
def test_who_only_was_away_takes_no_name_any_more(cluster, ioctx, step):
    """Somebody else has given it back meanwhile, and shut the writer out."""
    old = clusters.create(cluster, IMAGE)
    sink = _sealed()
    rados = cluster.client()[0]
    cluster.before[step] = lambda: sparsify_rbd.put_back(rados, ioctx, IMAGE)
    with contextlib.suppress(errors.ConversionError):
        sink.publish()
    assert cluster.find(clusters.POOL, IMAGE)
    assert IMAGE in cluster.listed(clusters.POOL)
    assert old in cluster.images.values()
    sink.abort()
    _clean(cluster)
    assert _is_whole(cluster)


def test_an_abort_leaves_what_may_have_a_name(cluster, caplog):
    """An answer that did not come may still be true."""
    clusters.create(cluster, IMAGE)
    sink = _sealed()

    def answer_to_none():
        raise ceph.TimedOut('no answer')

    cluster.before[f'write rbd_id.{IMAGE}'] = answer_to_none
    with pytest.raises(errors.SinkFailed):
        sink.publish()
    sink.abort()
    assert {*cluster.images} == {REPLACED, PARTIAL}
    assert 'is left for the clean-up' in caplog.text
    _clean(cluster)
    assert _is_whole(cluster)
    assert {*cluster.images} == {IMAGE}
