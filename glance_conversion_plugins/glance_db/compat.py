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

"""Every name of Glance and glance_store that is not their public interface.

Nothing else in this package imports Glance, or a private name of
glance_store. So a release that changes one of them breaks this file, and its
test says which name it was. Beside each stands why it is needed, and since
which release it exists.
"""

import contextlib
import inspect
import sys
from typing import Any

from glance.api import common as _api_common
from glance.api.v2 import image_data as _api_image_data
from glance.async_.flows import api_image_import as _api_image_import
from glance.async_ import taskflow_executor as _taskflow_executor
from glance.common import config as _config
from glance.common import crypt as _crypt
from glance.common import exception
from glance.common import store_utils as _image_data
from glance.common import wsgi_app as _wsgi_app
from glance import context as _context
from glance import db as _db
from glance.db.sqlalchemy import api as _sqlalchemy
from glance.db.sqlalchemy import models as _models
from glance import gateway as _gateway
from glance import housekeeping as _housekeeping
from glance import image_cache as _image_cache
from glance.quota import keystone as _keystone_quota
from glance_store._drivers import filesystem as filesystem_driver
from glance_store._drivers import rbd as rbd_driver
from glance_store.common import utils as _store_utils
from glance_store import driver as _store_driver
from oslo_config import cfg

__all__ = ['exception', 'filesystem_driver', 'rbd_driver']

# -- glance_store --------------------------------------------------------
#
# rbd_driver, filesystem_driver: what our drivers are but for zeros. The
# package is called private; out-of-tree drivers have no other base. 0.1.

# Lets add() answer callers older than its hashing_algo. 0.26.
back_compat_add = _store_driver.back_compat_add

# Cuts what is no iterator of chunks into chunks. 0.1.
chunkreadable = _store_utils.chunkreadable

# -- Glance: configuration ----------------------------------------------

# The stores that Glance keeps for itself; without them ours can not be
# created as glance-api does. 19.0.
RESERVED_STORES = _wsgi_app.RESERVED_STORES

# Defaults of other libraries that Glance changes. 12.0.
set_config_defaults = _config.set_config_defaults

# The files that glance-api reads where none are named. Private. 15.0.
config_files = _wsgi_app._get_config_files

# Where uploads are staged, as a path. 21.0.
staging_store_path = _housekeeping.staging_store_path

# What the configuration of conversion falls back to, and which plugins are
# enabled: options that Glance registers where they are used. 18.0.
cfg.CONF.import_opt('output_format',
                    'glance.async_.flows.plugins.image_conversion',
                    group='image_conversion')
cfg.CONF.register_opts(_api_image_import.api_import_opts, 'image_import_opts')

# -- Glance: an import ---------------------------------------------------

# Properties by which Glance locks an image for a task, and notes which
# stores are still to be written or have failed. 20.0 and 21.0.
LOCK_PROPERTY = 'os_glance_import_task'
IMPORTING_PROPERTY = 'os_glance_importing_to_stores'
FAILED_PROPERTY = 'os_glance_failed_import'

# Where an image was staged that another node is asked to import. 22.
STAGE_HOST_PROPERTY = 'os_glance_stage_host'

# How the URL of a location begins that a parallel import writes to the
# database before there is one. 33.0.
PENDING_URL = 'pending:'

# Both kinds of quota; which of them is in force decides Glance. 2013.2 and
# 23.0.
check_quota = _api_common.check_quota
enforce_image_size_total = _keystone_quota.enforce_image_size_total

# -- Glance: records -----------------------------------------------------

# Rows of the image cache, which no call of Glance adds up. 28.0.
Image = _models.Image
CachedImages = _models.CachedImages

# Rows of locations, which no call of Glance finds by their URL. 2012.1.
ImageLocation = _models.ImageLocation
# And of properties, for those of a lock. 2011.1.
ImageProperty = _models.ImageProperty


def database() -> Any:
    """Glance's database as its own code sees it: plain rows. 2012.1."""
    return _db.get_api()


def session_for_read() -> contextlib.AbstractContextManager[Any]:
    """A session of that database, for what it has no call for. 31.0."""
    session: contextlib.AbstractContextManager[Any] = (
        _sqlalchemy.session_for_read())
    return session


def session_for_write() -> contextlib.AbstractContextManager[Any]:
    """The same, always of the primary: a replica may lag behind. 31.0."""
    session: contextlib.AbstractContextManager[Any] = (
        _sqlalchemy.session_for_write())
    return session


def urls_are_encrypted() -> bool:
    """Whether equal URLs differ in the database. 2013.1."""
    return bool(cfg.CONF.metadata_encryption_key)


def location_url(value: str) -> str:
    """The URL that the row of a location has, which may be encrypted. 2013.1.
    """
    key = cfg.CONF.metadata_encryption_key
    try:
        return str(_crypt.urlsafe_decrypt(key, value)) if key else value
    # Of before there was a key, or of a location that is pending.
    except Exception:
        return value


def delete_data(image_id: str, location: dict[str, Any]) -> None:
    """Delete what a store has of an image, now or later. 2013.2.

    :param location: without ``id``: its row is somebody else's business
    """
    # As Glance does with what it loads, for stores may be renamed. 23.
    stores = cfg.CONF.enabled_backends
    if stores and location['metadata'].get('store') not in stores:
        location = location | {'metadata': dict(location['metadata'])}
        _image_data.get_updated_store_location([location], admin_context())
    _image_data.delete_image_location_from_backend(
        admin_context(), image_id, location)


cfg.CONF.import_opt('public_endpoint', 'glance.api.versions')


def own_url() -> str | None:
    """Where other nodes of Glance reach this one, if they are told. 22."""
    url = (cfg.CONF.worker_self_reference_url
           or cfg.CONF.public_endpoint)
    return str(url) if url else None


def is_stopping() -> bool:
    """Say whether this Glance waits for its imports before it ends. 25."""
    pools = _api_common._CACHED_THREAD_POOL
    return 'tasks_pool' in pools and bool(
        getattr(pools['tasks_pool'].pool, '_shutdown', False))


# What answers an upload, and what runs an import: whatever Glance has stored
# it records before these return. 11.0 (Liberty).
_UNDER_WAY = (
    inspect.unwrap(_api_image_data.ImageDataController.upload).__code__,
    _taskflow_executor.TaskExecutor._run.__code__)


def is_under_way(work: str) -> bool:
    """Whether this process still answers a request, or runs a task.

    :param work: id of a request that uploads an image, or of the task of an
        import, or of the request that asked for one
    :returns: True also where threads are none, and nobody can tell
    """
    eventlet = sys.modules.get('eventlet.patcher')
    if eventlet and eventlet.is_monkey_patched('thread'):
        return True
    return any(frame.f_code in _UNDER_WAY and work in _works(frame.f_locals)
               for innermost in sys._current_frames().values()
               for frame in _callers(innermost))


def _callers(frame: Any) -> Any:
    while frame:
        yield frame
        frame = frame.f_back


def _works(names: Any) -> tuple[Any, ...]:
    context = (names['req'] if 'req' in names else names['self']).context
    return context.request_id, names.get('task_id')


def admin_context() -> Any:
    """Who may see and change everything. 2012.1."""
    return _context.get_admin_context()


def image_repo() -> Any:
    """Images with their locations in the order in which Glance tries them.

    Its ``delete_property_atomic`` breaks a lock. 2013.1; that: 21.0.
    """
    return _gateway.Gateway().get_repo(admin_context())


def task_repo() -> Any:
    """Tasks, which know how they may end. 2013.2."""
    return _gateway.Gateway().get_task_repo(admin_context())


# -- Glance: the image cache ---------------------------------------------

def image_cache() -> Any:
    """The image cache of this node, as Glance has it. 2012.1."""
    return _image_cache.ImageCache()


def cache_driver_name(cache: Any) -> str:
    """The driver in use, which may not be the configured one. 2012.1."""
    module: str = cache.driver_class.__module__
    return module.rpartition('.')[2]


def cache_path(cache: Any, image_id: str, state: str = 'active') -> str:
    """Where the file of an image lies, cached or on its way there. 2012.1.

    :param state: name of a folder: active, incomplete, invalid, queue
    """
    return str(cache.driver.get_image_filepath(image_id, state))


def caching(cache: Any, image_id: str
            ) -> contextlib.AbstractContextManager[Any]:
    """At its end, what lies in ``incomplete`` is recorded as cached. 2012.1.
    """
    block: contextlib.AbstractContextManager[Any] = (
        cache.driver.open_for_write(image_id))
    return block
