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


"""What failed and when it is tried again."""

import json
import os
import threading
import types

import pytest

from glance_conversion_plugins.maintenance.prefetch import backoff

NOW = 1_000_000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Seconds since the epoch, as failures see them."""
    found = types.SimpleNamespace(now=NOW)
    monkeypatch.setattr(backoff, 'time',
                        types.SimpleNamespace(time=lambda: found.now))
    return found


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'failures.json')


def _load(path):
    return backoff.Failures(path)


# Failures

def test_none_are_known_at_first(path):
    failures = _load(path)
    assert failures.items() == []
    assert failures.get('a') is None
    assert not os.path.exists(path)


def test_each_failure_in_a_row_doubles_the_wait_up_to_six_hours(path):
    failures = _load(path)
    waits = [failures.add('a', 'no').again_at - NOW for _ in range(12)]
    assert waits == [60, 120, 240, 480, 960, 1920, 3840, 7680, 15360,
                     21600, 21600, 21600]
    assert failures.get('a').attempts == 12


def test_thousands_of_failures_are_no_problem(path):
    failures_in = {'a': (5000, 'no', 0.0)}
    with open(path, 'w') as file:
        json.dump(failures_in, file)
    assert _load(path).add('a', 'no') == (5001, 'no', NOW + 21600)


def test_the_wait_begins_with_the_failure(path, clock):
    failures = _load(path)
    failures.add('a', 'no')
    clock.now += 1000
    assert failures.add('a', 'no').again_at == NOW + 1000 + 120


def test_the_last_reason_counts(path):
    failures = _load(path)
    failures.add('a', 'first')
    assert failures.add('a', 'second').reason == 'second'
    assert failures.get('a').reason == 'second'


def test_images_fail_on_their_own(path):
    failures = _load(path)
    failures.add('b', 'two')
    failures.add('b', 'two')
    failures.add('a', 'one')
    assert failures.items() == [('a', (1, 'one', NOW + 60)),
                                ('b', (2, 'two', NOW + 120))]


def test_another_process_knows_them_too(path):
    first = _load(path)
    first.add('a', 'kein Öl')
    first.add('b', 'no')
    second = _load(path)
    assert second.items() == first.items()
    assert isinstance(second.get('a'), backoff.Failure)
    assert second.add('a', 'no').attempts == 2
    assert _load(path).get('a').attempts == 2


def test_one_that_is_forgotten_starts_anew(path):
    failures = _load(path)
    for _ in range(3):
        failures.add('a', 'no')
    failures.forget('a')
    assert failures.get('a') is None
    assert _load(path).items() == []
    assert failures.add('a', 'no').attempts == 1


def test_forgetting_what_never_failed_writes_nothing(path):
    _load(path).forget('a')
    assert not os.path.exists(path)


def test_only_what_is_still_wanted_is_kept(path):
    failures = _load(path)
    for image_id in 'abc':
        failures.add(image_id, 'no')
    failures.keep({'b', 'never failed'})
    assert [image_id for image_id, _ in failures.items()] == ['b']
    assert [image_id for image_id, _ in _load(path).items()] == ['b']


@pytest.mark.parametrize('content', [
    b'', b'{', b'[]', b'null', b'5', b'"a"', b'{"a": 5}', b'{"a": []}',
    b'{"a": [1, "no"]}', b'{"a": [1, "no", 2.0, 3]}', b'{"a": null}',
    b'{"a": ["x", "no", 2.0]}', b'{"a": [1, "no", null]}', b'{"a": "abc"}',
    b'\xff\xfe\x00', b'{"a": [1, "no", 2.0]}garbage'])
def test_a_damaged_file_starts_anew(path, content):
    with open(path, 'wb') as file:
        file.write(content)
    failures = _load(path)
    assert failures.items() == []
    failures.add('a', 'no')
    assert _load(path).items() == [('a', (1, 'no', NOW + 60))]


def test_the_file_is_replaced_at_once(path, tmp_path):
    failures = _load(path)
    failures.add('a', 'no')
    with open(path) as old:
        failures.add('b', 'no')
        # Whoever had it open sees the old one, whole.
        assert list(json.load(old)) == ['a']
    with open(path) as new:
        assert sorted(json.load(new)) == ['a', 'b']
    assert os.listdir(tmp_path) == ['failures.json']


def test_a_file_that_can_not_be_written_stays_as_it_was(path):
    failures = _load(path)
    failures.add('a', 'no')
    os.mkdir(path + '.new')
    failures.add('b', 'no')
    assert failures.get('b').reason == 'no'
    assert [image_id for image_id, _ in _load(path).items()] == ['a']


def test_several_threads_lose_nothing(path):
    failures = _load(path)

    def fail(name):
        for number in range(10):
            failures.add(f'{name}{number}', 'no')
            failures.add('all', 'no')

    threads = [threading.Thread(target=fail, args=(name,))
               for name in 'abcd']
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures.items()) == 41
    assert failures.get('all').attempts == 40
    assert _load(path).items() == failures.items()
