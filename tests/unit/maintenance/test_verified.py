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

"""Images that an agent verifies by and by; database and files are real."""

import hashlib
import json
import logging
import threading
import time
import uuid

from oslo_config import cfg
import prometheus_client
import pytest

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import courtesy
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import slots
from glance_conversion_plugins import errors
from glance_conversion_plugins.maintenance import agent
from glance_conversion_plugins.maintenance import verify
from glance_conversion_plugins.stores import registry
from tests.unit import databases
from tests.unit import file_stores

CONF = cfg.CONF
CONTENT = b'x' * 5000 + bytes(70_000)
DAY = 86400


@pytest.fixture(autouse=True)
def database(tmp_path):
    with databases.glance_database(tmp_path / 'glance.sqlite'):
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch, override):
    path = tmp_path / 'files'
    path.mkdir()
    found = {'files': file_stores.make(path)}
    monkeypatch.setattr(registry, 'find', found.get)
    override('lock_path', str(tmp_path / 'locks'), 'oslo_concurrency')
    override('verify_interval', DAY, 'conversion_agent')
    return path


@pytest.fixture
def known(tmp_path, folder):
    """Where it is noted what was verified when."""
    return tmp_path / 'locks' / 'glance-conversion-verified'


@pytest.fixture
def clock(monkeypatch):
    now = [time.time()]
    monkeypatch.setattr(time, 'time', lambda: now[0])
    return now


def _store(folder, content=CONTENT, image_id=None, **values):
    """An image with some content; returns its path."""
    image_id = image_id or str(uuid.uuid4())
    databases.add_image('active', id=image_id, size=len(CONTENT), **(
        {'os_hash_algo': 'sha256', 'checksum': None,
         'os_hash_value': hashlib.sha256(CONTENT).hexdigest()} | values))
    databases.add_location(image_id, f'file://{folder / image_id}')
    (folder / image_id).write_bytes(content)
    return folder / image_id


def _pass(cancel=None):
    """What a pass says; each is a process of its own."""
    job, = [job for job in agent.jobs() if job.name == 'verify']
    said = []
    is_well = agent.run_once(job, cancel or cancel_.Cancel(), said.append)
    return is_well, said


def _differing():
    return prometheus_client.REGISTRY.get_sample_value(
        'glance_conversion_agent_differing_images')


def test_each_image_is_verified_once_in_an_interval(folder, clock):
    path = _store(folder)
    words = (f'image {path.name} in store files: is as it was recorded')
    assert _pass() == (True, [words])
    clock[0] += DAY - 1
    assert _pass() == (True, ['nothing to do'])
    clock[0] += 1
    assert _pass() == (True, [words])


def test_what_differs_is_an_error_in_the_log_and_counted(folder, clock,
                                                         caplog):
    good, bad = _store(folder), _store(folder, bytes(len(CONTENT)))
    with caplog.at_level(logging.INFO):
        assert _pass()[0] is True
    assert [record.levelname for record in caplog.records
            if bad.name in record.message and 'DIFFERS' in record.message
            ] == ['ERROR']
    assert not [record for record in caplog.records
                if good.name in record.message
                and record.levelname == 'ERROR']
    assert _differing() == 1
    # Also for an agent that begins, and has nothing to do.
    clock[0] += 60
    assert _pass() == (True, ['nothing to do'])
    assert _differing() == 1
    # Until it is put right, or gone.
    bad.write_bytes(CONTENT)
    clock[0] += DAY
    _pass()
    assert _differing() == 0


def test_what_is_gone_differs_no_more(folder, clock, known):
    path = _store(folder, b'')
    _pass()
    assert _differing() == 1
    databases.delete_image(path.name)
    assert _pass() == (True, ['nothing to do'])
    assert _differing() == 0


def test_those_that_wait_longest_come_first(folder, clock):
    paths = [_store(folder)]
    for _ in range(3):
        _pass()
        clock[0] += 60
        paths.append(_store(folder))
    # The last was never verified.
    wanted = [path.name for path in [paths[-1], *paths[:-1]]]
    clock[0] += DAY
    assert [words.split()[1] for words in _pass()[1]] == wanted


def test_a_pass_that_is_stopped_goes_on_later(folder, monkeypatch):
    paths = {_store(folder).name for _ in range(4)}
    cancel, checked = cancel_.Cancel(), []
    original = verify.verify

    def stopped(place, *args):
        checked.append(place.image_id)
        if len(checked) == 3:
            cancel.set()
            raise errors.Cancelled('The conversion was stopped.')
        return original(place, *args)

    monkeypatch.setattr(verify, 'verify', stopped)
    _pass(cancel)
    assert len(checked) == 3
    _pass()
    assert len(checked) == 5
    assert set(checked[3:]) == paths - set(checked[:2])


@pytest.mark.parametrize('how', ['no digest', 'unreadable', 'fault of ours'])
def test_what_nobody_can_say_is_looked_at_again(folder, monkeypatch, how):
    other = _store(folder)
    path = _store(folder, **({'os_hash_value': None} if how == 'no digest'
                             else {}))
    original = verify.verify

    def failing(place, *args):
        if place.image_id == path.name and how == 'unreadable':
            return verify.Report(place, doubt='could not be verified')
        if place.image_id == path.name and how == 'fault of ours':
            raise ZeroDivisionError
        return original(place, *args)

    monkeypatch.setattr(verify, 'verify', failing)
    is_well, said = _pass()
    assert is_well is (how != 'fault of ours')
    assert {words.split()[1].strip(':') for words in said} == {
        path.name, other.name}
    assert [words.split()[1] for words in _pass()[1]] == [path.name]


def test_a_clock_that_was_wrong(folder, clock):
    _store(folder)
    clock[0] += 400 * DAY
    _pass()
    clock[0] -= 400 * DAY
    assert len(_pass()[1]) == 1
    assert _pass()[1] == ['nothing to do']


@pytest.mark.parametrize('content', [
    'no json', '[]', '{"a": 1}', '{"a": ["b", "c", "d"]}', '{"a": ["b", 1]}'])
def test_a_file_that_is_damaged(folder, known, content):
    path = _store(folder)
    _pass()
    assert list(json.loads(known.read_text())) == [f'{path.name} files']
    known.write_text(content)
    assert 'is as it was recorded' in _pass()[1][0]
    assert _pass()[1] == ['nothing to do']


def test_it_is_read_no_faster_than_allowed(folder, override, monkeypatch):
    override('verify_rate_limit', 5000, 'conversion_agent')
    waited = []
    monkeypatch.setattr(cancel_.Cancel, 'wait',
                        lambda self, seconds: waited.append(seconds))
    for _ in range(3):
        _store(folder)
    _pass()
    # All but the first wait until those before them were due.
    assert sum(waited) == pytest.approx(
        sum(len(CONTENT) / 5000 * before for before in (1, 2)), rel=0.1)


def test_two_agents_of_a_node_do_not_verify_at_once(folder, monkeypatch):
    _store(folder)
    original, refused = verify.verify, []

    def verifying(*args):
        with pytest.raises(errors.Busy):
            _pass()
        refused.append(True)
        return original(*args)

    monkeypatch.setattr(verify, 'verify', verifying)
    assert _pass()[0] is True
    assert refused == [True]
    assert _pass() == (True, ['nothing to do'])


def test_an_image_that_came_back_under_another_url(folder):
    """Where it was before is recorded still, as deleted."""
    image_id = str(uuid.uuid4())
    databases.add_image('active', id=image_id, size=len(CONTENT),
                        os_hash_algo='sha256', checksum=None,
                        os_hash_value=hashlib.sha256(CONTENT).hexdigest())
    databases.add_location(image_id, f'file:///elsewhere/{image_id}')
    databases.delete_locations(image_id)
    databases.add_location(image_id, f'file://{folder / image_id}')
    (folder / image_id).write_bytes(CONTENT)
    assert _pass()[1] == [f'image {image_id} in store files: is as it was '
                          'recorded']


def test_those_in_doubt_do_not_keep_others_waiting(folder, clock, monkeypatch):
    first = _store(folder, image_id='00000000-0000-4000-8000-000000000000')
    with monkeypatch.context() as patch:
        patch.setattr(verify, 'verify', lambda place, *args: verify.Report(
            place, doubt='could not be verified'))
        _pass()
    clock[0] += 60
    second = _store(folder)
    assert [words.split()[1] for words in _pass()[1]] == [second.name,
                                                          first.name]


def test_it_gives_way_to_conversions_of_its_node(folder, known):
    _store(folder)
    done = []
    thread = threading.Thread(target=lambda: done.append(_pass()))
    with slots.hold(slots.Limits(1), str(known.parent), progress_.Progress(),
                    cancel_.NEVER):
        thread.start()
        thread.join(4 * courtesy._LOOK_SECONDS)
        assert thread.is_alive()
    thread.join(60)
    assert [is_well for is_well, _ in done] == [True]
