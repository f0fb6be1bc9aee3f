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

from glance.db.sqlalchemy import api
from glance.db.sqlalchemy import models
from oslo_config import cfg
from oslo_db import options as db_options

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
