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

"""A real database of Glance, of a schema as its models say."""

import contextlib
import datetime
import uuid

from glance.db.sqlalchemy import api
from glance.db.sqlalchemy import models
from oslo_config import cfg
from oslo_db import options as db_options
from oslo_utils import timeutils

from glance_conversion_plugins.glance_db import compat

CONF = cfg.CONF


@contextlib.contextmanager
def glance_database(path):
    """A new database of Glance, in use while the block runs."""
    CONF.register_opts(db_options.database_opts, 'database')
    CONF.set_override('connection', f'sqlite:///{path}', 'database')
    # Nothing here has to outlive the machine.
    CONF.set_override('sqlite_synchronous', False, 'database')
    api.clear_db_env()
    try:
        engine = api.get_engine()
        models.register_models(engine)
        yield
        engine.dispose()
    finally:
        api.clear_db_env()
        CONF.clear_override('connection', 'database')
        CONF.clear_override('sqlite_synchronous', 'database')


def add_image(status, lock=None, urls=(), **values):
    """Record an image that a task may lock; returns its id."""
    image_id = str(uuid.uuid4())
    compat.database().image_create(compat.admin_context(), {
        'id': image_id, 'status': status, 'visibility': 'private',
        'owner': 'somebody', 'min_disk': 0, 'min_ram': 0, 'size': 5,
        'disk_format': 'raw', 'container_format': 'bare',
        'properties': {compat.LOCK_PROPERTY: lock} if lock else {}} | values)
    for url in urls:
        add_location(image_id, url)
    return image_id


def lock(image_id, task_id):
    """As Glance does for an import that begins."""
    compat.database().image_set_property_atomic(
        image_id, compat.LOCK_PROPERTY, task_id)


def age_lock(image_id, seconds):
    """Let the lock of an image be so old."""
    moment = timeutils.utcnow() - datetime.timedelta(seconds=seconds)
    with api.session_for_write() as session:
        session.query(models.ImageProperty).filter_by(
            image_id=image_id, name=compat.LOCK_PROPERTY).update(
            {'updated_at': moment})


def add_location(image_id, url, store='files'):
    compat.database().image_location_add(compat.admin_context(), image_id, {
        'url': url, 'metadata': {'store': store}, 'status': 'active'})


def delete_locations(image_id):
    """As when an image leaves a store; the rows stay."""
    db, context = compat.database(), compat.admin_context()
    for location in db.image_get(context, image_id)['locations']:
        db.image_location_delete(context, image_id, location['id'],
                                 'deleted')


def set_status(image_id, status):
    compat.database().image_update(compat.admin_context(), image_id,
                                   {'status': status})


def delete_image(image_id):
    set_status(image_id, 'deleted')
    compat.database().image_destroy(compat.admin_context(), image_id)


def add_task(status='processing', age=0., kind='api_image_import'):
    """Record a task that was last at work so long ago; returns its id."""
    task_id = str(uuid.uuid4())
    compat.database().task_create(compat.admin_context(), {
        'id': task_id, 'type': kind, 'status': status, 'input': {},
        'owner': 'somebody', 'image_id': None, 'user_id': 'u',
        'request_id': 'r', 'message': 'Converting'})
    set_age(task_id, age)
    return task_id


def set_age(task_id, age):
    """Let a task have been last at work so many seconds ago."""
    moment = timeutils.utcnow() - datetime.timedelta(seconds=age)
    with api.session_for_write() as session:
        session.query(models.Task).filter_by(id=task_id).update(
            {'updated_at': moment})


def set_task(task_id, **values):
    compat.database().task_update(compat.admin_context(), task_id, values)
