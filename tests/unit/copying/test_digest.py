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


import hashlib
import random
import threading

import pytest

from glance_conversion_plugins.copying import digest

BOTH = digest.DigestSpec('sha512')
NEITHER = digest.DigestSpec(None, checksum=False)


class Recorder:
    """Sees what a hash would see."""

    def __init__(self):
        self.seen = bytearray()

    def update(self, data):
        self.seen += data


class Failing:
    """Fails at the given call."""

    def __init__(self, at):
        self.calls = 0
        self._at = at

    def update(self, data):
        self.calls += 1
        if self.calls == self._at:
            raise ArithmeticError('no more')


class Stuck(Recorder):
    """Waits to be released before it takes anything."""

    def __init__(self):
        super().__init__()
        self.entered = threading.Event()
        self.release = threading.Event()

    def update(self, data):
        self.entered.set()
        assert self.release.wait(60)
        super().update(data)


@pytest.fixture(autouse=True)
def no_thread_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def _in_time(call):
    """Run something that may hang; its thread is not waited for."""
    outcome = []

    def run():
        try:
            outcome.append(call())
        except Exception as e:
            outcome.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), 'hangs'
    return outcome[0]


@pytest.mark.parametrize('algorithm', ['sha512', 'sha256', 'md5'])
@pytest.mark.parametrize('seed', range(5))
def test_equals_hashlib_on_data_and_zeros(algorithm, seed):
    rng = random.Random(seed)  # noqa: S311
    digests = digest.Digests(digest.DigestSpec(algorithm))
    content = bytearray()
    for _ in range(60):
        if rng.random() < 0.4:
            length = rng.choice([1, 4096, 1 << 20, (1 << 20) + 1,
                                 rng.randrange(3 << 20)])
            digests.zeros(length)
            content += bytes(length)
        else:
            data = rng.randbytes(rng.randrange(1, 100_000))
            digests.update(memoryview(data))
            content += data
    assert digests.finish() == digest.Digest(
        hashlib.md5(content).hexdigest(),
        hashlib.new(algorithm, content).hexdigest())


def test_nothing_at_all():
    assert digest.Digests(BOTH).finish() == digest.Digest(
        hashlib.md5(b'').hexdigest(), hashlib.sha512(b'').hexdigest())


@pytest.mark.parametrize(('algorithm', 'threads'), [
    ('sha512', 3), ('sha256', 2), ('md5', 2)])
def test_an_algorithm_that_is_asked_for_twice_runs_once(algorithm, threads):
    before = threading.active_count()
    with digest.Digests(digest.DigestSpec(algorithm, sha256=True)) as digests:
        assert threading.active_count() - before == threads
        digests.update(memoryview(b'A'))
        digests.zeros(5)
        assert digests.finish() == tuple(
            hashlib.new(name, b'A' + bytes(5)).hexdigest()
            for name in ('md5', algorithm, 'sha256'))


@pytest.mark.parametrize(('algorithm', 'checksum', 'expected'), [
    (None, False, (None, None)),
    (None, True, (hashlib.md5(b'A').hexdigest(), None)),
    ('sha256', False, (None, hashlib.sha256(b'A').hexdigest())),
])
def test_what_is_not_wanted_is_none(algorithm, checksum, expected):
    digests = digest.Digests(digest.DigestSpec(algorithm, checksum))
    digests.update(memoryview(b'A'))
    assert digests.finish() == (*expected, None)


def test_unknown_algorithm():
    with pytest.raises(ValueError, match='unsupported'):
        digest.Digests(digest.DigestSpec('no such'))


def test_verifiers_see_every_byte_in_order():
    verifier = Recorder()
    digests = digest.Digests(BOTH, [verifier])
    for number in range(100):
        digests.update(memoryview(b'%3d' % number))
        digests.zeros(number)
    digests.finish()
    assert verifier.seen == b''.join(
        b'%3d' % n + bytes(n) for n in range(100))


@pytest.mark.parametrize('at', [1, 20])
def test_error_of_one_worker_is_raised(at):
    digests = digest.Digests(BOTH, [Failing(at)])

    def feed():
        for _ in range(100):
            digests.update(memoryview(b'A'))
        digests.finish()

    assert isinstance(_in_time(feed), ArithmeticError)
    _in_time(digests.abort)


def test_error_after_the_last_update_is_raised_by_finish():
    digests = digest.Digests(NEITHER, [Failing(1)])
    digests.update(memoryview(b'A'))
    with pytest.raises(ArithmeticError):
        digests.finish()


def test_zeros_can_not_be_changed():
    assert not any(bytes(digest._ZEROS))
    with pytest.raises(TypeError):
        digest._ZEROS[0] = 1


def test_error_while_zeros_are_fed():
    verifier = Failing(2)
    digests = digest.Digests(NEITHER, [verifier])
    digests.zeros(1 << 30)
    with pytest.raises(ArithmeticError):
        digests.finish()
    assert verifier.calls == 2


def test_finish_that_fails_then_abort():
    """The order in which the conversion does it."""
    digests = digest.Digests(BOTH, [Failing(1), Recorder()])
    digests.update(memoryview(b'A'))
    assert isinstance(_in_time(digests.finish), ArithmeticError)
    assert _in_time(digests.abort) is None


def test_abort_with_a_full_queue_does_not_hang():
    stuck = Stuck()
    digests = digest.Digests(NEITHER, [stuck])
    full = threading.Event()

    def feed():
        for number in range(100):
            if number == 16:
                full.set()
            digests.update(memoryview(b'A'))

    feeder = threading.Thread(target=feed)
    threading.excepthook, hook = lambda _: None, threading.excepthook
    try:
        feeder.start()
        assert stuck.entered.wait(60)
        assert full.wait(60)
        aborter = threading.Thread(target=digests.abort)
        aborter.start()
        stuck.release.set()
        aborter.join(60)
        feeder.join(60)
    finally:
        threading.excepthook = hook
    assert not aborter.is_alive()
    assert not feeder.is_alive()
    # What was queued is forgotten, not digested.
    assert len(stuck.seen) < 100


def test_abort_twice():
    digests = digest.Digests(BOTH)
    digests.update(memoryview(b'A'))
    digests.abort()
    assert _in_time(digests.abort) is None


def test_abort_stops_a_long_run_of_zeros():
    verifier = Stuck()
    digests = digest.Digests(NEITHER, [verifier])
    digests.zeros(1 << 50)
    assert verifier.entered.wait(60)
    verifier.release.set()
    assert _in_time(digests.abort) is None


def test_reading_ahead_is_bounded():
    """A slow digest holds up the stream instead of filling the memory."""
    stuck = Stuck()
    digests = digest.Digests(NEITHER, [stuck])
    fed = threading.Semaphore(0)

    def feed():
        for _ in range(100):
            digests.update(memoryview(b'A'))
            fed.release()

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    assert stuck.entered.wait(60)
    for _ in range(17):     # one in the works, 16 in the queue
        assert fed.acquire(timeout=60)
    assert not fed.acquire(timeout=0.2)
    stuck.release.set()
    feeder.join(60)
    digests.finish()
    assert stuck.seen == b'A' * 100
