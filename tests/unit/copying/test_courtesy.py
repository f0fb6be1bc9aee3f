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

"""What can wait does, for as long as it has patience."""

import threading
import time

import pytest

from glance_conversion_plugins.copying import courtesy
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import pipeline
from glance_conversion_plugins.copying.sinks import discard
from glance_conversion_plugins import errors
from tests.unit import fakes


class _Clock:
    """Of which those who wait let the time go by."""

    def __init__(self):
        self.time = 0.0
        self.waited = 0.0

    def now(self):
        return self.time

    def wait(self, seconds):
        self.time += seconds
        self.waited += seconds
        return False


@pytest.fixture
def clock():
    return _Clock()


def _way(clock, urgent, patience=100.0):
    return courtesy.GiveWay('It', urgent, clock, patience, clock.now)


def test_goes_on_where_nothing_is_urgent(clock):
    way = _way(clock, lambda: False)
    way.update(memoryview(b'x'))
    way.zeros(1)
    assert clock.waited == 0


@pytest.mark.parametrize('show', [
    lambda way: way.update(memoryview(b'x')), lambda way: way.zeros(1)],
    ids=['data', 'zeros'])
def test_waits_while_something_is(clock, show):
    show(_way(clock, lambda: clock.time < 7))
    assert clock.waited == 7


def test_its_patience_is_for_all_of_it(clock):
    way = _way(clock, lambda: True, patience=30)
    way.zeros(1)
    assert clock.waited == 30
    clock.time += 1000
    way.zeros(1)
    assert clock.waited == 30


def test_looks_but_now_and_then(clock):
    asked = []
    way = _way(clock, lambda: asked.append(clock.time))
    for _ in range(100):
        way.zeros(1)
        clock.time += courtesy._LOOK_SECONDS / 10
    assert len(asked) == 10


def test_hears_that_it_is_to_stop():
    cancel = threading.Event()

    def is_urgent():
        cancel.set()
        return True

    way = courtesy.GiveWay('It', is_urgent, cancel, 1000)
    with pytest.raises(errors.Cancelled):
        way.zeros(1)


def test_nothing_is_digested_meanwhile():
    """It stands before the digests, which see the bytes afterwards."""
    seen, urgent = [], [True, True, False]

    class Seen:
        def update(self, view):
            seen.append(len(urgent))

        zeros = update

    way = courtesy.GiveWay('It', lambda: urgent.pop(0), threading.Event(),
                           1000)
    pipeline.copy(fakes.FakeSource('AB'), discard.DiscardSink(),
                  (way, Seen(), digest.Digests(digest.DigestSpec(None, False))
                   ))
    assert seen
    assert set(seen) == {0}


class _Asked:
    """Who is asked answers when he is let; each answer is the next number."""

    def __init__(self):
        self.asked = threading.Semaphore(0)
        self.let = threading.Semaphore(0)

    def __call__(self, former):
        self.asked.release()
        assert self.let.acquire(timeout=60)
        return former + 1


def _wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_was_lately_so_is_not_asked_again(clock):
    asked = _Asked()
    lately = courtesy.Lately(0, asked, 10, clock.now)
    clock.time = 9.9
    assert lately() == 0
    assert not asked.asked.acquire(blocking=False)
    clock.time = 10
    asked.let.release()
    assert lately() in (0, 1)
    _wait_for(lambda: lately() == 1)
    assert asked.asked.acquire(blocking=False)
    clock.time = 19.9
    assert lately() == 1
    assert not asked.asked.acquire(blocking=False)


def test_nobody_waits_for_an_answer(clock):
    asked = _Asked()
    lately = courtesy.Lately(0, asked, 10, clock.now)
    clock.time = 1000
    for _ in range(5):
        assert lately() == 0
    assert asked.asked.acquire(timeout=60)
    # And nobody asks again while another one does.
    assert not asked.asked.acquire(timeout=0.2)
    asked.let.release()
    _wait_for(lambda: lately() == 1)


def test_where_there_is_no_answer_the_former_holds(clock, caplog):
    def ask(former):
        asked.append(former)
        raise OSError('away')

    asked = []
    lately = courtesy.Lately(7, ask, 0, clock.now)
    assert lately() == 7
    _wait_for(lambda: 'not known any more' in caplog.text)
    assert lately() == 7
    _wait_for(lambda: len(asked) > 1)


def test_where_no_thread_can_begin_the_former_holds(clock, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    lately = courtesy.Lately(7, lambda former: former + 1, 0, clock.now)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, 'start', refuse)
        assert lately() == 7
    # It is asked again when one can.
    _wait_for(lambda: lately() > 7)


def test_patience_is_that_of_the_clock(clock):
    """To look may take its time as well."""
    def is_urgent():
        clock.time += 9
        return True

    _way(clock, is_urgent, patience=30).zeros(1)
    assert clock.time < 50


def test_says_when_it_gives_way(clock, caplog):
    caplog.set_level('INFO', courtesy.LOG.name)
    way = _way(clock, lambda: 5 <= clock.time < 7)
    for clock.time in (0, 5, 100):
        way.zeros(1)
    assert [said for said in caplog.messages if said.startswith('It: ')] == [
        'It: give way to other work', 'It: go on after 2.0 s']
