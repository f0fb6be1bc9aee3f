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

"""Dead imports in a real database of Glance: which are, and what is undone."""

import contextlib
import datetime
import io
import socket
import types
import uuid

from glance.common import store_utils
from glance.db.sqlalchemy import api
from glance.db.sqlalchemy import models
import glance_store
from glance_store import location
from oslo_config import cfg
from oslo_utils import timeutils
import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance import recovery
from glance_conversion_plugins.stores import liveness
from glance_conversion_plugins.stores import placeholder
from glance_conversion_plugins.stores import verdict
from tests.unit import databases

CONF = cfg.CONF

ALIVE = verdict.Writer.ALIVE
SILENT = verdict.Writer.SILENT
ENDED = verdict.Writer.ENDED
LOST = verdict.Writer.LOST
DEAD = verdict.Writer.DEAD

INTERRUPTED = ('The import was interrupted; upload the image and import it '
               'again.')
TOO_LATE = 'The import was interrupted after the image was complete.'

RUNNING = ['pending', 'processing']
OVER = ['success', 'failure']

TAKEN = '.clean-up'


@pytest.fixture(autouse=True)
def database(tmp_path):
    with databases.glance_database(tmp_path / 'glance.sqlite'):
        yield


@pytest.fixture(autouse=True)
def slept(monkeypatch):
    """How long it was waited for, which no test does."""
    slept = []
    _instead_of_sleep(monkeypatch, slept.append)
    return slept


def _instead_of_sleep(monkeypatch, happens):
    # Only there: the database's own library sleeps too.
    monkeypatch.setattr(recovery, 'time',
                        types.SimpleNamespace(sleep=happens))


def _image(status='importing', lock=None, *, locations=(), **values):
    """Record an image; returns its id."""
    image_id = str(uuid.uuid4())
    properties = values.pop('properties', {})
    if lock:
        properties = properties | {compat.LOCK_PROPERTY: lock}
    compat.database().image_create(compat.admin_context(), {
        'id': image_id, 'status': status, 'visibility': 'private',
        'owner': 'somebody', 'min_disk': 0, 'min_ram': 0, 'size': 5,
        'virtual_size': 6, 'disk_format': 'raw', 'container_format': 'bare',
        'checksum': 'c', 'os_hash_algo': 'sha512', 'os_hash_value': 'h',
        'properties': properties} | values)
    for each in locations:
        compat.database().image_location_add(compat.admin_context(),
                                             image_id, each)
    return image_id


def _task(status='processing', age=0., image_id=None,
          kind='api_image_import', task_id=None):
    """Record a task that was last at work so long ago; returns its id."""
    task_id = task_id or str(uuid.uuid4())
    compat.database().task_create(compat.admin_context(), {
        'id': task_id, 'type': kind, 'status': status, 'input': {},
        'owner': 'somebody', 'image_id': image_id, 'user_id': 'u',
        'request_id': 'r', 'message': 'Converting'})
    moment = timeutils.utcnow() - datetime.timedelta(seconds=age)
    with api.session_for_write() as session:
        session.query(models.Task).filter_by(id=task_id).update(
            {'updated_at': moment})
    return task_id


def _header(task_id, host='elsewhere'):
    return placeholder.Header('image', task_id, 'qcow2', 'docker', host)


def _imports(dead_after=None, *abandoned):
    return recovery.Imports(dead_after, [_header(t) for t in abandoned])


def _properties(image_id):
    return {prop['name']: prop['value']
            for prop in records.find_image(image_id)['properties']
            if not prop['deleted']}


def _everything(image_id, task_id):
    """All that a recovery could change."""
    image, task = records.find_image(image_id), records.find_task(task_id)
    return ({name: image[name] for name in (
        'status', 'size', 'virtual_size', 'checksum', 'os_hash_algo',
        'os_hash_value', 'disk_format', 'container_format', 'deleted')},
        _properties(image_id), _urls(image_id),
        task and (task['status'], task['message']))


def _urls(image_id):
    with api.session_for_read() as session:
        return sorted(row.value for row in session.query(
            models.ImageLocation).filter_by(image_id=image_id, deleted=False)
            if row.status not in ('deleted', 'pending_delete'))


# Who writes an image whose lease is free

def _age(image_id, seconds):
    """Let the record of an image have been changed so long ago."""
    moment = timeutils.utcnow() - datetime.timedelta(seconds=seconds)
    with api.session_for_write() as session:
        session.query(models.Image).filter_by(id=image_id).update(
            {'updated_at': moment})


def _writer(task_id, dead_after=None, *abandoned, image_id='no image'):
    return _imports(dead_after, *abandoned).writer(task_id, image_id)


@pytest.mark.parametrize(('dead_after', 'age', 'expected'), [
    (None, 0, SILENT), (None, 3590, SILENT), (None, 3600, LOST),
    (30, 20, SILENT), (30, 30, LOST), (0, 0, LOST),
    (10_000, 9000, SILENT), (10_000, 10_000, LOST)])
def test_an_upload_is_silent_until_its_image_has_not_changed_for_long(
        dead_after, age, expected):
    image_id = _image('saving')
    _age(image_id, age)
    assert _writer(liveness.new_id(), dead_after,
                   image_id=image_id) is expected


def test_an_upload_to_an_image_without_a_record_is_silent():
    assert _writer(liveness.new_id()) is SILENT


@pytest.mark.parametrize('age', [0, 10_000])
def test_an_upload_whose_process_is_gone_is_dead(monkeypatch, age):
    image_id = _image('saving')
    _age(image_id, age)
    dead, other = liveness.new_id(), liveness.new_id()
    monkeypatch.setattr(liveness, 'is_dead', lambda name: name == dead)
    assert _writer(dead, image_id=image_id) is DEAD
    assert _writer(other, image_id=image_id) is (LOST if age else SILENT)


@pytest.mark.parametrize(('age', 'expected'), [
    (0, ALIVE), (590, ALIVE), (600, SILENT), (3590, SILENT), (3600, LOST),
    (10_000, LOST)])
@pytest.mark.parametrize('status', RUNNING)
def test_a_writer_lives_until_its_task_is_silent(status, age, expected):
    assert _writer(_task(status, age)) is expected


@pytest.mark.parametrize(('age', 'expected'), [
    (0, ALIVE), (50, ALIVE), (60, ENDED), (3590, ENDED), (3600, LOST)])
@pytest.mark.parametrize('status', OVER)
def test_a_writer_has_ended_a_while_after_its_task(status, age, expected):
    assert _writer(_task(status, age)) is expected


@pytest.mark.parametrize(('age', 'expected'), [
    (0, ALIVE), (50, ALIVE), (60, SILENT), (590, SILENT), (3600, LOST)])
def test_a_writer_whose_placeholder_is_abandoned_is_silent_sooner(age,
                                                                  expected):
    """A file server may have forgotten a lock of another host."""
    task_id = _task('processing', age)
    assert _writer(task_id, None, task_id) is expected
    # That of another import says nothing.
    if age < 600:
        assert _writer(task_id, None, 'other') is ALIVE


@pytest.mark.parametrize('status', RUNNING + OVER)
@pytest.mark.parametrize('age', [0, 10_000])
def test_a_writer_of_this_host_whose_placeholder_is_abandoned_is_dead(status,
                                                                      age):
    """The kernel itself has let go of the lock."""
    task_id = _task(status, age)
    here = recovery.Imports(None, [_header(task_id, socket.gethostname())])
    assert here.writer(task_id, 'no image') is DEAD
    assert here.writer(_task(), 'no image') is ALIVE


def test_a_version_that_did_not_say_where_leaves_it_open():
    task_id = _task(age=60)
    assert recovery.Imports(None, [_header(task_id, '')]).writer(
        task_id, 'no image') is SILENT


def test_only_what_is_certain_is_gone(monkeypatch):
    here, there, ours = (str(uuid.uuid4()) for _ in range(3))
    upload = liveness.new_id()
    imports = recovery.Imports(0, [_header(here, socket.gethostname()),
                                   _header(there)])
    monkeypatch.setattr(liveness, 'is_dead', lambda name: name == upload)
    assert [imports.is_gone(each) for each in (here, there, ours, upload)
            ] == [True, False, False, True]


@pytest.mark.parametrize(('dead_after', 'age', 'expected'), [
    (0, 0, LOST), (30, 20, ALIVE), (30, 30, LOST),
    (3000, 600, SILENT), (3000, 3000, LOST),
    # More than what is known of ours changes nothing.
    (10_000, 590, ALIVE), (10_000, 9000, SILENT), (10_000, 10_000, LOST)])
def test_the_operator_may_say_how_long_a_writer_may_be_silent(
        dead_after, age, expected):
    assert _writer(_task('processing', age), dead_after) is expected


@pytest.mark.parametrize(('dead_after', 'age', 'expected'), [
    (0, 0, LOST), (30, 20, ALIVE), (30, 40, LOST), (3000, 60, SILENT),
    (3000, 3000, LOST)])
def test_the_operator_may_say_so_of_an_abandoned_one_too(dead_after, age,
                                                         expected):
    task_id = _task('processing', age)
    assert _writer(task_id, dead_after, task_id) is expected


# Which locks dead imports hold

def _dead(age, status='processing', dead_after=None, abandoned=False,
          kind='api_image_import'):
    """Whether an import is dead whose task has been silent for so long."""
    task_id = _task(status, age, kind=kind)
    image_id = _image(lock=task_id)
    found = _imports(dead_after, *[task_id] * abandoned).dead()
    assert found in ([], [(image_id, task_id)])
    return bool(found)


@pytest.mark.parametrize(('age', 'expected'), [
    (0, False), (700, False), (3590, False), (3600, True)])
def test_an_import_is_dead_when_glance_says_so(age, expected):
    assert _dead(age) is expected


@pytest.mark.parametrize(('age', 'expected'), [
    (3600, False), (7190, False), (7200, True)])
def test_one_that_has_not_begun_has_twice_as_long(age, expected):
    assert _dead(age, 'pending') is expected


@pytest.mark.parametrize(('age', 'expected'), [(50, False), (60, True)])
@pytest.mark.parametrize('status', OVER)
def test_one_that_has_ended_has_a_moment_to_let_go(status, age, expected):
    assert _dead(age, status) is expected


@pytest.mark.parametrize(('age', 'expected'), [(50, False), (60, True)])
@pytest.mark.parametrize('status', RUNNING)
def test_one_whose_placeholder_is_abandoned_is_dead_soon(status, age,
                                                         expected):
    assert _dead(age, status, abandoned=True) is expected


@pytest.mark.parametrize(('status', 'dead_after', 'age', 'expected'), [
    ('processing', 0, 0, True), ('processing', 100, 90, False),
    ('processing', 100, 100, True), ('processing', 10_000, 9000, False),
    ('pending', 100, 190, False), ('pending', 100, 200, True),
    ('success', 30, 20, False), ('success', 30, 30, True),
    ('success', 10_000, 60, True)])
def test_the_operator_may_say_when_an_import_is_dead(status, dead_after, age,
                                                     expected):
    assert _dead(age, status, dead_after) is expected


@pytest.mark.parametrize(('dead_after', 'age', 'expected'), [
    (0, 0, True), (30, 20, False), (30, 30, True), (10_000, 60, True)])
def test_the_operator_may_say_so_of_one_that_is_abandoned(dead_after, age,
                                                          expected):
    assert _dead(age, dead_after=dead_after, abandoned=True) is expected


@pytest.mark.parametrize('status', RUNNING + OVER)
@pytest.mark.parametrize('kind', ['import', 'export', 'clone',
                                  'location_import'])
def test_tasks_of_another_type_never_count_as_dead(kind, status):
    assert not _dead(1_000_000, status, dead_after=0, kind=kind)
    assert not _dead(1_000_000, status, abandoned=True, kind=kind)


LEFT = 'gone.clean-up'


@pytest.mark.parametrize(('age', 'dead_after', 'expected'), [
    (0, None, False), (590, None, False), (600, None, True),
    (90, 100, False), (100, 100, True), (600, 10_000, True)])
def test_a_lock_without_a_task_is_a_dead_one_once_it_is_old(
        slept, age, dead_after, expected):
    """Glance sets it before it adds the task, and may pause in between."""
    image_id = _image(lock='gone')
    databases.age_lock(image_id, age)
    assert _imports(dead_after).dead() == [(image_id, 'gone')] * expected
    assert slept == []


@pytest.mark.parametrize('status', RUNNING)
def test_the_lock_of_an_image_that_was_locked_before_is_as_old_as_it_is(
        slept, status):
    image_id = _image(lock='gone')
    databases.age_lock(image_id, 10_000)
    api.image_delete_property_atomic(image_id, compat.LOCK_PROPERTY, 'gone')
    assert records.lock_age(image_id) == 0
    api.image_set_property_atomic(image_id, compat.LOCK_PROPERTY, 'new')
    assert _imports().dead() == []
    _task(status, task_id='new')
    assert _imports().dead() == []


def test_a_lock_that_a_clean_up_left_is_a_dead_one(slept):
    image_id = _image(lock=LEFT)
    assert _imports().dead() == [(image_id, LEFT)]
    assert slept == [3]


def test_nobody_waits_where_every_lock_has_its_task(slept):
    assert _dead(3600)
    assert slept == []


def test_a_lock_that_goes_a_moment_later_is_none(monkeypatch):
    image_id, other = _image(lock=LEFT), _image(lock='other.clean-up')

    def sleep(_):
        api.image_delete_property_atomic(image_id, compat.LOCK_PROPERTY,
                                         LEFT)

    _instead_of_sleep(monkeypatch, sleep)
    assert _imports().dead() == [(other, 'other.clean-up')]


def test_a_lock_that_another_task_has_a_moment_later_is_not_the_dead_ones(
        monkeypatch):
    image_id = _image(lock=LEFT)

    def sleep(_):
        api.image_delete_property_atomic(image_id, compat.LOCK_PROPERTY,
                                         LEFT)
        api.image_set_property_atomic(image_id, compat.LOCK_PROPERTY, _task())

    _instead_of_sleep(monkeypatch, sleep)
    assert _imports().dead() == []


def test_an_import_that_comes_to_life_a_moment_later_is_not_dead(monkeypatch):
    task_id = _task(age=10_000)
    _image(lock=task_id)
    gone = _image(lock=LEFT), LEFT
    _instead_of_sleep(monkeypatch, lambda _: records.touch_task(task_id))
    assert _imports().dead() == [gone]


def test_every_dead_import_is_found_and_no_living_one():
    ages = {age: _task(age=age) for age in (0, 1000, 4000, 5000)}
    ids = {age: _image(lock=task_id) for age, task_id in ages.items()}
    _image('active')
    deleted = _image(lock=_task(age=9000))
    compat.database().image_destroy(compat.admin_context(), deleted)
    assert sorted(_imports().dead()) == sorted(
        (ids[age], ages[age]) for age in (4000, 5000))


# What becomes of the image of a dead import

def _locked(status='importing', task_status='processing', **values):
    """An image, and the task that imports it."""
    task_id = _task(task_status, age=10_000)
    properties = {compat.IMPORTING_PROPERTY: 'far,near', 'os': 'plan9'}
    return _image(status, task_id, properties=properties, **values), task_id


def _release(image_id, task_id, *abandoned, is_published=False):
    _imports(None, *abandoned).release(image_id, task_id, is_published)


@pytest.mark.parametrize('task_status', RUNNING)
def test_an_image_under_import_goes_back_to_its_owner(task_status):
    image_id, task_id = _locked(task_status=task_status)
    _release(image_id, task_id)
    image, properties, urls, task = _everything(image_id, task_id)
    assert image == {
        'status': 'queued', 'size': None, 'virtual_size': None,
        'checksum': None, 'os_hash_algo': None, 'os_hash_value': None,
        'disk_format': 'raw', 'container_format': 'bare', 'deleted': False}
    assert properties == {compat.IMPORTING_PROPERTY: '', 'os': 'plan9',
                          compat.FAILED_PROPERTY: 'far,near'}
    assert urls == []
    assert task == ('failure', INTERRUPTED)
    assert records.locks() == []


def test_its_formats_are_those_that_its_owner_declared():
    image_id, task_id = _locked()
    _release(image_id, task_id, task_id, 'other')
    image = records.find_image(image_id)
    assert (image['disk_format'], image['container_format']) == (
        'qcow2', 'docker')


@pytest.mark.parametrize('task_status', OVER)
def test_a_task_that_has_ended_keeps_what_it_says(task_status):
    image_id, task_id = _locked(task_status=task_status)
    _release(image_id, task_id)
    task = records.find_task(task_id)
    assert (task['status'], task['message']) == (task_status, 'Converting')
    assert records.status(image_id) == 'queued'
    assert records.lock_holder(image_id) is None


def test_a_task_that_is_gone_is_not_missed():
    image_id = _image(lock='gone')
    _release(image_id, 'gone')
    assert records.status(image_id) == 'queued'
    assert records.lock_holder(image_id) is None


@pytest.mark.parametrize('status', ['active', 'deactivated'])
def test_an_image_that_was_complete_keeps_everything_but_the_lock(status):
    """A copy into further stores has died, or an import at its very end."""
    image_id, task_id = _locked(status)
    before, properties, _, _ = _everything(image_id, task_id)
    _release(image_id, task_id)
    after = _everything(image_id, task_id)
    assert after[0] == before
    assert after[1] == {compat.IMPORTING_PROPERTY: '', 'os': 'plan9'}
    assert after[3] == ('failure', TOO_LATE)
    assert records.lock_holder(image_id) is None


def test_of_an_image_that_is_only_staged_nobody_says_that_it_is_complete():
    """Its import died before it began, and may be asked for again."""
    image_id, task_id = _locked('uploading', 'pending')
    _release(image_id, task_id)
    assert records.status(image_id) == 'uploading'
    assert records.lock_holder(image_id) is None
    assert records.find_task(task_id)['message'] == INTERRUPTED


def test_an_image_that_went_back_before_loses_the_lock_only():
    """Who did so the last time may have died before the end of it."""
    image_id, task_id = _locked('queued')
    _release(image_id, task_id)
    assert records.status(image_id) == 'queued'
    assert records.find_task(task_id)['message'] == INTERRUPTED
    assert records.lock_holder(image_id) is None


def test_once_released_there_is_nothing_more_to_release():
    image_id, task_id = _locked()
    _release(image_id, task_id)
    before = _everything(image_id, task_id)
    _release(image_id, task_id)
    assert _everything(image_id, task_id) == before


@pytest.mark.parametrize('holder', ['another', 'another' + TAKEN])
@pytest.mark.parametrize('status', ['importing', 'active', 'queued'])
def test_what_another_task_imports_is_not_touched(status, holder):
    task_id = _task(age=10_000)
    image_id = _image(status, holder, locations=[_pending()],
                      properties={compat.IMPORTING_PROPERTY: 'far'})
    before = _everything(image_id, task_id)
    with pytest.raises(errors.Busy):
        _release(image_id, task_id)
    assert _everything(image_id, task_id) == before


@pytest.mark.parametrize('status', ['importing', 'active', 'queued'])
def test_what_nobody_imports_any_more_is_not_touched(status):
    task_id = _task(age=10_000)
    image_id = _image(status, locations=[_pending()],
                      properties={compat.IMPORTING_PROPERTY: 'far'})
    before = _everything(image_id, task_id)
    _release(image_id, task_id)
    assert _everything(image_id, task_id) == before


@pytest.mark.parametrize('as_found', ['', TAKEN])
@pytest.mark.parametrize('status', ['importing', 'queued'])
def test_what_another_agent_began_to_release_is_gone_on_with(status,
                                                             as_found):
    """Whoever took the lock over may have died at any moment."""
    task_id = _task(age=10_000)
    image_id = _image(status, task_id + TAKEN, locations=[_pending()])
    _release(image_id, task_id + as_found)
    assert records.status(image_id) == 'queued'
    assert _urls(image_id) == []
    assert records.find_task(task_id)['message'] == INTERRUPTED
    assert records.lock_holder(image_id) is None


def test_a_lock_that_was_taken_over_is_a_dead_one(slept):
    task_id = _task(age=0)
    image_id = _image(lock=task_id + TAKEN)
    assert _imports().dead() == [(image_id, task_id + TAKEN)]
    assert slept == [3]


@pytest.mark.parametrize(('lock', 'expected'), [
    ('task', True), ('task' + TAKEN, True), ('another', False),
    ('another' + TAKEN, False), ('tas', False), (TAKEN, False), ('', False),
    (None, False), ('task' + TAKEN * 2, False)])
def test_a_lock_tells_whose_it_is_taken_over_or_not(lock, expected):
    assert recovery.is_lock_of(lock, 'task') is expected


# An import that is complete in its store, and may only sleep

def test_one_that_may_wake_loses_the_image_for_good():
    """It would take a later import's place, could that ever begin."""
    image_id, task_id = _locked(locations=[_pending()])
    before = _everything(image_id, task_id)
    _release(image_id, task_id, task_id, is_published=True)
    image, properties, urls, task = _everything(image_id, task_id)
    assert image == before[0] | {'status': 'killed'}
    assert properties[compat.IMPORTING_PROPERTY] == 'far,near'
    assert urls == []
    assert task == ('failure', INTERRUPTED)
    assert records.lock_holder(image_id) is None


@pytest.mark.parametrize('how', ['here', 'dead'])
def test_one_that_is_gone_for_certain_may_be_imported_again(monkeypatch, how):
    image_id, task_id = _locked()
    if how == 'dead':
        monkeypatch.setattr(liveness, 'is_dead', lambda name: name == task_id)
    recovery.Imports(None, [_header(task_id, socket.gethostname())]
                     if how == 'here' else []).release(image_id, task_id,
                                                       is_published=True)
    assert records.status(image_id) == 'queued'
    assert _properties(image_id)[compat.FAILED_PROPERTY] == 'far,near'


@pytest.mark.parametrize('is_published', [True, False])
@pytest.mark.parametrize('status', [
    'queued', 'uploading', 'active', 'deactivated'])
def test_only_what_is_being_imported_changes_its_status(status, is_published):
    image_id, task_id = _locked(status)
    _release(image_id, task_id, is_published=is_published)
    assert records.status(image_id) == status
    assert records.lock_holder(image_id) is None


def test_one_that_wakes_can_not_save_what_was_killed(stores):
    image_id, task_id = _locked()
    repo = compat.image_repo()
    image = repo.get(image_id)
    _set_data(image, stores)
    _release(image_id, task_id, is_published=True)
    with pytest.raises(compat.exception.Conflict):
        repo.save(image, 'importing')
    assert records.status(image_id) == 'killed'


@pytest.fixture
def meanwhile(monkeypatch):
    """Lets something happen as soon as an image's status is known."""
    status = records.status

    def meanwhile(happens):
        waiting = [happens]

        def known(image_id):
            found = status(image_id)
            if waiting:
                waiting.pop()()
            return found

        monkeypatch.setattr(records, 'status', known)

    return meanwhile


@pytest.mark.parametrize(('status', 'message'), [
    ('active', TOO_LATE), ('queued', INTERRUPTED)])
@pytest.mark.parametrize('is_published', [True, False])
def test_an_import_that_ends_meanwhile_keeps_what_it_did(
        meanwhile, status, message, is_published):
    image_id, task_id = _locked()
    before = _everything(image_id, task_id)
    meanwhile(lambda: api.image_update(compat.admin_context(), image_id,
                                       {'status': status}))
    with pytest.raises(compat.exception.Conflict):
        _release(image_id, task_id, is_published=is_published)
    before[0]['status'] = status
    before[1][compat.LOCK_PROPERTY] = task_id + TAKEN
    assert _everything(image_id, task_id) == before
    # As the next pass finds it.
    (found,) = _imports().dead()
    _release(*found)
    assert records.status(image_id) == status
    assert records.find_task(task_id)['message'] == message
    assert records.lock_holder(image_id) is None


@pytest.mark.parametrize('status', ['importing', 'active'])
def test_an_image_that_is_deleted_meanwhile_stays_so(meanwhile, status):
    image_id, task_id = _locked(status)

    def delete():
        api.image_update(compat.admin_context(), image_id,
                         {'status': 'deleted'})
        api.image_destroy(compat.admin_context(), image_id)

    meanwhile(delete)
    with contextlib.suppress(compat.exception.GlanceException):
        _release(image_id, task_id)
    assert records.status(image_id) == 'deleted'
    _release(image_id, task_id)
    assert records.status(image_id) == 'deleted'


def _steal(image_id):
    """Do as Glance does for another import; returns its task.

    It takes a lock that names no task for a stale one.
    """
    later = _task()
    api.image_delete_property_atomic(image_id, compat.LOCK_PROPERTY,
                                     records.lock_holder(image_id))
    api.image_set_property_atomic(image_id, compat.LOCK_PROPERTY, later)
    return later


def test_a_lock_that_is_stolen_meanwhile_is_not_taken_off(meanwhile):
    image_id, task_id = _locked('active')
    later = []
    meanwhile(lambda: later.append(_steal(image_id)))
    _release(image_id, task_id)
    assert [records.lock_holder(image_id)] == later


def test_an_import_that_stole_the_lock_just_before_goes_on(monkeypatch):
    image_id, task_id = _locked()
    take_lock, later = records.take_lock, []

    def take(*names):
        later.append(_steal(image_id))
        return take_lock(*names)

    monkeypatch.setattr(records, 'take_lock', take)
    with pytest.raises(errors.Busy):
        _release(image_id, task_id)
    assert records.status(image_id) == 'importing'
    assert [records.lock_holder(image_id)] == later


def test_the_lock_is_taken_over_before_anything_else_changes(meanwhile):
    """An importer looks at it each time before it saves."""
    image_id, task_id = _locked()
    seen = []
    meanwhile(lambda: seen.append((records.lock_holder(image_id),
                                   records.status(image_id))))
    _release(image_id, task_id)
    assert seen == [(task_id + TAKEN, 'importing')]


def test_the_lock_is_the_last_to_go(monkeypatch):
    """Until then somebody else finds that there is more to do."""
    image_id, task_id = _locked()

    def fail_task(*_):
        raise OSError('away')

    with monkeypatch.context() as patch:
        patch.setattr(compat, 'task_repo', fail_task)
        with pytest.raises(OSError, match='away'):
            _release(image_id, task_id)
    assert records.status(image_id) == 'queued'
    assert _imports().dead() == [(image_id, task_id + TAKEN)]
    _release(image_id, task_id + TAKEN)
    assert records.find_task(task_id)['status'] == 'failure'
    assert _imports().dead() == []


# Locations

def _at(url, store='near', status='active'):
    return {'url': url, 'metadata': {'store': store}, 'status': status}


def _pending(store='far'):
    return _at(f'{compat.PENDING_URL}//image/{store}', store, 'pending')


@pytest.fixture
def stores(override, monkeypatch, tmp_path):
    """Two real stores of files, near and far."""
    monkeypatch.setattr(location, 'SCHEME_TO_CLS_BACKEND_MAP', {})
    glance_store.register_opts(CONF)
    override('enabled_backends', {'near': 'file', 'far': 'file'})
    glance_store.register_store_opts(CONF)
    for name in ('near', 'far'):
        (tmp_path / name).mkdir()
        override('filesystem_store_datadir', str(tmp_path / name), name)
    glance_store.create_multi_stores(CONF)
    return {name: tmp_path / name for name in ('near', 'far')}


def _stored(stores, store, name):
    """Put data into a store; returns its location."""
    path = stores[store] / name
    path.write_bytes(b'data')
    return _at(f'file://{path}', store)


def test_what_a_dead_import_has_stored_goes_with_it(stores):
    locations = [_stored(stores, 'near', 'a'), _stored(stores, 'far', 'b')]
    image_id, task_id = _locked(locations=locations)
    _release(image_id, task_id)
    assert _urls(image_id) == []
    assert [[*folder.iterdir()] for folder in stores.values()] == [[], []]
    assert _properties(image_id)[compat.FAILED_PROPERTY] == 'far,near'


def test_what_is_not_in_its_store_any_more_is_forgotten_too(stores):
    """An earlier attempt may have come as far as that."""
    image_id, task_id = _locked(locations=[
        _at(f'file://{stores["near"]}/gone'), _stored(stores, 'far', 'b')])
    _release(image_id, task_id)
    assert _urls(image_id) == [*stores['far'].iterdir()] == []
    assert records.status(image_id) == 'queued'


@pytest.mark.parametrize(('properties', 'expected'), [
    ({compat.IMPORTING_PROPERTY: 'far'}, 'far,near'),
    ({compat.IMPORTING_PROPERTY: ''}, 'near'), ({}, 'near')])
def test_the_stores_that_have_it_count_as_failed_too(stores, properties,
                                                     expected):
    """Nothing of it is left there either."""
    task_id = _task(age=10_000)
    image_id = _image(lock=task_id, locations=[_stored(stores, 'near', 'a')],
                      properties=properties)
    _release(image_id, task_id)
    assert _properties(image_id)[compat.FAILED_PROPERTY] == expected


def test_nothing_is_removed_before_the_importer_is_shut_out(stores,
                                                            monkeypatch):
    """Else a living one could still let an image become active without it."""
    image_id, task_id = _locked(locations=[_stored(stores, 'near', 'a')])
    delete, seen = store_utils.delete_image_location_from_backend, []

    def delete_location(*names):
        seen.append(records.status(image_id))
        return delete(*names)

    monkeypatch.setattr(store_utils, 'delete_image_location_from_backend',
                        delete_location)
    _release(image_id, task_id)
    assert seen == ['killed']


def test_a_store_that_does_not_answer_is_tried_again(stores, monkeypatch):
    image_id, task_id = _locked(locations=[_stored(stores, 'near', 'a')])

    def delete_location(*_):
        raise glance_store.BackendException('no answer')

    with monkeypatch.context() as patch:
        patch.setattr(store_utils, 'delete_image_location_from_backend',
                      delete_location)
        with pytest.raises(glance_store.BackendException):
            _release(image_id, task_id)
    # As long as there is more to do, it is a dead import.
    assert records.status(image_id) == 'killed'
    assert len(_urls(image_id)) == 1
    assert _imports().dead() == [(image_id, task_id + TAKEN)]
    _release(image_id, task_id + TAKEN)
    assert [*stores['near'].iterdir()] == _urls(image_id) == []
    assert records.find_task(task_id)['message'] == INTERRUPTED
    assert _imports().dead() == []


def test_of_two_who_remove_what_was_stored_one_only_does(stores, monkeypatch):
    """The other could find that of a later import under the same URL."""
    image_id, task_id = _locked(locations=[_stored(stores, 'near', 'a'),
                                           _stored(stores, 'far', 'b')])
    locations, delete, deleted = records.locations, compat.delete_data, []

    def delete_data(name, location):
        deleted.append(location['url'])
        delete(name, location)

    def other_came_first(name):
        found = locations(name)
        if records.status(image_id) == 'queued':
            monkeypatch.setattr(records, 'locations', locations)
            _release(image_id, task_id)
        return found

    monkeypatch.setattr(compat, 'delete_data', delete_data)
    monkeypatch.setattr(records, 'locations', other_came_first)
    _release(image_id, task_id)
    assert sorted(deleted) == sorted(
        f'file://{stores[store] / name}'
        for store, name in (('near', 'a'), ('far', 'b')))
    assert records.status(image_id) == 'queued'
    assert records.lock_holder(image_id) is None


def test_a_location_is_off_the_record_before_its_data_goes(stores,
                                                           monkeypatch):
    image_id, task_id = _locked(locations=[_stored(stores, 'near', 'a')])
    delete, seen = compat.delete_data, []

    def delete_data(name, location):
        seen.append(_urls(image_id))
        assert {*location} == {'url', 'metadata', 'status'}
        delete(name, location)

    monkeypatch.setattr(compat, 'delete_data', delete_data)
    _release(image_id, task_id)
    assert seen == [[]]


@pytest.mark.parametrize('failing', ['near', 'far'])
def test_what_one_store_keeps_stays_on_the_record(stores, monkeypatch,
                                                  failing):
    locations = {name: _stored(stores, name, 'a') for name in stores}
    image_id, task_id = _locked(locations=[*locations.values()])
    delete = compat.delete_data

    def delete_data(name, location):
        if location['metadata']['store'] == failing:
            raise glance_store.BackendException('no answer')
        delete(name, location)

    monkeypatch.setattr(compat, 'delete_data', delete_data)
    with pytest.raises(glance_store.BackendException):
        _release(image_id, task_id)
    assert locations[failing]['url'] in _urls(image_id)
    assert [*stores[failing].iterdir()]


def test_what_was_killed_keeps_what_is_recorded_of_it(stores):
    """Glance removes it, with its data, when its owner deletes it."""
    stored = _stored(stores, 'near', 'a')
    image_id, task_id = _locked(locations=[stored, _pending()])
    _release(image_id, task_id, is_published=True)
    assert _urls(image_id) == [stored['url']]
    assert [path.name for path in stores['near'].iterdir()] == ['a']


def test_what_was_complete_keeps_its_locations(stores):
    stored = _stored(stores, 'near', 'a')
    image_id, task_id = _locked('active', locations=[stored])
    _release(image_id, task_id)
    assert _urls(image_id) == [stored['url']]
    assert [path.name for path in stores['near'].iterdir()] == ['a']


@pytest.mark.parametrize('status', ['importing', 'active', 'queued'])
def test_locations_that_never_had_a_url_are_forgotten(status):
    """Glance 33 records them before stores are written side by side."""
    image_id, task_id = _locked(status, locations=[
        _pending('near'), _pending('far')])
    _release(image_id, task_id)
    assert _urls(image_id) == []


def test_locations_without_a_url_are_forgotten_beside_others(stores):
    stored = _stored(stores, 'near', 'a')
    image_id, task_id = _locked('active', locations=[stored, _pending()])
    _release(image_id, task_id)
    assert _urls(image_id) == [stored['url']]


# The fence: what the release of an image keeps its importer from

def _set_data(image, stores):
    """Store an image as an import or an upload does; returns its URL."""
    image.size = image.checksum = image.os_hash_value = None
    image.set_data(io.BytesIO(b'data'), size=4, backend='near')
    assert image.status == 'active'
    return f'file://{stores["near"] / image.image_id}'


def test_an_importer_that_lives_can_not_save_the_image_any_more(stores):
    image_id, task_id = _locked()
    repo = compat.image_repo()
    image = repo.get(image_id)
    url = _set_data(image, stores)
    _release(image_id, task_id)
    before = _everything(image_id, task_id)
    with pytest.raises(compat.exception.Conflict):
        repo.save(image, 'importing')
    assert _everything(image_id, task_id) == before
    assert not records.is_recorded(url)


def test_an_importer_that_saved_the_image_before_has_it(stores, meanwhile):
    image_id, task_id = _locked()
    repo = compat.image_repo()
    image = repo.get(image_id)
    url = _set_data(image, stores)
    meanwhile(lambda: repo.save(image, 'importing'))
    with pytest.raises(compat.exception.Conflict):
        _release(image_id, task_id)
    found = records.find_image(image_id)
    assert (found['status'], found['size']) == ('active', 4)
    assert records.lock_holder(image_id) == task_id + TAKEN
    _release(image_id, task_id + TAKEN)
    assert records.is_recorded(url)


# Uploads

ENDS = ['queued', 'killed']


@pytest.mark.parametrize('end', ENDS)
def test_an_upload_is_ended_by_taking_its_status_away(end):
    image_id = _image('saving')
    before = _everything(image_id, 'no task')
    recovery.end_upload(image_id, end)
    before[0]['status'] = end
    assert _everything(image_id, 'no task') == before


@pytest.mark.parametrize('end', ENDS)
@pytest.mark.parametrize('status', [
    'queued', 'importing', 'uploading', 'active', 'deactivated', 'killed'])
def test_what_is_not_being_uploaded_is_left_alone(status, end):
    image_id = _image(status)
    with pytest.raises(errors.Busy):
        recovery.end_upload(image_id, end)
    assert records.status(image_id) == status


def test_an_upload_that_is_ended_is_ended_once():
    image_id = _image('saving')
    recovery.end_upload(image_id, 'queued')
    with pytest.raises(errors.Busy):
        recovery.end_upload(image_id, 'killed')
    assert records.status(image_id) == 'queued'


@pytest.mark.parametrize('end', ENDS)
def test_an_upload_that_lives_can_not_save_the_image_any_more(stores, end):
    image_id = _image('saving')
    repo = compat.image_repo()
    image = repo.get(image_id)
    url = _set_data(image, stores)
    recovery.end_upload(image_id, end)
    with pytest.raises(compat.exception.Conflict):
        repo.save(image, from_state='saving')
    assert records.status(image_id) == end
    assert not records.is_recorded(url)
