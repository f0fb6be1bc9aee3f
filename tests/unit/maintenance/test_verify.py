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
"""Images that are compared with their records; database and files are real."""

import hashlib
import uuid

from glance.common import crypt
from oslo_config import cfg
import pytest

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import throttle
from glance_conversion_plugins import errors
from glance_conversion_plugins.maintenance import stored
from glance_conversion_plugins.maintenance import verify
from glance_conversion_plugins.stores import registry
from tests.unit import databases
from tests.unit import file_stores

CONTENT = b'x' * 5000 + bytes(70_000) + b'y' * 512
RIGHT = {'os_hash_algo': 'sha256',
         'os_hash_value': hashlib.sha256(CONTENT).hexdigest(),
         'checksum': hashlib.md5(CONTENT).hexdigest()}
NO_DIGEST = {'os_hash_algo': 'sha256', 'os_hash_value': None,
             'checksum': None}


@pytest.fixture(autouse=True)
def database(tmp_path):
    with databases.glance_database(tmp_path / 'glance.sqlite'):
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch):
    path = tmp_path / 'files'
    path.mkdir()
    found = {'files': file_stores.make(path)}
    monkeypatch.setattr(registry, 'find', found.get)
    return path


def _store(folder, content=CONTENT, **values):
    """An image with some content; returns its path."""
    image_id = str(uuid.uuid4())
    path = folder / image_id
    databases.add_image('active', id=image_id, **(
        RIGHT | {'size': len(CONTENT)} | values))
    databases.add_location(image_id, f'file://{path}')
    path.write_bytes(content)
    return path


def _verify(rate=0, wait=None, **kwargs):
    place, = stored.recorded()
    return verify.verify(place, (throttle.Throttle(rate, wait),),
                         progress_.Progress(), **kwargs)


def test_what_is_as_it_was_recorded(folder):
    path = _store(folder)
    report = _verify()
    assert (report.faults, report.doubt) == ((), '')
    assert str(report) == (f'image {path.name} in store files: is as it was '
                           'recorded')


@pytest.mark.parametrize('at', [0, 40_000, len(CONTENT) - 1])
@pytest.mark.parametrize('values, algorithm', [
    ({}, 'sha256'),
    ({'os_hash_algo': None, 'os_hash_value': None}, 'md5')])
def test_a_byte_that_has_changed(folder, at, values, algorithm):
    """In data as in what was a hole."""
    content = CONTENT[:at] + b'!' + CONTENT[at + 1:]
    path = _store(folder, content, **values)
    report = _verify()
    assert report.faults == (
        f'its {algorithm} is {hashlib.new(algorithm, content).hexdigest()}, '
        f'and {hashlib.new(algorithm, CONTENT).hexdigest()} is recorded',)
    assert str(report).startswith(
        f'image {path.name} in store files DIFFERS: its {algorithm} is ')
    assert path.read_bytes() == content


def test_where_glance_encrypts_locations(folder):
    key = '0' * 16
    path = _store(folder)
    databases.delete_locations(path.name)
    cfg.CONF.set_override('metadata_encryption_key', key)
    try:
        databases.add_location(path.name, crypt.urlsafe_encrypt(
            key, f'file://{path}', 64))
        assert _verify() == verify.Report(next(stored.recorded()))
        assert [found.image_id for found in stored.images()] == [path.name]
    finally:
        cfg.CONF.clear_override('metadata_encryption_key')


@pytest.mark.parametrize('content', [CONTENT[:-1], CONTENT + b'\0', b''])
def test_another_size(folder, content):
    _store(folder, content)
    assert _verify().faults == (
        f'it has {len(content)} bytes, and {len(CONTENT)} are recorded',)


def test_without_a_digest_nobody_can_say(folder):
    path = _store(folder, **NO_DIGEST)
    report = _verify()
    assert report.faults == ()
    assert str(report) == (f'image {path.name} in store files: has no digest '
                           'to compare')


def test_without_a_digest_there_still_is_a_size(folder):
    _store(folder, CONTENT[1:], **NO_DIGEST)
    assert _verify().faults


def test_data_that_is_gone(folder):
    path = _store(folder)
    path.unlink()
    assert _verify().faults == ('there is no data of it',)


def test_data_that_is_elsewhere_is_not_read(folder):
    path = _store(folder)
    path.rename(folder.parent / path.name)
    databases.add_image('active', id=(other := str(uuid.uuid4())), **RIGHT)
    databases.add_location(other, f'file://{folder.parent / path.name}')
    (folder / other).write_bytes(CONTENT)
    report, = [verify.verify(place, (), progress_.Progress())
               for place in stored.recorded([other])]
    assert (report.faults, report.doubt) == (
        (), 'is not where the store puts images')


def test_what_can_not_be_read_is_in_doubt(folder, monkeypatch):
    place = _placed(folder)
    monkeypatch.setattr(type(place.store), 'source', _unreadable)
    report = _verify()
    assert report.faults == ()
    assert report.doubt == ('could not be verified: The stored image could '
                            'not be read.')


def _placed(folder):
    _store(folder)
    place, = stored.images()
    return place


def test_what_its_store_says_of_it(folder, monkeypatch):
    place = _placed(folder)
    monkeypatch.setattr(type(place.store), 'faults',
                        lambda self, image_id: ['it has no snapshot'])
    assert _verify().faults == ('it has no snapshot',)
    # Without it nothing can be read, which says no more.
    monkeypatch.setattr(type(place.store), 'source', _unreadable)
    report = verify.verify(place, (), progress_.Progress())
    assert (report.faults, report.doubt) == (('it has no snapshot',), '')


def _unreadable(self, image_id):
    raise errors.SourceFailed('The stored image could not be read.')


def test_an_image_that_goes_is_none_that_differs(folder):
    place = _placed(folder)
    (folder / place.image_id).write_bytes(bytes(len(CONTENT)))
    databases.delete_image(place.image_id)
    report = verify.verify(place, (), progress_.Progress())
    assert (report.faults, report.doubt) == ((), 'is gone meanwhile')


def test_it_can_be_told_to_stop(folder):
    _store(folder)
    cancel = cancel_.Cancel()
    cancel.set()
    with pytest.raises(errors.Cancelled):
        _verify(cancel=cancel)


def test_it_reads_as_slowly_as_it_shall(folder):
    slept = []
    _store(folder, CONTENT * 40, size=len(CONTENT) * 40,
           os_hash_value=hashlib.sha256(CONTENT * 40).hexdigest())
    report = _verify(1000, slept.append)
    assert (report.faults, report.doubt) == ((), '')
    assert sum(slept) > 100
