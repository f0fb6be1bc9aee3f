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

"""Which cloud this is, where several may share a pool."""

import hashlib

from oslo_config import cfg
from oslo_db import options
from sqlalchemy.engine import url as url_

CONF = cfg.CONF


def identifier() -> str:
    """Tell this deployment from others, in eight hexadecimal digits.

    That is from others that do not have the same database: whoever has the
    same records may judge what they say.
    """
    name = CONF.conversion.deployment or _database()
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _database() -> str:
    """Where the database is, without who reads it."""
    # oslo.db does so itself when the database is first used.
    CONF.register_opts(options.database_opts, 'database')
    connection = CONF.database.connection
    if not connection:
        return ''
    found = url_.make_url(connection)
    where = found.query.get('unix_socket') or f'{found.host}:{found.port}'
    return f'{where}/{found.database}'
