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


import threading

import pytest

from glance_conversion_plugins.copying import pipeline
from glance_conversion_plugins.copying.sinks import fanout
from glance_conversion_plugins import errors
from tests.contract import images
from tests.unit import fakes

ERROR = errors.StoreFull('full')


def _pair(all_must_succeed, fail_at=None):
    """A sound sink and one that fails at the given call."""
    good = fakes.FakeSink()
    bad = fakes.FakeSink(fail_at={fail_at: ERROR})
    return good, bad, fanout.FanOut({'bad': bad, 'good': good},
                                    all_must_succeed)


@pytest.mark.parametrize('all_must_succeed', [True, False])
def test_every_call_reaches_every_sink(all_must_succeed):
    one, two, both = _pair(all_must_succeed)
    both.create(100)
    assert both.write(memoryview(b'A' * 10), 5) == 10
    both.zero(20, 30)
    both.resize(90)
    both.seal()
    both.publish()
    both.abort()
    assert one.calls == two.calls == [
        ('create', 100), ('write', 5, 10), ('zero', 20, 30), ('resize', 90),
        ('seal',), ('publish',), ('abort',)]
    assert both.failures == {}


@pytest.mark.parametrize('call', ['create', 'write', 'zero', 'seal',
                                  'publish'])
def test_one_failure_is_all_it_takes_where_all_must_succeed(call):
    _, bad, both = _pair(True, call)
    with pytest.raises(errors.StoreFull) as caught:
        both.create(100)
        both.write(memoryview(b'A'), 0)
        both.zero(0, 1)
        both.seal()
        both.publish()
    assert caught.value is ERROR
    assert both.failures == {'bad': ERROR}
    assert bad.interrupted.is_set()


@pytest.mark.parametrize('call', ['create', 'write', 'zero', 'seal'])
def test_one_that_fails_is_dropped_where_not_all_must_succeed(call):
    good, bad, both = _pair(False, call)
    both.create(100)
    for _ in range(2):
        assert both.write(memoryview(b'A'), 0) == 1
        both.zero(0, 1)
    both.seal()
    assert good.names() == ['create', 'write', 'zero', 'write', 'zero',
                            'seal']
    # It is told once, stopped, and leaves nothing.
    assert bad.names().count(call) == 1
    assert bad.names()[-2:] == ['interrupt', 'abort']
    assert both.failures == {'bad': ERROR}
    # From then on it is as if there had been only the other one.
    both.publish()
    assert good.names()[-1] == 'publish'
    assert 'publish' not in bad.names()


@pytest.mark.parametrize('call', ['create', 'write', 'zero', 'seal',
                                  'publish'])
def test_no_sink_left(call):
    sinks = {n: fakes.FakeSink(fail_at={call: ERROR}) for n in 'ab'}
    both = fanout.FanOut(sinks, all_must_succeed=False)
    with pytest.raises(errors.StoreFull):
        both.create(100)
        both.write(memoryview(b'A'), 0)
        both.zero(0, 1)
        both.seal()
        both.publish()
    assert set(both.failures) == {'a', 'b'}
    assert both.sealed() == {}


@pytest.mark.parametrize('all_must_succeed', [True, False])
def test_abort_reaches_also_those_that_failed(all_must_succeed):
    good, bad, both = _pair(all_must_succeed, 'write')
    both.create(100)
    try:
        both.write(memoryview(b'A'), 0)
    except errors.StoreFull:
        assert all_must_succeed
    both.abort()
    assert good.names()[-1] == bad.names()[-1] == 'abort'


def test_interrupt_reaches_all():
    one, two, both = _pair(True)
    both.interrupt()
    assert one.calls == two.calls == [('interrupt',)]


def test_names_of_failures_are_those_of_stores():
    other = errors.SinkFailed('slow')
    both = fanout.FanOut({
        'a': fakes.FakeSink(fail_at={'write': ERROR}),
        'b': fakes.FakeSink(fail_at={'seal': other}),
        'c': fakes.FakeSink()}, all_must_succeed=False)
    both.create(1)
    both.write(memoryview(b'A'), 0)
    both.seal()
    assert both.failures == {'a': ERROR, 'b': other}


def test_what_failed_while_sealing_is_removed():
    good, bad, both = _pair(False, 'seal')
    both.create(1)
    both.seal()
    assert bad.names()[-1] == 'abort'
    assert 'abort' not in good.names()


@pytest.mark.parametrize('all_must_succeed', [True, False])
def test_seals_without_publishing(all_must_succeed):
    one, two, both = _pair(all_must_succeed)
    both.create(1)
    both.seal()
    assert one.names() == two.names() == ['create', 'seal']


@pytest.mark.parametrize('call', ['create', 'write', 'zero', 'seal'])
def test_those_that_are_sealed_are_those_that_have_not_failed(call):
    good, bad, both = _pair(False, call)
    # What fails is left out at once, and for good.
    for step in (lambda: both.create(1),
                 lambda: both.write(memoryview(b'A'), 0),
                 lambda: both.zero(0, 1), both.seal):
        step()
        assert both.sealed() == ({'good': good} if both.failures else
                                 {'good': good, 'bad': bad})
    assert both.sealed() == {'good': good}


def test_those_that_are_sealed_are_the_very_sinks_that_were_given():
    good, bad, both = _pair(True)
    both.create(1)
    both.seal()
    found = both.sealed()
    assert found['good'] is good
    assert found['bad'] is bad
    # To take one away is not to take it from all.
    del found['bad']
    assert set(both.sealed()) == {'bad', 'good'}


@pytest.mark.parametrize('error', [errors.AlreadyStored('taken'),
                                   errors.Fenced()])
def test_one_that_can_not_be_published_is_dropped(error):
    good, bad = (fakes.FakeSink(fail_at=fail_at)
                 for fail_at in ({}, {'publish': error}))
    both = fanout.FanOut({'bad': bad, 'good': good}, False)
    both.create(1)
    both.seal()
    both.publish()
    assert both.failures == {'bad': error}
    assert both.sealed() == {'good': good}
    assert good.names() == ['create', 'seal', 'publish']
    # What is left of it goes with all the rest, or by the clean-up.
    both.abort()
    assert bad.names() == ['create', 'seal', 'publish', 'interrupt', 'abort']


def test_what_is_of_the_stores_alone_is_not_done_for_all():
    """Each hands over when its own location is recorded."""
    one, two, both = _pair(True)
    both.create(1)
    both.seal()
    both.publish()
    for sink in both.sealed().values():
        sink.hand_over()
    assert one.names() == two.names() == ['create', 'seal', 'publish',
                                          'hand_over']


def test_error_of_a_store_is_not_hidden_by_those_it_causes():
    """A write under way is interrupted because another one failed.

    What that write raises must not become the reason of the failure, though
    it may be raised first.
    """
    sink = fakes.FakeSink()
    only = fanout.FanOut({'a': sink}, all_must_succeed=True)
    under_way, ended, caught = threading.Event(), threading.Event(), []

    def before_write(offset):
        if offset == 0:
            under_way.set()
            fakes.wait_for_interrupt(sink)
        assert under_way.wait(60)
        raise ERROR

    def write_first():
        try:
            only.write(memoryview(b'A'), 0)
        except errors.ConversionError as e:
            caught.append(e)
        ended.set()

    def interrupt():
        fakes.FakeSink.interrupt(sink)
        assert ended.wait(60)

    sink._before_write, sink.interrupt = before_write, interrupt
    thread = threading.Thread(target=write_first)
    thread.start()
    with pytest.raises(errors.StoreFull):
        only.write(memoryview(b'A'), 1)
    thread.join(60)
    assert caught == [ERROR]


def test_copy_goes_on_with_the_sink_that_is_left():
    good, bad, both = _pair(False, 'write')
    source = fakes.FakeSource('A' * 16 * 20)
    both.create(source.size)
    pipeline.copy(source, both)
    both.seal()
    assert sorted(c[1:] for c in good.calls if c[0] == 'write') == [
        (n * pipeline.CHUNK, pipeline.CHUNK) for n in range(20)]
    assert bad.names()[-1] == 'abort'
    assert source.size == 16 * 20 * images.BLOCK


# Read back

def _read_back(all_must_succeed):
    """Look at three places of which one has something else."""
    targets = {name: fakes.FakeSink() for name in ('one', 'bad', 'two')}
    for name, target in targets.items():
        target.read_back = lambda name=name: name
    seen = []

    def check(found):
        seen.append(found)
        if found == 'bad':
            raise ERROR

    all_of_them = fanout.FanOut(targets, all_must_succeed)
    return targets, all_of_them, seen, check


def test_a_place_that_has_something_else_is_left_out():
    targets, all_of_them, seen, check = _read_back(False)
    all_of_them.read_back(check)
    assert seen == ['one', 'bad', 'two']
    assert all_of_them.failures == {'bad': ERROR}
    assert all_of_them.sealed() == {'one': targets['one'],
                                    'two': targets['two']}
    assert targets['bad'].names()[-1] == 'abort'
    assert 'abort' not in targets['one'].names() + targets['two'].names()


def test_a_place_that_failed_before_is_left_alone():
    targets, all_of_them, _, check = _read_back(False)
    all_of_them.failures['one'] = ERROR
    all_of_them.read_back(check)
    assert targets['one'].calls == []


def test_a_place_that_has_something_else_ends_it_where_all_must_succeed():
    _, all_of_them, _, check = _read_back(True)
    with pytest.raises(errors.StoreFull):
        all_of_them.read_back(check)
