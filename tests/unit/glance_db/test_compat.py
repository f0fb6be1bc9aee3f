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

"""Every name that we take from inside of Glance, and what it does there.

Each test has the name of what it calls, so that a release of Glance that
changes one says which.
"""

import concurrent.futures
import contextlib
import importlib.metadata
import inspect
import io
import os
import pathlib
import sys
import threading
import types
import uuid

from glance.api import common
from glance.api.v2 import image_data
from glance.async_.flows import api_image_import
from glance.async_ import taskflow_executor
from glance import context as glance_context
from glance import db as glance_db
import glance_store
from oslo_config import cfg
from oslo_middleware import cors
import pytest

from glance_conversion_plugins.glance_db import compat
from tests.unit import databases

CONF = cfg.CONF

RELEASE = int(importlib.metadata.version('glance').split('.')[0])


@pytest.fixture(autouse=True)
def database(tmp_path):
    with databases.glance_database(tmp_path / 'glance.sqlite'):
        yield


@pytest.fixture
def image_id():
    return _create_image()


def _create_image(**properties):
    image_id = str(uuid.uuid4())
    compat.database().image_create(compat.admin_context(), {
        'id': image_id, 'status': 'importing', 'visibility': 'private',
        'owner': 'somebody', 'min_disk': 0, 'min_ram': 0, 'size': 5,
        'disk_format': 'raw', 'container_format': 'bare',
        'properties': properties})
    return image_id


def _create_task(image_id):
    task_id = str(uuid.uuid4())
    compat.database().task_create(compat.admin_context(), {
        'id': task_id, 'type': 'api_image_import', 'status': 'processing',
        'owner': 'somebody', 'image_id': image_id, 'input': {},
        'message': '', 'request_id': 'r', 'user_id': 'u', 'result': None,
        'expires_at': None})
    return task_id


def test_every_name_has_a_test():
    names = {name.lower() for name, found in vars(compat).items()
             if not name.startswith('_') and name not in ('cfg', 'Any',
                                                          'contextlib')}
    tested = {name.removeprefix('test_') for name in globals()}
    assert names - tested == set()


# glance_store

def test_rbd_driver():
    store = compat.rbd_driver.Store
    assert {'get_size', 'configure', 'add', 'get', 'OPTIONS'} <= {*dir(store)}
    location = compat.rbd_driver.StoreLocation(
        {'fsid': 'f', 'pool': 'p', 'image': 'i', 'snapshot': 'snap'}, CONF)
    assert location.get_uri() == 'rbd://f/p/i/snap'


def test_filesystem_driver():
    assert {'_find_best_datadir', '_get_capacity_info', '_get_metadata',
            '_resolve_location', 'configure_add', 'delete', 'OPTIONS'} <= {
        *dir(compat.filesystem_driver.Store)}
    assert compat.filesystem_driver.StoreLocation


def test_back_compat_add():
    @compat.back_compat_add
    def add(self, image_id, image_file, image_size, hashing_algo,
            context=None, verifier=None):
        return 'url', image_size, 'md5', hashing_algo, {}

    assert add(None, 'i', None, 3, 'sha512') == ('url', 3, 'md5', 'sha512',
                                                 {})
    assert add(None, 'i', None, 3) == ('url', 3, 'md5', {})


def test_chunkreadable():
    assert [*compat.chunkreadable(io.BytesIO(b'12345'), 2)] == [
        b'12', b'34', b'5']


# Configuration

def test_reserved_stores():
    assert 'os_glance_staging_store' in compat.RESERVED_STORES


def test_set_config_defaults():
    compat.set_config_defaults()
    defaults = {option.name: option.default for option in cors.CORS_OPTS}
    assert 'X-Image-Meta-Checksum' in defaults['allow_headers']


def test_config_files(tmp_path, monkeypatch):
    monkeypatch.setenv('OS_GLANCE_CONFIG_DIR', str(tmp_path))
    (tmp_path / 'glance-image-import.conf').touch()
    assert {str(tmp_path / name) for name in (
        'glance-api.conf', 'glance-image-import.conf')} <= set(
        compat.config_files())


def test_staging_store_path(override):
    override('node_staging_uri', 'file:///srv/staging')
    assert compat.staging_store_path() == '/srv/staging'


def test_options_of_imports():
    assert CONF.image_conversion.output_format == 'raw'
    assert isinstance(CONF.image_import_opts.image_import_plugins, list)


# An import

def _wrapper(image_id, task_id):
    return api_image_import.ImportActionWrapper(
        compat.image_repo(), image_id, task_id)


def test_lock_property():
    wrapper = _wrapper(_create_image(**{compat.LOCK_PROPERTY: 'mine'}),
                       'mine')
    wrapper.assert_task_lock()
    wrapper = _wrapper(_create_image(**{compat.LOCK_PROPERTY: 'his'}), 'mine')
    with pytest.raises(compat.exception.TaskAbortedError):
        wrapper.assert_task_lock()
    with pytest.raises(compat.exception.NotFound):
        _wrapper(str(uuid.uuid4()), 'mine').assert_task_lock()


def _properties(image_id):
    return {prop['name']: prop['value'] for prop in compat.database(
        ).image_get(compat.admin_context(), image_id)['properties']}


def test_importing_property():
    image_id = _create_image(**{compat.LOCK_PROPERTY: 'mine',
                                compat.IMPORTING_PROPERTY: 'a,b'})
    with _wrapper(image_id, 'mine') as action:
        action.remove_importing_stores(['a'])
    assert _properties(image_id)[compat.IMPORTING_PROPERTY] == 'b'


def test_failed_property():
    image_id = _create_image(**{compat.LOCK_PROPERTY: 'mine'})
    with _wrapper(image_id, 'mine') as action:
        action.add_failed_stores(['a'])
    assert _properties(image_id)[compat.FAILED_PROPERTY] == 'a'


def test_stage_host_property():
    flow = inspect.getsource(api_image_import.get_flow)
    assert f"pop_extra_property('{compat.STAGE_HOST_PROPERTY}')" in flow


@pytest.mark.parametrize('option', ['worker_self_reference_url',
                                    'public_endpoint'])
def test_own_url(override, option):
    assert compat.own_url() is None
    override(option, 'http://glance1:9292')
    assert compat.own_url() == 'http://glance1:9292'


def test_is_stopping(monkeypatch):
    monkeypatch.setattr(common, '_CACHED_THREAD_POOL', {})
    assert not compat.is_stopping()
    pool = concurrent.futures.ThreadPoolExecutor()
    common._CACHED_THREAD_POOL['tasks_pool'] = types.SimpleNamespace(
        pool=pool)
    assert not compat.is_stopping()
    pool.shutdown()
    assert compat.is_stopping()


class _Waiting:
    """A context of a request whose owner takes long to find."""

    read_only = False

    def __init__(self, name):
        self.request_id = name
        self.asked, self.go_on = threading.Event(), threading.Event()

    @property
    def owner(self):
        self.asked.set()
        assert self.go_on.wait(60)
        raise ZeroDivisionError

    def get(self, *_):
        return self.owner


def _upload(waiting):
    image_data.ImageDataController().upload(
        types.SimpleNamespace(context=waiting), 'image', None, 5)


def _run_task(waiting):
    executor = taskflow_executor.TaskExecutor(waiting, waiting, None, None)
    executor._run('task-7', 'api_image_import')


@pytest.mark.parametrize('work, names', [
    (_upload, ['req-5']), (_run_task, ['req-5', 'task-7'])])
def test_is_under_way(work, names):
    waiting = _Waiting('req-5')

    def run():
        with contextlib.suppress(ZeroDivisionError):
            work(waiting)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert waiting.asked.wait(60)
        for name in names:
            assert compat.is_under_way(name)
        assert not compat.is_under_way('req-6')
    finally:
        waiting.go_on.set()
        thread.join(60)
    for name in names:
        assert not compat.is_under_way(name)


def test_nobody_can_tell_what_is_under_way_where_threads_are_none(
        monkeypatch):
    monkeypatch.setitem(sys.modules, 'eventlet.patcher', types.SimpleNamespace(
        is_monkey_patched=lambda what: what == 'thread'))
    assert compat.is_under_way('req-6')


def test_what_a_task_may_do_with_the_image():
    image_id = _create_image(**{compat.LOCK_PROPERTY: 'mine', 'os': 'plan9'})
    wrapper = _wrapper(image_id, 'mine')
    assert wrapper.image_id == image_id
    with wrapper as action:
        assert action.image_disk_format == 'raw'
        assert action.image_container_format == 'bare'
        assert action.image_status == 'importing'
        assert action.image_extra_properties['os'] == 'plan9'
        assert not action.image_locations
        action.set_image_attribute(status='queued')
    found = compat.database().image_get(compat.admin_context(), image_id)
    assert found['status'] == 'queued'


def test_pending_url():
    """Glance 33 and newer write such a URL while stores work side by side."""
    folder = pathlib.Path(inspect.getfile(api_image_import)).parent
    written = any(f"'{compat.PENDING_URL}" in path.read_text()
                  for path in folder.glob('*.py'))
    assert written is (RELEASE >= 33)


def test_check_quota(override, image_id):
    override('user_storage_quota', '6B')
    # Without an enforcer it makes one, which wants configuration files.
    context = glance_context.RequestContext(project_id='somebody',
                                            policy_enforcer=object(),
                                            is_admin=True)
    compat.check_quota(context, 1, compat.database(), image_id=image_id)
    with pytest.raises(compat.exception.StorageQuotaFull):
        compat.check_quota(context, 7, compat.database(), image_id=image_id)


def test_enforce_image_size_total():
    """Without limits in Keystone everything passes."""
    assert compat.enforce_image_size_total(
        compat.admin_context(), 'somebody', delta=1) is None


# Records

def test_exception():
    for name in ('Conflict', 'GlanceException', 'LimitExceeded', 'NotFound',
                 'StorageQuotaFull', 'TaskAbortedError', 'UploadException'):
        assert issubclass(getattr(compat.exception, name), Exception)
    assert str(compat.exception.UploadException('words')) == 'words'


def test_image(image_id):
    with compat.session_for_read() as session:
        row, = session.query(compat.Image).all()
        assert (row.id, row.status) == (image_id, 'importing')


def test_session_for_read():
    with compat.session_for_read() as session:
        assert session.query(compat.Image).count() == 0


def test_session_for_write(image_id):
    with compat.session_for_write() as session:
        session.query(compat.Image).filter_by(id=image_id).update(
            {'name': 'written'})
    found = compat.database().image_get(compat.admin_context(), image_id)
    assert found['name'] == 'written'


def _add_location(image_id, url):
    compat.database().image_location_add(compat.admin_context(), image_id, {
        'url': url, 'metadata': {}, 'status': 'active'})


def test_imagelocation(image_id):
    location = compat.ImageLocation
    _add_location(image_id, 'file:///x')
    with compat.session_for_write() as session:
        row, = session.query(location.value, location.deleted,
                             location.image_id)
        assert tuple(row) == ('file:///x', False, image_id)
        assert session.query(location.value).filter(
            location.deleted.is_(False), location.value == 'file:///x'
            ).count() == 1
    found, = compat.database().image_get(compat.admin_context(), image_id)[
        'locations']
    compat.database().image_location_delete(
        compat.admin_context(), image_id, found['id'], 'deleted')
    with compat.session_for_write() as session:
        assert session.query(location.deleted).all() == [(True,)]


def test_imageproperty():
    prop = compat.ImageProperty
    image_id = _create_image(**{compat.LOCK_PROPERTY: 'mine', 'os': 'plan9'})
    with compat.session_for_write() as session:
        row, = session.query(prop.image_id, prop.value).filter(
            prop.name == compat.LOCK_PROPERTY, prop.deleted.is_(False))
        assert tuple(row) == (image_id, 'mine')
    compat.database().image_destroy(compat.admin_context(), image_id)
    with compat.session_for_write() as session:
        assert session.query(prop).filter(prop.deleted.is_(False)).all() == []


def test_urls_are_encrypted(override):
    assert compat.urls_are_encrypted() is False
    override('metadata_encryption_key', '0123456789abcdef')
    assert compat.urls_are_encrypted() is True


@pytest.mark.parametrize('key', [None, '', '0123456789abcdef'])
def test_location_url(override, image_id, key):
    """Of a row as Glance writes it, with a key and without."""
    override('metadata_encryption_key', key)
    repo = glance_db.ImageRepo(compat.admin_context(), compat.database())
    image = repo.get(image_id)
    image.locations = [{'url': 'file:///x', 'metadata': {},
                        'status': 'active'}]
    repo.save(image)
    with compat.session_for_write() as session:
        value, = session.query(compat.ImageLocation.value).one()
    assert (value != 'file:///x') is compat.urls_are_encrypted()
    assert compat.location_url(value) == 'file:///x'


def test_cachedimages():
    with compat.session_for_read() as session:
        assert session.query(compat.CachedImages.image_id,
                             compat.CachedImages.hits).all() == []


def test_database(image_id):
    db, context = compat.database(), compat.admin_context()
    task_id = _create_task(image_id)
    db.image_update(context, image_id, {'checksum': 'c'},
                    from_state='importing')
    with pytest.raises(compat.exception.Conflict):
        db.image_update(context, image_id, {'checksum': 'd'},
                        from_state='active')
    found, = db.image_get_all(context, filters={'visibility': 'all'}, limit=5)
    assert (found['id'], found['checksum']) == (image_id, 'c')
    assert db.task_get(context, task_id)['message'] == ''
    db.task_update(context, task_id, {'message': 'm'})
    task, = db.tasks_get_by_image(context, image_id)
    assert (task['id'], task['message']) == (task_id, 'm')
    db.image_location_add(context, image_id, {
        'url': 'file:///x', 'metadata': {}, 'status': 'active'})
    location, = db.image_get(context, image_id)['locations']
    db.image_location_delete(context, image_id, location['id'], 'deleted')
    assert db.image_get(context, image_id,
                        force_show_deleted=False)['locations'] == []


@pytest.mark.parametrize('called', ['delete', 'delete_from_backend'])
def test_delete_data(override, monkeypatch, image_id, called):
    """Without an id in the location no row of it is changed."""
    deleted = []
    if called == 'delete':      # of one store of several
        override('enabled_backends', {'near': 'file'})
    monkeypatch.setattr(glance_store, called,
                        lambda *given, context: deleted.append(given))
    _add_location(image_id, 'file:///x')
    compat.delete_data(image_id, {
        'url': 'file:///x', 'metadata': {'store': 'near'},
        'status': 'active'})
    assert deleted == [('file:///x', 'near') if called == 'delete'
                       else ('file:///x',)]
    found, = compat.database().image_get(compat.admin_context(), image_id)[
        'locations']
    assert (found['url'], found['status']) == ('file:///x', 'active')


def test_delete_data_of_a_store_that_was_renamed(tmp_path, override):
    folder = tmp_path / 'images'
    folder.mkdir()
    override('enabled_backends', {'new': 'file'})
    glance_store.register_store_opts(CONF)
    override('filesystem_store_datadir', str(folder), 'new')
    glance_store.create_multi_stores(CONF)
    data = folder / 'disk'
    data.write_bytes(b'x')
    compat.delete_data('image', {
        'url': f'file://{data}', 'metadata': {'store': 'old'},
        'status': 'active'})
    assert not data.exists()


def test_admin_context():
    assert compat.admin_context().is_admin


def test_image_repo():
    image_id = _create_image(**{compat.LOCK_PROPERTY: 'mine'})
    repo = compat.image_repo()
    image = repo.get(image_id)
    image.status, image.size = 'queued', None
    repo.save(image, 'importing')
    assert list(repo.get(image_id).locations) == []
    repo.delete_property_atomic(repo.get(image_id), compat.LOCK_PROPERTY,
                                'mine')
    with pytest.raises(compat.exception.NotFound):
        repo.delete_property_atomic(repo.get(image_id), compat.LOCK_PROPERTY,
                                    'mine')


def test_task_repo(image_id):
    repo = compat.task_repo()
    task = repo.get(_create_task(image_id))
    assert task.status == 'processing'
    task.fail('words')
    repo.save(task)
    assert repo.get(task.task_id).message == 'words'


# The image cache

@pytest.fixture
def cache(override, tmp_path):
    override('image_cache_driver', 'sqlite')
    override('image_cache_dir', str(tmp_path / 'cache'))
    return compat.image_cache()


def test_image_cache(cache):
    assert cache.get_cache_size() == 0
    assert not cache.is_cached('image')
    assert list(cache.get_cached_images()) == []
    assert list(cache.get_queued_images()) == []
    cache.delete_cached_image('image')
    cache.delete_queued_image('image')


def test_cache_driver_name(cache):
    assert compat.cache_driver_name(cache) == 'sqlite'


@pytest.mark.parametrize('state', ['active', 'incomplete', 'invalid',
                                   'queue'])
def test_cache_path(cache, tmp_path, state):
    found = os.path.relpath(compat.cache_path(cache, 'image', state),
                            tmp_path / 'cache')
    assert found == ('image' if state == 'active' else f'{state}/image')


def test_caching(cache, image_id):
    with compat.caching(cache, image_id) as file:
        file.write(b'data')
    record, = cache.get_cached_images()
    assert types.SimpleNamespace(**record).image_id == image_id
