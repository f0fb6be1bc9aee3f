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
    monkeypatch.setattr(registry, 'identifiers', lambda: ['files'])
    monkeypatch.setattr(registry, 'find', {'files': made}.get)
    (folder / IMAGE).write_bytes(b'data')
    return made


@pytest.fixture
def rows(store, monkeypatch):
    """Rows of locations that are not deleted, by their ids."""
    found = {1: {'id': 1, 'url': store.location(IMAGE)[0], 'status': 'active',
                 # It was renamed since.
                 'metadata': {'store': 'of old'}}}
    monkeypatch.setattr(records, 'locations', lambda _: [*found.values()])
    monkeypatch.setattr(records, 'set_location_deleted', lambda row, _: bool(
        found.pop(row, None)))
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
