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

"""A real cloud on the loopback interface of one machine.

Ceph with cephx, Keystone and Glance under uWSGI, configured the way
kolla-ansible does it, for the demonstration and for the tests. Uses
the standard library only, so that it runs before anything is installed.
"""

import copy
import os
import shutil

from cloud.ceph import Ceph
from cloud.database import Database
from cloud.glance import Glance
from cloud.keystone import Keystone
from cloud import processes
from cloud.s3 import S3
from cloud.settings import Settings
from cloud import web


class Cloud:
    """One cloud: everything it has lies under its root folder.

    Clouds with different roots and base ports run side by side. What is
    not given comes from the environment or from the last run.
    """

    def __init__(self, root=None, venv=None, base_port=None,
                 objectstore=None):
        self.settings = Settings(root, venv, base_port, objectstore)
        self.root = self.settings.root
        image_url = f'http://127.0.0.1:{self.settings.port(1)}'
        self.ceph = Ceph(self.settings)
        # Not up unless somebody brings it up.
        self.s3 = S3(self.settings, self.ceph)
        self.keystone = Keystone(self.settings, image_url)
        self.database = Database(self.settings)
        self.glance = Glance(self.settings, self.ceph, self.database,
                             self.keystone.auth_url)

    def up(self):
        """Bring everything up; what already runs is left alone."""
        self.settings.save()
        self.ceph.up()
        self.keystone.up()
        self.database.up()
        self.glance.up()

    def beside(self, name, port, database=None):
        """The same cloud, as seen by another node of its Glance.

        :param database: of another deployment, with folders of its own
        """
        other = copy.copy(self)
        other.database = database or self.database
        other.glance = Glance(
            self.settings, self.ceph, other.database, self.keystone.auth_url,
            name, port, None if database else self.glance.dir)
        return other

    def down(self):
        """Stop every process this cloud started; keep its data."""
        self.glance.stop()
        self.database.stop()
        self.keystone.stop()
        self.s3.stop()
        self.ceph.down()

    def destroy(self):
        """Stop everything and remove the root folder."""
        self.down()
        if (self.root / 'cloud.json').exists():
            shutil.rmtree(self.root)

    def status(self):
        """What runs, where it listens and where its files are."""
        daemons = dict(self.ceph.daemons, keystone=self.keystone.daemon,
                       mariadb=self.database.daemon,
                       glance=self.glance.daemon)
        return {
            'services': {
                name: {'up': daemon.pid() is not None,
                       'pids': daemon.pids()}
                for name, daemon in daemons.items()},
            'urls': {'keystone': self.keystone.auth_url,
                     'glance': self.glance.url,
                     'ceph': f'v2:127.0.0.1:{self.settings.port(2)}'},
            'folders': {'root': str(self.root),
                        'venv': str(self.settings.venv),
                        'logs': str(self.root / 'log'),
                        'ceph': str(self.ceph.dir),
                        'glance configuration': str(self.glance.config_dir),
                        'staging': str(self.glance.staging)},
        }

    def environ(self, user='admin'):
        """The OS_* variables of a user, as an openrc file sets them."""
        return self.keystone.environ(user)

    def client(self, *args, user='demo', check=True, timeout=600):
        """Run the real glance client, with no stdin at all.

        It takes any stdin that is not a terminal, even /dev/null, for
        the data of an image.
        """
        inherited = {name: value for name, value in os.environ.items()
                     if not name.startswith('OS_')}
        return processes.run(
            'sh', '-c', 'exec "$0" "$@" <&-',
            self.settings.bin('glance'), *args, check=check,
            timeout=timeout, env=inherited | self.environ(user))

    def api(self, method, path, user='demo', json=None, headers=None,
            data=None):
        """One request to Glance: (status, parsed JSON or bytes)."""
        for fresh in (False, True):
            token = self.keystone.token(user, fresh)
            reply = web.request(
                method, self.glance.url + path, json=json, data=data,
                headers={'X-Auth-Token': token} | (headers or {}))
            if reply.status != 401:
                break
        return reply.status, reply.body
