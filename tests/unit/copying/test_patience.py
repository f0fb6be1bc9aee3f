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

"""Places that hang: what is in them fails, and nobody else."""

import threading
import time

import pytest

from glance_conversion_plugins.copying import patience
from glance_conversion_plugins.copying.sinks import fanout
from glance_conversion_plugins.copying.sinks import patient as patient_sink
from glance_conversion_plugins.copying.sources import patient as patient_source
from glance_conversion_plugins import errors
from tests.contract import memory
from tests.unit import fakes

BLOCK = memoryview(b'block'.ljust(4096, b'.'))


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    call = patience.Patience.call
    monkeypatch.setattr(
        patience.Patience, 'call',
        lambda self, function, *args, seconds=0: call(
            self, function, *args, seconds=0.2))


@pytest.fixture
def away():
    """Set while a place is there; it is in the end, or threads would stay."""
    there = threading.Event()
    yield there
    there.set()


class HangingSink(fakes.FakeSink):
    """Hangs in one method until its place is there again."""

    def __init__(self, at, there):
        super().__init__()
        self._at, self._there = at, there
        # What is asked of it later, it answers.
        setattr(self, at, lambda *args: there.wait() and getattr(
            super(HangingSink, self), at)(*args))


def _sink(at, there):
    hanging = HangingSink(at, there)
    return hanging, patient_sink.PatientSink(hanging, 'files')


STEPS = {'create': (4096,), 'write': (BLOCK, 0), 'resize': (8192,),
         'seal': (), 'publish': (), 'hand_over': ()}


@pytest.mark.parametrize('at', STEPS)
def test_a_sink_that_hangs_fails_and_is_let_go_of(at, away):
    hanging, sink = _sink(at, away)
    with pytest.raises(errors.SinkFailed, match='did not answer in time'):
        getattr(sink, at)(*STEPS[at])
    before = time.monotonic()
    with pytest.raises(errors.SinkFailed):
        sink.write(BLOCK, 0)
    assert sink.is_held()
    sink.interrupt()
    sink.abort()
    # Nobody waits a second time.
    assert time.monotonic() - before < 0.2
    _wait_for(lambda: 'abort' in hanging.names())


def _wait_for(what):
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_abort_that_hangs_is_left_behind(away):
    hanging, sink = _sink('abort', away)
    sink.abort()
    assert 'abort' not in hanging.names()
    away.set()
    _wait_for(lambda: 'abort' in hanging.names())


def test_errors_are_those_of_the_sink():
    sink = patient_sink.PatientSink(fakes.FakeSink(
        fail_at={'publish': errors.Fenced()}), 'files')
    with pytest.raises(errors.Fenced):
        sink.publish()


def test_another_store_goes_on(away):
    place = {}
    healthy = memory.MemorySink(place, 'a')
    both = fanout.FanOut({'files': _sink('write', away)[1],
                          'ceph': healthy}, all_must_succeed=False)
    both.create(4096)
    both.write(BLOCK, 0)
    both.seal()
    both.publish()
    assert place == {'a': bytes(BLOCK)}
    assert list(both.sealed()) == ['ceph']
    assert 'did not answer' in str(both.failures['files'])


class HangingSource:
    size = 4096

    def __init__(self, there):
        self._there = there
        self.is_closed = threading.Event()

    def extents(self, *_):
        self._there.wait()
        yield from ()

    def read(self, *_):
        self._there.wait()
        return b''

    def interrupt(self):
        pass

    def close(self):
        self.is_closed.set()


@pytest.mark.parametrize('read', [
    lambda source: source.read(0, 8),
    lambda source: list(source.extents(0, 8))])
def test_a_source_that_hangs_fails_and_is_closed(read, away):
    hanging = HangingSource(away)
    source = patient_source.PatientSource(lambda: hanging, 'files')
    with pytest.raises(errors.SourceFailed):
        read(source)
    source.close()
    assert hanging.is_closed.wait(10)


def test_a_source_that_can_not_be_opened_fails(away):
    with pytest.raises(errors.SourceFailed):
        patient_source.PatientSource(lambda: away.wait(), 'files')


@pytest.mark.parametrize('end', ['hand_over', 'release', 'abort'])
def test_no_thread_stays(end):
    sink = patient_sink.PatientSink(fakes.FakeSink(), 'threads')
    sink.create(4096)
    sink.write(BLOCK, 0)
    assert _threads() == 1
    getattr(sink, end)()
    _wait_for(lambda: not _threads())


def _threads():
    return len([t for t in threading.enumerate() if t.name == 'threads'])


def test_who_comes_too_late_is_told(away):
    hanging, sink = _sink('write', away)
    with pytest.raises(errors.SinkFailed):
        sink.write(BLOCK, 0)
    with pytest.raises(errors.SinkFailed):
        sink.hand_over()
    assert 'hand_over' not in hanging.names()
