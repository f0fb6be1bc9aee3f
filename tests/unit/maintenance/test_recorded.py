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

import os

import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance import recorded
from glance_conversion_plugins.stores import registry
from tests.unit import file_stores

IMAGE = '11111111-2222-3333-4444-555555555555'


@pytest.fixture
def store(tmp_path, monkeypatch, override):
    override('deployment', 'test', 'conversion')
    folder = tmp_path / 'images'
    folder.mkdir()
    made = file_stores.make(folder)
    # The first is none of ours.
    monkeypatch.setattr(registry, 'identifiers', lambda: ['stock', 'files'])
    monkeypatch.setattr(registry, 'find', {'files': made}.get)
    (folder / IMAGE).write_bytes(b'data')
    return made


@pytest.fixture
def rows(store, monkeypatch):
    """Rows of locations that are not deleted, by their ids."""
    found = {1: {'id': 1, 'url': store.location(IMAGE)[0], 'status': 'active',
                 # It was renamed since.
                 'metadata': {'store': 'of old'}}}
    gone = {}

    def set_deleted(row, deleted):
        here, there = (found, gone) if deleted else (gone, found)
        if row not in here:
            return False
        there[row] = here.pop(row)
        return True

    monkeypatch.setattr(records, 'locations', lambda _: [*found.values()])
    monkeypatch.setattr(records, 'set_location_deleted', set_deleted)
    return found


@pytest.fixture
def deleted_by_glance(monkeypatch):
    """What Glance was asked to delete: [(image id, location)]"""
    found = []
    monkeypatch.setattr(compat, 'delete_data',
                        lambda *given: found.append(given))
    return found


def _files(store):
    return os.listdir(store.datadir)


def test_what_a_store_of_ours_has_goes(store, rows):
    recorded.forget(IMAGE)
    assert rows == {}
    assert _files(store) == []


def test_who_dies_before_the_data_is_gone_leaves_a_mark(store, rows,
                                                        monkeypatch):
    def die(mark):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, 'discard', die, raising=False)
    with pytest.raises(KeyboardInterrupt):
        recorded.forget(IMAGE)
    monkeypatch.undo()
    assert rows == {}
    found, = store.marked()
    assert found.is_published and not store.is_open(found)
    store.discard(found.mark)
    assert _files(store) == []


def test_who_comes_late_removes_nothing_that_was_stored_since(store, rows,
                                                              monkeypatch):
    """Somebody else has taken the location off the record."""
    monkeypatch.setattr(records, 'set_location_deleted', lambda *_: False)
    recorded.forget(IMAGE)
    assert IMAGE in _files(store)


@pytest.mark.usefixtures('deleted_by_glance')
def test_what_may_be_of_a_store_that_does_not_answer_stays(store, rows,
                                                           monkeypatch):
    """By its URL it would be removed without a look at whose it is by now."""
    def location(image_id):
        raise errors.SinkFailed('no answer')

    monkeypatch.setattr(store, 'location', location, raising=False)
    with pytest.raises(errors.SinkFailed):
        recorded.forget(IMAGE)
    assert [*rows] == [1]
    assert _files(store) == [IMAGE]


# What is not where a store of ours would put it

@pytest.fixture
def elsewhere(rows):
    rows[1] |= {'url': 'https://elsewhere/image'}
    return dict(rows[1])


def test_what_is_elsewhere_goes_by_its_url(store, rows, elsewhere,
                                           deleted_by_glance):
    recorded.forget(IMAGE)
    assert rows == {}
    assert deleted_by_glance == [(IMAGE, {
        'url': elsewhere['url'], 'metadata': elsewhere['metadata'],
        'status': 'active'})]
    assert _files(store) == [IMAGE]


def test_what_another_one_takes_off_the_record_is_his_to_remove(
        store, rows, elsewhere, deleted_by_glance, monkeypatch):
    """By its URL a later import may have stored by now."""
    monkeypatch.setattr(records, 'locations', lambda _: [elsewhere])
    rows.clear()
    recorded.forget(IMAGE)
    assert deleted_by_glance == []


def test_what_can_not_be_removed_stays_on_the_record(rows, elsewhere,
                                                     monkeypatch):
    def fail(*_):
        raise OSError('no answer')

    monkeypatch.setattr(compat, 'delete_data', fail)
    with pytest.raises(OSError, match='no answer'):
        recorded.forget(IMAGE)
    assert rows == {1: elsewhere}


def test_each_of_several_locations_goes(store, rows, elsewhere,
                                        deleted_by_glance):
    rows[2] = elsewhere | {'id': 2, 'url': store.location(IMAGE)[0]}
    recorded.forget(IMAGE)
    assert rows == {}
    assert _files(store) == []
    assert [location['url'] for _, location in deleted_by_glance] == [
        elsewhere['url']]
