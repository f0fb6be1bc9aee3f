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

"""Which cloud this is: the same for all of its nodes, and for no other."""

import re
import subprocess
import sys

from oslo_config import cfg
from oslo_db import options as db_options
import pytest

from glance_conversion_plugins.glance_db import deployment

CONF = cfg.CONF

HERE = 'mysql+pymysql://glance:secret@db.example:3306/glance'


@pytest.fixture
def connection(override):
    """Sets where the database is."""
    CONF.register_opts(db_options.database_opts, 'database')
    return lambda url: override('connection', url, 'database')


def _identifiers(connection, urls):
    found = []
    for url in urls:
        connection(url)
        found.append(deployment.identifier())
    return found


def test_it_fits_into_the_name_of_an_image(connection):
    connection(HERE)
    assert re.fullmatch('[0-9a-f]{8}', deployment.identifier())


def test_it_stays_the_same(connection):
    """What another process has written was written by this deployment."""
    found = _identifiers(connection, [HERE] * 2)
    assert found == ['03e2d747'] * 2


def test_who_reads_the_database_and_how_makes_no_difference(connection):
    assert len({*_identifiers(connection, [
        HERE, HERE + '?charset=utf8', HERE.replace('secret', 'other'),
        HERE.replace('glance:secret@', ''),
        HERE.replace('glance:secret', 'agent:p%40ss'),
        HERE.replace('mysql+pymysql', 'mysql')])}) == 1


def test_every_database_is_another_deployment(connection):
    found = _identifiers(connection, [
        HERE, HERE.replace('db.example', 'db2.example'),
        HERE.replace('3306', '3307'), HERE.replace(':3306', ''),
        HERE + '2', 'mysql+pymysql://glance@10.0.0.1/glance',
        'mysql+pymysql://glance@[fd00::1]/glance',
        'mysql+pymysql://glance@/glance',
        'mysql+pymysql://glance@/glance?unix_socket=/run/a.sock',
        'mysql+pymysql://glance@/glance?unix_socket=/run/b.sock',
        'mysql+pymysql://glance@localhost/glance', 'sqlite:////srv/a.sqlite',
        'sqlite:////srv/b.sqlite'])
    assert len({*found}) == len(found)


def test_through_one_socket_every_host_is_the_same(connection):
    found = _identifiers(connection, [
        f'mysql+pymysql://glance@{host}/glance?unix_socket=/run/a.sock'
        for host in ('', 'localhost', 'localhost:3306')])
    assert len({*found}) == 1


def test_a_name_counts_more_than_the_database(connection, override):
    override('deployment', 'cloud one', 'conversion')
    found = _identifiers(connection, [
        HERE, HERE.replace('db.example', 'localhost'), None])
    assert len({*found}) == 1
    assert re.fullmatch('[0-9a-f]{8}', found[0])
    override('deployment', 'cloud two', 'conversion')
    assert deployment.identifier() != found[0]
    override('deployment', '', 'conversion')
    assert deployment.identifier() != found[0]


def test_a_name_need_not_be_ascii(override):
    override('deployment', 'Wölkchen', 'conversion')
    assert re.fullmatch('[0-9a-f]{8}', deployment.identifier())


def test_it_is_known_before_the_database_is_used():
    """A command may write into a store first of all."""
    subprocess.run([sys.executable, '-W', 'ignore', '-c',
                    'from oslo_config import cfg\n'
                    'from glance_conversion_plugins.cmd import service\n'
                    'from glance_conversion_plugins.glance_db import '
                    'deployment\n'
                    'service.prepare(cfg.CONF)\n'
                    'cfg.CONF([], default_config_files=[])\n'
                    'deployment.identifier()\n'], check=True)


@pytest.mark.parametrize('url', [None, ''])
def test_without_a_database_there_is_one_all_the_same(connection, url):
    connection(url)
    assert re.fullmatch('[0-9a-f]{8}', deployment.identifier())
