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


from concurrent import futures

import pytest

from glance_conversion_plugins.copying.sinks import bounded
from glance_conversion_plugins import errors
from tests.contract import images
from tests.contract import memory
from tests.unit import fakes


def _write(sink, pattern):
    for number, char in enumerate(pattern):
        sink.write(memoryview(images.content(char)), number * images.BLOCK)


def test_takes_what_is_allowed():
    inner = fakes.FakeSink()
    _write(bounded.Bounded(inner, 3 * images.BLOCK), 'ABC')
    assert inner.names() == ['write'] * 3


def test_refuses_what_is_more():
    sink = bounded.Bounded(fakes.FakeSink(), 3 * images.BLOCK - 1)
    _write(sink, 'AB')
    with pytest.raises(errors.TooLarge, match='more than 192 KiB'):
        sink.write(memoryview(images.content('C')), 2 * images.BLOCK)
    # Nor anything later, however small.
    with pytest.raises(errors.TooLarge):
        sink.write(memoryview(b'D'), 3 * images.BLOCK)


def test_zeros_do_not_count():
    sink = bounded.Bounded(memory.MemorySink({}, 'i'), 2 * images.BLOCK)
    sink.create(1000 * images.BLOCK)
    _write(sink, 'A' + '0' * 99 + 'B')
    sink.zero(101 * images.BLOCK, 899 * images.BLOCK)
    with pytest.raises(errors.TooLarge):
        sink.write(memoryview(b'C'), 0)


def test_counts_what_the_sink_says():
    """Which decides at its own grain what is zeros."""
    sink = bounded.Bounded(fakes.FakeSink(), 0)
    with pytest.raises(errors.TooLarge):
        sink.write(memoryview(bytes(images.BLOCK)), 0)


@pytest.mark.parametrize('missing', [0, 1, 1000])
def test_counts_what_many_write_at_once(missing):
    """Exactly those are refused that are beyond the limit."""
    sink = bounded.Bounded(fakes.FakeSink(), 8000 - missing)

    def write(number):
        try:
            return sink.write(memoryview(b'A'), number)
        except errors.TooLarge:
            return 0

    with futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(8000))) == 8000 - missing


def test_passes_calls_on():
    inner = fakes.FakeSink()
    sink = bounded.Bounded(inner, 100)
    sink.create(20)
    assert sink.write(memoryview(b'A' * 10), 5) == 10
    sink.zero(15, 5)
    sink.resize(30)
    sink.interrupt()
    sink.seal()
    assert inner.names()[-1] == 'seal'
    sink.publish()
    sink.abort()
    assert inner.calls == [('create', 20), ('write', 5, 10), ('zero', 15, 5),
                           ('resize', 30), ('interrupt',), ('seal',),
                           ('publish',), ('abort',)]


@pytest.mark.parametrize('call', ['create', 'write', 'zero', 'resize',
                                  'seal', 'publish', 'abort'])
def test_passes_errors_on(call):
    error = errors.StoreFull('full')
    sink = bounded.Bounded(fakes.FakeSink(fail_at={call: error}), 100)
    arguments = {'create': (10,), 'write': (memoryview(b'A'), 0),
                 'zero': (0, 10), 'resize': (10,)}.get(call, ())
    with pytest.raises(errors.StoreFull) as caught:
        getattr(sink, call)(*arguments)
    assert caught.value is error


@pytest.mark.parametrize(('written', 'most', 'refused'), [
    (0, 0, False), (1, 0, True), (5, 5, False), (6, 5, True)])
def test_check(written, most, refused):
    if refused:
        with pytest.raises(errors.TooLarge):
            bounded.check(written, most)
    else:
        bounded.check(written, most)
