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


"""Passes of the prefetcher over a real cache of Glance."""

import contextlib
import hashlib
import json
import os
import random
import threading
import time
import types
import uuid

import glance_store
from oslo_config import cfg
import pytest

from glance_conversion_plugins.copying import progress
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import folder as folders
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.glance_db import popularity
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance.prefetch import backoff
from glance_conversion_plugins.maintenance.prefetch import fetching
from glance_conversion_plugins.maintenance.prefetch import node as node_
from glance_conversion_plugins.maintenance.prefetch import prefetch
from glance_conversion_plugins.maintenance.prefetch import status
from tests.contract import images
from tests.unit import caches

CONF = cfg.CONF
B = images.BLOCK
M = 1 << 20


@pytest.fixture(autouse=True)
def cache(override):
    override('image_cache_max_size', 100 * M)
    override('grace', 0, 'cache_prefetch')


class Glance:
    """The images that a Glance has, and what its stores give for them."""

    def __init__(self):
        self.images = {}        # id: record
        self.stored = {}        # URL: chunks, or a function that gives them
        self.reads = []         # URLs
        self._lock = threading.Lock()

    def add(self, content, stores=('ceph',), **values):
        """Have an image that each store gives in pieces; returns its id."""
        image_id = str(uuid.uuid4())
        self.images[image_id] = {
            'id': image_id, 'status': 'active', 'size': len(content),
            'checksum': hashlib.md5(content).hexdigest(),
            'os_hash_algo': 'sha512',
            'os_hash_value': hashlib.sha512(content).hexdigest(),
            'locations': [
                {'url': f'{store}://{image_id}',
                 'metadata': {'store': store} if store else {}}
                for store in stores]} | values
        for store in stores:
            self.stored[f'{store}://{image_id}'] = _pieces(content)
        return image_id

    def gives(self, image_id, chunks, store='ceph'):
        """Let a store give something else for an image."""
        self.stored[f'{store}://{image_id}'] = chunks

    def find_image(self, image_id):
        return self.images.get(image_id)

    def load_image(self, image_id):
        found = dict(self.images[image_id])
        return types.SimpleNamespace(image_id=found.pop('id'), **found)

    def read(self, url, store):
        with self._lock:
            self.reads.append(url)
        found = self.stored[url]
        if isinstance(found, Exception):
            raise found
        return found() if callable(found) else iter(found)


def _pieces(content):
    return [content[at:at + 5 * B] for at in range(0, len(content), 5 * B)]


@pytest.fixture
def glance(monkeypatch):
    found = Glance()
    monkeypatch.setattr(records, 'find_image', found.find_image)
    monkeypatch.setattr(records, 'load_image', found.load_image)
    monkeypatch.setattr(records, 'images', lambda **filters: iter([
        image for image in found.images.values()
        if image['status'] == filters['status']]))
    monkeypatch.setattr(popularity, 'newest_public', lambda limit: list(
        found.images.values())[::-1][:limit])
    monkeypatch.setattr(popularity, 'most_hit', lambda limit: list(
        found.images)[:limit])
    monkeypatch.setattr(fetching, '_read', found.read)
    return found


def _content(length=M, seed=1):
    return random.Random(seed).randbytes(length)    # noqa: S311


def _queue(*ids):
    """Ask for images, one after the other."""
    node = prefetch.Prefetch().node
    for number, image_id in enumerate(ids):
        assert node.cache.queue_image(image_id)
        moment = time.time() - 1000 + number
        os.utime(os.path.join(CONF.image_cache_dir, 'queue', image_id),
                 (moment, moment))


def _run(cancel=None):
    return list(prefetch.Prefetch(cancel).run())


def _results(outcomes):
    return [(outcome.image_id, outcome.result) for outcome in outcomes]


def _cached():
    """{id: content}"""
    cache = prefetch.Prefetch().node.cache
    found = {}
    for record in cache.get_cached_images():
        with cache.open_for_read(record['image_id']) as file:
            found[record['image_id']] = file.read()
    return found


def _beside():
    """Names of all files that are neither cached nor of use."""
    base = CONF.image_cache_dir
    return [name for state in ('incomplete', 'invalid', 'prefetch')
            for name in os.listdir(os.path.join(base, state))
            if name != 'failures.json'
            and not name.startswith('glance-conversion-')]


def _marked():
    """(whether it has its name, whether its writer lives) of what is marked.
    """
    with folders.Folder(os.path.join(CONF.image_cache_dir,
                                     'prefetch')) as here:
        return [(found.is_published, here.is_open(found.mark))
                for found in here.marked()]


def _opened():
    """Names of what we have open in the cache, but for its database."""
    base, found = os.path.realpath(CONF.image_cache_dir), []
    for fd in os.listdir('/proc/self/fd'):
        with contextlib.suppress(FileNotFoundError):
            path = os.readlink(f'/proc/self/fd/{fd}')
            if path.startswith(base) and 'cache.db' not in path:
                found.append(os.path.relpath(path, base))
    return found


def _queued():
    return prefetch.Prefetch().node.queued()


def _failures():
    return dict(prefetch.Prefetch().failures.items())


def _let_time_pass():
    """Bring everything that failed to the moment when it is tried again."""
    path = os.path.join(CONF.image_cache_dir, 'prefetch', 'failures.json')
    with open(path) as file:
        found = json.load(file)
    with open(path, 'w') as file:
        json.dump({image_id: [attempts, reason, time.time() - 1]
                   for image_id, (attempts, reason, _) in found.items()},
                  file)


# What is fetched

def test_nothing_is_done_where_nothing_is_wanted(glance):
    glance.add(_content())
    assert _run() == []
    assert _cached() == {}


@pytest.mark.parametrize('content', [
    b'x', _content(777), _content(3 * M + 12_345), bytes(2 * M),
    _content(100_000) + bytes(5 * M) + _content(3)],
    ids=['a byte', 'some', 'blocks', 'zeros', 'holes'])
def test_a_queued_image_is_fetched_as_it_is(glance, content):
    image_id = glance.add(content)
    _queue(image_id)
    outcome, = _run()
    assert (outcome.image_id, outcome.result) == (image_id, 'fetched')
    assert _cached() == {image_id: content}
    assert _queued() == _beside() == []
    assert _failures() == {}


def test_what_is_fetched_gets_its_name_when_it_is_verified(glance,
                                                           monkeypatch):
    """And until it is cached everybody sees that its writer lives."""
    content, seen = _content(2 * M), []
    image_id = glance.add(content)

    def chunks():
        yield content[:M]
        seen.append(_marked())
        yield content[M:]

    def verify(*args):
        seen.append(_marked())
        return real_verify(*args)

    def commit(self, mark):
        assert mark.image_id == image_id
        seen.append(_marked())
        return real_commit(self, mark)

    real_verify, real_commit = fetching._verify, node_.Node.commit
    monkeypatch.setattr(fetching, '_verify', verify)
    monkeypatch.setattr(node_.Node, 'commit', commit)
    glance.gives(image_id, chunks)
    _queue(image_id)
    assert _results(_run()) == [(image_id, 'fetched')]
    assert seen == [[(False, True)], [(False, True)], [(True, True)]]
    assert _marked() == []


def test_what_is_damaged_never_has_the_name_of_the_image(glance,
                                                         monkeypatch):
    image_id = glance.add(_content())
    glance.gives(image_id, [_content(seed=2)])
    published = []
    monkeypatch.setattr(folders.Folder, 'publish',
                        lambda self, mark: published.append(mark))
    _queue(image_id)
    assert _results(_run()) == [(image_id, 'failed')]
    assert published == []


@pytest.mark.parametrize('end', ['fetched', 'damaged', 'torn', 'stopped',
                                 'deleted'])
def test_a_fetch_leaves_nothing_open(glance, end):
    content, cancel = _content(), threading.Event()
    image_id = glance.add(content)

    def chunks():
        yield content[:M // 2]
        opened.extend(_opened())
        if end == 'torn':
            raise ConnectionResetError
        if end == 'stopped':
            cancel.set()
        if end == 'deleted':
            glance.images[image_id]['status'] = 'deleted'
        yield bytes(M // 2) if end == 'damaged' else content[M // 2:]

    opened = []
    glance.gives(image_id, chunks)
    _queue(image_id)
    _run(cancel)
    assert (list(_cached()) == [image_id]) == (end == 'fetched')
    # The file, what keeps its lock, and its folder, beside the agent's own.
    assert len([name for name in opened if name.endswith('.partial')]) == 2
    assert 'prefetch' in opened
    assert _opened() == _beside() == []


def test_an_outcome_tells_what_was_fetched(glance):
    image_id = glance.add(_content(M) + bytes(9 * M), ['ceph'])
    _queue(image_id)
    outcome, = _run()
    assert outcome.fetched.store == 'ceph'
    assert outcome.fetched.size == 10 * M
    assert M <= outcome.fetched.allocated < 2 * M
    assert str(outcome).startswith(
        f'image {image_id}: fetched 10 MiB from ceph, 1 MiB on disk, in ')


def test_zeros_are_not_stored(glance):
    image_id = glance.add(_content(B) + bytes(8 * M) + _content(B))
    _queue(image_id)
    _run()
    found = os.stat(os.path.join(CONF.image_cache_dir, image_id))
    assert found.st_size == 8 * M + 2 * B
    assert found.st_blocks * 512 <= 3 * B


def test_a_store_without_a_name_is_read_too(glance):
    image_id = glance.add(_content(), [None])
    _queue(image_id)
    outcome, = _run()
    assert 'from its store' in outcome.words
    assert list(_cached()) == [image_id]


def test_an_image_of_old_is_verified_by_its_checksum(glance):
    old = {'os_hash_algo': None, 'os_hash_value': None}
    right, wrong = glance.add(_content(), **old), glance.add(_content(), **old)
    glance.gives(wrong, [_content(seed=2)])
    _queue(right, wrong)
    outcomes = _run()
    assert _results(outcomes) == [(right, 'fetched'), (wrong, 'failed')]
    assert '(md5)' in outcomes[1].words
    assert list(_cached()) == [right]


def test_the_policy_fetches_what_nobody_has_queued(glance, override):
    ids = [glance.add(_content(seed=number)) for number in range(4)]
    override('newest', 1, 'cache_prefetch')
    override('most_hit', 1, 'cache_prefetch')
    override('grace', 3600, 'cache_prefetch')
    assert _results(_run()) == [(ids[3], 'fetched'), (ids[0], 'fetched')]
    assert set(_cached()) == {ids[0], ids[3]}


def test_a_second_pass_has_nothing_to_fetch(glance, override):
    override('visibility', ['public'], 'cache_prefetch')
    image_id = glance.add(_content())
    assert _results(_run()) == [(image_id, 'fetched')]
    outcome, = _run()
    assert outcome == prefetch.Outcome(
        image_id, 'passed over', 'passed over (public): cached already')
    assert len(glance.reads) == 1


# What is passed over

def test_an_image_that_was_deleted_is_not_queued_any_more(glance):
    deleted = glance.add(_content(), status='deleted')
    unknown, kept = str(uuid.uuid4()), glance.add(_content())
    _queue(deleted, unknown, kept)
    outcomes = _run()
    assert _results(outcomes) == [
        (deleted, 'passed over'), (unknown, 'passed over'),
        (kept, 'fetched')]
    assert [outcome.words for outcome in outcomes[:2]] == [
        'passed over (queued): it was deleted',
        'passed over (queued): there is no such image']
    assert _queued() == []
    assert _failures() == {}


@pytest.mark.parametrize(('values', 'expected'), [
    ({'status': 'queued', 'size': None}, 'its status is queued'),
    ({'status': 'deactivated'}, 'its status is deactivated'),
    ({'checksum': None, 'os_hash_value': None},
     'it has no digest yet to verify it by')])
def test_what_can_not_be_fetched_yet_stays_in_the_queue(glance, values,
                                                        expected):
    image_id = glance.add(_content(), **values)
    _queue(image_id)
    outcome, = _run()
    assert outcome == prefetch.Outcome(
        image_id, 'passed over', f'passed over (queued): {expected}')
    assert _queued() == [image_id]
    assert glance.reads == []
    assert _failures() == {}


def test_what_was_just_queued_is_left_to_glance(glance, override):
    override('grace', 3600, 'cache_prefetch')
    image_id = glance.add(_content())
    _queue(image_id)
    outcome, = _run()
    assert outcome.result == 'passed over'
    assert 'left to Glance for ' in outcome.words
    assert glance.reads == []


def test_an_image_that_does_not_fit_is_passed_over(glance, override):
    override('image_cache_max_size', M)
    image_id = glance.add(_content(M + 1))
    _queue(image_id)
    outcome, = _run()
    assert outcome.result == 'passed over'
    assert 'it is larger than a cache of 1 MiB' in outcome.words
    assert glance.reads == []


# What fails

def test_a_damaged_image_fails_and_leaves_nothing(glance):
    image_id = glance.add(_content())
    glance.gives(image_id, [_content(seed=2)])
    _queue(image_id)
    outcome, = _run()
    assert outcome.result == 'failed'
    assert outcome.fetched is None
    assert outcome.words == (
        'failed: ceph: what is stored does not have the digest of the image '
        '(sha512) (attempt 1; the next one is in 1 min 00 s)')
    assert _cached() == {}
    assert _beside() == []
    assert _queued() == [image_id]
    assert _failures()[image_id].reason == (
        'ceph: what is stored does not have the digest of the image '
        '(sha512)')


def test_what_failed_is_tried_again_only_after_its_time(glance):
    image_id = glance.add(_content())
    glance.gives(image_id, [_content(seed=2)])
    _queue(image_id)
    assert _results(_run()) == [(image_id, 'failed')]
    glance.gives(image_id, [_content()])
    outcome, = _run()
    assert outcome.result == 'passed over'
    assert 'the digest of the image' in outcome.words
    assert '(attempt 1; the next one is in ' in outcome.words
    assert len(glance.reads) == 1
    _let_time_pass()
    assert _results(_run()) == [(image_id, 'fetched')]
    assert _failures() == {}


def test_each_failure_in_a_row_is_counted(glance):
    image_id = glance.add(_content())
    glance.gives(image_id, glance_store.NotFound(message='no such object'))
    _queue(image_id)
    for attempt, wait in enumerate(('1 min 00 s', '2 min 00 s',
                                    '4 min 00 s'), 1):
        outcome, = _run()
        assert outcome.words == (
            f'failed: ceph: no such object (attempt {attempt}; the next one '
            f'is in {wait})')
        _let_time_pass()


def test_a_failure_of_what_nobody_wants_any_more_is_forgotten(glance):
    image_id = glance.add(_content())
    glance.gives(image_id, [b'short'])
    _queue(image_id)
    assert _results(_run()) == [(image_id, 'failed')]
    assert list(_failures()) == [image_id]
    prefetch.Prefetch().node.unqueue(image_id)
    assert _run() == []
    assert _failures() == {}


def test_a_failure_of_an_image_that_is_gone_is_forgotten(glance):
    image_id = glance.add(_content())
    glance.gives(image_id, [b'short'])
    _queue(image_id)
    assert _results(_run()) == [(image_id, 'failed')]
    glance.images[image_id]['status'] = 'deleted'
    assert _results(_run()) == [(image_id, 'passed over')]
    assert _failures() == {}


@pytest.mark.parametrize(('given', 'expected'), [
    (M - 1, 'Size mismatch'), (M + 1, 'Size exceeds'), (0, 'Size mismatch')])
def test_an_image_of_another_size_fails(glance, given, expected):
    image_id = glance.add(_content())
    glance.gives(image_id, _pieces(_content(given)))
    _queue(image_id)
    outcome, = _run()
    assert outcome.result == 'failed'
    assert f'ceph: {expected}' in outcome.words
    assert _cached() == {}
    assert _beside() == []


def _torn(content, error):
    def chunks():
        yield content[:len(content) // 2]
        raise error
    return chunks


@pytest.mark.parametrize('error', [
    glance_store.RemoteServiceUnavailable(message='down'),
    ConnectionResetError('secret.example'), OSError(5, 'no')])
@pytest.mark.parametrize('torn', [False, True])
def test_the_next_location_is_tried_when_one_fails(glance, error, torn):
    content = _content()
    image_id = glance.add(content, ['near', 'far'])
    glance.gives(image_id, _torn(content, error) if torn else error, 'near')
    _queue(image_id)
    outcome, = _run()
    assert outcome.result == 'fetched'
    assert outcome.fetched.store == 'far'
    assert glance.reads == [f'near://{image_id}', f'far://{image_id}']
    assert _cached() == {image_id: content}
    assert _beside() == []
    assert _failures() == {}


def test_the_next_location_is_tried_when_one_is_damaged(glance):
    image_id = glance.add(_content(), ['near', 'far'])
    glance.gives(image_id, [_content(seed=2)], 'near')
    _queue(image_id)
    assert _run()[0].fetched.store == 'far'
    assert _cached() == {image_id: _content()}


def test_one_location_that_is_right_is_enough(glance):
    image_id = glance.add(_content(), ['near', 'far'])
    _queue(image_id)
    assert _run()[0].fetched.store == 'near'
    assert glance.reads == [f'near://{image_id}']


def test_if_every_location_fails_each_one_says_why(glance):
    image_id = glance.add(_content(), ['a', 'b', 'c'])
    glance.gives(image_id, glance_store.NotFound(message='not there'), 'a')
    glance.gives(image_id, ConnectionResetError('secret.example'), 'b')
    glance.gives(image_id, [_content(seed=2)], 'c')
    _queue(image_id)
    outcome, = _run()
    assert outcome.result == 'failed'
    assert _failures()[image_id].reason == (
        'a: not there; b: it could not be read; c: what is stored does not '
        'have the digest of the image (sha512)')
    assert _beside() == []
    assert _cached() == {}


def test_an_image_without_a_location_fails(glance):
    image_id = glance.add(_content(), [])
    _queue(image_id)
    outcome, = _run()
    assert outcome.words.startswith(
        'failed: The image has no location. (attempt 1;')


def test_one_failure_does_not_keep_the_others_back(glance, override):
    override('workers', 1, 'cache_prefetch')
    ids = [glance.add(_content(seed=number)) for number in range(3)]
    glance.gives(ids[1], [b'damaged'])
    _queue(*ids)
    assert _results(_run()) == [(ids[0], 'fetched'), (ids[1], 'failed'),
                                (ids[2], 'fetched')]
    assert set(_cached()) == {ids[0], ids[2]}


def test_what_nobody_has_foreseen_is_not_shown_but_logged(glance,
                                                          monkeypatch):
    image_id = glance.add(_content())
    _queue(image_id)

    def fail(image_id):
        raise ZeroDivisionError('secret')

    monkeypatch.setattr(records, 'load_image', fail)
    outcome, = _run()
    assert outcome.words.startswith(
        'failed: It could not be fetched; see the log. (attempt 1;')


def test_a_full_disk_is_told_and_left_as_it_was(glance, override, small_disk):
    override('image_cache_dir', str(small_disk))
    override('workers', 1, 'cache_prefetch')
    small, large = glance.add(_content(100_000)), glance.add(_content(4 * M))
    _queue(large, small)
    assert _results(_run()) == [(large, 'failed'), (small, 'fetched')]
    assert _failures()[large].reason == 'The disk of the cache is full.'
    assert _beside() == []
    assert set(_cached()) == {small}


def test_a_full_disk_is_no_matter_of_the_next_location(glance, override,
                                                       small_disk):
    override('image_cache_dir', str(small_disk))
    image_id = glance.add(_content(4 * M), ['near', 'far'])
    _queue(image_id)
    assert _results(_run()) == [(image_id, 'failed')]
    assert glance.reads == [f'near://{image_id}']


# Stopping

def test_one_that_is_stopped_midway_leaves_nothing(glance):
    content, cancel = _content(2 * M), threading.Event()
    image_id = glance.add(content, ['near', 'far'])

    def chunks():
        yield content[:M]
        cancel.set()
        yield content[M:]

    glance.gives(image_id, chunks, 'near')
    _queue(image_id)
    outcome, = _run(cancel)
    assert outcome == prefetch.Outcome(image_id, 'passed over',
                                       'The agent was stopped.')
    assert glance.reads == [f'near://{image_id}']
    assert _cached() == {}
    assert _beside() == []
    assert _failures() == {}
    assert _queued() == [image_id]


def test_once_stopped_nothing_else_is_begun(glance, override):
    override('workers', 1, 'cache_prefetch')
    cancel = threading.Event()
    cancel.set()
    ids = [glance.add(_content(seed=number)) for number in range(5)]
    _queue(*ids)
    assert _results(_run(cancel)) == [(image_id, 'passed over')
                                      for image_id in ids]
    assert _cached() == {}
    assert _beside() == []


def test_one_that_waits_for_its_rate_stops_at_once(glance, override):
    override('rate_limit', 1, 'cache_prefetch')
    cancel, content = threading.Event(), _content()
    image_id = glance.add(content)

    def chunks():
        yield content[:B]
        threading.Timer(0.05, cancel.set).start()
        yield content[B:2 * B]
        yield content[2 * B:]

    glance.gives(image_id, chunks)
    _queue(image_id)
    begun = time.monotonic()
    assert _results(_run(cancel)) == [(image_id, 'passed over')]
    assert time.monotonic() - begun < 30
    assert cancel.is_set()


def test_all_workers_share_one_rate(glance, override):
    override('rate_limit', 16 * M, 'cache_prefetch')
    ids = [glance.add(_content(M, seed=number)) for number in range(2)]
    for number, image_id in enumerate(ids):
        content = _content(M, seed=number)
        glance.gives(image_id, [content[:M // 2], content[M // 2:]])
    _queue(*ids)
    begun = time.monotonic()
    assert {result for _, result in _results(_run())} == {'fetched'}
    # All but the last of four halves.
    assert time.monotonic() - begun >= 1.5 / 16


# Side by side

def test_as_many_are_fetched_at_once_as_there_are_workers(glance, override):
    override('workers', 3, 'cache_prefetch')
    # Each one waits for the others.
    barrier = threading.Barrier(3, timeout=30)
    ids = [glance.add(_content(seed=number)) for number in range(3)]

    def given(number):
        def chunks():
            barrier.wait()
            yield _content(seed=number)
        return chunks

    for number, image_id in enumerate(ids):
        glance.gives(image_id, given(number))
    _queue(*ids)
    assert _results(_run()) == [(image_id, 'fetched') for image_id in ids]
    assert _cached() == {image_id: _content(seed=number)
                         for number, image_id in enumerate(ids)}


@pytest.mark.parametrize('workers', [1, 2])
def test_no_more_are_fetched_at_once_than_there_are_workers(glance, override,
                                                            workers):
    override('workers', workers, 'cache_prefetch')
    under_way, most, lock = [], [], threading.Lock()

    def given(number):
        def chunks():
            with lock:
                under_way.append(number)
                most.append(len(under_way))
            yield _content(seed=number)
            with lock:
                under_way.remove(number)
        return chunks

    ids = [glance.add(_content(seed=number)) for number in range(6)]
    for number, image_id in enumerate(ids):
        glance.gives(image_id, given(number))
    _queue(*ids)
    assert len(_run()) == 6
    assert max(most) <= workers
    assert len(_cached()) == 6


def test_two_agents_do_not_work_at_one_cache(glance):
    image_id = glance.add(_content())
    _queue(image_id)
    with caches.holder() as child:
        assert child.stdout.readline() == 'True\n'
        with pytest.raises(errors.Busy, match='Another agent'):
            _run()
        assert glance.reads == []
        child.stdin.close()
        assert child.wait(30) == 0
    assert _results(_run()) == [(image_id, 'fetched')]


def test_the_progress_is_that_of_all_that_is_fetched(glance):
    for _ in range(2):
        _queue(glance.add(_content()))
    said = progress.Progress()
    assert len(list(prefetch.Prefetch(progress=said).run())) == 2
    assert str(said).startswith('Fetching: 100% ')
    assert said.position()[0] == 2 * len(_content())
    assert said.fraction == 1


@pytest.mark.parametrize('state', [marks.PARTIAL, marks.REMOVED])
def test_what_a_dead_agent_has_left_is_swept_first(glance, state):
    image_id = glance.add(_content())
    _queue(image_id)
    os.mkdir(os.path.join(CONF.image_cache_dir, 'prefetch'))
    left = os.path.join(CONF.image_cache_dir, 'prefetch',
                        f'.{image_id}.{uuid.uuid4()}.{state}')
    with open(left, 'wb') as file:
        file.write(b'a part')
    os.link(left, os.path.join(CONF.image_cache_dir, 'prefetch', image_id))
    assert _results(_run()) == [(image_id, 'fetched')]
    assert _beside() == []


# What goes

def _filled(glance, count=3):
    """Images of 1 MiB in the cache, the first least recently accessed."""
    ids = [glance.add(_content(seed=number)) for number in range(count)]
    _queue(*ids)
    assert len(_run()) == count
    cache = prefetch.Prefetch().node.cache
    for image_id in ids:
        with cache.open_for_read(image_id):
            pass
    return ids


def test_what_was_not_used_for_longest_goes_for_what_is_wanted(glance,
                                                               override):
    override('image_cache_max_size', 4 * M)
    old = _filled(glance)
    new = glance.add(_content(3 * M))
    _queue(new)
    outcomes = _run()
    assert _results(outcomes) == [(old[0], 'evicted'), (old[1], 'evicted'),
                                  (new, 'fetched')]
    assert str(outcomes[0]) == (f'image {old[0]}: evicted, for the cache has '
                                f'to hold {new}')
    assert set(_cached()) == {old[2], new}


def test_nothing_goes_before_the_new_image_is_verified(glance, override):
    override('image_cache_max_size', 3 * M)
    old, content, seen = _filled(glance), _content(2 * M), []
    new = glance.add(content)

    def chunks():
        yield content[:M]
        yield content[M:]
        seen.extend(record['image_id'] for record
                    in prefetch.Prefetch().node.cache.get_cached_images())

    glance.gives(new, chunks)
    _queue(new)
    _run()
    assert set(seen) == set(old)
    assert set(_cached()) == {old[2], new}


def test_a_fetch_that_fails_evicts_nothing(glance, override):
    override('image_cache_max_size', 3 * M)
    old = _filled(glance)
    new = glance.add(_content(2 * M))
    glance.gives(new, [_content(2 * M, seed=9)])
    _queue(new)
    assert _results(_run()) == [(new, 'failed')]
    assert set(_cached()) == set(old)


def test_a_fetch_that_is_stopped_evicts_nothing(glance, override):
    override('image_cache_max_size', 3 * M)
    old, cancel = _filled(glance), threading.Event()
    cancel.set()
    new = glance.add(_content(2 * M))
    _queue(new)
    assert _results(_run(cancel)) == [(new, 'passed over')]
    assert set(_cached()) == set(old)


def test_what_the_policy_wants_does_not_go(glance, override):
    override('image_cache_max_size', 3 * M)
    old = _filled(glance)
    override('most_hit', 2, 'cache_prefetch')
    new = glance.add(_content(2 * M))
    _queue(new)
    outcomes = {outcome.image_id: outcome for outcome in _run()}
    assert outcomes[new].result == 'passed over'
    assert 'no room' in outcomes[new].words
    assert set(_cached()) == set(old)


# What changes meanwhile

@pytest.mark.parametrize('change', ['deleted', 'unknown', 'deactivated'])
def test_an_image_that_goes_meanwhile_is_not_left_in_the_cache(glance,
                                                               change):
    content = _content()
    image_id = glance.add(content)

    def chunks():
        yield content
        if change == 'unknown':
            del glance.images[image_id]
        else:
            glance.images[image_id]['status'] = change

    glance.gives(image_id, chunks)
    _queue(image_id)
    outcome, = _run()
    assert outcome == prefetch.Outcome(
        image_id, 'passed over', 'The image is not active any more.')
    assert _cached() == {}
    assert _beside() == []
    assert _failures() == {}
    assert not os.path.exists(os.path.join(CONF.image_cache_dir, image_id))


# What is said of it

def test_a_plan_does_nothing(glance):
    image_id = glance.add(_content())
    gone = str(uuid.uuid4())
    _queue(image_id, gone)
    first = prefetch.Prefetch().plan()
    assert [(step.image_id, step.refusal, step.gone) for step in first] == [
        (image_id, None, False), (gone, 'there is no such image', True)]
    assert prefetch.Prefetch().plan() == first
    assert _queued() == [image_id, gone]
    assert glance.reads == []


def test_a_failure_says_when_the_next_attempt_is():
    failure = backoff.Failure(3, 'no', time.time() + 200)
    assert prefetch.again(failure) == (
        'no (attempt 3; the next one is in 3 min 20 s)')
    assert prefetch.again(failure._replace(again_at=5.0)).endswith('in 0 s)')


def test_the_report_of_an_empty_cache(glance):
    assert list(status.report()) == [
        'cached: 0, 0 B of 100 MiB (image_cache_max_size), 0 B on disk',
        'queued: 0', 'failing: 0', 'the next pass:', '  nothing is wanted']


def test_the_report_tells_what_is_there_and_what_would_come(glance,
                                                            override):
    override('image_cache_max_size', 3 * M)
    old = _filled(glance)
    new, bad = glance.add(_content(M)), glance.add(_content(M))
    glance.gives(bad, [b'damaged'])
    _queue(bad)
    _run()
    _queue(new)
    lines = list(status.report())
    assert lines[0] == ('cached: 3, 3 MiB of 3 MiB (image_cache_max_size), '
                        '3 MiB on disk')
    assert lines[1] == f'  {old[0]}  1 MiB, 1 MiB on disk, hits: 1'
    assert lines[4:8] == ['queued: 2', f'  {bad}', f'  {new}', 'failing: 1']
    assert lines[8].startswith(f'  {bad}  ceph: Size mismatch')
    assert lines[9] == 'the next pass:'
    assert lines[10].startswith(f'  {bad}  would be passed over (queued): '
                                'ceph: Size mismatch')
    assert lines[11:] == [f'  {new}  would be fetched (queued), 1 MiB',
                          f'    {old[0]} would be evicted for it']


def test_room_is_made_by_what_is_cached_then(glance, override):
    """One whose turn to evict came to nothing leaves no excess behind."""
    old = glance.add(_content(3 * M, 1))
    _queue(old)
    _run()
    override('image_cache_max_size', 4 * M)
    override('workers', 1, 'cache_prefetch')
    # Together they fit once the first has evicted the old one.
    damaged = glance.add(_content(2 * M, 2), os_hash_value='wrong')
    sound = glance.add(_content(2 * M, 3))
    _queue(damaged, sound)
    found = _results(_run())
    assert (damaged, 'failed') in found
    assert (old, 'evicted') in found
    assert (sound, 'fetched') in found
    assert prefetch.Prefetch().node.cache.get_cache_size() <= 4 * M


def test_what_has_been_stopped_reads_nothing_more(glance):
    ids = [glance.add(_content(M, seed)) for seed in range(5)]
    _queue(*ids)
    stopped = threading.Event()
    stopped.set()
    assert {result for _, result in _results(_run(stopped))} == {
        'passed over'}
    assert glance.reads == []
