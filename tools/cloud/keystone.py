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

"""Keystone: users, projects, the catalogue and Glance's limits."""

import contextlib
import grp
import os
import pwd
import sqlite3

from cloud import ini
from cloud import processes
from cloud import web
from cloud import wsgi

REGION = 'RegionOne'
MIB_IN_100_TIB = 100 * 2 ** 20

# User: (project, roles in it).
USERS = {
    'admin': ('admin', ['admin']),
    'demo': ('demo', ['member']),
    'glance': ('service', ['admin', 'service']),
}

LIMITS = {
    'image_size_total': MIB_IN_100_TIB,
    'image_stage_total': MIB_IN_100_TIB,
    'image_count_total': 10000,
    'image_count_uploading': 1000,
}


def sqlite_url(path):
    """The URL of a database file that several processes share."""
    return f'sqlite:///{path}?timeout=60'


def let_readers_in(path):
    """Switch a database to a journal that lets reads pass writes."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute('pragma journal_mode=wal')


class Keystone(wsgi.WsgiService):
    """The identity service, and this tool's own use of its API."""

    def __init__(self, settings, image_url):
        self.dir = settings.root / 'keystone'
        self.conf = self.dir / 'keystone.conf'
        super().__init__(
            settings, 'keystone', settings.port(0),
            'keystone.wsgi.api:application',
            {'OS_KEYSTONE_CONFIG_FILES': self.conf}, 'keystone.log',
            {'processes': 2})
        self.auth_url = f'{self.url}/v3'
        self._image_url = image_url
        self._tokens = {}

    def up(self):
        """Create the service if it is new and start it if it is down."""
        self.settings.once('keystone-conf', self._write_configuration)
        self.settings.once('keystone-db', self._create)
        self.start()
        self.settings.once('keystone-identity', self._fill)

    def environ(self, user):
        """The OS_* variables that the OpenStack clients read."""
        return {
            'OS_AUTH_URL': self.auth_url,
            'OS_IDENTITY_API_VERSION': '3',
            'OS_REGION_NAME': REGION,
            'OS_USERNAME': user,
            'OS_PASSWORD': self.settings.password,
            'OS_PROJECT_NAME': USERS[user][0],
            'OS_USER_DOMAIN_ID': 'default',
            'OS_PROJECT_DOMAIN_ID': 'default',
        }

    def token(self, user, fresh=False):
        """A token of the user in the user's project, kept for reuse."""
        if fresh or user not in self._tokens:
            reply = web.request(
                'POST', f'{self.auth_url}/auth/tokens',
                json={'auth': self._auth(user)})
            self._expect(reply, 201)
            self._tokens[user] = reply.headers['X-Subject-Token']
        return self._tokens[user]

    def api(self, method, path, json=None):
        """One call as admin; anything but success raises."""
        reply = web.request(
            method, f'{self.auth_url}/{path}', json=json,
            headers={'X-Auth-Token': self.token('admin')})
        return self._expect(reply, 200, 201, 204).body

    def set_limit(self, name, value):
        """Set the limit that every project has, such as in MiB."""
        found = self.api('GET', f'registered_limits?resource_name={name}')
        ident = found['registered_limits'][0]['id']
        self.api('PATCH', f'registered_limits/{ident}',
                 {'registered_limit': {'default_limit': value}})

    @staticmethod
    def _expect(reply, *statuses):
        if reply.status not in statuses:
            raise processes.CloudError(
                f'Keystone: {reply.status} {reply.body}')
        return reply

    def _auth(self, user):
        domain = {'id': 'default'}
        return {
            'identity': {'methods': ['password'], 'password': {'user': {
                'name': user, 'domain': domain,
                'password': self.settings.password}}},
            'scope': {'project': {'name': USERS[user][0],
                                  'domain': domain}},
        }

    def _write_configuration(self):
        ini.write(self.conf, {
            'DEFAULT': {'log_file': self.log},
            'database': {
                'connection': sqlite_url(self.dir / 'keystone.db'),
                'sqlite_synchronous': 'false'},
            'fernet_tokens': {'key_repository': self.dir / 'fernet'},
            'fernet_receipts': {'key_repository': self.dir / 'fernet'},
            'credential': {'key_repository': self.dir / 'credential'},
            'token': {'expiration': 24 * 3600},
        })

    def _create(self):
        self._manage('db_sync')
        let_readers_in(self.dir / 'keystone.db')
        for keys in ('fernet', 'credential'):
            (self.dir / keys).mkdir(0o700, exist_ok=True)
            self._manage(
                f'{keys}_setup',
                '--keystone-user', pwd.getpwuid(os.geteuid()).pw_name,
                '--keystone-group', grp.getgrgid(os.getegid()).gr_name)
        self._manage(
            'bootstrap', '--bootstrap-password', self.settings.password,
            '--bootstrap-region-id', REGION,
            *[word for interface in ('public', 'internal', 'admin')
              for word in (f'--bootstrap-{interface}-url', self.auth_url)])

    def _manage(self, *args):
        processes.run(self.settings.bin('keystone-manage'),
                      '--config-file', self.conf, *args)

    def _fill(self):
        for user, (project, roles) in USERS.items():
            project_id = self._ensure('project', name=project)
            user_id = self._ensure('user', {
                'password': self.settings.password}, name=user)
            for role in roles:
                self.api('PUT', f'projects/{project_id}/users/{user_id}'
                                f'/roles/{self._ensure("role", name=role)}')
        # Whoever enforces limits reads those of all projects.
        self.api('PUT', f'system/users/{user_id}/roles/'
                        f'{self._ensure("role", name="reader")}')
        service_id = self._ensure('service', name='glance', type='image')
        for interface in ('public', 'internal'):
            self._ensure('endpoint', {'url': self._image_url},
                         interface=interface, service_id=service_id,
                         region_id=REGION)
        for name, value in LIMITS.items():
            self._ensure_limit(service_id, name, value)

    def _ensure(self, kind, details=None, **names):
        """The id of the resource so named, created if there is none."""
        query = '&'.join(f'{key}={value}' for key, value in names.items())
        found = self.api('GET', f'{kind}s?{query}')[f'{kind}s']
        if found:
            return found[0]['id']
        made = self.api('POST', f'{kind}s', {kind: names | (details or {})})
        return made[kind]['id']

    def _ensure_limit(self, service_id, name, value):
        found = self.api('GET', f'registered_limits?resource_name={name}')
        if not found['registered_limits']:
            self.api('POST', 'registered_limits', {'registered_limits': [{
                'service_id': service_id, 'region_id': REGION,
                'resource_name': name, 'default_limit': value}]})
