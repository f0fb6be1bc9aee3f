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

import pytest

from glance_conversion_plugins.copying import digest
from glance_conversion_plugins import errors
from glance_conversion_plugins.stores import adoption
from tests.unit import fakes


@pytest.fixture(autouse=True)
def empty():
    """Leave nothing for other tests."""
    yield
    for task_id in ('t1', 't2'):
        adoption.forget(task_id)


@pytest.fixture
def sealed():
    return _sealed()


def _sealed():
    return adoption.Sealed(fakes.FakeSink(), 1000,
                           digest.Digest('md5', 'sha'))


def test_nothing_written():
    assert adoption.take('ceph', 'i', 1000) is None


def test_taken_once(sealed):
    adoption.offer('ceph', 'i', 't1', sealed)
    assert adoption.take('ceph', 'i', 1000) is sealed
    assert adoption.take('ceph', 'i', 1000) is None


@pytest.mark.parametrize(('store', 'image_id'), [
    ('other', 'i'), ('ceph', 'j'), ('', 'i'), ('i', 'ceph'),
])
def test_only_for_its_store_and_image(sealed, store, image_id):
    adoption.offer('ceph', 'i', 't1', sealed)
    assert adoption.take(store, image_id, 1000) is None
    assert adoption.take('ceph', 'i', 1000) is sealed


@pytest.mark.parametrize('size', [0, None])
def test_for_a_glance_that_does_not_say_the_size(sealed, size):
    adoption.offer('ceph', 'i', 't1', sealed)
    assert adoption.take('other', 'i', size) is None
    assert adoption.take('ceph', 'i', size) is sealed
    assert adoption.take('ceph', 'i', size) is None


@pytest.mark.parametrize('size', [1, 999, 1001])
def test_only_for_its_size(sealed, size):
    adoption.offer('ceph', 'i', 't1', sealed)
    assert adoption.take('ceph', 'i', size) is None
    assert adoption.take('ceph', 'i', 1000) is sealed


def test_failure_is_raised_whatever_the_size():
    adoption.offer('ceph', 'i', 't1', errors.StoreFull('full'))
    with pytest.raises(errors.StoreFull, match='full'):
        adoption.take('ceph', 'i', 5)


def test_a_failure_is_raised_once():
    adoption.offer('ceph', 'i', 't1', errors.StoreFull('full'))
    with pytest.raises(errors.StoreFull):
        adoption.take('ceph', 'i', None)
    assert adoption.take('ceph', 'i', None) is None


def test_each_store_has_its_own_outcome(sealed):
    adoption.offer('a', 'i', 't1', sealed)
    adoption.offer('b', 'i', 't1', errors.StoreFull('full'))
    with pytest.raises(errors.StoreFull):
        adoption.take('b', 'i', 1000)
    assert adoption.take('a', 'i', 1000) is sealed


def test_a_later_task_replaces_what_an_earlier_one_wrote(sealed):
    adoption.offer('ceph', 'i', 't1', errors.StoreFull('full'))
    adoption.offer('ceph', 'i', 't2', sealed)
    adoption.forget('t1')
    assert adoption.take('ceph', 'i', 1000) is sealed


def test_what_a_later_task_replaces_is_removed():
    earlier, later = _sealed(), _sealed()
    adoption.offer('ceph', 'i', 't1', earlier)
    adoption.offer('ceph', 'i', 't2', later)
    adoption.forget('t1')
    assert earlier.sink.names() == ['abort']
    assert later.sink.names() == []


def test_forget_drops_all_of_a_task_and_nothing_else(sealed):
    adoption.offer('a', 'i', 't1', _sealed())
    adoption.offer('b', 'i', 't1', errors.StoreFull('full'))
    adoption.offer('a', 'j', 't2', sealed)
    adoption.forget('t1')
    assert adoption.take('a', 'i', 1000) is None
    assert adoption.take('b', 'i', 1000) is None
    assert adoption.take('a', 'j', 1000) is sealed


def test_forget_removes_what_nobody_has_adopted():
    found = {store: _sealed() for store in 'abc'}
    for store, each in found.items():
        adoption.offer(store, 'i', 't1' if store < 'c' else 't2', each)
    for _ in range(2):
        adoption.forget('t1')
        assert {store: each.sink.names() for store, each in found.items()
                } == {'a': ['abort'], 'b': ['abort'], 'c': []}


def test_forget_leaves_what_was_adopted(sealed):
    """It is for whoever adopted it to see to it."""
    adoption.offer('ceph', 'i', 't1', sealed)
    adoption.take('ceph', 'i', 1000)
    adoption.forget('t1')
    assert sealed.sink.calls == []


@pytest.mark.timeout(60)
def test_while_a_store_takes_its_time_others_are_not_kept_waiting():
    """Removing may wait for a store that does not answer."""
    class Slow(fakes.FakeSink):
        def abort(self):
            assert adoption.take('ceph', 'j', 1000) is other
            super().abort()

    slow = _sealed()._replace(sink=Slow())
    other = _sealed()
    adoption.offer('ceph', 'i', 't1', slow)
    adoption.offer('ceph', 'j', 't2', other)
    adoption.forget('t1')
    assert slow.sink.names() == ['abort']
