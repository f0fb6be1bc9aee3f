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

"""What is left to do at the end of an import, beside a real database."""

import os
import threading
import types
import uuid

import pytest

from glance_conversion_plugins.copying import digest
from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.image_import import completion
from glance_conversion_plugins.image_import import image
from glance_conversion_plugins.stores import adoption
from glance_conversion_plugins.stores import placeholder
from tests.unit import databases
from tests.unit import fakes

IMAGE = '11111111-2222-3333-4444-555555555555'
MESSAGE = 'Converted 1 GiB'


@pytest.fixture(autouse=True)
def database(tmp_path):
    with databases.glance_database(tmp_path / 'glance.sqlite'):
        yield


@pytest.fixture(autouse=True)
def over(monkeypatch):
    """Tasks that have ended; Glance still runs all others."""
    ended = set()
    monkeypatch.setattr(compat, 'is_under_way', lambda work: work not in ended)
    return ended


@pytest.fixture
def meanwhile(monkeypatch):
    """What happens while it is waited, one thing each time; then nothing."""
    happens = []

    def sleep(_):
        if happens:
            happens.pop(0)()

    monkeypatch.setattr(completion, 'time', types.SimpleNamespace(
        sleep=sleep))
    yield happens
    assert happens == []


def _set_status(task_id, status):
    """Let a task end as Glance does, which has a message of its own."""
    databases.set_task(task_id, status=status, message='Copied 15 MiB')


def _start(task_id, **options):
    """Begin to complete an import; returns its thread."""
    completion.Completion(image.ImportRequest(IMAGE, task_id, ['near'], True),
                          MESSAGE, **options).start()
    return [thread for thread in threading.enumerate()
            if thread.name == f'complete-{IMAGE}']


def _complete(task_id, **options):
    for thread in _start(task_id, **options):
        thread.join(60)
        assert not thread.is_alive()


def _message(task_id):
    return records.find_task(task_id)['message']


def _offer(task_id, store='near', outcome=None):
    """What a task wrote into a store, and nobody has adopted."""
    sink = fakes.FakeSink()
    adoption.offer(store, IMAGE, task_id, outcome or adoption.Sealed(
        sink, 5, digest.Digest(None, None)))
    return sink


def _placeholder(tmp_path, task_id):
    made = placeholder.Placeholder(str(tmp_path), placeholder.Header(
        IMAGE, task_id, 'raw', 'bare'))
    made.create()
    made.hand_on(made.path, 1 << 20)
    return made


def test_it_does_not_hold_the_process_up(meanwhile):
    task_id = databases.add_task()
    ready = threading.Event()
    meanwhile += [lambda: ready.wait(60),
                  lambda: _set_status(task_id, 'success')]
    thread, = _start(task_id)
    assert thread.daemon
    ready.set()
    thread.join(60)


def test_a_successful_import_gets_its_message_back(meanwhile):
    task_id = databases.add_task()
    meanwhile.append(lambda: _set_status(task_id, 'success'))
    _complete(task_id)
    assert _message(task_id) == MESSAGE


def test_an_import_that_failed_keeps_what_it_says(meanwhile):
    task_id = databases.add_task()
    meanwhile.append(lambda: _set_status(task_id, 'failure'))
    _complete(task_id)
    assert _message(task_id) == 'Copied 15 MiB'


@pytest.mark.parametrize('status', ['success', 'failure'])
def test_what_no_store_has_adopted_is_removed_at_the_end(meanwhile, status):
    task_id = databases.add_task()
    sink = _offer(task_id)
    _offer(task_id, 'far', errors.SinkFailed('no room'))
    seen = []
    meanwhile += [lambda: seen.extend(sink.names())] * 30
    meanwhile.append(lambda: _set_status(task_id, status))
    _complete(task_id)
    assert seen == []
    assert sink.names() == ['abort']
    assert adoption.take('near', IMAGE, 5) is None
    assert adoption.take('far', IMAGE, 5) is None


def test_what_another_task_wrote_is_left_alone():
    task_id, other = databases.add_task('success'), str(uuid.uuid4())
    sink = _offer(other)
    _complete(task_id)
    assert sink.names() == []
    adoption.forget(other)


def test_deferred_digests_come_last(meanwhile, tmp_path):
    task_id = databases.add_task()
    made = _placeholder(tmp_path, task_id)
    sink, seen = _offer(task_id), []
    meanwhile.append(lambda: _set_status(task_id, 'success'))
    _complete(task_id, placeholder=made, later=lambda: seen.append(
        (sink.names(), _message(task_id), placeholder.read_abandoned(
            made.path))))
    assert seen == [(['abort'], MESSAGE, None)]


@pytest.mark.parametrize('status', ['failure', None])
def test_of_an_import_that_failed_there_are_no_digests(status):
    task_id = databases.add_task(status) if status else str(uuid.uuid4())
    called = []
    _complete(task_id, later=lambda: called.append('digests'))
    assert called == []


def test_digests_that_fail_are_told(caplog):
    def fail():
        raise errors.SourceFailed('no answer')

    _complete(databases.add_task('success'), later=fail)
    assert f'Image {IMAGE} has no digests yet' in caplog.text


# The placeholder, whose lock says that the import lives

def _is_held(made):
    """Whether it is there, and nobody could take it for abandoned."""
    made_by = placeholder.read_abandoned(made.path)
    with open(made.path, 'rb') as f:
        return made_by is None and placeholder.is_placeholder(f.read(100))


@pytest.mark.parametrize('status', ['success', 'failure'])
def test_the_placeholder_is_there_until_the_import_has_ended(
        meanwhile, tmp_path, status):
    task_id = databases.add_task()
    made, seen = _placeholder(tmp_path, task_id), []
    meanwhile += [lambda: seen.append(_is_held(made))] * 30
    meanwhile.append(lambda: _set_status(task_id, status))
    _complete(task_id, placeholder=made)
    assert seen == [True] * 30
    assert [path.name for path in tmp_path.iterdir()] == ['glance.sqlite']


def test_the_placeholder_of_what_glance_has_stored_goes_at_once(meanwhile,
                                                                tmp_path):
    """Beside another file, for which it only holds the lock."""
    task_id = databases.add_task()
    made, seen = _placeholder(tmp_path, task_id), []
    converted = tmp_path / f'{IMAGE}.raw'
    converted.write_bytes(b'data')
    made.hand_on(str(converted), 4)
    for action in (lambda: None, converted.unlink, lambda: None):
        meanwhile += [action, lambda: seen.append(_is_there(made))]
    meanwhile.append(lambda: _set_status(task_id, 'success'))
    _complete(task_id, placeholder=made)
    assert seen == [True, False, False]


def _is_there(made):
    try:
        return _is_held(made)
    except FileNotFoundError:
        return False


def test_a_sink_that_fails_leaves_no_placeholder(meanwhile, tmp_path,
                                                 monkeypatch):
    task_id = databases.add_task('success')
    made, called = _placeholder(tmp_path, task_id), []

    def forget(_):
        raise ValueError('never')

    monkeypatch.setattr(adoption, 'forget', forget)
    monkeypatch.setattr(threading, 'excepthook', called.append)
    _complete(task_id, placeholder=made)
    assert [path.name for path in tmp_path.iterdir()] == ['glance.sqlite']
    assert len(called) == 1


# A database that is away, or has lost the task

def test_while_the_database_is_away_it_is_waited(meanwhile, monkeypatch,
                                                 caplog):
    task_id = databases.add_task('success')
    sink, find_task = _offer(task_id), records.find_task

    def away(_):
        raise OSError('away')

    def come_back():
        assert sink.names() == []
        monkeypatch.setattr(records, 'find_task', find_task)

    monkeypatch.setattr(records, 'find_task', away)
    meanwhile += [lambda: None] * 15 + [come_back]
    _complete(task_id)
    assert f'Task {task_id} can not be read' in caplog.text
    assert sink.names() == ['abort']
    assert _message(task_id) == MESSAGE


@pytest.mark.parametrize('status', ['pending', 'processing'])
def test_an_import_that_has_not_ended_is_waited_for(meanwhile, status):
    task_id = databases.add_task(status)
    sink, seen = _offer(task_id), []
    meanwhile += [lambda: seen.append(sink.names())] * 25
    meanwhile.append(lambda: _set_status(task_id, 'success'))
    _complete(task_id)
    assert seen == [[]] * 25
    assert sink.names() == ['abort']


def test_a_task_that_is_gone_will_adopt_nothing(tmp_path):
    task_id = str(uuid.uuid4())
    made, sink = _placeholder(tmp_path, task_id), _offer(task_id)
    _complete(task_id, placeholder=made)
    assert sink.names() == ['abort']
    assert [path.name for path in tmp_path.iterdir()] == ['glance.sqlite']


def test_a_message_that_can_not_be_written_stops_no_digests(monkeypatch,
                                                            caplog):
    def away(*_):
        raise OSError('away')

    task_id, called = databases.add_task('success'), []
    monkeypatch.setattr(records, 'set_task_message', away)
    _complete(task_id, later=lambda: called.append('digests'))
    assert called == ['digests']
    assert f'Task {task_id} lost its message' in caplog.text


# An import that ended while the database was away

@pytest.mark.parametrize('lock', [True, False])
def test_of_an_import_that_is_to_be_ended_its_placeholder_stays(
        tmp_path, monkeypatch, over, meanwhile, lock):
    """Nobody holds a lock on it, by which the clean-up sees what to do."""
    task_id = databases.add_task('processing')
    made, sink = _placeholder(tmp_path, task_id), _offer(task_id)
    monkeypatch.setattr(records, 'lock_holder',
                        lambda image_id: task_id if lock else None)
    meanwhile += [lambda: None] * 15 + [lambda: over.add(task_id)]
    called = []
    _complete(task_id, placeholder=made, later=lambda: called.append(1))
    assert sink.names() == ['abort']
    header = placeholder.read_abandoned(made.path)
    assert bool(header) == os.path.exists(made.path) == lock
    assert called == []


def test_what_was_recorded_before_it_ended_counts(over):
    task_id = databases.add_task('success')
    over.add(task_id)
    _complete(task_id)
    assert _message(task_id) == MESSAGE
