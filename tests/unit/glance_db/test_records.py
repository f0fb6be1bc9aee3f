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


"""What is found in a real database of Glance, as the prefetcher asks it."""

import contextlib
import datetime
import queue
import uuid

from glance import context as glance_context
from glance import db
from glance.db.sqlalchemy import api
from glance.db.sqlalchemy import models
from oslo_config import cfg
from oslo_utils import timeutils
import pytest

from glance_conversion_plugins import config
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import popularity
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance import background
from glance_conversion_plugins.maintenance import digests
from glance_conversion_plugins.maintenance.prefetch import choosing
from glance_conversion_plugins.stores import registry
from tests.unit import databases

CONF = cfg.CONF

START = datetime.datetime(2026, 1, 1)

VISIBILITIES = ['public', 'community', 'shared', 'private']


@pytest.fixture(autouse=True)
def database(tmp_path):
    with databases.glance_database(tmp_path / 'glance.sqlite'):
        yield


@pytest.fixture(autouse=True)
def policy():
    """Sets options of [cache_prefetch] until the test ends."""
    config.register_opts(CONF)
    names = []

    def policy(**options):
        for name, value in options.items():
            names.append(name)
            CONF.set_override(name, value, 'cache_prefetch')

    yield policy
    for name in names:
        CONF.clear_override(name, 'cache_prefetch')


def _admin():
    return glance_context.get_admin_context()


def _image(name, visibility='public', *, age=0, tags=(), **values):
    """Record an image; returns its id."""
    image_id = api.image_create(_admin(), {
        'id': str(uuid.uuid4()), 'name': name, 'visibility': visibility,
        'status': 'active', 'size': 1 << 20, 'owner': 'somebody',
        'min_disk': 0, 'min_ram': 0, 'disk_format': 'raw',
        'container_format': 'bare', 'os_hash_algo': 'sha512',
        'os_hash_value': 'd1', 'checksum': 'd2',
        'created_at': START - datetime.timedelta(seconds=age)} | values)['id']
    api.image_tag_set_all(_admin(), image_id, list(tags))
    return image_id


def _delete(image_id):
    """Do as Glance does, which sets the status first."""
    api.image_update(_admin(), image_id, {'status': 'deleted'})
    api.image_destroy(_admin(), image_id)


def _names(found):
    return sorted(image['name'] for image in found)


def _candidates(queued=()):
    return {candidate.image_id: candidate.why
            for candidate in choosing.candidates(list(queued))}


# All that match

def test_images_of_every_visibility_are_found():
    for visibility in VISIBILITIES:
        _image(visibility, visibility)
    assert _names(records.images()) == sorted(VISIBILITIES)


@pytest.mark.parametrize('visibility', VISIBILITIES)
def test_a_visibility_finds_images_of_that_one_only(visibility):
    for each in VISIBILITIES:
        _image(each, each)
    assert _names(records.images(visibility=visibility)) == [visibility]


def test_deleted_images_are_not_among_the_active_ones():
    _image('kept')
    _delete(_image('deleted'))
    assert _names(records.images(status='active')) == ['kept']


def test_images_of_any_owner_and_hidden_ones_are_found():
    _image('a', 'private', owner='a')
    _image('b', 'private', owner='b')
    _image('hidden', os_hidden=True)
    assert _names(records.images()) == ['a', 'b', 'hidden']


def test_more_images_than_fit_on_a_page_are_found_once_each():
    visible = [str(uuid.uuid4()) for _ in range(1203)]
    hidden = [str(uuid.uuid4()) for _ in range(30)]
    with api.session_for_write() as session:
        # Of one moment, so that only their ids tell them apart.
        session.add_all([
            models.Image(id=image_id, name=image_id, status='active',
                         visibility=visibility, owner='somebody',
                         created_at=START, updated_at=START)
            for ids, visibility in ((visible, 'community'),
                                    (hidden, 'private'))
            for image_id in ids])
    found = [image['id'] for image in records.images(visibility='community')]
    assert len(found) == 1203
    assert set(found) == set(visible)
    assert len(list(records.images())) == 1233


# One image

def test_a_deleted_image_is_found_by_its_id():
    image_id = _image('deleted')
    _delete(image_id)
    assert records.find_image(image_id)['deleted']


@pytest.mark.parametrize('image_id', [
    str(uuid.uuid4()), 'no image', 'x' * 300, ''])
def test_an_image_that_never_was_is_none(image_id):
    assert records.find_image(image_id) is None


# The newest

def test_the_newest_public_images_come_first():
    ids = [_image(str(age), age=age) for age in (30, 10, 20, 0)]
    found = [image['id'] for image in popularity.newest_public(3)]
    assert found == [ids[3], ids[1], ids[2]]


def test_only_active_public_images_are_among_the_newest():
    wanted = _image('public', age=100)
    for visibility in VISIBILITIES[1:]:
        _image(visibility, visibility)
    _image('hidden', os_hidden=True)
    for status in ('queued', 'deactivated', 'importing'):
        _image(status, status=status)
    _delete(_image('deleted'))
    found = [image['id'] for image in popularity.newest_public(10)]
    assert found == [wanted]


# What is hit most

def _hit(image_id, node, hits):
    if records.find_image(image_id) is None:
        _image('hit', id=image_id)
    with contextlib.suppress(api.exception.Duplicate):
        api.node_reference_create(_admin(), node)
    api.insert_cache_details(_admin(), node, image_id, 1 << 20, hits=hits)


def test_hits_are_summed_over_all_nodes():
    for node, hits in (('http://a', {'one': 5, 'two': 3, 'three': 4}),
                       ('http://b', {'two': 4, 'three': 2}),
                       ('http://c', {'one': 0, 'three': 3})):
        for image_id, count in hits.items():
            _hit(image_id, node, count)
    assert popularity.most_hit(10) == ['three', 'two', 'one']
    assert popularity.most_hit(2) == ['three', 'two']


def test_what_was_never_hit_is_not_among_the_most_hit():
    _hit('never', 'http://a', 0)
    _hit('never', 'http://b', 0)
    assert popularity.most_hit(10) == []
    _hit('once', 'http://b', 1)
    assert popularity.most_hit(10) == ['once']


def test_hits_that_glance_counts_are_counted():
    _hit('one', 'http://a', 0)
    _hit('two', 'http://b', 1)
    for _ in range(3):
        api.update_hit_count(_admin(), 'one', 'http://a')
    assert popularity.most_hit(10) == ['one', 'two']


def test_a_deleted_image_takes_no_place_among_the_most_hit():
    for image_id, hits in (('gone', 9), ('here', 1)):
        _hit(image_id, 'http://a', hits)
    _delete('gone')
    assert popularity.most_hit(1) == ['here']


# Policies

def test_without_a_policy_nothing_is_wanted():
    _image('public')
    assert _candidates() == {}


def test_any_of_the_properties_is_enough(policy):
    policy(properties=[('prefetch', 'true'), ('os_distro', 'debian')])
    one = _image('one', properties={'prefetch': 'true', 'other': 'x'})
    two = _image('two', 'private', properties={'os_distro': 'debian'})
    _image('none')
    _image('other', properties={'prefetch': 'false', 'os_distro': 'true'})
    assert _candidates() == {one: 'property prefetch=true',
                             two: 'property os_distro=debian'}


@pytest.mark.parametrize('name', [
    'status', 'visibility', 'owner', 'id', 'checksum', 'size_min',
    'created_at', 'changes-since', 'properties', 'deleted', 'tags',
    'os_hidden', 'hw_max'])
def test_a_property_is_not_taken_for_a_filter_of_glance(policy, name):
    policy(properties=[(name, 'x')])
    one = _image('one', properties={name: 'x'})
    _image('two')
    assert list(_candidates()) == [one]


def test_an_image_with_both_properties_is_wanted_once(policy):
    policy(properties=[('prefetch', 'true'), ('os_distro', 'debian')])
    image_id = _image('both', properties={'os_distro': 'debian',
                                          'prefetch': 'true'})
    found, = choosing.candidates([])
    assert found == choosing.Candidate(image_id, 'property prefetch=true',
                                       1 << 20)


def test_a_property_that_was_removed_does_not_count(policy):
    policy(properties=[('prefetch', 'true')])
    image_id = _image('one', properties={'prefetch': 'true'})
    assert _candidates()
    api.image_update(_admin(), image_id, {'properties': {}},
                     purge_props=True)
    assert _candidates() == {}


def test_any_of_the_tags_is_enough(policy):
    policy(tags=['golden', 'two words'])
    one = _image('one', tags=['golden', 'else'])
    two = _image('two', 'community', tags=['two words'])
    _image('none')
    _image('other', tags=['gold', 'words'])
    assert _candidates() == {one: 'tag golden', two: 'tag two words'}


def test_a_tag_that_was_removed_does_not_count(policy):
    policy(tags=['golden'])
    image_id = _image('one', tags=['golden'])
    assert _candidates()
    api.image_tag_delete(_admin(), image_id, 'golden')
    assert _candidates() == {}


def test_visibility_alone_asks_for_all_such_images(policy):
    policy(visibility=['community', 'shared'])
    ids = {each: _image(each, each) for each in VISIBILITIES}
    assert _candidates() == {ids['community']: 'community',
                             ids['shared']: 'shared'}


def test_each_kind_of_condition_has_to_hold(policy):
    policy(properties=[('a', '1'), ('b', '2')], tags=['x', 'y'],
           visibility=['public', 'community'])
    right = {'properties': {'b': '2'}, 'tags': ['y']}
    wanted = _image('wanted', 'community', **right)
    _image('private', 'private', **right)
    _image('untagged', properties={'a': '1'})
    _image('tagged', tags=['x'])
    _image('mixed', properties={'a': '2', 'b': '1'}, tags=['x'])
    assert _candidates() == {wanted: 'property b=2, tag y, community'}


def test_only_active_images_are_selected(policy):
    policy(visibility=['public'])
    wanted = _image('wanted')
    _delete(_image('deleted'))
    for status in ('queued', 'saving', 'deactivated', 'importing'):
        _image(status, status=status)
    assert list(_candidates()) == [wanted]


def test_more_than_a_page_of_images_is_selected(policy):
    policy(visibility=['public'])
    with api.session_for_write() as session:
        session.add_all([
            models.Image(id=str(uuid.uuid4()), status='active', size=1,
                         visibility='public', checksum='d')
            for _ in range(777)])
    found = choosing.candidates([])
    assert len(found) == 777
    assert not [candidate for candidate in found if candidate.refusal]


def test_what_matters_most_comes_first_and_each_image_once(policy):
    policy(tags=['golden'], newest=2, most_hit=2)
    old = _image('old', age=500)
    hit = _image('hit', age=400)
    golden = _image('golden', age=300, tags=['golden'])
    new = _image('new', age=10)
    newest = _image('newest', tags=['golden'])
    _hit(hit, 'http://a', 5)
    _hit(golden, 'http://a', 9)
    assert list(_candidates([old, new]).items()) == [
        (old, 'queued'), (new, 'queued'), (newest, 'tag golden'),
        (golden, 'tag golden'), (hit, 'among the most hit')]


def test_hidden_images_are_not_for_everybody_and_none_without_a_size(policy):
    policy(visibility=['public'])
    _image('hidden', os_hidden=True)
    _image('unknown', size=None)
    found = {candidate.refusal for candidate in choosing.candidates([])}
    assert found == {'its size is not known'}


def test_a_queued_image_that_is_gone_is_told_from_one_that_may_come():
    deleted = _image('deleted')
    _delete(deleted)
    pending = _image('pending', status='pending_delete')
    coming = _image('coming', status='queued')
    bare = _image('bare', checksum=None, os_hash_value=None)
    old = _image('old', os_hash_value=None, os_hash_algo=None)
    unknown = str(uuid.uuid4())
    found = choosing.candidates([deleted, pending, coming, bare, old,
                                 unknown])
    assert [(each.refusal, each.gone) for each in found] == [
        ('it was deleted', True), ('it was deleted', True),
        ('its status is queued', False),
        ('it has no digest yet to verify it by', False),
        (None, False), ('there is no such image', True)]


# Whether Glance has, or waits for, what lies in a store

def _locate(image_id, url, status='active'):
    api.image_location_add(_admin(), image_id, {
        'url': url, 'metadata': {'store': 'near'}, 'status': status})


@pytest.mark.parametrize('status', [
    each for each in api.STATUSES if each != 'deleted'])
def test_the_status_is_that_of_the_record(status):
    assert records.status(_image('one', status=status)) == status


def test_an_image_that_glance_does_not_know_has_no_status():
    _image('other')
    assert records.status(str(uuid.uuid4())) == 'unknown'
    assert records.status('no image') == 'unknown'


@pytest.mark.parametrize('status', ['deleted', 'pending_delete'])
def test_an_image_that_is_gone_is_deleted_whatever_it_was(status):
    image_id = _image('one')
    api.image_update(_admin(), image_id, {'status': status})
    api.image_destroy(_admin(), image_id)
    assert records.status(image_id) == 'deleted'


@pytest.mark.parametrize(('value', 'stores'), [
    ('', []), ('a', ['a']), ('a,b', ['a', 'b'])])
def test_stores_that_an_image_is_still_to_get_into(value, stores):
    image_id = databases.add_image('importing', properties={
        compat.IMPORTING_PROPERTY: value})
    assert records.importing_stores(image_id) == stores


def test_a_url_is_recorded_once_it_stands_in_a_location():
    image_id = _image('one')
    assert not records.is_recorded('rbd://f/p/i/snap')
    _locate(image_id, 'rbd://f/p/i/snap')
    assert records.is_recorded('rbd://f/p/i/snap')


@pytest.mark.parametrize('url', [
    'rbd://f/p/i', 'rbd://f/p/i/snap/', 'rbd://f/p/I/snap', 'RBD://f/p/i/snap',
    'rbd://f/p/%/snap', 'rbd://f/p/_/snap', ''])
def test_a_url_that_is_only_alike_is_not_recorded(url):
    _locate(_image('one'), 'rbd://f/p/i/snap')
    assert not records.is_recorded(url)


def test_a_url_that_another_image_has_is_recorded():
    """Whoever adds locations by hand may have done so."""
    one, other = _image('one'), _image('other')
    _locate(one, 'rbd://f/p/one/snap')
    _locate(other, f'rbd://f/p/{one}/snap')
    assert records.is_recorded(f'rbd://f/p/{one}/snap')
    _delete(one)
    assert records.is_recorded(f'rbd://f/p/{one}/snap')
    _delete(other)
    assert not records.is_recorded(f'rbd://f/p/{one}/snap')


@pytest.mark.parametrize('status', ['deleted', 'pending_delete'])
def test_a_location_that_was_deleted_does_not_count(status):
    image_id = _image('one')
    _locate(image_id, 'rbd://f/p/i/snap')
    location, = api.image_get(_admin(), image_id)['locations']
    api.image_location_delete(_admin(), image_id, location['id'], status)
    assert not records.is_recorded('rbd://f/p/i/snap')


def test_a_location_that_was_deleted_and_added_again_counts():
    image_id = _image('one')
    for _ in range(2):
        _locate(image_id, 'rbd://f/p/i/snap')
        location, = api.image_get(_admin(), image_id)['locations']
        assert records.is_recorded('rbd://f/p/i/snap')
        api.image_location_delete(_admin(), image_id, location['id'],
                                  'deleted')
        assert not records.is_recorded('rbd://f/p/i/snap')


@pytest.mark.parametrize('status', ['pending', 'uploading'])
def test_a_location_counts_whatever_its_status(status):
    """It may become active by one step."""
    _locate(_image('one'), 'rbd://f/p/i/snap', status)
    assert records.is_recorded('rbd://f/p/i/snap')


@pytest.fixture
def encryption(override):
    override('metadata_encryption_key', '0123456789abcdef')


def _locate_encrypted(image_id, url):
    """Do so through the layer of Glance that encrypts."""
    repo = db.ImageRepo(_admin(), api)
    image = repo.get(image_id)
    image.locations = [*image.locations, {
        'url': url, 'metadata': {}, 'status': 'active'}]
    repo.save(image)


def test_a_url_is_found_that_is_encrypted(encryption):
    one, other = _image('one'), _image('other')
    _locate_encrypted(other, 'rbd://f/p/other/snap')
    assert not records.is_recorded('rbd://f/p/i/snap')
    _locate_encrypted(one, 'file:///images/i')
    _locate_encrypted(one, 'rbd://f/p/i/snap')
    for url in ('rbd://f/p/i/snap', 'file:///images/i',
                'rbd://f/p/other/snap'):
        assert records.is_recorded(url)
    with api.session_for_read() as session:
        values = [row.value for row in session.query(
            models.ImageLocation.value)]
    assert len(values) == 3
    assert not [value for value in values if '://' in value]


def test_a_url_is_found_that_is_not_encrypted_but_can_be_decrypted(
        encryption, monkeypatch):
    """What comes of that is anything."""
    monkeypatch.setattr(compat, 'location_url', lambda value: 'anything')
    _locate(_image('one'), 'rbd://f/p/i/snap')
    assert records.is_recorded('rbd://f/p/i/snap')
    assert not records.is_recorded('rbd://f/p/other/snap')


def test_an_encrypted_url_of_a_deleted_image_does_not_count(encryption):
    image_id = _image('one')
    _locate_encrypted(image_id, 'rbd://f/p/i/snap')
    _delete(image_id)
    assert not records.is_recorded('rbd://f/p/i/snap')


# As a parallel import of Glance 33 writes them, or whoever has turned
# encryption on later, or changed the key.
@pytest.mark.parametrize('value', [
    'pending://image/near', 'rbd://f/p/other/snap', 'file:///images/other',
    'aGFsZiBhIGJsb2Nr'])
def test_a_url_is_found_beside_one_that_can_not_be_decrypted(encryption,
                                                             value):
    _locate(_image('other'), value)
    _locate_encrypted(_image('one'), 'rbd://f/p/i/snap')
    assert records.is_recorded('rbd://f/p/i/snap')
    assert not records.is_recorded('rbd://f/p/j/snap')


def test_a_url_is_found_that_is_not_encrypted_yet(encryption):
    """A parallel import writes it so, and encrypts it at its end."""
    _locate(_image('one'), 'rbd://f/p/i/snap')
    assert records.is_recorded('rbd://f/p/i/snap')


# Locks of imports

def _lock(image_id, task_id):
    api.image_set_property_atomic(image_id, compat.LOCK_PROPERTY, task_id)


def _unlock(image_id, task_id):
    api.image_delete_property_atomic(image_id, compat.LOCK_PROPERTY, task_id)


def test_the_holder_of_a_lock_is_the_task_that_took_it():
    image_id, other = _image('one', properties={'os': 'plan9'}), _image('two')
    assert records.lock_holder(image_id) is None
    _lock(other, 'other task')
    assert records.lock_holder(image_id) is None
    _lock(image_id, 'task')
    assert records.lock_holder(image_id) == 'task'
    _unlock(image_id, 'task')
    assert records.lock_holder(image_id) is None
    _lock(image_id, 'later task')
    assert records.lock_holder(image_id) == 'later task'


def test_an_image_that_is_unknown_or_deleted_has_no_lock():
    image_id = _image('one')
    _lock(image_id, 'task')
    _delete(image_id)
    assert records.lock_holder(image_id) is None
    assert records.lock_holder(str(uuid.uuid4())) is None


def test_a_lock_that_was_purged_with_other_properties_is_none():
    image_id = _image('one', properties={compat.LOCK_PROPERTY: 'task'})
    assert records.lock_holder(image_id) == 'task'
    api.image_update(_admin(), image_id, {'properties': {}},
                     purge_props=True)
    assert records.lock_holder(image_id) is None
    assert records.locks() == []


def test_all_locks_are_listed_of_images_of_any_kind():
    expected = []
    for number, visibility in enumerate(VISIBILITIES):
        for status in ('importing', 'active'):
            image_id = _image('locked', visibility, status=status,
                              os_hidden=bool(number % 2),
                              properties={'os': 'plan9'})
            _lock(image_id, f'task {image_id}')
            expected.append((image_id, f'task {image_id}'))
    _image('free', properties={'os_glance_importing_to_stores': 'near'})
    assert sorted(records.locks()) == sorted(expected)


def test_locks_that_were_given_back_or_are_of_deleted_images_are_not_listed():
    given_back, deleted, kept = (_image(name) for name in 'abc')
    for image_id in (given_back, deleted, kept):
        _lock(image_id, 'task')
    _unlock(given_back, 'task')
    _delete(deleted)
    assert records.locks() == [(kept, 'task')]


@pytest.fixture
def sought(monkeypatch):
    """How often the primary was asked, as the length of a list."""
    found, session = [], compat.session_for_write

    def counted():
        found.append(True)
        return session()

    monkeypatch.setattr(compat, 'session_for_write', counted)
    return found


def test_a_lock_is_given_on_by_its_holder_alone(sought):
    image_id, other = _image('one'), _image('other')
    for each in (image_id, other):
        _lock(each, 'task')
    assert not records.take_lock(image_id, 'another', 'taken')
    assert records.lock_holder(image_id) == 'task'
    assert records.take_lock(image_id, 'task', 'taken')
    assert records.lock_holder(image_id) == 'taken'
    assert not records.take_lock(image_id, 'task', 'taken again')
    assert records.lock_holder(image_id) == 'taken'
    assert records.lock_holder(other) == 'task'
    assert len(sought) == 7


def test_a_lock_that_was_given_on_is_not_the_former_holders_any_more():
    image_id = _image('one')
    _lock(image_id, 'task')
    records.take_lock(image_id, 'task', 'taken')
    with pytest.raises(compat.exception.NotFound):
        _unlock(image_id, 'task')
    _unlock(image_id, 'taken')
    assert records.lock_holder(image_id) is None


def test_a_lock_that_is_given_back_can_not_be_taken_over():
    image_id = _image('one')
    assert not records.take_lock(image_id, 'task', 'taken')
    _lock(image_id, 'task')
    _unlock(image_id, 'task')
    assert not records.take_lock(image_id, 'task', 'taken')
    assert not records.take_lock(str(uuid.uuid4()), 'task', 'taken')
    assert records.lock_holder(image_id) is None
    _lock(image_id, 'later task')
    assert records.lock_holder(image_id) == 'later task'


def test_a_lock_of_a_deleted_image_can_not_be_taken_over():
    image_id = _image('one')
    _lock(image_id, 'task')
    _delete(image_id)
    assert not records.take_lock(image_id, 'task', 'taken')


def test_no_other_property_is_taken_for_a_lock():
    image_id = _image('one', properties={'os': 'task'})
    assert not records.take_lock(image_id, 'task', 'taken')
    _lock(image_id, 'task')
    assert records.take_lock(image_id, 'task', 'taken')
    properties = {each['name']: each['value']
                  for each in records.find_image(image_id)['properties']}
    assert properties == {'os': 'task', compat.LOCK_PROPERTY: 'taken'}


# What is changed under a condition

def test_a_status_is_changed_if_it_is_what_it_is_taken_for():
    image_id, other = _image('one', status='saving'), _image(
        'other', status='saving')
    records.set_status(image_id, 'queued', 'saving')
    assert records.status(image_id) == 'queued'
    with pytest.raises(compat.exception.Conflict):
        records.set_status(image_id, 'killed', 'saving')
    assert records.status(image_id) == 'queued'
    assert records.status(other) == 'saving'


def test_a_status_of_a_deleted_image_is_not_changed():
    image_id = _image('one', status='saving')
    _delete(image_id)
    with pytest.raises(compat.exception.GlanceException):
        records.set_status(image_id, 'queued', 'saving')
    assert records.status(image_id) == 'deleted'


def test_nothing_but_the_status_changes():
    image_id = _image('one', status='saving', properties={'os': 'plan9'})
    before = records.find_image(image_id)
    records.set_status(image_id, 'queued', 'saving')
    after = records.find_image(image_id)
    kept = {*before} - {'status', 'updated_at', 'properties'}
    assert {name: after[name] for name in kept} == {
        name: before[name] for name in kept}
    prop, = after['properties']
    assert (prop['name'], prop['value']) == ('os', 'plan9')


@pytest.mark.parametrize('seconds', [0, 100, 10_000])
def test_an_image_is_as_old_as_its_last_change(seconds, sought):
    image_id = _image('one')
    moment = timeutils.utcnow() - datetime.timedelta(seconds=seconds)
    with api.session_for_write() as session:
        session.query(models.Image).filter_by(id=image_id).update(
            {'updated_at': moment})
    assert seconds <= records.image_age(image_id) < seconds + 90
    assert len(sought) == 1
    records.set_status(image_id, 'deactivated', 'active')
    assert records.image_age(image_id) < 90


def test_an_image_without_a_record_is_of_no_age():
    assert records.image_age(str(uuid.uuid4())) == 0


# Locations

def _urls(image_id):
    return [each['url'] for each in records.locations(image_id)]


def test_locations_are_those_that_are_not_deleted():
    image_id, other = _image('one'), _image('other')
    for name in 'abc':
        _locate(image_id, f'file:///{name}', 'pending')
    _locate(other, 'file:///x')
    found = {each['url']: each for each in records.locations(image_id)}
    assert found['file:///a']['status'] == 'pending'
    assert found['file:///a']['metadata'] == {'store': 'near'}
    api.image_location_delete(_admin(), image_id, found['file:///b']['id'],
                              'deleted')
    assert records.set_location_deleted(found['file:///c']['id'], True)
    assert _urls(image_id) == ['file:///a']


def test_locations_of_an_image_that_is_not_there_are_an_error():
    with pytest.raises(compat.exception.NotFound):
        records.locations(str(uuid.uuid4()))


def test_a_location_is_taken_off_by_one_of_all_who_try(sought):
    image_id = _image('one')
    for name in 'ab':
        _locate(image_id, f'file:///{name}')
    first = records.locations(image_id)[0]
    assert [records.set_location_deleted(first['id'], True)
            for _ in range(3)] == [True, False, False]
    assert len(sought) == 3
    assert not records.is_recorded(first['url'])
    assert len(_urls(image_id)) == 1


def test_a_location_is_given_back_once():
    image_id = _image('one')
    _locate(image_id, 'file:///a')
    location, = records.locations(image_id)
    assert not records.set_location_deleted(location['id'], False)
    records.set_location_deleted(location['id'], True)
    assert records.set_location_deleted(location['id'], False)
    assert not records.set_location_deleted(location['id'], False)
    assert records.locations(image_id) == [location]
    assert records.is_recorded('file:///a')


def test_what_glance_itself_takes_off_is_not_taken_off_again():
    image_id = _image('one')
    _locate(image_id, 'file:///a')
    location, = records.locations(image_id)
    api.image_location_delete(_admin(), image_id, location['id'], 'deleted')
    assert not records.set_location_deleted(location['id'], True)


def test_the_locations_of_an_image_are_loaded_with_it():
    image_id = _image('one', locations=[
        {'url': f'file:///{store}', 'metadata': {'store': store},
         'status': 'active'} for store in ('near', 'far')])
    image = records.load_image(image_id)
    assert (image.image_id, image.size) == (image_id, 1 << 20)
    assert (image.os_hash_algo, image.os_hash_value) == ('sha512', 'd1')
    assert {location['metadata']['store'] for location in image.locations
            } == {'near', 'far'}


# Tasks, by which those who compute digests find each other

def _task(image_id, silent_for):
    """Record a task that has ended; returns its id."""
    task_id = api.task_create(_admin(), {
        'type': 'api_image_import', 'status': 'success', 'input': {},
        'owner': 'somebody', 'image_id': image_id, 'user_id': 'u',
        'request_id': 'r', 'message': 'Converted'})['id']
    moment = timeutils.utcnow() - datetime.timedelta(seconds=silent_for)
    with api.session_for_write() as session:
        session.query(models.Task).filter_by(id=task_id).update(
            {'updated_at': moment})
    return task_id


def test_the_last_task_of_an_image_is_the_one_last_at_work():
    image_id = _image('one')
    _task(image_id, 3000)
    youngest = _task(image_id, 1000)
    _task(image_id, 2000)
    _task(_image('two'), 0)
    found = records.last_task(image_id)
    assert found['id'] == youngest
    assert 1000 <= records.age(found) < 1100


def test_an_image_without_a_task_has_none():
    assert records.last_task(_image('one')) is None


def test_a_task_that_is_touched_is_young_and_the_same():
    image_id = _image('one')
    task_id = _task(image_id, 1000)
    records.touch_task(task_id)
    found = records.last_task(image_id)
    assert records.age(found) < 100
    assert (found['status'], found['message']) == ('success', 'Converted')
    records.touch_task(str(uuid.uuid4()))       # one that is gone


def test_who_computes_digests_keeps_saying_so(monkeypatch):
    said = queue.Queue()
    monkeypatch.setattr(records, 'touch_task', said.put)
    monkeypatch.setattr(background, '_BEAT_SECONDS', 0.01)
    with background.at_work('task'):
        assert [said.get(timeout=10) for _ in range(3)] == ['task'] * 3


def test_a_database_that_is_away_does_not_stop_who_computes(monkeypatch):
    tried = queue.Queue()

    def fail(task_id):
        tried.put(task_id)
        raise OSError('away')

    monkeypatch.setattr(records, 'touch_task', fail)
    monkeypatch.setattr(background, '_BEAT_SECONDS', 0.01)
    with background.at_work('task'):
        assert [tried.get(timeout=10) for _ in range(2)] == ['task'] * 2


# What is written

def test_a_task_tells_what_it_was_given_last():
    task_id = databases.add_task('success')
    assert records.find_task(task_id)['message'] == 'Converting'
    for message in ('Converted', 'Converted', 'Copied'):
        records.set_task_message(task_id, message)
        assert records.find_task(task_id)['message'] == message


def test_a_message_that_stands_there_is_not_written_again():
    task_id = databases.add_task('success', age=1000)
    records.set_task_message(task_id, 'Converting')
    assert records.age(records.find_task(task_id)) > 900


def test_a_task_that_was_never_there_is_none():
    assert records.find_task(str(uuid.uuid4())) is None
    records.touch_task(str(uuid.uuid4()))


def test_digests_are_written_once():
    image_id = _image('one', os_hash_value=None, checksum=None)
    records.record_digests(image_id, 'md5', 'sha')
    records.record_digests(image_id, 'other md5', 'other sha')
    found = records.find_image(image_id)
    assert (found['checksum'], found['os_hash_value']) == ('md5', 'sha')
    assert (found['name'], found['status']) == ('one', 'active')


@pytest.mark.parametrize('sha256, recorded', [
    (None, ''), ('5ha', 'sha256:5ha')])
def test_what_was_uploaded_is_written_with_the_digests(sha256, recorded):
    image_id = _image('one', os_hash_value=None, checksum=None, properties={
        'os_glance_conversion_source_hash': '', 'mine': 'a'})
    records.record_digests(image_id, 'md5', 'sha', sha256)
    found = {prop['name']: prop['value'] for prop in
             records.find_image(image_id)['properties'] if not prop['deleted']}
    assert found == {'os_glance_conversion_source_hash': recorded,
                     'mine': 'a'}


@pytest.mark.parametrize('status', ['queued', 'deactivated', 'importing'])
def test_digests_are_only_of_an_active_image(status):
    image_id = _image('one', os_hash_value=None, status=status)
    records.record_digests(image_id, 'md5', 'sha')
    assert records.find_image(image_id)['os_hash_value'] is None


def test_digests_of_an_image_that_is_gone_are_of_no_use():
    image_id = _image('one', os_hash_value=None)
    _delete(image_id)
    records.record_digests(image_id, 'md5', 'sha')
    records.record_digests(str(uuid.uuid4()), 'md5', 'sha')
    assert records.find_image(image_id)['os_hash_value'] is None


# Where an image is

def test_the_stores_of_an_image_are_those_of_its_active_locations():
    image_id = _image('one')
    for store, status in (('near', 'active'), ('far', 'active'),
                          ('new', 'pending'), ('old', 'pending_delete')):
        api.image_location_add(_admin(), image_id, {
            'url': f'rbd://f/{store}/i/snap', 'metadata': {'store': store},
            'status': status})
    assert records.recorded_stores(image_id) == {'near', 'far'}


def test_an_image_that_is_gone_is_in_no_store():
    image_id = _image('one')
    _locate(image_id, 'rbd://f/p/i/snap')
    _delete(image_id)
    assert records.recorded_stores(image_id) == set()
    assert records.recorded_stores(str(uuid.uuid4())) == set()


# Which images owe digests

class _Store:
    def location(self, image_id):
        return f'rbd://fsid/images/{image_id}/snap', {}


@pytest.fixture
def ours(monkeypatch):
    monkeypatch.setattr(registry, 'find',
                        lambda store_id: _Store() if store_id else None)


def _stored(name, pool='images', store='ceph', **values):
    image_id = str(uuid.uuid4())
    return _image(name, id=image_id, locations=[
        {'url': f'rbd://fsid/{pool}/{image_id}/snap', 'status': 'active',
         'metadata': {'store': store}}], **values)


def test_only_what_an_import_of_ours_left_owes_digests(ours):
    pending = _stored('pending', os_hash_value=None)
    _stored('complete')
    # As Nova's snapshots and other locations are added: without an algorithm.
    _stored('foreign', os_hash_value=None, os_hash_algo=None)
    _stored('elsewhere', pool='volumes', os_hash_value=None)
    _stored('of another store', store='', os_hash_value=None)
    assert list(digests.without_digests()) == [pending]


def test_while_somebody_is_at_work_nobody_else_is(ours):
    image_id = _stored('pending', os_hash_value=None)
    _task(image_id, 500)
    assert list(digests.without_digests(600)) == []
    assert list(digests.without_digests(400)) == [image_id]


@pytest.mark.parametrize('disk_format, container, is_wanted, spec', [
    ('raw', 'bare', True, ('sha256', True, True)),
    ('raw', 'bare', False, ('sha256', True, False)),
    ('qcow2', 'bare', True, ('sha256', True, False)),
    ('raw', 'compressed', True, ('sha256', True, False)),
    (None, None, True, ('sha256', True, False))])
def test_what_was_uploaded_is_owed_where_it_is_stored(
        ours, override, monkeypatch, disk_format, container, is_wanted, spec):
    override('source_hash', is_wanted, 'conversion')
    specs = []
    monkeypatch.setattr(digests, 'compute', lambda image_id, stores, spec,
                        *_: specs.append(spec))
    source = 'os_glance_conversion_source_'
    image_id = _stored(
        'pending', os_hash_value=None, os_hash_algo='sha256',
        properties={f'{source}format': disk_format,
                    f'{source}container': container} if container else {})
    digests.catch_up(image_id)
    assert specs == [spec]


def test_digests_that_came_meanwhile_are_left(ours):
    image_id = _stored('complete')
    digests.catch_up(image_id)
    assert records.find_image(image_id)['os_hash_value'] == 'd1'
