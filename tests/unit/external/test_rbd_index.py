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

"""What a pool lists of itself, and whose turn it is to clean it."""

import uuid

import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.external import rbd_index
from tests.simulation import ceph
from tests.unit import clusters


def _marks(count):
    return [marks.Mark(str(uuid.uuid4()), str(uuid.uuid4()), 'deadbeef', '')
            for _ in range(count)]


# The list

def test_a_pool_that_was_never_used_lists_nothing(ioctx):
    assert list(rbd_index.listed(ioctx)) == []


@pytest.mark.parametrize('count', [1, 499, 500, 501, 1100])
def test_all_that_is_listed_is_found_once(ioctx, count):
    added = _marks(count)
    for mark in added:
        rbd_index.add(ioctx, mark)
    assert sorted(rbd_index.listed(ioctx)) == sorted(added)
    for mark in added[1:]:
        rbd_index.remove(ioctx, mark, rbd_index.read(ioctx, mark))
    assert list(rbd_index.listed(ioctx)) == added[:1]


def test_what_is_not_listed_may_be_forgotten(ioctx):
    mark, = _marks(1)
    rbd_index.remove(ioctx, mark, '')
    assert list(rbd_index.listed(ioctx)) == []
    assert rbd_index.read(ioctx, mark) is None


def test_what_was_listed_again_is_not_forgotten(ioctx):
    """Its writer goes on, whatever it seemed to be before."""
    mark, other = _marks(2)
    rbd_index.add(ioctx, mark)
    rbd_index.add(ioctx, other)
    entry = rbd_index.read(ioctx, mark)
    rbd_index.add(ioctx, mark)
    rbd_index.remove(ioctx, mark, entry)
    assert rbd_index.read(ioctx, mark) not in (entry, None)
    rbd_index.remove(ioctx, mark, rbd_index.read(ioctx, mark))
    assert rbd_index.read(ioctx, mark) is None
    assert list(rbd_index.listed(ioctx)) == [other]


def test_an_entry_of_an_earlier_version_can_be_forgotten(cluster, ioctx):
    mark, = _marks(1)
    rbd_index.add(ioctx, mark)
    entries = cluster.objects(clusters.POOL)['glance_conversion.marks']
    entries.update(dict.fromkeys(entries, b''))
    assert rbd_index.read(ioctx, mark) == ''
    rbd_index.remove(ioctx, mark, '')
    assert rbd_index.read(ioctx, mark) is None


def test_what_an_earlier_version_has_listed_is_found(cluster, ioctx):
    """By the name that a mark has had there from the first version on."""
    mark, = _marks(1)
    key = f'{mark.image_id}.{mark.task_id}.deadbeef.sealed'
    cluster.objects(clusters.POOL)['glance_conversion.marks'] = {key: b''}
    assert list(rbd_index.listed(ioctx)) == [mark]
    rbd_index.remove(ioctx, mark, '')
    assert list(rbd_index.listed(ioctx)) == []


def test_what_could_not_be_forgotten_is_told(cluster, ioctx):
    def fail():
        raise ceph.RadosError

    mark, = _marks(1)
    rbd_index.add(ioctx, mark)
    entry = rbd_index.read(ioctx, mark)
    cluster.before['write glance_conversion.marks'] = fail
    with pytest.raises(ceph.RadosError):
        rbd_index.remove(ioctx, mark, entry)
    assert list(rbd_index.listed(ioctx)) == [mark]


def test_what_others_have_noted_is_no_mark(cluster, ioctx):
    cluster.objects(clusters.POOL)['glance_conversion.marks'] = {
        '': b'', 'x': b'', 'mutant': b''}
    assert list(rbd_index.listed(ioctx)) == []


# Turns

def _locked(cluster):
    """Until when somebody has the pool alone; None if nobody has."""
    cookie, until = cluster.locks.get(
        (clusters.POOL, 'glance_conversion.marks'), (None, 0))
    return until if cookie and until > cluster.world.now else None


def test_a_turn_ends(cluster, ioctx):
    with rbd_index.turn(ioctx):
        assert _locked(cluster)
    assert not _locked(cluster)
    with rbd_index.turn(ioctx):
        pass


def test_nodes_of_all_versions_take_the_same_lock(cluster, ioctx,
                                                  monkeypatch):
    taken, lock = [], ceph.Ioctx.lock_exclusive

    def noted(self, key, name, *arguments, **options):
        taken.append((key, name))
        lock(self, key, name, *arguments, **options)

    monkeypatch.setattr(ceph.Ioctx, 'lock_exclusive', noted)
    with rbd_index.turn(ioctx):
        assert taken == [('glance_conversion.marks', 'clean-up')]


def test_of_two_one_waits_and_gives_up(cluster, ioctx):
    """Not before the other one could have died at it."""
    began = cluster.world.now
    with rbd_index.turn(ioctx) as turn:
        other = cluster.client()[1]
        sleep = cluster.world.sleep

        def keep_and_sleep(seconds):
            sleep(seconds)
            turn.keep()

        cluster.world.sleep = keep_and_sleep
        rbd_index.time.sleep = keep_and_sleep
        with pytest.raises(errors.Busy, match='cleans the store'):
            with rbd_index.turn(other):
                pytest.fail('both have it')
        waited = cluster.world.now - began
        assert 120 <= waited < 130
        assert _locked(cluster) >= cluster.world.now + 55


def test_who_died_at_it_is_waited_for_and_no_longer(cluster, ioctx):
    dead = rbd_index.Turn(cluster.client()[1])
    dead.keep()
    began = cluster.world.now
    with rbd_index.turn(ioctx):
        assert 55 <= cluster.world.now - began <= 65
        # It wakes, and is told.
        with pytest.raises(errors.Busy):
            dead.keep()
        dead.end()
        assert _locked(cluster)


def test_a_turn_that_is_kept_does_not_run_out(cluster, ioctx):
    with rbd_index.turn(ioctx) as turn:
        for _ in range(5):
            cluster.world.now += 50
            turn.keep()
        with pytest.raises(errors.Busy):
            rbd_index.Turn(cluster.client()[1]).keep()


def test_a_cluster_that_is_gone_does_not_hinder_the_end(cluster, ioctx,
                                                        monkeypatch):
    def fail(*_):
        raise ceph.ObjectNotFound('gone')

    with rbd_index.turn(ioctx):
        monkeypatch.setattr(ceph.Ioctx, 'unlock', fail)
    # It runs out by itself.
    assert _locked(cluster)
