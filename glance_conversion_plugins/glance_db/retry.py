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

"""Patience with Glance's database.

Two writers of one row deadlock on a Galera cluster, and any two writers do
under SQLite; and every database fails over at times. An import must not fail
for that after minutes of work.
"""

from oslo_db import api
from oslo_db import exception

# What is raised in the end of a database that does not answer.
AWAY = exception.DBConnectionError


def _is_conflict(error: Exception) -> bool:
    # oslo.db leaves the errors of sessions that Glance makes untranslated.
    return 'database is locked' in str(error) or isinstance(
        error, exception.DBDeadlock)


# Two minutes: a Galera cluster or a primary fails over in less than one.
patient = api.wrap_db_retry(max_retries=65, retry_interval=0.05,
                            max_retry_interval=2, inc_retry_interval=True,
                            retry_on_deadlock=True, retry_on_disconnect=True,
                            exception_checker=_is_conflict)
