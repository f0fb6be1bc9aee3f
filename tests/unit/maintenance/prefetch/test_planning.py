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


"""What is fetched into a cache, and what goes for it."""

import itertools

import pytest

from glance_conversion_plugins.maintenance.prefetch import choosing
from glance_conversion_plugins.maintenance.prefetch import node
from glance_conversion_plugins.maintenance.prefetch import planning

M = 1 << 20


def _wanted(image_id, size, refusal=None, gone=False):
    return choosing.Candidate(image_id, 'queued', size, refusal, gone)


def _cached(*images):
    """Entries from (id, size) pairs, the least recently accessed first."""
    return [node.Entry(image_id, size, size // 2, 0, float(number))
            for number, (image_id, size) in enumerate(images)]


def _plan(wanted, cached=(), limit=10 * M, used=None):
    if used is None:
        used = sum(entry.size for entry in cached)
    return planning.plan(wanted, cached, used, limit)


def test_nothing_wanted_means_nothing_to_do():
    assert _plan([], _cached(('old', 20 * M))) == []


def test_an_image_that_fits_evicts_nothing():
    assert _plan([_wanted('new', 3 * M)], _cached(('old', 5 * M))) == [
        planning.Step('new', 'queued', 3 * M, None)]


@pytest.mark.parametrize(('size', 'evict'), [
    (4 * M, ()), (4 * M + 1, ('old',)), (10 * M, ('old',))])
def test_a_cache_may_be_filled_to_its_very_limit(size, evict):
    step, = _plan([_wanted('new', size)], _cached(('old', 6 * M)))
    assert step.refusal is None
    assert step.evict == evict


def test_the_least_recently_accessed_go_first_and_no_more_than_needed():
    cached = _cached(('a', 1 * M), ('b', 2 * M), ('c', 3 * M), ('d', 4 * M))
    step, = _plan([_wanted('new', 3 * M)], cached)
    assert step.evict == ('a', 'b')


@pytest.mark.parametrize('order', list(itertools.permutations('abc')))
def test_the_order_of_evictions_is_the_order_of_entries(order):
    cached = _cached(*[(name, 3 * M) for name in order])
    step, = _plan([_wanted('new', 10 * M)], cached)
    assert step.evict == order


def test_what_is_wanted_and_cached_is_never_evicted():
    cached = _cached(('keep', 4 * M), ('spare', 2 * M), ('also', 4 * M))
    steps = _plan([_wanted('keep', 4 * M, 'cached already'),
                   _wanted('new', 2 * M),
                   _wanted('also', 4 * M, 'cached already')], cached)
    assert [step.evict for step in steps] == [(), ('spare',), ()]
    assert steps[1].refusal is None


def test_what_is_wanted_later_is_not_evicted_for_what_is_wanted_first():
    steps = _plan([_wanted('new', 5 * M),
                   _wanted('later', 8 * M, 'cached already')],
                  _cached(('later', 8 * M)))
    assert [step.evict for step in steps] == [(), ()]
    assert steps[0].refusal == (
        'no room: with all that is wanted the cache would exceed 10 MiB '
        '(image_cache_max_size)')


def test_an_image_that_is_larger_than_the_cache_evicts_nothing():
    cached = _cached(('a', 5 * M), ('b', 5 * M))
    step, = _plan([_wanted('huge', 10 * M + 1)], cached)
    assert step.evict == ()
    assert step.refusal == ('it is larger than a cache of 10 MiB '
                            '(image_cache_max_size)')


def test_an_image_that_is_refused_room_leaves_it_to_the_next():
    cached = _cached(('a', 5 * M), ('b', 5 * M))
    steps = _plan([_wanted('huge', 30 * M), _wanted('new', 5 * M)], cached)
    assert steps[0].refusal
    assert steps[1] == planning.Step('new', 'queued', 5 * M, None, ('a',))


def test_what_is_refused_takes_no_room():
    steps = _plan([_wanted('refused', 10 * M, 'its status is queued'),
                   _wanted('gone', 10 * M, 'it was deleted', gone=True),
                   _wanted('new', 10 * M)])
    assert steps == [
        planning.Step('refused', 'queued', 10 * M, 'its status is queued'),
        planning.Step('gone', 'queued', 10 * M, 'it was deleted', gone=True),
        planning.Step('new', 'queued', 10 * M, None)]


def test_all_share_the_room_in_their_order():
    cached = _cached(('a', 2 * M), ('b', 2 * M), ('c', 6 * M))
    steps = _plan([_wanted('1', 2 * M), _wanted('2', 1 * M),
                   _wanted('3', 1 * M), _wanted('4', 7 * M),
                   _wanted('5', 6 * M), _wanted('6', 1)], cached)
    assert [(step.evict, step.refusal is None) for step in steps] == [
        (('a',), True), (('b',), True), ((), True), ((), False),
        (('c',), True), ((), False)]


@pytest.mark.parametrize('sizes', list(itertools.permutations(
    [1 * M, 3 * M, 4 * M, 6 * M])))
def test_the_limit_holds_whatever_is_wanted(sizes):
    cached = _cached(('a', 1 * M), ('b', 4 * M), ('c', 2 * M), ('d', 3 * M))
    left = {entry.image_id: entry.size for entry in cached}
    steps = _plan([_wanted(str(size), size) for size in sizes], cached)
    for step in steps:
        for image_id in step.evict:
            # Each can only go once.
            del left[image_id]
        if not step.refusal:
            left[step.image_id] = step.size
        assert sum(left.values()) <= 10 * M
    assert any(not step.refusal for step in steps)


def test_a_cache_that_is_too_full_already_is_brought_to_its_limit():
    cached = _cached(('a', 8 * M), ('b', 8 * M), ('c', 8 * M))
    step, = _plan([_wanted('new', 1 * M)], cached)
    assert step.evict == ('a', 'b')


def test_what_glance_counts_beside_the_entries_takes_room_too():
    step, = _plan([_wanted('new', 4 * M)], _cached(('a', 1 * M)),
                  used=8 * M)
    assert step.refusal.startswith('no room')
    step, = _plan([_wanted('new', 3 * M)], _cached(('a', 1 * M)),
                  used=8 * M)
    assert step.evict == ('a',)


def test_a_step_says_why_an_image_is_wanted():
    candidate = choosing.Candidate('new', 'tag golden', 5)
    assert planning.plan([candidate], [], 0, 10) == [
        planning.Step('new', 'tag golden', 5, None)]
