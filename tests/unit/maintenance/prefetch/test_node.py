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


"""The cache of a node, with the drivers that Glance itself keeps it with."""

import contextlib
import errno
import os
import sqlite3
import time
import uuid

from glance.image_cache.drivers import common
from oslo_config import cfg
import pytest

from glance_conversion_plugins.copying.sinks import file as file_sink
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import folder as folder_
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.maintenance.prefetch import node as node_
from tests.contract import images
from tests.unit import caches
from tests.unit import databases

CONF = cfg.CONF
B = images.BLOCK

PATTERN = 'A--0B----'


@contextlib.contextmanager
def _driver(name, override, tmp_path):
    """The cache of Glance with one of its drivers, in tmp_path/cache."""
    override('image_cache_driver', name)
    override('image_cache_dir', str(tmp_path / 'cache'))
    with contextlib.ExitStack() as stack:
        if name == 'centralized_db':
            override('worker_self_reference_url', 'http://node1:9292')
            stack.enter_context(databases.glance_database(
                tmp_path / 'glance.sqlite'))
        yield


@pytest.fixture(params=['sqlite', 'xattr', 'centralized_db'])
def node(request, override, tmp_path):
    with _driver(request.param, override, tmp_path):
        found = node_.Node()
        driver = type(found.cache.driver).__module__
        if driver.rpartition('.')[2] != request.param:
            pytest.fail('Glance has taken another driver: is there no xattr '
                        'module, or a file system without them?')
        yield _begun(found)


@pytest.fixture(params=['links', 'no links'])
def any_system(request, monkeypatch):
    """Without links only by a stand-in for such a file system."""
    def link(*_args, **_kwargs):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if request.param == 'no links':
        monkeypatch.setattr(os, 'link', link)
    return request.param


@pytest.fixture
def sqlite_node(override, tmp_path):
    with _driver('sqlite', override, tmp_path):
        yield _begun(node_.Node())


def _begun(node):
    """A node on which an agent has been at work."""
    with node.lock():
        return node


def test_who_only_looks_leaves_no_folder(override, tmp_path):
    with _driver('sqlite', override, tmp_path):
        node = node_.Node()
        assert node.entries() == [] and node.queued() == []
        assert not os.path.exists(node.folder)


def _mark():
    """That of an image nobody has heard of."""
    return marks.Mark(str(uuid.uuid4()), str(uuid.uuid4()))


def _new_sink(node, mark):
    place = file_sink.Datadir(node.folder)
    return file_sink.FileSink(lambda size: place, mark, zero_block_size=B)


def _sink(node, pattern=PATTERN):
    """Publish an image beside the cache: its mark, and the sink."""
    mark = _mark()
    sink = _new_sink(node, mark)
    content = images.content(pattern)
    sink.create(len(content))
    sink.write(memoryview(content), 0)
    sink.seal()
    sink.publish()
    return mark, sink


def _left(node):
    """What an agent has left that died before the commit: its mark."""
    mark, sink = _sink(node)
    sink.release()
    return mark


def _partial(node, mark):
    return os.path.join(node.folder, folder_.name_of(mark, marks.PARTIAL))


def _commit(node, mark, sink):
    """Cache an image as the fetcher does; returns its bytes on disk."""
    allocated = node.commit(mark)
    sink.release()
    return allocated


def _cache(node, pattern=PATTERN):
    """Cache an image; returns its id."""
    mark, sink = _sink(node, pattern)
    _commit(node, mark, sink)
    return mark.image_id


def _files(folder):
    """Names of what lies in a folder and is no help of a lock."""
    return sorted(name for name in os.listdir(folder)
                  if not name.startswith('glance-conversion-'))


def _in_cache(node):
    """{state: names of files}, of images in any state but queued."""
    base = CONF.image_cache_dir
    return {
        'active': [name for name in _files(base)
                   if os.path.isfile(os.path.join(base, name))
                   and not name.startswith(('cache.db', 'image_cache_db'))],
        'incomplete': _files(os.path.join(base, 'incomplete')),
        'invalid': _files(os.path.join(base, 'invalid')),
        'prefetch': _files(node.folder)}


def _listed(node):
    return {record['image_id']: record
            for record in node.cache.get_cached_images()}


NOTHING = {'active': [], 'incomplete': [], 'invalid': [], 'prefetch': []}


def test_without_a_folder_there_is_no_cache(override):
    override('image_cache_dir', None)
    with pytest.raises(errors.Misconfigured, match='image_cache_dir'):
        node_.Node()


def test_a_new_cache_is_empty(node):
    assert node.entries() == []
    assert node.queued() == []
    assert _in_cache(node) == NOTHING
    assert node.cache.get_cache_size() == 0


def test_only_glance_and_its_group_may_look_into_our_folder(node):
    assert os.stat(node.folder).st_mode & 0o777 == 0o750


def test_a_folder_of_ours_that_is_there_is_used_again(sqlite_node):
    image_id = _cache(sqlite_node)
    again = node_.Node()
    assert again.folder == sqlite_node.folder
    assert again.is_cached(image_id)


# An image into the cache

def test_a_committed_image_is_one_that_glance_serves(node):
    image_id = _cache(node)
    assert node.is_cached(image_id)
    assert list(_listed(node)) == [image_id]
    assert _listed(node)[image_id]['hits'] == 0
    with node.cache.open_for_read(image_id) as file:
        assert file.read() == images.content(PATTERN)
    assert node.cache.get_cache_size() == len(PATTERN) * B


def test_a_committed_image_leaves_nothing_beside_it(node):
    image_id = _cache(node)
    assert _in_cache(node) == NOTHING | {'active': [image_id]}
    assert os.stat(os.path.join(CONF.image_cache_dir,
                                image_id)).st_nlink == 1


def test_a_commit_takes_the_mark_off(sqlite_node, any_system):
    mark, sink = _sink(sqlite_node)
    with folder_.Folder(sqlite_node.folder) as here:
        assert list(here.marked()) == [marks.Found(mark, True)]
        assert here.is_open(mark)
        sqlite_node.commit(mark)
        assert list(here.marked()) == []
    # Whatever becomes of its writer then, the image stays.
    sink.abort()
    sqlite_node.sweep()
    assert _in_cache(sqlite_node) == NOTHING | {'active': [mark.image_id]}
    with sqlite_node.cache.open_for_read(mark.image_id) as file:
        assert file.read() == images.content(PATTERN)


@pytest.mark.parametrize('published', [False, True])
def test_what_was_not_committed_goes_with_its_sink(sqlite_node, any_system,
                                                   published):
    if published:
        mark, sink = _sink(sqlite_node)
    else:
        mark = _mark()
        sink = _new_sink(sqlite_node, mark)
        sink.create(B)
        sink.seal()
        with pytest.raises(FileNotFoundError):
            sqlite_node.commit(mark)
    sink.abort()
    assert _in_cache(sqlite_node) == NOTHING
    assert not sqlite_node.is_cached(mark.image_id)


def test_a_committed_image_keeps_its_holes(node):
    mark, sink = _sink(node, 'A' + '-' * 200 + 'B')
    allocated = _commit(node, mark, sink)
    found = os.stat(os.path.join(CONF.image_cache_dir, mark.image_id))
    assert found.st_size == 202 * B
    assert found.st_blocks * 512 == allocated <= 4 * B


def test_a_committed_image_is_no_longer_queued(node):
    mark, sink = _sink(node)
    assert node.cache.queue_image(mark.image_id)
    other = str(uuid.uuid4())
    assert node.cache.queue_image(other)
    assert set(node.queued()) == {mark.image_id, other}
    _commit(node, mark, sink)
    assert node.queued() == [other]


def test_an_image_that_glance_has_cached_meanwhile_stays_one(node):
    mark, sink = _sink(node)
    image_id, content = mark.image_id, images.content('B')
    assert node.cache.cache_image_iter(image_id, iter([content]))
    with pytest.raises(errors.Cancelled, match='Glance has cached'):
        node.commit(mark)
    sink.abort()
    assert list(_listed(node)) == [image_id]
    assert _in_cache(node) == NOTHING | {'active': [image_id]}
    with node.cache.open_for_read(image_id) as file:
        assert file.read() == content


def test_what_glance_empties_at_that_moment_is_not_cached(node, monkeypatch):
    """Its own worker opens the same name, without a look."""
    mark, sink = _sink(node)
    rename = os.rename

    def emptied(source, target, **kwargs):
        if source.endswith(f'incomplete/{mark.image_id}'):
            os.truncate(source, 0)
        rename(source, target, **kwargs)

    monkeypatch.setattr(os, 'rename', emptied)
    with pytest.raises(errors.SinkFailed, match='at the same moment'):
        node.commit(mark)
    sink.abort()
    assert _in_cache(node) == NOTHING
    assert _listed(node) == {}


def test_a_record_whose_file_is_gone_is_no_obstacle(node):
    image_id = _cache(node)
    os.unlink(os.path.join(CONF.image_cache_dir, image_id))
    mark = _mark()._replace(image_id=image_id)
    sink = _new_sink(node, mark)
    sink.create(B)
    sink.seal()
    sink.publish()
    _commit(node, mark, sink)
    assert _in_cache(node) == NOTHING | {'active': [image_id]}
    assert _listed(node)[image_id]['size'] == B


def test_what_glance_has_left_incomplete_is_replaced(node):
    mark, sink = _sink(node)
    image_id = mark.image_id
    stalled = os.path.join(CONF.image_cache_dir, 'incomplete', image_id)
    with open(stalled, 'wb') as file:
        file.write(b'a part')
    _commit(node, mark, sink)
    assert _in_cache(node) == NOTHING | {'active': [image_id]}
    with node.cache.open_for_read(image_id) as file:
        assert file.read() == images.content(PATTERN)


def test_an_evicted_image_is_gone(node):
    image_id, other = _cache(node), _cache(node)
    node.evict(image_id)
    assert not node.is_cached(image_id)
    assert list(_listed(node)) == [other]
    assert _in_cache(node)['active'] == [other]


def test_evicting_what_is_not_there_is_harmless(node):
    image_id = str(uuid.uuid4())
    node.evict(image_id)
    node.unqueue(image_id)
    assert not node.is_cached(image_id)


def test_an_evicted_image_can_come_back(node):
    image_id = _cache(node)
    node.evict(image_id)
    content = images.content('B')
    assert node.cache.cache_image_iter(image_id, iter([content]))
    assert list(_listed(node)) == [image_id]


# One that fails

def test_a_commit_of_what_is_not_there_leaves_nothing_cached(node):
    mark = _mark()
    with pytest.raises(FileNotFoundError):
        node.commit(mark)
    assert not node.is_cached(mark.image_id)
    assert _in_cache(node) == NOTHING


def _garbage(path):
    with open(path, 'wb') as file:
        file.write(b'x' * 5000)


def _folder(path):
    os.unlink(path)
    os.mkdir(path)


@pytest.mark.parametrize('spoil', [_garbage, _folder])
def test_a_database_that_is_no_more_leaves_nothing_cached(sqlite_node,
                                                          spoil):
    mark, sink = _sink(sqlite_node)
    image_id = mark.image_id
    sqlite_node.cache.queue_image(image_id)
    spoil(os.path.join(CONF.image_cache_dir, 'cache.db'))
    with pytest.raises(sqlite3.DatabaseError):
        sqlite_node.commit(mark)
    sink.abort()
    assert not sqlite_node.is_cached(image_id)
    assert sqlite_node.queued() == [image_id]
    assert _in_cache(sqlite_node) == NOTHING


@pytest.mark.parametrize('statement', [
    'DROP TABLE cached_images',
    'CREATE TRIGGER full BEFORE INSERT ON cached_images '
    "BEGIN SELECT RAISE(ABORT, 'full'); END"])
def test_an_error_that_glance_hides_is_found(sqlite_node, statement):
    """Its sqlite driver would leave a file that nothing can prune."""
    mark, sink = _sink(sqlite_node)
    image_id = mark.image_id
    sqlite_node.cache.queue_image(image_id)
    path = os.path.join(CONF.image_cache_dir, 'cache.db')
    with contextlib.closing(sqlite3.connect(path)) as database_file:
        database_file.execute(statement)
    with pytest.raises(errors.SinkFailed, match='could not record'):
        sqlite_node.commit(mark)
    sink.abort()
    assert _in_cache(sqlite_node) == NOTHING
    assert sqlite_node.entries() == []


@pytest.mark.parametrize('lock', ['EXCLUSIVE', 'IMMEDIATE'])
def test_a_database_that_is_locked_leaves_nothing_cached(
        sqlite_node, monkeypatch, lock):
    monkeypatch.setattr(common, 'DEFAULT_SQL_CALL_TIMEOUT', 0.1)
    mark, sink = _sink(sqlite_node)
    other = sqlite3.connect(os.path.join(CONF.image_cache_dir, 'cache.db'))
    try:
        other.execute(f'BEGIN {lock}')
        # Glance moves the file before it writes, which only the one notices.
        with pytest.raises(TimeoutError):
            sqlite_node.commit(mark)
    finally:
        other.close()
    sink.abort()
    assert not sqlite_node.is_cached(mark.image_id)
    assert _listed(sqlite_node) == {}
    assert _in_cache(sqlite_node) == NOTHING


def test_an_image_that_could_not_be_recorded_is_not_cached(override,
                                                           tmp_path):
    with _driver('centralized_db', override, tmp_path):
        node = _begun(node_.Node())
        mark, sink = _sink(node)
        override('worker_self_reference_url', 'http://unknown')
        with pytest.raises(databases.api.exception.NotFound):
            node.commit(mark)
        sink.abort()
        assert not node.is_cached(mark.image_id)
        assert _in_cache(node) == NOTHING


# What a dead agent has left

def test_what_a_dead_agent_was_writing_is_swept(node):
    cached, mark = _cache(node), _mark()
    with folder_.Folder(node.folder) as here:
        here.create(mark).close()
    assert _in_cache(node)['prefetch'] == [
        folder_.name_of(mark, marks.PARTIAL)]
    node.sweep()
    assert _in_cache(node) == NOTHING | {'active': [cached]}


def test_what_a_dead_agent_had_written_is_swept(node):
    mark = _left(node)
    assert len(_in_cache(node)['prefetch']) == 2
    node.sweep()
    assert _in_cache(node) == NOTHING
    assert not node.is_cached(mark.image_id)


def test_an_agent_that_died_at_the_very_end_has_cached_the_image(node):
    mark = _left(node)
    image_id, partial = mark.image_id, _partial(node, mark)
    os.link(partial, os.path.join(node.folder, 'kept'))
    node.commit(mark)
    # As it is before the mark is taken off.
    os.rename(os.path.join(node.folder, 'kept'), partial)
    assert os.path.samefile(partial, os.path.join(CONF.image_cache_dir,
                                                  image_id))
    node.sweep()
    assert _in_cache(node) == NOTHING | {'active': [image_id]}
    with node.cache.open_for_read(image_id) as file:
        assert file.read() == images.content(PATTERN)


def test_an_agent_that_died_before_the_record_has_it_made(node):
    """Glance's drivers move the file first; the queue has forgotten it."""
    mark = _left(node)
    image_id, partial = mark.image_id, _partial(node, mark)
    final = os.path.join(CONF.image_cache_dir, image_id)
    kept = os.path.join(node.folder, 'kept')
    os.link(partial, kept)
    node.commit(mark)
    os.unlink(final)
    node.evict(image_id)
    os.link(kept, final)
    os.rename(kept, partial)

    node_.Node().sweep()
    assert list(_listed(node)) == [image_id]
    assert [entry.image_id for entry in node.entries()] == [image_id]
    assert _in_cache(node) == NOTHING | {'active': [image_id]}
    with node.cache.open_for_read(image_id) as file:
        assert file.read() == images.content(PATTERN)


@pytest.mark.parametrize('published', [False, True])
def test_an_agent_that_died_while_it_swept_is_no_obstacle(
        sqlite_node, any_system, published):
    """Between taking a file from its writer and removing it."""
    cached = _cache(sqlite_node)
    if published:
        mark = _left(sqlite_node)
    else:
        mark = _mark()
        sink = _new_sink(sqlite_node, mark)
        sink.create(B)
        sink.seal()
        sink.release()
    with folder_.Folder(sqlite_node.folder) as here:
        assert here.fence(mark)
    assert _in_cache(sqlite_node)['prefetch']
    sqlite_node.sweep()
    assert _in_cache(sqlite_node) == NOTHING | {'active': [cached]}
    assert list(_listed(sqlite_node)) == [cached]


def test_a_mark_that_was_taken_from_what_is_cached_is_all_that_goes(
        sqlite_node):
    """As of a sweep that died after the agent had died at the very end."""
    mark = _left(sqlite_node)
    partial = _partial(sqlite_node, mark)
    os.link(partial, os.path.join(sqlite_node.folder, 'kept'))
    sqlite_node.commit(mark)
    os.rename(os.path.join(sqlite_node.folder, 'kept'), partial)
    with folder_.Folder(sqlite_node.folder) as here:
        assert here.fence(mark)
    sqlite_node.sweep()
    assert _in_cache(sqlite_node) == NOTHING | {'active': [mark.image_id]}
    with sqlite_node.cache.open_for_read(mark.image_id) as file:
        assert file.read() == images.content(PATTERN)


def test_sweeping_leaves_what_is_not_an_image(node):
    with open(os.path.join(node.folder, 'failures.json'), 'w') as file:
        file.write('{}')
    node.sweep()
    assert _in_cache(node)['prefetch'] == ['failures.json']


# One agent at a time

def test_the_lock_is_free_again_after_the_block(sqlite_node):
    for _ in range(3):
        with sqlite_node.lock() as held:
            assert held


def test_the_lock_is_free_again_after_a_failure(sqlite_node):
    with pytest.raises(ZeroDivisionError):
        with sqlite_node.lock():
            _ = 1 / 0
    with sqlite_node.lock() as held:
        assert held


def test_another_process_keeps_the_lock_until_it_ends(sqlite_node):
    with caches.holder() as child:
        assert child.stdout.readline() == 'True\n'
        for _ in range(2):
            with sqlite_node.lock() as held:
                assert not held
        with node_.Node().lock() as held:
            assert not held
        child.kill()
        child.wait(30)
    with sqlite_node.lock() as held:
        assert held


def test_another_process_does_not_get_a_lock_that_is_held(sqlite_node):
    with sqlite_node.lock() as held:
        assert held
        with caches.holder() as child:
            assert child.stdout.readline() == 'False\n'
            child.stdin.close()
            assert child.wait(30) == 0


# What is Glance's to cache

def _write(state, image_id, age, content=b''):
    path = os.path.join(CONF.image_cache_dir, state, image_id)
    with open(path, 'wb') as file:
        file.write(content)
    moment = time.time() - age
    os.utime(path, (moment, moment))


def test_an_image_that_nobody_has_touched_is_ours(node):
    assert node.left_to_glance(str(uuid.uuid4()), 60) is None


@pytest.mark.parametrize(('age', 'expected'), [
    (0, 'Glance is caching it'), (200, 'Glance is caching it'),
    (400, None), (90_000, None)])
def test_an_incomplete_file_is_glances_while_it_grows(node, age, expected):
    image_id = str(uuid.uuid4())
    _write('incomplete', image_id, age, b'a part')
    assert node.left_to_glance(image_id, 60) == expected


def test_what_glance_is_caching_is_left_to_it(node):
    image_id, seen = str(uuid.uuid4()), []

    def chunks():
        yield b'first'
        seen.append(node.left_to_glance(image_id, 0))
        yield b'last'

    assert node.cache.cache_image_iter(image_id, chunks())
    assert seen == ['Glance is caching it']
    assert node.left_to_glance(image_id, 60) is None


@pytest.mark.parametrize(('age', 'grace', 'expected'), [
    (10, 60, 'left to Glance for 50 s more, for it was queued just now'),
    (61, 60, None), (59, 0, None), (0, 0, None),
    (100, 3600, 'left to Glance for 3500 s more, for it was queued just '
                'now')])
def test_what_was_just_queued_is_glances_for_a_while(node, age, grace,
                                                     expected):
    image_id = str(uuid.uuid4())
    assert node.cache.queue_image(image_id)
    _write('queue', image_id, age)
    assert node.left_to_glance(image_id, grace) == expected


def test_the_queue_is_in_the_order_of_its_beginnings(node):
    ids = [str(uuid.uuid4()) for _ in range(4)]
    for image_id, age in zip(ids, (10, 40, 20, 30), strict=True):
        _write('queue', image_id, age)
    assert node.queued() == [ids[1], ids[3], ids[2], ids[0]]
    node.unqueue(ids[3])
    assert node.queued() == [ids[1], ids[2], ids[0]]


# Entries

def _access(node, image_id, moment):
    with node.cache.open_for_read(image_id):
        pass
    # One driver has no other record than this.
    os.utime(os.path.join(CONF.image_cache_dir, image_id), (moment, moment))


@pytest.mark.parametrize('order', [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_entries_begin_with_the_least_recently_accessed(node, order):
    ids = [_cache(node, 'A' * (number + 1)) for number in range(3)]
    for moment, number in enumerate(order):
        _access(node, ids[number], 2_000_000_000 + moment)
    entries = node.entries()
    assert [entry.image_id for entry in entries] == [
        ids[number] for number in order]
    assert [entry.size for entry in entries] == [
        (number + 1) * B for number in order]
    assert {entry.hits for entry in entries} == {1}
    least, _ = node.cache.driver.get_least_recently_accessed()
    assert least == entries[0].image_id


def test_entries_tell_what_is_on_the_disk(node):
    _cache(node, 'A' + '-' * 99)
    entry, = node.entries()
    assert entry.size == 100 * B
    assert B <= entry.allocated <= 2 * B


def test_an_entry_whose_file_is_gone_is_left_out(sqlite_node):
    gone, kept = _cache(sqlite_node), _cache(sqlite_node)
    os.unlink(os.path.join(CONF.image_cache_dir, gone))
    assert [entry.image_id for entry in sqlite_node.entries()] == [kept]
