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

from glance_conversion_plugins import errors
from glance_conversion_plugins.stores import adoption

WRITTEN = adoption.Written('rbd://f/p/i/snap', 1000, 'md5', 'sha',
                         {'store': 'ceph'})


@pytest.fixture(autouse=True)
def empty():
    """Leave nothing for other tests."""
    yield
    for task_id in ('t1', 't2'):
        adoption.forget(task_id)


def test_nothing_written():
    assert adoption.take('ceph', 'i', 1000) is None


def test_taken_once():
    adoption.offer('ceph', 'i', 't1', WRITTEN)
    assert adoption.take('ceph', 'i', 1000) == WRITTEN
    assert adoption.take('ceph', 'i', 1000) is None


@pytest.mark.parametrize(('store', 'image_id'), [
    ('other', 'i'), ('ceph', 'j'), ('', 'i'), ('i', 'ceph'),
])
def test_only_for_its_store_and_image(store, image_id):
    adoption.offer('ceph', 'i', 't1', WRITTEN)
    assert adoption.take(store, image_id, 1000) is None
    assert adoption.take('ceph', 'i', 1000) == WRITTEN


@pytest.mark.parametrize('size', [0, None])
def test_for_a_glance_that_does_not_say_the_size(size):
    adoption.offer('ceph', 'i', 't1', WRITTEN)
    assert adoption.take('other', 'i', size) is None
    assert adoption.take('ceph', 'i', size) == WRITTEN
    assert adoption.take('ceph', 'i', size) is None


@pytest.mark.parametrize('size', [1, 999, 1001])
def test_only_for_its_size(size):
    adoption.offer('ceph', 'i', 't1', WRITTEN)
    assert adoption.take('ceph', 'i', size) is None
    assert adoption.take('ceph', 'i', 1000) == WRITTEN


def test_failure_is_raised_whatever_the_size():
    adoption.offer('ceph', 'i', 't1', errors.StoreFull('full'))
    with pytest.raises(errors.StoreFull, match='full'):
        adoption.take('ceph', 'i', 5)


def test_each_store_has_its_own_outcome():
    adoption.offer('a', 'i', 't1', WRITTEN)
    adoption.offer('b', 'i', 't1', errors.StoreFull('full'))
    with pytest.raises(errors.StoreFull):
        adoption.take('b', 'i', 1000)
    assert adoption.take('a', 'i', 1000) == WRITTEN


def test_a_later_task_replaces_what_an_earlier_one_wrote():
    adoption.offer('ceph', 'i', 't1', errors.StoreFull('full'))
    adoption.offer('ceph', 'i', 't2', WRITTEN)
    adoption.forget('t1')
    assert adoption.take('ceph', 'i', 1000) == WRITTEN


def test_forget_drops_all_of_a_task_and_nothing_else():
    adoption.offer('a', 'i', 't1', WRITTEN)
    adoption.offer('b', 'i', 't1', errors.StoreFull('full'))
    adoption.offer('a', 'j', 't2', WRITTEN)
    adoption.forget('t1')
    assert adoption.take('a', 'i', 1000) is None
    assert adoption.take('b', 'i', 1000) is None
    assert adoption.take('a', 'j', 1000) == WRITTEN
