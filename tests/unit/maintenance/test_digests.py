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

"""Deferred digests end with the image that they are of."""

import threading

import pytest

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import extent
from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance import digests
from tests.unit import fakes

SPEC = digest.DigestSpec('sha256')
# What takes minutes to digest, and nothing to read.
HUGE = 1 << 40


class _Zeros(fakes.FakeSource):
    """An empty image, however large."""

    def __init__(self, size=HUGE):
        super().__init__('-')
        self.size = size
        self.opened = threading.Event()

    def extents(self, start, length):
        self.opened.set()
        yield extent.Extent(start, length, extent.Kind.HOLE)


class _Store:
    def __init__(self, source):
        self._source = source

    def source(self, image_id):
        return self._source


@pytest.fixture
def recorded(monkeypatch):
    """The stores that Glance has recorded, and what digests it was told."""
    found = {'ceph'}
    found_digests = []
    monkeypatch.setattr(records, 'recorded_stores', lambda _: set(found))
    monkeypatch.setattr(records, 'record_digests',
                        lambda image_id, *told: found_digests.append(told))
    monkeypatch.setattr(digests, '_LOOK_SECONDS', 0.05)
    monkeypatch.setattr(digests, '_TURN_SECONDS', 0.05)
    return found, found_digests


def _compute(stores, cancel=cancel_.NEVER):
    """Compute digests on a thread; how that ended is in the list."""
    ended = []

    def run():
        try:
            digests.compute('image', stores, SPEC, None, cancel)
            ended.append(None)
        except Exception as e:
            ended.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, ended


def test_an_image_that_is_deleted_is_read_no_further(recorded):
    stores, told = recorded
    source = _Zeros()
    thread, ended = _compute({'ceph': _Store(source)})
    assert source.opened.wait(60)
    stores.clear()
    thread.join(60)
    assert ended == [None]
    assert told == []


def test_another_store_that_has_it_is_read_then(recorded):
    stores, told = recorded
    stores.add('file')
    source = _Zeros()
    thread, ended = _compute({'ceph': _Store(source),
                              'file': _Store(fakes.FakeSource('AB'))})
    assert source.opened.wait(60)
    stores.remove('ceph')
    thread.join(60)
    assert ended == [None]
    assert len(told) == 1


def test_whoever_is_told_to_stop_says_so(recorded):
    _, told = recorded
    source, cancel = _Zeros(), cancel_.Cancel()
    thread, ended = _compute({'ceph': _Store(source)}, cancel)
    assert source.opened.wait(60)
    cancel.set()
    thread.join(60)
    assert [type(e) for e in ended] == [errors.Cancelled]
    assert told == []


def test_an_image_that_is_deleted_waits_for_no_other(recorded):
    stores, told = recorded
    source = _Zeros()
    with digests._one_at_a_time:
        thread, ended = _compute({'ceph': _Store(source)})
        stores.clear()
        thread.join(60)
        assert ended == [None]
    assert not source.opened.is_set()


def test_a_source_that_fails_is_no_reason_to_be_silent(recorded):
    def fail(offset):
        raise errors.SourceFailed('broken')

    _, told = recorded
    thread, ended = _compute(
        {'ceph': _Store(fakes.FakeSource('AB', before_read=fail))})
    thread.join(60)
    assert [type(e) for e in ended] == [errors.SourceFailed]


def test_a_database_that_is_away_stops_nothing(recorded, monkeypatch):
    """Nobody knows then whether the image is there."""
    _, told = recorded
    looked = threading.Event()
    answers = iter([{'ceph'}])

    def ask(image_id):
        if (answer := next(answers, None)) is None and not looked.is_set():
            looked.set()
            raise OSError('away')
        return {'ceph'} if answer is None else answer

    monkeypatch.setattr(records, 'recorded_stores', ask)

    def before_read(offset):
        assert looked.wait(60)

    thread, ended = _compute(
        {'ceph': _Store(fakes.FakeSource('AB', before_read=before_read))})
    thread.join(60)
    assert ended == [None]
    assert len(told) == 1
