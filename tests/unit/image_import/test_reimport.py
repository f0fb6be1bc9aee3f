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

"""An image takes the place of another one, whatever happens meanwhile."""

import datetime
import hashlib
import itertools
import os
import types

from glance.db.sqlalchemy import api as glance_db
from glance.db.sqlalchemy import models
from oslo_utils import timeutils
import pytest

from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.glance_db import successors
from glance_conversion_plugins.image_import import reimport
from glance_conversion_plugins.image_import import retirement
from glance_conversion_plugins.stores import registry
from tests.unit import databases
from tests.unit import file_stores

EXPECTED = 'conversion_expected_hash'
STEPS = ('create', 'take', 'hand_over', 'hide')


@pytest.fixture(autouse=True)
def database(tmp_path):
    with databases.glance_database(tmp_path / 'glance.sqlite'):
        yield


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(reimport, '_POLL_SECONDS', 0)


def _update(image_id, **values):
    compat.database().image_update(compat.admin_context(), image_id, values)


def _set_age(image_id, **age):
    with glance_db.session_for_write() as session:
        session.query(models.Image).filter_by(id=image_id).update({
            'updated_at': timeutils.utcnow() - datetime.timedelta(**age)})


class Api:
    """Glance, as far as the real one does the same: see tests/functional."""

    project = 'operators'

    def __init__(self):
        self.outcome = {'disk_format': 'raw', 'status': 'active'}
        self.before = lambda step: None

    def copy_to_staging(self, source_id, size, image_id, advance):
        self.before('copy_to_staging')
        assert records.status(source_id) == 'active'
        databases.set_status(image_id, 'uploading')
        advance(size)
        self.before('staged')

    def start_import(self, image_id, stores):
        self.before('start_import')
        _update(image_id, **self.outcome)
        self.before('imported')

    def delete(self, image_id):
        self.before('delete')
        databases.delete_image(image_id)


class Killed(BaseException):
    """The process does nothing any more."""


@pytest.fixture
def steps(monkeypatch):
    """Have something happen before and after each step from now on."""
    originals = {name: getattr(successors, name) for name in STEPS}

    def steps(happen=lambda step: None):
        def stepwise(name):
            def step(*args):
                happen(name)
                result = originals[name](*args)
                happen(f'{name} is done')
                return result
            return step
        for name in STEPS:
            monkeypatch.setattr(successors, name, stepwise(name))
        api = Api()
        api.before = happen
        return api
    return steps


def _former(**values):
    image_id = databases.add_image('active', **{
        'disk_format': 'qcow2', 'name': 'former', 'visibility': 'shared',
        'os_hidden': False, 'protected': True, 'min_ram': 7,
        'properties': {'hw_disk_bus': 'scsi', EXPECTED: 'md5:0'},
        'os_hash_algo': 'sha512', 'os_hash_value': 'ab' * 64} | values)
    compat.database().image_tag_set_all(compat.admin_context(), image_id,
                                        ['green', 'blue'])
    for member, status in (('friend', 'accepted'), ('other', 'pending')):
        compat.database().image_member_create(compat.admin_context(), {
            'image_id': image_id, 'member': member, 'status': status})
    return image_id


def _convert(former, api=None):
    image = records.find_image(former)
    assert reimport.why_not(image) == ''
    return reimport.convert(image, _target(api))


def _target(api=None):
    return reimport.Target(api or Api(), ['ceph'], progress_.Progress())


def _living():
    return {row['id']: row for row in records.images(deleted=False)}


def _members(image_id):
    return {row['member']: row['status'] for row in
            compat.database().image_member_find(compat.admin_context(),
                                                image_id=image_id)}


def _see_replaced(former, **values):
    """Nothing but the two images is there, and each is as it should be."""
    living = _living()
    (new, found), = [each for each in living.items() if each[0] != former]
    assert set(living) == {former, new}
    expected = {
        'status': 'active', 'disk_format': 'raw', 'visibility': 'shared',
        'protected': True, 'os_hidden': False, 'name': 'former',
        'owner': 'somebody', 'min_ram': 7} | values
    assert {name: found[name] for name in expected} == expected
    assert successors.own_properties(found) == {
        'hw_disk_bus': 'scsi', EXPECTED: 'md5:0'}
    assert successors.properties(found)[successors.FROM] == former
    assert compat.database().image_tag_get_all(
        compat.admin_context(), new) == ['green', 'blue']
    assert _members(new) == {'friend': 'accepted', 'other': 'pending'}
    old = living[former]
    assert old['os_hidden']
    assert successors.find(former).is_done_by(new)
    assert reimport.why_not(old) == 'another image has its place already'
    assert (old['status'], old['disk_format']) == ('active', 'qcow2')
    return new


def test_it_takes_its_place():
    former = _former()
    new, _ = _convert(former)
    assert _see_replaced(former) == new


def test_nobody_else_has_it_before(steps):
    """What its owner could change until then he could put in its place."""
    former, seen = _former(), []

    def look(step):
        for image_id, row in _living().items():
            if image_id != former and not successors.find(former).to:
                assert (row['owner'], row['visibility'], row['os_hidden']) == (
                    'operators', 'private', True)
                assert successors.own_properties(row)[EXPECTED] == (
                    'sha512:' + 'ab' * 64)
                seen.append(step)

    _convert(former, steps(look))
    assert seen == ['create is done', 'copy_to_staging', 'staged',
                    'start_import', 'imported', 'take']


def test_only_glance_itself_can_say_whose_place_it_is():
    for name in (successors.TO, successors.AT, successors.FROM):
        assert name.startswith('os_glance_')


class _At:
    """Raises at one step, and at all that follow if that is the end."""

    def __init__(self, number, error):
        self._left = number
        self._error = error
        self.step = None

    def __call__(self, step):
        self._left -= 1
        if self._left == 0 or self._left < 0 and isinstance(self._error,
                                                            Killed):
            self.step = self.step or step
            raise self._error


@pytest.mark.parametrize('error', [
    errors.ApiFailed('away'), KeyboardInterrupt(), Killed()],
    ids=lambda error: type(error).__name__)
def test_whatever_fails_a_later_run_ends_it(steps, error):
    seen = []
    for number in itertools.count(1):
        former, at = _former(), _At(number, error)
        try:
            _convert(former, steps(at))
        except type(error):
            assert at.step
        steps()
        if at.step is None:
            break
        seen.append(at.step)
        for image_id in _living().keys() - {former}:
            _set_age(image_id, hours=2)
        if not successors.find(former).at:
            _convert(former)
        new = _see_replaced(former)
        for image_id in (former, new):
            _update(image_id, protected=False)
            databases.delete_image(image_id)
    assert seen == [
        'create', 'create is done', 'copy_to_staging', 'staged',
        'start_import', 'imported', 'take', 'take is done', 'hand_over',
        'hand_over is done', 'hide', 'hide is done']


@pytest.mark.parametrize('outcome', [
    {'status': 'queued'}, {'status': 'active', 'disk_format': 'qcow2'}])
def test_what_is_not_converted_leaves_nothing(outcome):
    former, api = _former(), Api()
    api.outcome = outcome
    with pytest.raises(errors.ConversionError, match='not converted'):
        _convert(former, api)
    assert list(_living()) == [former]
    assert not _living()[former]['os_hidden']
    assert successors.find(former) == successors.Taken()


def test_two_runs_of_which_one_goes_on_with_the_work_of_the_other(steps):
    """And does not take what that publishes for its own to remove."""
    for when in ('take', 'hand_over', 'hide', 'hide is done'):
        former, others = _former(), []

        def other(step, former=former, when=when, others=others):
            if step == when and not others:
                others.append(None)
                others[0], _ = reimport.convert(records.find_image(former),
                                                _target())
        new, _ = _convert(former, steps(other))
        assert others == [new]
        assert _see_replaced(former) == new
        for image_id in (former, new):
            _update(image_id, protected=False)
            databases.delete_image(image_id)


def test_of_two_that_begin_at_once_one_has_the_place(steps):
    former, others = _former(), []

    def other(step):
        if step == 'create' and not others:
            others.append(None)
            others[0], _ = _convert(former)
    with pytest.raises(errors.Busy, match='has its place'):
        _convert(former, steps(other))
    assert _see_replaced(former) == others[0]


def test_what_another_run_stages_is_left_to_it(steps):
    former = _former()

    def other(step):
        if step in ('copy_to_staging', 'staged', 'start_import'):
            with pytest.raises(errors.Busy, match='is being staged'):
                _convert(former)
    new, _ = _convert(former, steps(other))
    assert _see_replaced(former) == new


@pytest.mark.parametrize('change, reason', [
    ({'status': 'deactivated'}, 'it is deactivated'),
    ({'status': 'deleted'}, 'There is no image')])
def test_what_is_closed_meanwhile_is_not_opened_again(steps, change, reason):
    former = _former()

    def close(step):
        if step == 'staged':
            _update(former, **change)
            if change['status'] == 'deleted':
                databases.delete_image(former)
    with pytest.raises(errors.ConversionError, match=reason):
        _convert(former, steps(close))
    assert _living().keys() <= {former}


def test_what_is_changed_meanwhile_is_taken_over(steps):
    former = _former()

    def change(step):
        if step == 'staged':
            _update(former, visibility='private', name='other', min_ram=8,
                    protected=False)
    _convert(former, steps(change))
    _see_replaced(former, visibility='private', name='other', min_ram=8,
                  protected=False)


def test_a_record_that_glance_has_undone(steps):
    """It saves all of a row as it has read it."""
    former = _former()
    before = successors.properties(records.find_image(former))
    new, _ = _convert(former)
    _undo(former, before)
    _update(new, name='as its owner has called it')
    assert _convert(former)[0] == new
    assert _see_replaced(former, name='as its owner has called it') == new


def test_members_are_as_they_are_in_the_end(steps):
    former = _former()
    member = next(row for row in compat.database().image_member_find(
        compat.admin_context(), image_id=former) if row['member'] == 'other')

    def change(step):
        if step == 'hand_over':
            new = successors.find(former).to
            for name, status in (('friend', 'pending'), ('gone', 'accepted')):
                compat.database().image_member_create(
                    compat.admin_context(), {'image_id': new, 'member': name,
                                             'status': status})
    _convert(former, steps(change))
    assert member['status'] == 'pending'
    _see_replaced(former)


def _undo(former, before):
    """As Glance does, which saves all of a row as it has read it."""
    compat.database().image_update(compat.admin_context(), former, {
        'os_hidden': False, 'properties': before}, purge_props=True)


def test_what_was_published_is_never_removed():
    """Whatever Glance has undone, and whoever has deactivated it since."""
    former = _former()
    before = successors.properties(records.find_image(former))
    new, _ = _convert(former)
    _undo(former, before)
    _update(new, status='deactivated', protected=False)
    _set_age(new, hours=2)
    with pytest.raises(errors.Busy, match='has its place, and is deactiv'):
        _convert(former)
    assert set(_living()) == {former, new}


def test_what_came_back_is_not_purged_as_deleted():
    """Glance purges properties by when they were deleted, alone."""
    former = _former()
    before = successors.properties(records.find_image(former))
    new, _ = _convert(former)
    _undo(former, before)
    assert _convert(former)[0] == new
    with glance_db.session_for_write() as session:
        assert {row.name: row.deleted_at for row in session.query(
            models.ImageProperty).filter_by(image_id=former).filter(
            models.ImageProperty.name.in_((successors.TO, successors.AT)))
        } == {successors.TO: None, successors.AT: None}


@pytest.mark.parametrize('step', ['take is done', 'hand_over',
                                  'hand_over is done', 'hide'])
@pytest.mark.parametrize('change', [
    {'visibility': 'private'}, {'status': 'deactivated'}])
def test_what_is_closed_in_the_last_moment_is_not_opened(steps, step, change):
    former = _former()

    def close(found):
        if found == step:
            _update(former, **change)
    try:
        new, _ = _convert(former, steps(close))
    except errors.Busy:
        new = successors.find(former).to
    row = records.find_image(new)
    assert row['visibility'] == 'private'
    assert row['status'] == 'active'


def test_what_slower_runs_have_left_is_removed():
    former = _former()
    left = [successors.create(records.find_image(former), 'operators', {})
            for _ in range(3)]
    _update(left[0], status='active', disk_format='raw')
    _update(left[1], status='active', disk_format='raw')
    _set_age(left[2], hours=2)
    new, _ = _convert(former)
    assert new == left[0]
    assert _see_replaced(former) == new


def test_what_was_imported_and_not_converted_is_begun_anew():
    former = _former()
    left = successors.create(records.find_image(former), 'operators', {})
    _update(left, status='active')
    assert _convert(former)[0] != left
    _see_replaced(former)


@pytest.mark.parametrize('is_done', [True, False])
def test_a_place_whose_image_is_gone_is_free_again(steps, is_done):
    former = _former()
    if is_done:
        new, _ = _convert(former)
        _update(former, os_hidden=False)
    else:
        new = successors.create(records.find_image(former), 'operators', {})
        successors.take(former, new)
    _update(new, protected=False)
    databases.delete_image(new)
    assert _convert(former)[0] != new
    _see_replaced(former)


def test_a_long_staging_is_not_taken_for_dead(monkeypatch):
    former, api = _former(), Api()
    clock = iter(range(0, 10_000, 1000))
    monkeypatch.setattr(reimport, 'time', types.SimpleNamespace(
        monotonic=lambda: next(clock), sleep=lambda seconds: None))

    def stage(source_id, size, image_id, advance):
        databases.set_status(image_id, 'uploading')
        _set_age(image_id, hours=2)
        advance(size)
        assert records.image_age(image_id) < 60
    api.copy_to_staging = stage
    _convert(former, api)
    _see_replaced(former)


def test_a_lock_without_a_task_is_waited_for_no_longer(monkeypatch):
    former = _former()
    new = successors.create(records.find_image(former), 'operators', {})
    databases.lock(new, 'no-such-task')
    databases.age_lock(new, 3700)
    with pytest.raises(errors.Busy, match='silent for an hour'):
        _convert(former)


def _importing(former, age=0., **values):
    """What another run has Glance import."""
    new = successors.create(records.find_image(former), 'operators', {})
    task_id = databases.add_task(age=age)
    databases.lock(new, task_id)
    _update(new, status='importing')
    return new


def test_an_import_is_waited_for(monkeypatch):
    former = _former()
    new, looks = _importing(former), []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            compat.image_repo().delete_property_atomic(
                compat.image_repo().get(new), compat.LOCK_PROPERTY,
                records.lock_holder(new))
            _update(new, status='active', disk_format='raw')
    monkeypatch.setattr(reimport, 'time', types.SimpleNamespace(sleep=sleep))
    assert _convert(former)[0] == new
    assert _see_replaced(former) == new


def test_an_import_that_is_silent_is_not(monkeypatch):
    former = _former()
    new = _importing(former, age=3700)
    with pytest.raises(errors.Busy, match='silent for an hour'):
        _convert(former)
    assert records.status(new) == 'importing'


@pytest.mark.parametrize('values, words', [
    ({'status': 'deactivated'}, 'it is deactivated'),
    ({'disk_format': 'raw'}, 'its disk format is raw'),
    ({'container_format': 'docker'}, 'its container format is docker'),
    ({'size': 0}, 'it has no data'),
    ({'properties': {'cinder_encryption_key_id': 'k'}}, 'it names the key'),
    ({'properties': dict.fromkeys((
        'img_signature', 'img_signature_hash_method',
        'img_signature_key_type', 'img_signature_certificate_uuid'), 's')},
     'it is signed')])
def test_what_is_not_converted(values, words):
    former = _former(**{name: value for name, value in values.items()
                        if name != 'status'})
    _update(former, **values)
    image = records.find_image(former)
    assert reimport.why_not(image).startswith(words)


def test_what_is_on_its_way_is_not_converted():
    new = _importing(_former())
    assert reimport.why_not(records.find_image(new)) == (
        'it is to take the place of another one')


CONTENT = b'what is stored' * 1000


@pytest.fixture
def replaced(tmp_path, monkeypatch):
    """(former, new, the file of the latter)."""
    path = tmp_path / 'files'
    path.mkdir()
    found = {'files': file_stores.make(path)}
    monkeypatch.setattr(registry, 'find', found.get)
    former = _former(protected=False)
    new, _ = _convert(former)
    (path / new).write_bytes(CONTENT)
    databases.add_location(new, f'file://{path / new}')
    _update(new, size=len(CONTENT), os_hash_algo='sha256',
            os_hash_value=hashlib.sha256(CONTENT).hexdigest())
    return former, new, path / new


def _retire(former, api=None, grace=0):
    if reason := retirement.why_kept(records.find_image(former), grace):
        return reason
    return retirement.retire(former, grace, _target(api))


def test_one_that_nobody_needs_is_deleted(replaced):
    former, new, _ = replaced
    assert _retire(former) is None
    assert records.status(former) == 'deleted'
    assert records.status(new) == 'active'


@pytest.mark.parametrize('values, grace, words', [
    ({}, 3600, 'it was replaced 0 hours ago'),
    ({'protected': True}, 0, 'it is protected'),
    ({'os_hidden': False}, 0, 'it is not hidden any more')])
def test_one_that_is_to_stay(replaced, values, grace, words):
    former, _, _ = replaced
    _update(former, **values)
    assert _retire(former, grace=grace) == words


def test_one_that_was_not_replaced_stays():
    assert _retire(_former()) == 'no image has its place'


@pytest.mark.parametrize('spoil', [
    lambda new, path: path.write_bytes(CONTENT[:-1] + b'!'),
    lambda new, path: os.truncate(path, 5),
    lambda new, path: os.unlink(path),
    lambda new, path: _update(new, os_hash_value=None, checksum=None),
    lambda new, path: _update(new, status='deactivated'),
    lambda new, path: databases.delete_locations(new),
    lambda new, path: databases.delete_image(new)])
def test_one_that_may_be_needed_stays(replaced, spoil):
    former, new, path = replaced
    _update(new, protected=False)
    spoil(new, path)
    with pytest.raises(errors.ConversionError):
        _retire(former)
    assert records.status(former) == 'active'


@pytest.mark.parametrize('change', [
    lambda former, new: _update(former, os_hidden=False),
    lambda former, new: _update(former, protected=True),
    lambda former, new: databases.delete_image(new)])
def test_one_that_is_needed_by_the_time_it_was_verified(
        replaced, monkeypatch, change):
    former, new, _ = replaced
    _update(new, protected=False)
    verify = retirement.verify.verify

    def verified(*args):
        report = verify(*args)
        change(former, new)
        return report
    monkeypatch.setattr(retirement.verify, 'verify', verified)
    with pytest.raises(errors.ConversionError):
        _retire(former)
    assert records.status(former) == 'active'
