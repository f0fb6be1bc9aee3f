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
"""An image takes the place of another one, whatever fails meanwhile."""

import datetime
import itertools

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
from tests.unit import databases

EXPECTED = 'conversion_expected_hash'


@pytest.fixture(autouse=True)
def database(tmp_path):
    with databases.glance_database(tmp_path / 'glance.sqlite'):
        yield


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(reimport, '_POLL_SECONDS', 0)


def _image_update(image_id, **values):
    compat.database().image_update(compat.admin_context(), image_id, values)


class Api:
    """Glance, as far as the real one does the same: see tests/functional.

    :param fail: called before and after each call; may raise
    """

    def __init__(self, fail=lambda call: None):
        self._fail = fail
        self.outcome = {'disk_format': 'raw', 'status': 'active'}
        self.message = 'Converted qcow2 to raw'

    def __getattribute__(self, name):
        found = object.__getattribute__(self, name)
        if name.startswith('_') or not callable(found):
            return found

        def call(*args):
            self._fail(f'before {name}')
            result = found(*args)
            self._fail(f'after {name}')
            return result
        return call

    def show(self, image_id):
        row = records.find_image(image_id)
        if row is None or row['deleted']:
            raise errors.NotStored('Glance says: no such image')
        return {name: row[name] for name in (
            'id', 'status', 'name', 'owner', 'visibility', 'protected',
            'os_hidden', 'disk_format', 'container_format', 'size',
            'virtual_size', 'os_hash_algo', 'os_hash_value', 'min_ram')} | {
            each['name']: each['value'] for each in row['properties']
            if not each['deleted']}

    def create(self, image):
        databases.add_image('queued', **{
            name: image[name] for name in (
                'id', 'name', 'owner', 'visibility', 'os_hidden',
                'disk_format', 'container_format', 'min_ram')},
            properties={name: value for name, value in image.items()
                        if name == EXPECTED})

    def copy_to_staging(self, source, image_id, advance):
        databases.set_status(image_id, 'uploading')
        advance(source['size'])

    def start_import(self, image_id, stores):
        _image_update(image_id, **self.outcome)

    def last_task(self, image_id):
        is_over = records.status(image_id) not in ('uploading', 'importing')
        return {'message': self.message,
                'status': 'success' if is_over else 'processing'}

    def change(self, image_id, values):
        _image_update(image_id, **values)

    def remove_property(self, image_id, name):
        compat.image_repo().delete_property_atomic(
            compat.image_repo().get(image_id), name,
            self.show(image_id)[name])

    def members(self, image_id):
        return {row['member']: row['status'] for row in
                compat.database().image_member_find(compat.admin_context(),
                                                    image_id=image_id)}

    def share(self, image_id, member, status):
        compat.database().image_member_create(compat.admin_context(), {
            'image_id': image_id, 'member': member, 'status': status})

    def delete(self, image_id):
        databases.delete_image(image_id)


def _former(**values):
    image_id = databases.add_image('active', **{
        'disk_format': 'qcow2', 'name': 'former', 'visibility': 'shared',
        'os_hidden': False, 'protected': True, 'min_ram': 7,
        'os_hash_algo': 'sha512', 'os_hash_value': 'ab' * 64} | values)
    compat.database().image_member_create(compat.admin_context(), {
        'image_id': image_id, 'member': 'friend', 'status': 'accepted'})
    return image_id


def _convert(former, api):
    image = Api().show(former)
    assert reimport.why_not(image) == ''
    return reimport.convert(image, reimport.Target(
        api, ['ceph'], progress_.Progress()))


def _living():
    return {row['id']: Api().show(row['id'])
            for row in records.images(deleted=False)}


def _see_replaced(former):
    """Nothing but the two images is there, and each is as it should be."""
    living = _living()
    (new, found), = [each for each in living.items() if each[0] != former]
    assert set(living) == {former, new}
    assert {name: found[name] for name in (
        'status', 'disk_format', 'visibility', 'protected', 'os_hidden',
        'name', 'owner', 'min_ram')} == {
        'status': 'active', 'disk_format': 'raw', 'visibility': 'shared',
        'protected': True, 'os_hidden': False, 'name': 'former',
        'owner': 'somebody', 'min_ram': 7}
    assert EXPECTED not in found
    assert found[successors.FROM] == former
    assert Api().members(new) == {'friend': 'accepted'}
    old = living[former]
    assert (old['os_hidden'], old[successors.TO]) == (True, new)
    assert reimport.why_not(old) == f'image {new} has its place already'
    assert (old['status'], old['disk_format']) == ('active', 'qcow2')
    return new


def test_it_takes_its_place():
    former = _former()
    new, message = _convert(former, Api())
    assert message == 'Converted qcow2 to raw'
    assert _see_replaced(former) == new


class _Glitch:
    """Fails once, at the call of this number."""

    def __init__(self, number, error):
        self._left = number
        self._error = error
        self.call = None

    def __call__(self, call):
        self._left -= 1
        if self._left == 0:
            self.call = call
            raise self._error


@pytest.mark.parametrize('error', [errors.ApiFailed('away'),
                                   KeyboardInterrupt()])
def test_whatever_fails_the_next_run_ends_it(error):
    seen = []
    for number in itertools.count(1):
        former, glitch = _former(), _Glitch(number, error)
        try:
            _convert(former, Api(glitch))
        except type(error):
            assert not Api().show(former).get(successors.AT)
        if glitch.call is None:
            break
        seen.append(glitch.call)
        if reimport.why_not(Api().show(former)) == '':
            _convert(former, Api())
        new = _see_replaced(former)
        for image_id in (former, new):
            _image_update(image_id, protected=False)
            databases.delete_image(image_id)
    assert {call.split()[1] for call in seen} == {
        'create', 'show', 'copy_to_staging', 'start_import', 'last_task',
        'change', 'members', 'share', 'remove_property'}


@pytest.mark.parametrize('outcome', [
    {'status': 'queued'}, {'status': 'active', 'disk_format': 'qcow2'}])
def test_what_is_not_converted_leaves_nothing(outcome):
    former, api = _former(), Api()
    before = _living()
    api.outcome, api.message = outcome, 'The image is damaged.'
    with pytest.raises(errors.ConversionError, match='The image is damaged'):
        _convert(former, api)
    assert _living() == before


def test_what_another_run_has_begun_is_its_own():
    former = _former()

    def other(call):
        if call == 'before last_task':
            successors.announce(former, 'another-one')
    with pytest.raises(errors.Busy):
        _convert(former, Api(other))
    assert list(_living()) == [former]
    assert Api().show(former)[successors.TO] == 'another-one'


def test_what_is_being_staged_is_waited_for_an_hour():
    former = _former()
    new = databases.add_image('uploading')
    successors.announce(former, new)
    with pytest.raises(errors.Busy, match='is being staged'):
        _convert(former, Api())
    with glance_db.session_for_write() as session:
        session.query(models.Image).filter_by(id=new).update({
            'updated_at': timeutils.utcnow() - datetime.timedelta(hours=2)})
    _convert(former, Api())
    assert _see_replaced(former) != new


def test_what_a_user_calls_a_successor_is_none():
    """Only by properties that Glance keeps from users one is known."""
    for name in (successors.TO, successors.AT, successors.FROM):
        assert name.startswith('os_glance_')


def _record(**values):
    image = Api().show(_former(**values))
    return reimport._record(image, 'new')


def test_what_is_read_must_be_what_was_recorded():
    assert _record()[EXPECTED] == 'sha512:' + 'ab' * 64
    assert _record(properties={EXPECTED: 'md5:00'})[EXPECTED] == 'md5:00'
    assert EXPECTED not in _record(os_hash_value=None)


@pytest.mark.parametrize('values, words', [
    ({'status': 'deactivated'}, 'it is deactivated'),
    ({'disk_format': 'raw'}, 'its disk format is raw'),
    ({'container_format': 'docker'}, 'its container format is docker'),
    ({'size': 0}, 'it has no data'),
    ({'cinder_encryption_key_id': 'k'}, 'it names the key'),
    (dict.fromkeys(('img_signature', 'img_signature_hash_method',
                    'img_signature_key_type',
                    'img_signature_certificate_uuid'), 's'),
     'it is signed')])
def test_what_is_not_converted(values, words):
    image = Api().show(_former()) | values
    assert reimport.why_not(image).startswith(words)


@pytest.mark.parametrize('values, grace, words', [
    ({}, 3600, 'it was replaced 0 hours ago'),
    ({'protected': True}, 0, 'it is protected'),
    ({'os_hidden': False}, 0, 'it is not hidden any more'),
    ({}, 0, ' is not active in any of our stores')])
def test_what_is_not_retired(values, grace, words):
    former, api = _former(), Api()
    _convert(former, api)
    image = api.show(former) | {'protected': False} | values
    reason = reimport.retire(image, grace, reimport.Target(
        api, ['ceph'], progress_.Progress()))
    assert words in reason
    assert records.status(former) == 'active'


def test_what_was_not_replaced_is_not_retired():
    target = reimport.Target(Api(), [], progress_.Progress())
    assert reimport.retire(Api().show(_former()), 0, target) == (
        'no image has its place')
