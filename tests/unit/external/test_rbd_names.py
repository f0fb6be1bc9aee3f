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
"""Names that are given and taken in steps, between which a process may die."""

import pytest

from glance_conversion_plugins.external import rbd_names
from tests.simulation import ceph
from tests.unit import clusters


def _id(cluster, name):
    return ceph.decoded(cluster.objects(clusters.POOL)[f'rbd_id.{name}'])[0]


def _drop(cluster, *names):
    for name in names:
        del cluster.objects(clusters.POOL)[name]


def _lead(cluster, name, image_id):
    cluster.objects(clusters.POOL)[f'rbd_id.{name}'] = ceph.encoded(image_id)


def _listed(cluster):
    return cluster.listed(clusters.POOL)


def _named(cluster):
    return cluster.named(clusters.POOL)


# What there is

def test_a_pool_that_was_never_used_has_no_names(cluster, ioctx):
    _drop(cluster, ceph.DIRECTORY)
    assert not rbd_names.is_listed(ioctx, 'disk')
    assert rbd_names.id_listed(ioctx, 'disk') is None
    assert rbd_names.id_of(ioctx, 'disk') is None
    assert not rbd_names.is_taken(ioctx, 'disk')


def test_a_name_that_is_whole_is_listed_and_leads_somewhere(cluster, ioctx):
    clusters.create(cluster, 'disk')
    image_id = _id(cluster, 'disk')
    assert rbd_names.is_listed(ioctx, 'disk')
    assert rbd_names.id_listed(ioctx, 'disk') == image_id
    assert rbd_names.id_of(ioctx, 'disk') == image_id
    assert rbd_names.is_taken(ioctx, 'disk')
    assert not rbd_names.is_listed(ioctx, 'dis')
    assert not rbd_names.is_taken(ioctx, 'dis')


@pytest.mark.parametrize('gone', [
    ('rbd_id.disk',), ('rbd_id.disk', 'rbd_header.{}'), ('rbd_header.{}',)])
def test_what_is_listed_is_taken_whatever_is_gone(cluster, ioctx, gone):
    clusters.create(cluster, 'disk')
    image_id = _id(cluster, 'disk')
    _drop(cluster, *(name.format(image_id) for name in gone))
    assert rbd_names.is_listed(ioctx, 'disk')
    assert rbd_names.id_listed(ioctx, 'disk') == image_id
    assert rbd_names.is_taken(ioctx, 'disk')


def test_what_is_not_listed_is_taken_if_it_leads_somewhere(cluster, ioctx):
    _lead(cluster, 'disk', '77')
    assert not rbd_names.is_listed(ioctx, 'disk')
    assert rbd_names.id_of(ioctx, 'disk') == '77'
    assert rbd_names.is_taken(ioctx, 'disk')


def test_what_opens_is_taken(ioctx, monkeypatch):
    """As an image of the first format does, which has neither."""
    opened = []
    monkeypatch.setattr(ceph.Image, '__init__', lambda self, *args, **options:
                        opened.append((args, options)))
    monkeypatch.setattr(ceph.Image, 'close', lambda self: opened.append(0))
    assert rbd_names.is_taken(ioctx, 'disk')
    assert opened == [((ioctx, 'disk'), {'read_only': True}), 0]


# Renaming

def test_an_image_is_renamed(cluster, ioctx):
    header = clusters.create(cluster, 'disk')
    rbd_names.move(ioctx, 'disk', 'other', _id(cluster, 'disk'))
    assert cluster.images == {'other': header}
    assert _named(cluster) == {'other'}


@pytest.mark.parametrize('step', [
    'write rbd_id.other', 'dir_rename_image rbd_directory',
    'write rbd_id.disk'])
def test_who_dies_renaming_leaves_what_another_one_does(cluster, ioctx, step):
    def die():
        raise ceph.ConnectionShutdown

    header = clusters.create(cluster, 'disk')
    image_id = _id(cluster, 'disk')
    cluster.before[step] = die
    with pytest.raises(ceph.ConnectionShutdown):
        rbd_names.move(ioctx, 'disk', 'other', image_id)
    rbd_names.move(ioctx, 'disk', 'other', image_id)
    assert cluster.images == {'other': header}
    assert _named(cluster) == {'other'}
    rbd_names.move(ioctx, 'disk', 'other', image_id)
    assert cluster.images == {'other': header}


@pytest.mark.parametrize('step', [
    'write rbd_id.other', 'dir_rename_image rbd_directory',
    'write rbd_id.disk'])
def test_two_may_rename_at_once(cluster, ioctx, step):
    header = clusters.create(cluster, 'disk')
    image_id = _id(cluster, 'disk')
    cluster.before[step] = lambda: rbd_names.move(
        cluster.client()[1], 'disk', 'other', image_id)
    rbd_names.move(ioctx, 'disk', 'other', image_id)
    assert cluster.images == {'other': header}
    assert _named(cluster) == {'other'}


def test_a_name_that_another_one_has_is_kept(cluster, ioctx):
    before = {name: clusters.create(cluster, name)
              for name in ('disk', 'other')}
    with pytest.raises(ceph.ImageExists):
        rbd_names.move(ioctx, 'disk', 'other', _id(cluster, 'disk'))
    assert cluster.images == before


def test_a_name_that_is_listed_and_leads_nowhere_is_kept(cluster, ioctx):
    clusters.create(cluster, 'disk')
    clusters.create(cluster, 'other')
    _drop(cluster, 'rbd_id.other')
    with pytest.raises(ceph.ImageExists):
        rbd_names.move(ioctx, 'disk', 'other', _id(cluster, 'disk'))
    assert _listed(cluster) == ['disk', 'other']
    assert rbd_names.id_of(ioctx, 'other') is None


@pytest.mark.parametrize('error', [ceph.RadosError, ceph.TimedOut])
def test_what_is_not_known_to_be_done_is_not_undone(cluster, ioctx, error):
    """It may be under way, and then an image has the new name."""
    def fail():
        raise error

    clusters.create(cluster, 'disk')
    image_id = _id(cluster, 'disk')
    cluster.before['dir_rename_image rbd_directory'] = fail
    with pytest.raises(error):
        rbd_names.move(ioctx, 'disk', 'other', image_id)
    assert rbd_names.id_of(ioctx, 'other') == image_id


def test_a_name_that_leads_elsewhere_is_kept(cluster, ioctx):
    """Somebody is about to give it."""
    header = clusters.create(cluster, 'disk')
    _lead(cluster, 'other', '77')
    with pytest.raises(ceph.ImageExists):
        rbd_names.move(ioctx, 'disk', 'other', _id(cluster, 'disk'))
    assert rbd_names.id_of(ioctx, 'other') == '77'
    assert cluster.images == {'disk': header}


@pytest.mark.parametrize('again', [False, True])
def test_what_is_not_called_so_is_not_renamed(cluster, ioctx, again):
    if again:
        clusters.create(cluster, 'disk')
    with pytest.raises(ceph.ImageNotFound):
        rbd_names.move(ioctx, 'disk', 'other', '77')
    assert _named(cluster) == ({'disk'} if again else set())


def test_a_name_that_is_given_anew_meanwhile_still_leads_there(cluster,
                                                               ioctx):
    clusters.create(cluster, 'disk')
    image_id = _id(cluster, 'disk')

    def anew():
        _drop(cluster, 'rbd_id.disk')
        clusters.create(cluster, 'disk')

    cluster.before['write rbd_id.disk'] = anew
    rbd_names.move(ioctx, 'disk', 'other', image_id)
    assert {*cluster.images} == {'disk', 'other'}
    assert _id(cluster, 'other') == image_id != _id(cluster, 'disk')


# What is left

def test_a_name_without_an_image_is_tidied_up(cluster, ioctx):
    header = clusters.create(cluster, 'disk')
    _lead(cluster, 'other', _id(cluster, 'disk'))
    rbd_names.tidy(ioctx, 'other')
    rbd_names.tidy(ioctx, 'none')
    assert _named(cluster) == {'disk'}
    rbd_names.tidy(ioctx, 'disk')
    assert cluster.images == {'disk': header}


def test_what_could_not_be_forgotten_is_told(cluster, ioctx):
    def fail():
        raise ceph.RadosError

    _lead(cluster, 'other', '77')
    cluster.before['write rbd_id.other'] = fail
    with pytest.raises(ceph.RadosError):
        rbd_names.forget(ioctx, 'other', '77')
    assert _named(cluster) == {'other'}
    rbd_names.forget(ioctx, 'other', '78')
    assert _named(cluster) == {'other'}
    rbd_names.forget(ioctx, 'other', '77')
    assert _named(cluster) == set()


@pytest.mark.parametrize('gone', [('rbd_id.disk', 'rbd_header.{}'),
                                  ('rbd_header.{}',)])
def test_a_name_whose_image_is_gone_is_freed(cluster, ioctx, gone):
    clusters.create(cluster, 'disk')
    image_id = _id(cluster, 'disk')
    _drop(cluster, *(name.format(image_id) for name in gone))
    rbd_names.free(ioctx, 'disk')
    assert not rbd_names.is_taken(ioctx, 'disk')
    rbd_names.free(ioctx, 'disk')


def test_a_name_that_was_given_in_part_is_freed(cluster, ioctx):
    _lead(cluster, 'disk', '77')
    rbd_names.free(ioctx, 'disk')
    assert not rbd_names.is_taken(ioctx, 'disk')


def test_a_name_whose_image_is_there_is_kept(cluster, ioctx):
    header = clusters.create(cluster, 'disk')
    rbd_names.free(ioctx, 'disk')
    assert cluster.images == {'disk': header}
    # Its data is there, and somebody may know how to get at it.
    _drop(cluster, 'rbd_id.disk')
    rbd_names.free(ioctx, 'disk')
    assert _listed(cluster) == ['disk']


def test_a_name_that_somebody_gives_at_the_moment_is_kept(cluster, ioctx):
    clusters.create(cluster, 'other')
    _lead(cluster, 'disk', _id(cluster, 'other'))
    rbd_names.free(ioctx, 'disk')
    assert rbd_names.id_of(ioctx, 'disk') == _id(cluster, 'other')


def test_what_is_freed_by_two_is_free(cluster, ioctx):
    clusters.create(cluster, 'disk')
    _drop(cluster, f'rbd_header.{_id(cluster, "disk")}')
    cluster.before['dir_remove_image rbd_directory'] = (
        lambda: rbd_names.free(cluster.client()[1], 'disk'))
    rbd_names.free(ioctx, 'disk')
    assert not rbd_names.is_taken(ioctx, 'disk')
