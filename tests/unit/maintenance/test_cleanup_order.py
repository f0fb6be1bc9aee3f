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

"""What is looked at, and done, in which order before data is removed.

A real store of files, and a real database.
"""

import datetime
import uuid

from glance.db.sqlalchemy import api
from glance.db.sqlalchemy import models
from oslo_utils import timeutils
import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance import recovery
from glance_conversion_plugins.maintenance import unrecorded
from glance_conversion_plugins.stores import liveness
from glance_conversion_plugins.stores import verdict
from tests.unit import databases
from tests.unit import file_stores

LEAVE = verdict.Verdict.LEAVE
HAND_OVER = verdict.Verdict.HAND_OVER
REMOVE = verdict.Verdict.REMOVE
FENCE = verdict.Verdict.FENCE


@pytest.fixture(autouse=True)
def database(tmp_path):
    with databases.glance_database(tmp_path / 'glance.sqlite'):
        yield


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / 'images'
    made.mkdir()
    return made


@pytest.fixture
def store(folder, override):
    override('deployment', 'test', 'conversion')
    return file_stores.make(folder)


def _image(status='saving', lock=None, age=0):
    """Record an image that was changed so long ago; returns its id."""
    image_id = str(uuid.uuid4())
    compat.database().image_create(compat.admin_context(), {
        'id': image_id, 'status': status, 'visibility': 'private',
        'owner': 'somebody', 'min_disk': 0, 'min_ram': 0, 'size': 5,
        'disk_format': 'raw', 'container_format': 'bare',
        'properties': {compat.LOCK_PROPERTY: lock} if lock else {}})
    moment = timeutils.utcnow() - datetime.timedelta(seconds=age)
    with api.session_for_write() as session:
        session.query(models.Image).filter_by(id=image_id).update(
            {'updated_at': moment})
    return image_id


def _record(store, image_id, status='active'):
    compat.database().image_location_add(compat.admin_context(), image_id, {
        'url': store.location(image_id)[0], 'metadata': {},
        'status': 'active'})
    compat.database().image_update(compat.admin_context(), image_id,
                                   {'status': status})


def _sealed(store, image_id, upload_id=None):
    sink = store.sink(image_id, upload_id or str(uuid.uuid4()))
    sink.create(4)
    sink.write(memoryview(b'data'), 0)
    sink.seal()
    return sink


def _published(store, image_id, upload_id=None):
    sink = _sealed(store, image_id, upload_id)
    sink.publish()
    return sink


def _marked(store, dead_after=None):
    return unrecorded.Unrecorded(
        'files', store, recovery.Imports(dead_after, []))


def _remedy(store, found, dead_after=None):
    _marked(store, dead_after)._remove(found)


@pytest.fixture
def after(store, monkeypatch):
    """Lets something happen, once, after a call of the store."""
    def after(name, happens):
        call, pending = getattr(store, name), [happens]

        def called(*given):
            found = call(*given)
            if pending:
                pending.pop()()
            return found

        monkeypatch.setattr(store, name, called)

    return after


# Between being found and being removed

def test_what_was_published_and_recorded_since_is_handed_over(store, folder):
    image_id = _image()
    sink = _sealed(store, image_id)
    found, = store.marked()
    assert not found.is_published
    sink.publish()
    _record(store, image_id)
    sink.release()
    _remedy(store, found)
    assert store.marked() == []
    assert [path.name for path in folder.iterdir()] == [image_id]
    assert (folder / image_id).read_bytes() == b'data'
    assert records.status(image_id) == 'active'


def test_a_living_writer_is_not_fenced(store):
    image_id = _image()
    sink = _sealed(store, image_id)
    found, = store.marked()
    with pytest.raises(errors.Busy):
        _remedy(store, found, 0)
    sink.publish()
    assert sink.is_held()
    sink.release()


@pytest.mark.parametrize('status', ['queued', 'killed'])
def test_what_is_recorded_once_it_is_fenced_is_given_back(store, folder,
                                                          after, status):
    """As by an import of the same URL by hand."""
    image_id, other = _image(status), _image('active')
    _published(store, image_id).release()
    found, = store.marked()
    after('fence', lambda: compat.database().image_location_add(
        compat.admin_context(), other, {
            'url': store.location(image_id)[0], 'metadata': {},
            'status': 'active'}))
    _remedy(store, found)
    assert store.marked() == []
    assert (folder / image_id).read_bytes() == b'data'


def test_nothing_is_removed_before_glance_can_not_record_it(store, folder,
                                                            monkeypatch):
    image_id, seen = _image(age=10_000), []
    _published(store, image_id).release()
    discard = store.discard

    def discarded(*args):
        seen.append(records.status(image_id))
        discard(*args)

    monkeypatch.setattr(store, 'discard', discarded)
    found, = store.marked()
    _remedy(store, found)
    assert seen == ['killed']
    assert [*folder.iterdir()] == []


def test_nothing_changes_in_glance_before_its_writer_is_shut_out(store,
                                                                 after):
    image_id, seen = _image(), []
    _sealed(store, image_id).release()
    after('fence', lambda: seen.append(records.status(image_id)))
    found, = store.marked()
    _remedy(store, found)
    assert seen == ['saving']
    assert records.status(image_id) == 'queued'
    assert store.marked() == []


def test_what_can_not_be_fenced_is_left(store, folder, monkeypatch):
    image_id = _image(age=10_000)
    _published(store, image_id).release()
    found, = store.marked()
    monkeypatch.setattr(store, 'fence', lambda mark: False)
    _remedy(store, found)
    assert records.status(image_id) == 'saving'
    assert (folder / image_id).exists()
    assert store.marked() == [found]


def test_an_upload_that_is_recorded_just_then_is_kept(store, folder,
                                                      monkeypatch):
    """After the last look, before its status can be taken away."""
    image_id = _image(age=10_000)
    _published(store, image_id).release()
    found, = store.marked()
    end_upload = recovery.end_upload

    def too_late(*given):
        _record(store, image_id)
        end_upload(*given)

    monkeypatch.setattr(recovery, 'end_upload', too_late)
    with pytest.raises(errors.Busy):
        _remedy(store, found)
    assert records.status(image_id) == 'active'
    assert (folder / image_id).read_bytes() == b'data'
    now, = store.marked()
    _remedy(store, now)
    assert store.marked() == []
    assert (folder / image_id).read_bytes() == b'data'


def test_what_is_recorded_elsewhere_just_then_is_given_back(store, folder,
                                                           monkeypatch):
    """Once more is looked, after the upload has been ended."""
    image_id, other = _image(age=10_000), _image('active')
    _published(store, image_id).release()
    found, = store.marked()
    end_upload = recovery.end_upload

    def ended(*given):
        end_upload(*given)
        compat.database().image_location_add(compat.admin_context(), other, {
            'url': store.location(image_id)[0], 'metadata': {},
            'status': 'active'})

    monkeypatch.setattr(recovery, 'end_upload', ended)
    _remedy(store, found)
    assert store.marked() == []
    assert (folder / image_id).read_bytes() == b'data'


# What becomes of an image that is uploaded

@pytest.mark.parametrize(('write', 'age', 'is_dead', 'expected'), [
    # Not complete: it can not be recorded.
    (_sealed, 0, False, 'queued'), (_sealed, 10_000, False, 'queued'),
    (_sealed, 0, True, 'queued'),
    # It might wake, and be taken for a later one.
    (_published, 10_000, False, 'killed'),
    (_published, 10_000, True, 'queued'), (_published, 0, True, 'queued')])
def test_only_one_that_can_not_wake_may_be_repeated(
        store, folder, monkeypatch, write, age, is_dead, expected):
    upload_id = liveness.new_id()
    monkeypatch.setattr(liveness, 'is_dead', lambda name: is_dead and (
        name == upload_id))
    image_id = _image(age=age)
    write(store, image_id, upload_id).release()
    found, = store.marked()
    _remedy(store, found)
    assert records.status(image_id) == expected
    assert [*folder.iterdir()] == []


def test_one_that_may_wake_soon_is_left_if_it_is_complete(store, folder):
    image_id = _image()
    _published(store, image_id).release()
    found, = store.marked()
    with pytest.raises(errors.Busy):
        _remedy(store, found)
    assert records.status(image_id) == 'saving'
    assert (folder / image_id).read_bytes() == b'data'
    assert store.marked() == [found]


# Several of one image

def test_what_an_earlier_upload_left_does_not_end_a_living_one(store):
    image_id = _image(age=10_000)
    _sealed(store, image_id).release()
    alive = _sealed(store, image_id)
    marked = _marked(store, 0)
    for found, decided in marked._judged().items():
        if decided is not LEAVE:
            assert decided is REMOVE
            marked._remove(found)
    assert records.status(image_id) == 'saving'
    assert len(store.marked()) == 1
    alive.publish()
    assert alive.is_held()
    alive.release()


def test_of_two_dead_uploads_each_is_removed(store, folder):
    image_id = _image(age=10_000)
    for _ in range(2):
        _sealed(store, image_id).release()
    for found in store.marked():
        _remedy(store, found)
    assert [*folder.iterdir()] == []
    assert records.status(image_id) == 'queued'


# Marks without an image

def test_a_mark_without_its_image_does_not_end_the_search(store, folder):
    """Where files have one name only, a discard may die in the middle."""
    orphan = marks.Mark(_image('active'), str(uuid.uuid4()), 'deadbeef')
    (folder / f'.{orphan.name(marks.SEALED)}').touch()
    _sealed(store, _image('queued')).release()
    judged = _marked(store)._judged()
    assert {found.mark.is_same(orphan): decided
            for found, decided in judged.items()} == {
                True: LEAVE, False: REMOVE}


@pytest.mark.parametrize('name', ['location', 'is_open'])
def test_what_is_gone_by_the_time_it_is_looked_at_is_no_failure(
        store, folder, monkeypatch, name):
    image_id = _image('queued')
    sink = _published(store, image_id)
    sink.release()
    call = getattr(store, name)

    def gone(*given):
        sink.abort()
        return call(*given)

    found, = store.marked()
    monkeypatch.setattr(store, name, gone)
    _remedy(store, found)
    assert store.marked() == []
    assert [*folder.iterdir()] == []


# What is decided of each

@pytest.mark.parametrize(('write', 'status', 'dead_after', 'expected'), [
    (_sealed, 'saving', None, FENCE), (_sealed, 'saving', 0, FENCE),
    (_published, 'saving', None, LEAVE), (_published, 'saving', 0, FENCE),
    (_sealed, 'queued', None, REMOVE), (_published, 'queued', None, REMOVE),
    (_sealed, 'active', None, REMOVE), (_published, 'active', None, LEAVE),
    # Nobody has its lock.
    (_sealed, 'importing', None, REMOVE),
    (_published, 'importing', None, LEAVE)])
def test_what_was_found_is_judged_by_all_that_is_known(
        store, write, status, dead_after, expected):
    write(store, _image(status)).release()
    decided, = _marked(store, dead_after)._judged().values()
    assert decided is expected


@pytest.mark.parametrize('lock', ['', '.clean-up'])
def test_an_import_is_known_by_its_lock_taken_over_or_not(store, lock):
    task_id = str(uuid.uuid4())
    _sealed(store, _image('importing', task_id + lock), task_id).release()
    decided, = _marked(store)._judged().values()
    assert decided is FENCE


def test_an_import_without_the_lock_is_not_what_glance_waits_for(store):
    _sealed(store, _image('importing', 'another')).release()
    decided, = _marked(store)._judged().values()
    assert decided is REMOVE
