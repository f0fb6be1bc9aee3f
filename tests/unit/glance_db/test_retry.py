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

"""How long an import has patience with the database."""

from unittest import mock

from oslo_db import api
from oslo_db import exception
import pytest
import sqlalchemy

from glance_conversion_plugins.glance_db import retry


@pytest.fixture
def slept(monkeypatch):
    """Seconds that were waited, without waiting."""
    found = []
    monkeypatch.setattr(api, 'time', mock.Mock(
        spec=['sleep'], sleep=found.append))
    return found


def _fails(times, error):
    """Something that fails so often, and then answers."""
    calls = iter([error] * times)

    def call():
        for failure in calls:
            raise failure
        return 'answer'

    return retry.patient(call)


@pytest.mark.parametrize('error', [
    exception.DBDeadlock(), exception.DBConnectionError(),
    sqlalchemy.exc.OperationalError('s', {}, Exception('database is locked'))])
def test_a_database_may_be_away_for_more_than_a_minute(slept, error):
    assert _fails(40, error)() == 'answer'
    assert len(slept) == 40
    assert sum(slept) > 60


def test_it_is_not_waited_for_forever(slept):
    with pytest.raises(exception.DBConnectionError):
        _fails(100, exception.DBConnectionError())()
    assert 100 < sum(slept) < 150


def test_what_waiting_does_not_help_is_an_error_at_once(slept):
    with pytest.raises(exception.DBDataError):
        _fails(1, exception.DBDataError())()
    assert slept == []
