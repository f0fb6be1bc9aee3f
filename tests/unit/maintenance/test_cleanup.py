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

"""What dead imports have left: what is found, and what its remedies do.

The database is a real one, and so are the store of files and the processes.
"""

import contextlib
import copy
import fcntl
import os
import pathlib
import socket
import subprocess
import sys
import types
import uuid

import glance_store
import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import folder
from glance_conversion_plugins.external import sandbox
from glance_conversion_plugins.glance_db import deployment
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance import cleanup
from glance_conversion_plugins.maintenance import recovery
from glance_conversion_plugins.maintenance import sparsify
from glance_conversion_plugins.maintenance import unrecorded
from glance_conversion_plugins.stores import driver
from glance_conversion_plugins.stores import liveness
from glance_conversion_plugins.stores import placeholder
from glance_conversion_plugins.stores import registry
from glance_conversion_plugins.stores import sparsify_rbd
from tests.unit import clusters
from tests.unit import databases
from tests.unit import file_stores

# What is left after so long is of nobody who lives. In seconds.
LONG = 100_000
CONTENT = b'data'


@pytest.fixture(autouse=True)
def database(tmp_path):
    with databases.glance_database(tmp_path / 'glance.sqlite'):
        yield


@pytest.fixture(autouse=True)
def slept(monkeypatch):
    """How long it was waited for, which no test does."""
    slept = []
    _instead_of_sleep(monkeypatch, slept.append)
    return slept


def _instead_of_sleep(monkeypatch, happens):
    for module in (recovery, sparsify, unrecorded):
        monkeypatch.setattr(module, 'time',
                            types.SimpleNamespace(sleep=happens))


@pytest.fixture(autouse=True)
def staging(tmp_path, override):
    made = tmp_path / 'staging'
    made.mkdir()
    override('node_staging_uri', f'file://{made}')
    return made


@pytest.fixture(autouse=True)
def stores(monkeypatch):
    """The stores of this Glance that are ours: none, to begin with."""
    found = {}
    monkeypatch.setattr(registry, 'identifiers', lambda: list(found))
    monkeypatch.setattr(registry, 'find', found.get)
    monkeypatch.setattr(registry, 'find_replacing', lambda store_id: (
        found[store_id] if hasattr(found[store_id], 'put_back') else None))
    return found


@pytest.fixture
def store(tmp_path, override, stores):
    """A real store of files."""
    override('deployment', 'test', 'conversion')
    stores['files'] = made = _make_store(tmp_path / 'images')
    return made


def _make_store(datadir):
    datadir.mkdir()
    return file_stores.make(datadir)


def _names(store):
    return sorted(os.listdir(store.datadir))


_sinks = []


@pytest.fixture(autouse=True)
def writers():
    """Those that are alive in a test are not for ever."""
    yield
    while _sinks:
        _sinks.pop().release()


def _write(store, image_id, task_id=None, published=False, alive=False):
    """Write an image as an import or an upload does."""
    sink = store.sink(image_id, task_id or str(uuid.uuid4()))
    _sinks.append(sink)
    sink.create(len(CONTENT))
    sink.write(memoryview(CONTENT), 0)
    sink.seal()
    if published:
        sink.publish()
    if not alive:
        sink.release()
    return sink


def _found(what):
    """Leftovers of a kind, but for processes of others on this machine."""
    return [each for each in cleanup.find() if each.what.startswith(what)]


def _in_store():
    return _found('store ')


def _url(store, image_id):
    return f'file://{store.datadir}/{image_id}'


def _over(status='failure', age=LONG):
    return databases.add_task(status, age)


# What is found in a store, and what becomes of it

@pytest.mark.parametrize('alive', [False, True])
@pytest.mark.parametrize('status', ['active', 'importing', 'queued'])
def test_what_glance_has_recorded_loses_its_mark(store, status, alive):
    image_id = databases.add_image(status)
    sink = _write(store, image_id, _over(), True, alive)
    databases.add_location(image_id, _url(store, image_id))
    leftover, = _in_store()
    assert leftover.what == (
        f'store files: mark on the recorded image {image_id}')
    leftover.remedy()
    assert _names(store) == [image_id]
    assert _in_store() == []
    sink.release()


@pytest.mark.parametrize('published', [False, True])
@pytest.mark.parametrize('status', ['queued', 'killed', 'pending_delete'])
def test_what_glance_can_not_record_any_more_is_removed(store, status,
                                                        published):
    task_id = _over()
    image_id = databases.add_image(status)
    _write(store, image_id, task_id, published)
    leftover, = _in_store()
    assert leftover.what == ('store files: data of the dead import or upload '
                             f'{task_id} of image {image_id}')
    leftover.remedy()
    assert _names(store) == []
    assert records.status(image_id) == status


def test_what_was_deleted_before_it_was_recorded_is_removed(store):
    image_id = databases.add_image('importing')
    _write(store, image_id, _over(), published=True)
    databases.delete_image(image_id)
    leftover, = _in_store()
    leftover.remedy()
    assert _names(store) == []


@pytest.mark.parametrize('published', [False, True])
def test_an_import_that_died_is_ended_first(store, published):
    task_id = databases.add_task(age=LONG)
    image_id = databases.add_image('importing', task_id)
    _write(store, image_id, task_id, published)
    leftover, = _in_store()
    with contextlib.suppress(errors.Busy):
        leftover.remedy()
    assert records.status(image_id) in ('queued', 'killed')
    assert records.lock_holder(image_id) is None
    assert records.find_task(task_id)['status'] == 'failure'
    _let_it_be_long_ago(task_id)
    assert _names(store) == []


def _let_it_be_long_ago(task_id):
    """Its task has ended just now, and may have something left to do."""
    databases.set_age(task_id, LONG)
    for leftover in _in_store():
        leftover.remedy()


def test_an_upload_that_died_is_ended_first(store):
    image_id = databases.add_image('saving')
    _write(store, image_id)
    leftover, = _in_store()
    leftover.remedy()
    assert _names(store) == []
    assert records.status(image_id) == 'queued'


def test_an_upload_that_died_beside_a_dead_import_is_ended_first(store):
    """Glance lets it begin, whatever holds the image."""
    task_id = databases.add_task(age=LONG)
    image_id = databases.add_image('saving', task_id)
    _write(store, image_id, liveness.new_id())
    leftover, = _in_store()
    leftover.remedy()
    assert _names(store) == []
    assert records.status(image_id) == 'queued'


@pytest.mark.parametrize('status', ['importing', 'active'])
def test_what_an_earlier_import_left_is_removed_beside_a_living_one(store,
                                                                    status):
    """The image is another task's by now, and nothing of it is touched."""
    other = databases.add_task()
    image_id = databases.add_image(status, other)
    _write(store, image_id, _over())
    leftover, = _in_store()
    leftover.remedy()
    assert _names(store) == []
    assert records.status(image_id) == status
    assert records.lock_holder(image_id) == other
    assert records.find_task(other)['status'] == 'processing'


def test_what_an_upload_left_is_removed_beside_a_living_import(store):
    """A lock says that no upload is waited for."""
    other = databases.add_task()
    image_id = databases.add_image('saving', other)
    _write(store, image_id)
    leftover, = _in_store()
    leftover.remedy()
    assert _names(store) == []
    assert records.status(image_id) == 'saving'


def test_data_of_a_copy_that_died_is_removed_and_the_image_stays(store):
    task_id = databases.add_task(age=LONG)
    image_id = databases.add_image('active', task_id, ['rbd://elsewhere'])
    _write(store, image_id, task_id)
    leftover, = _in_store()
    leftover.remedy()
    assert _names(store) == []
    assert records.status(image_id) == 'active'
    assert records.lock_holder(image_id) == task_id


# What is left alone

def _nothing_is_found(store):
    before = _names(store)
    assert before
    assert _in_store() == []
    assert _names(store) == before


@pytest.mark.parametrize('published', [False, True])
@pytest.mark.parametrize('status', ['importing', 'saving', 'queued',
                                    'active'])
def test_what_a_living_process_holds_is_left_alone(store, status, published):
    image_id = databases.add_image(status)
    sink = _write(store, image_id, _over(), published, alive=True)
    _nothing_is_found(store)
    sink.release()


@pytest.mark.parametrize('published', [False, True])
@pytest.mark.parametrize('age', [0, 500])
def test_what_a_task_at_work_writes_is_left_alone(store, age, published):
    task_id = databases.add_task(age=age)
    image_id = databases.add_image('importing', task_id)
    _write(store, image_id, task_id, published)
    _nothing_is_found(store)


@pytest.mark.parametrize('status', ['active', 'deactivated', 'uploading'])
def test_what_glance_may_yet_record_is_left_alone(store, status):
    image_id = databases.add_image(status)
    _write(store, image_id, _over(), published=True)
    _nothing_is_found(store)


@pytest.mark.parametrize('published', [False, True])
def test_what_glance_does_not_know_is_left_alone(store, published):
    _write(store, str(uuid.uuid4()), _over(), published)
    _nothing_is_found(store)


@pytest.mark.parametrize('published', [False, True])
def test_what_another_deployment_left_is_left_alone(store, override,
                                                    published):
    image_id = databases.add_image('queued')
    _write(store, image_id, _over(), published)
    override('deployment', 'another', 'conversion')
    _nothing_is_found(store)


def test_what_another_store_has_is_not_recorded_here(store):
    """The URL counts, and not the image."""
    image_id = databases.add_image('active', urls=['file:///elsewhere/disk'])
    _write(store, image_id, _over(), published=True)
    _nothing_is_found(store)


def test_why_something_is_left_alone_is_in_the_log(store, caplog):
    image_id = databases.add_image('active')
    _write(store, image_id, _over(), published=True)
    with caplog.at_level('INFO'):
        assert _in_store() == []
    assert f"image_id='{image_id}'" in caplog.text
    assert 'is left alone' in caplog.text


# It is looked twice

def test_nobody_waits_where_nothing_is_to_be_done(store, slept):
    assert _in_store() == []
    _write(store, databases.add_image('active'), _over(), published=True)
    assert _in_store() == []
    assert slept == []


def test_what_has_just_begun_is_looked_at_again(store, slept):
    for _ in range(2):
        _write(store, databases.add_image('queued'), _over())
    assert len(_in_store()) == 2
    assert slept == [10]


@pytest.mark.parametrize('others, seconds', [(0, []), (1, [10])])
def test_what_is_gone_for_certain_is_not_waited_for(store, slept, staging,
                                                    others, seconds):
    image_id, task_id = databases.add_image('queued'), _over()
    _placeholder(staging, image_id, task_id, host=socket.gethostname())
    _write(store, image_id, task_id)
    for _ in range(others):
        _write(store, databases.add_image('queued'), _over())
    assert len(_in_store()) == 1 + others
    assert slept == seconds


def test_what_is_only_there_at_the_second_look_waits_for_the_next_pass(
        store, monkeypatch):
    first = databases.add_image('queued')
    _write(store, first, _over())
    _instead_of_sleep(monkeypatch, lambda _: _write(
        store, databases.add_image('queued'), _over()))
    leftover, = _in_store()
    assert first in leftover.what


def test_what_somebody_opens_meanwhile_is_left_alone(store, monkeypatch):
    """Between making an image and opening it nobody has it open."""
    image_id = databases.add_image('queued')
    _write(store, image_id, _over())
    held = []

    def sleep(_):
        found, = store.marked()
        file = open(os.path.join(           # noqa: SIM115
            store.datadir, f'.{found.mark.name("partial")}'), 'rb')
        fcntl.flock(file, fcntl.LOCK_EX)
        held.append(file)

    _instead_of_sleep(monkeypatch, sleep)
    assert _in_store() == []
    held[0].close()


def test_what_is_recorded_meanwhile_loses_its_mark_only(store, monkeypatch):
    image_id = databases.add_image('queued')
    _write(store, image_id, _over(), published=True)
    _instead_of_sleep(monkeypatch, lambda _: databases.add_location(
        image_id, _url(store, image_id)))
    leftover, = _in_store()
    leftover.remedy()
    assert _names(store) == [image_id]


# What changes before its remedy

def _one(store, status='queued', task_id=None, published=False, lock=None):
    image_id = databases.add_image(status, lock)
    sink = _write(store, image_id, task_id or _over(), published)
    leftover, = _in_store()
    return image_id, sink, leftover


def test_what_is_recorded_before_the_remedy_is_kept(store):
    image_id, _, leftover = _one(store, published=True)
    databases.add_location(image_id, _url(store, image_id))
    leftover.remedy()
    assert _names(store) == [image_id]


def test_what_was_handed_over_before_the_remedy_is_kept(store):
    image_id, _, leftover = _one(store, published=True)
    found, = store.marked()
    databases.add_location(image_id, _url(store, image_id))
    store.hand_over(found.mark)
    leftover.remedy()
    assert _names(store) == [image_id]


def test_what_may_be_recorded_by_now_is_kept(store):
    """The image became active in another store, so this is its second copy.
    """
    image_id, _, leftover = _one(store, published=True)
    databases.set_status(image_id, 'active')
    with pytest.raises(errors.Busy):
        leftover.remedy()
    assert image_id in _names(store)


def test_what_is_gone_before_the_remedy_is_not_missed(store):
    _, _, leftover = _one(store)
    found, = store.marked()
    store.discard(found.mark)
    leftover.remedy()
    assert _names(store) == []


def test_an_import_that_ended_before_the_remedy_keeps_what_it_did(store):
    task_id = databases.add_task(age=LONG)
    image_id, _, leftover = _one(store, 'importing', task_id, True, task_id)
    databases.add_location(image_id, _url(store, image_id))
    databases.set_status(image_id, 'active')
    leftover.remedy()
    assert _names(store) == [image_id]
    assert records.status(image_id) == 'active'


def _during_the_fence(store, monkeypatch, happens):
    """Something that happens while the writer is shut out of the store."""
    fence = store.fence

    def slow_fence(mark):
        fenced = fence(mark)
        happens()
        return fenced

    monkeypatch.setattr(store, 'fence', slow_fence)


def test_what_is_recorded_while_its_writer_is_shut_out_is_kept(store,
                                                               monkeypatch):
    image_id, _, leftover = _one(store, published=True)
    _during_the_fence(store, monkeypatch, lambda: databases.add_location(
        image_id, _url(store, image_id)))
    leftover.remedy()
    assert _names(store) == [image_id]
    assert (pathlib.Path(store.datadir) / image_id).read_bytes() == CONTENT


def test_what_may_be_recorded_once_its_writer_is_shut_out_is_kept(
        store, monkeypatch):
    image_id, _, leftover = _one(store, published=True)
    _during_the_fence(store, monkeypatch, lambda: databases.set_status(
        image_id, 'active'))
    with pytest.raises(errors.Busy):
        leftover.remedy()
    assert image_id in _names(store)


def test_a_writer_that_was_faster_than_the_fence_keeps_its_image(store,
                                                                 monkeypatch):
    _, _, leftover = _one(store, published=True)
    before = _names(store)
    monkeypatch.setattr(store, 'fence', lambda mark: False)
    leftover.remedy()
    assert _names(store) == before


def test_nothing_is_removed_whose_writer_is_not_shut_out(store, monkeypatch):
    done = []
    for name in ('fence', 'discard'):
        call = getattr(store, name)
        monkeypatch.setattr(store, name, lambda *args, n=name, c=call: (
            done.append(n), c(*args))[1])
    _one(store)[2].remedy()
    assert done == ['fence', 'discard']
    assert _names(store) == []


def test_an_upload_is_ended_before_its_data_is_removed(store, monkeypatch):
    image_id, _, leftover = _one(store, 'saving', str(uuid.uuid4()))
    seen, discard = [], store.discard

    def discarding(*args):
        seen.append(records.status(image_id))
        discard(*args)

    monkeypatch.setattr(store, 'discard', discarding)
    leftover.remedy()
    assert seen == ['queued']


def test_what_is_published_and_recorded_after_it_was_found_is_kept(store):
    image_id = databases.add_image('saving')
    _write(store, image_id)
    leftover, = _in_store()
    _publish(store)
    databases.add_location(image_id, _url(store, image_id))
    databases.set_status(image_id, 'active')
    with contextlib.suppress(errors.Busy):
        leftover.remedy()
    assert (pathlib.Path(store.datadir) / image_id).read_bytes() == CONTENT


def _publish(store):
    """Let a writer go on that seemed to be dead, to its end."""
    found, = store.marked()
    with folder.Folder(store.datadir) as here:
        here.publish(found.mark)


def test_a_writer_that_comes_to_life_is_not_shut_out(store):
    task_id = databases.add_task(age=LONG)
    image_id, _, leftover = _one(store, 'importing', task_id, lock=task_id)
    databases.set_age(task_id, 0)
    with pytest.raises(errors.Busy):
        leftover.remedy()
    _publish(store)
    assert records.status(image_id) == 'importing'


def test_a_mark_without_its_image_does_not_end_the_search(store):
    """Its remover was killed in between, where files have one name only."""
    image_id = databases.add_image('active')
    mark = driver.mark(image_id, str(uuid.uuid4()))
    (pathlib.Path(store.datadir) / f'.{mark.name("sealed")}').touch()
    other = databases.add_image('queued')
    _write(store, other, _over())
    found = [each.what for each in _in_store()]
    assert not [what for what in found if 'not searched' in what]
    assert [what for what in found if other in what]


def test_what_an_earlier_upload_left_does_not_end_a_living_one(store):
    image_id = databases.add_image('saving')
    _write(store, image_id)
    alive = _write(store, image_id, alive=True)
    for leftover in _in_store():
        leftover.remedy()
    assert records.status(image_id) == 'saving'
    alive.publish()
    assert len(store.marked()) == 1
    alive.abort()


def test_what_is_staged_goes_in_the_pass_that_gives_the_image_back(store,
                                                                   staging):
    """One remedy is tried before the next leftover is looked for."""
    task_id = databases.add_task(age=LONG)
    image_id = databases.add_image('importing', task_id)
    _stage(staging, image_id)
    _write(store, image_id, task_id)
    for each in cleanup.find():
        if not each.what.startswith('process '):
            with contextlib.suppress(errors.Busy):
                each.remedy()
    assert [*staging.iterdir()] == []
    assert records.status(image_id) == 'queued'


# Several stores

@pytest.mark.parametrize('error', [errors.SinkFailed('no answer'),
                                   glance_store.BackendException('away')])
def test_a_store_that_does_not_answer_is_told_and_others_are_searched(
        store, stores, error):
    def fail():
        raise error

    far = copy.copy(store)
    far.marked = fail
    stores |= {'far': far, 'files': stores.pop('files')}
    _write(store, databases.add_image('queued'), _over())
    away, leftover = _in_store()
    assert away.what == ('store far: not searched, for it does not answer')
    with pytest.raises(type(error)):
        away.remedy()
    assert 'store files: data of' in leftover.what


def test_a_store_that_another_process_cleans_is_passed_over(
        store, stores, monkeypatch):
    @contextlib.contextmanager
    def busy():
        raise errors.Busy('Another process cleans the store.')
        yield

    stores['far'] = copy.copy(store)
    stores['far'].turn = busy
    _write(store, databases.add_image('queued'), _over())
    leftover, = _in_store()
    assert 'store files: data of' in leftover.what


def test_a_store_that_is_not_ours_is_passed_over(store, stores):
    stores['swift'] = None
    _write(store, databases.add_image('queued'), _over())
    assert len(_in_store()) == 1


# What sparsify has left

@pytest.fixture
def cluster(monkeypatch, stores, override):
    override('deployment', 'test', 'conversion')
    cluster = clusters.in_memory(monkeypatch)
    stores['ceph'] = clusters.store()
    return cluster


def _replaced(cluster, named=True):
    """An active image that was put aside; returns its id and that name."""
    image_id = databases.add_image('active', urls=[])
    databases.add_location(image_id, f'rbd://fsid/images/{image_id}/snap')
    _, ioctx = cluster.client()
    mark = clusters.mark(image_id, deployment.identifier())
    clusters.create(cluster, image_id)
    sparsify_rbd.put_aside(ioctx, image_id, mark)
    if named:
        clusters.create(cluster, image_id)
    return image_id, mark.name('replaced')


def test_an_image_without_its_name_gets_it_back(cluster, slept):
    image_id, name = _replaced(cluster, named=False)
    leftover, = _in_store()
    assert leftover.what == (f'store ceph: the name that a dead sparsify gave '
                             f'to image {image_id}')
    assert slept == [3]
    leftover.remedy()
    assert [*cluster.images] == [image_id]


def test_an_image_that_gets_its_name_meanwhile_keeps_it(cluster,
                                                        monkeypatch):
    image_id, name = _replaced(cluster, named=False)
    _instead_of_sleep(monkeypatch, lambda _: clusters.create(cluster,
                                                             image_id))
    assert _in_store() == []


def test_what_was_replaced_is_removed_after_a_while(cluster, slept):
    image_id, name = _replaced(cluster)
    cluster.world.now += 6 * 3600 - 1
    assert _in_store() == []
    cluster.world.now += 1
    leftover, = _in_store()
    assert leftover.what == (f'store ceph: what image {image_id} was before '
                             'its zeros were given back')
    leftover.remedy()
    assert [*cluster.images] == [image_id]
    assert slept == []


def test_an_image_in_ceph_is_found_as_one_in_a_folder_is(cluster, stores):
    task_id = _over()
    image_id = databases.add_image('queued')
    _write(stores['ceph'], image_id, task_id, published=True)
    leftover, = _in_store()
    leftover.remedy()
    assert cluster.images == {}


# Files in staging

def _stage(staging, name):
    path = staging / name
    path.write_bytes(CONTENT)
    return path


def _placeholder(staging, image_id, task_id='task', alive=False, host=''):
    made = placeholder.Placeholder(str(staging), placeholder.Header(
        image_id, task_id, 'raw', 'bare', host))
    made.create()
    if not alive:
        made.release()
    return made


def _staged():
    return {each.what.removeprefix('staged file '): each.remedy
            for each in _found('staged file ')}


def test_an_abandoned_placeholder_is_removed(staging):
    made = _placeholder(staging, databases.add_image('queued'))
    (path, remedy), = _staged().items()
    assert path == made.path
    remedy()
    assert [*staging.iterdir()] == []


def test_what_became_of_an_upload_goes_with_its_placeholder(staging):
    image_id = databases.add_image('queued')
    made = _placeholder(staging, image_id)
    converted = _stage(staging, f'{image_id}.qcow2')
    unpacked = _stage(staging, f'{image_id}.unpacked')
    other = _stage(staging, f'{databases.add_image("queued")}.qcow2')
    upload = _stage(staging, image_id)
    found = _staged()
    assert found.keys() == {made.path, str(converted), str(unpacked),
                            str(upload)}
    for remedy in found.values():
        remedy()
    assert [*staging.iterdir()] == [other]


def test_a_placeholder_of_a_living_process_is_left_alone(staging):
    image_id = databases.add_image('queued')
    made = _placeholder(staging, image_id, alive=True)
    _stage(staging, f'{image_id}.qcow2')
    assert _staged() == {}
    made.release()


@pytest.mark.parametrize('suffix', ['qcow2', 'converted'])
def test_what_another_import_has_begun_meanwhile_is_kept(staging, suffix):
    """Its placeholder has the name of the dead one's."""
    image_id = databases.add_image('queued')
    _placeholder(staging, image_id)
    path = _stage(staging, f'{image_id}.qcow2')
    remedies = _staged()
    made = _placeholder(staging, image_id, 'new', alive=True)
    remedies[f'{staging / image_id}.{suffix}']()
    assert path.exists()
    assert os.path.exists(made.path)
    made.release()
    assert placeholder.read_abandoned(made.path).task_id == 'new'


@pytest.mark.parametrize('suffix', ['qcow2', 'converted'])
def test_what_another_import_has_locked_meanwhile_is_kept(staging, suffix):
    """It may be about to convert what is there, on whatever node."""
    image_id = databases.add_image('queued')
    made = _placeholder(staging, image_id)
    path = _stage(staging, f'{image_id}.qcow2')
    remedies = _staged()
    databases.lock(image_id, databases.add_task())
    remedies[f'{staging / image_id}.{suffix}']()
    assert path.exists()
    assert os.path.exists(made.path)


def test_where_nothing_was_converted_nothing_is_left_by_looking(staging):
    task_id = databases.add_task(age=LONG)
    path = _stage(staging, f'{databases.add_image("queued", task_id)}.qcow2')
    for leftover in cleanup.find():
        leftover.remedy()
    assert not path.exists()
    assert [*staging.iterdir()] == []


def test_placeholders_go_last(staging):
    image_id = databases.add_image('queued')
    made = _placeholder(staging, image_id)
    others = [str(_stage(staging, f'{image_id}.{suffix}'))
              for suffix in ('aaa', 'qcow2', 'unpacked')]
    assert [*_staged()] == [*others, made.path]


@pytest.mark.parametrize('status', ['importing', 'queued', 'active'])
def test_the_upload_of_a_dead_import_is_removed(staging, status):
    task_id = databases.add_task(age=LONG)
    image_id = databases.add_image(status, task_id)
    files = [_stage(staging, name) for name in (image_id,
                                                f'{image_id}.qcow2')]
    assert _staged().keys() == {*map(str, files)}
    for leftover in cleanup.find():
        leftover.remedy()
    assert [*staging.iterdir()] == []


@pytest.mark.parametrize('status', [
    'queued', 'active', 'deactivated', 'killed', 'deleted', 'pending_delete'])
def test_what_is_staged_and_awaited_by_nobody_is_removed(staging, status):
    """As what a node left whose image another one gave back."""
    _stage(staging, databases.add_image(status))
    remedy, = _staged().values()
    remedy()
    assert [*staging.iterdir()] == []


def test_what_is_uploaded_again_meanwhile_is_kept(staging):
    image_id = databases.add_image('queued')
    path = _stage(staging, image_id)
    remedy, = _staged().values()
    records.set_status(image_id, 'uploading', 'queued')
    remedy()
    assert path.exists()


def test_what_is_staged_for_an_import_that_did_not_begin_is_kept(staging):
    """Its owner may ask for the import again."""
    image_id = databases.add_image('uploading', databases.add_task(age=LONG))
    _stage(staging, image_id)
    assert _staged() == {}


@pytest.mark.parametrize('status', ['importing', 'active'])
def test_files_of_a_living_import_are_kept(staging, status):
    """Also beside a placeholder that an earlier one has abandoned."""
    image_id = databases.add_image(status, databases.add_task())
    _placeholder(staging, image_id)
    for name in (image_id, f'{image_id}.qcow2'):
        _stage(staging, name)
    assert _staged() == {}


def test_files_of_nobody_known_are_kept(staging):
    image_id = str(uuid.uuid4())
    for name in (image_id, f'{image_id}.qcow2', 'lost+found', 'x.converted'):
        _stage(staging, name)
    assert _staged() == {}


def test_only_what_is_called_a_placeholder_is_read_as_one(staging):
    image_id = databases.add_image('uploading')
    made = _placeholder(staging, image_id)
    os.rename(made.path, staging / image_id)
    assert _staged() == {}


def test_a_node_without_a_staging_folder_has_nothing_there(staging):
    staging.rmdir()
    assert _staged() == {}


def test_a_staging_folder_that_can_not_be_read_is_told(staging):
    staging.rmdir()
    staging.write_bytes(b'')
    with pytest.raises(NotADirectoryError):
        _staged()


# The hold of a dead import on its image

def test_a_dead_import_lets_go_of_its_image(staging):
    task_id = databases.add_task(age=LONG)
    image_id = databases.add_image('importing', task_id)
    leftover, = _found('the hold ')
    assert leftover.what == (
        f'the hold of the dead import {task_id} on image {image_id}')
    leftover.remedy()
    assert records.status(image_id) == 'queued'
    assert records.lock_holder(image_id) is None
    assert _found('the hold ') == []


def test_a_living_import_keeps_its_hold():
    databases.add_image('importing', databases.add_task())
    assert _found('the hold ') == []


def test_by_its_placeholder_an_import_is_known_to_be_dead(staging):
    task_id = databases.add_task(age=100)
    image_id = databases.add_image('importing', task_id)
    assert _found('the hold ') == []
    _placeholder(staging, image_id, task_id)
    leftover, = _found('the hold ')
    leftover.remedy()
    assert records.status(image_id) == 'queued'


def test_the_operator_may_say_when_an_import_is_dead():
    databases.add_image('importing', databases.add_task(age=100))
    for dead_after, expected in ((90, 1), (110, 0), (None, 0)):
        found = [each for each in cleanup.find(dead_after)
                 if each.what.startswith('the hold ')]
        assert len(found) == expected


def test_an_upload_of_an_import_that_nobody_knows_goes(staging):
    """Of its task nothing is left that says how it was imported."""
    image_id = databases.add_image('importing', 'no such task')
    _placeholder(staging, image_id, 'no such task')
    _stage(staging, image_id)
    databases.age_lock(image_id, 60)
    for each in cleanup.find():
        if not each.what.startswith('process '):
            each.remedy()
    assert [*staging.iterdir()] == []
    assert records.status(image_id) == 'queued'


def test_data_comes_first_and_placeholders_come_last(store, staging):
    """What tells that an import is dead is needed until all else is gone."""
    task_id = databases.add_task(age=LONG)
    image_id = databases.add_image('importing', task_id)
    _placeholder(staging, image_id, task_id)
    _write(store, image_id, task_id)
    found = [each.what.split()[0] for each in cleanup.find()
             if not each.what.startswith('process ')]
    assert found == ['store', 'the', 'staged']


def test_one_pass_leaves_nothing_of_a_dead_import(store, staging):
    task_id = databases.add_task(age=LONG)
    image_id = databases.add_image('importing', task_id)
    _placeholder(staging, image_id, task_id)
    _stage(staging, image_id)
    _write(store, image_id, task_id)
    for each in cleanup.find():
        if not each.what.startswith('process '):
            each.remedy()
    assert [*staging.iterdir()] == []
    assert records.status(image_id) == 'queued'
    assert records.lock_holder(image_id) is None
    assert _names(store) == []


@pytest.mark.parametrize('age', [660, LONG])
def test_one_pass_leaves_nothing_of_a_dead_import_in_several_stores(
        store, stores, tmp_path, age):
    """That its task was made to fail in the first does not make it alive."""
    stores['more'] = _make_store(tmp_path / 'more')
    task_id = databases.add_task(age=age)
    image_id = databases.add_image('importing', task_id)
    for each in stores.values():
        _write(each, image_id, task_id)
    for leftover in _found('store '):
        leftover.remedy()
    assert records.status(image_id) == 'queued'
    assert [_names(each) for each in stores.values()] == [[], []]


# Processes

@pytest.fixture
def start():
    """Starts a process that its owner should have ended."""
    started = []

    def start(owner):
        started.append(subprocess.Popen(
            [sys.executable, '-c', 'input()'], stdin=subprocess.PIPE,
            env={sandbox.OWNER_VARIABLE: owner} if owner else {}))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()


def _dead_owner():
    with subprocess.Popen([sys.executable, '-c', ''],
                          stdin=subprocess.PIPE) as process:
        return sandbox.identity(process.pid)


def _process(process):
    """The leftover that a process is, if it is one."""
    return [each for each in cleanup.find()
            if each.what == f'process {process.pid}']


def test_a_process_whose_owner_is_gone_is_killed(start):
    process = start(_dead_owner())
    leftover, = _process(process)
    leftover.remedy()
    assert process.wait(60) == -9
    # It may have ended by itself.
    leftover.remedy()
    assert _process(process) == []


def test_a_process_of_another_owner_with_its_pid_is_killed(start):
    """Pids are used again."""
    process = start(f'{os.getpid()} 1')
    assert len(_process(process)) == 1


def test_a_process_whose_owner_lives_is_left_alone(start):
    assert _process(start(sandbox.identity(os.getpid()))) == []


def test_a_process_without_an_owner_is_left_alone(start):
    assert _process(start('')) == []


def test_a_process_that_says_nonsense_is_left_alone(start):
    assert _process(start('nonsense')) == []
    assert len(_process(start(_dead_owner()))) == 1


def test_processes_of_another_container_are_left_alone(start):
    """Their pids mean something else."""
    outer = subprocess.Popen(
        ['unshare', '--pid', '--fork', '--kill-child', sys.executable, '-c',
         'input()'], stdin=subprocess.PIPE,
        env={'PATH': os.environ['PATH'],
             sandbox.OWNER_VARIABLE: _dead_owner()})
    try:
        path = pathlib.Path(f'/proc/{outer.pid}/task/{outer.pid}/children')
        while not path.read_text():
            assert outer.poll() is None
        inner = types.SimpleNamespace(pid=int(path.read_text()))
        assert _process(inner) == []
        assert len(_process(outer)) == 1
    finally:
        outer.kill()
        outer.communicate()
