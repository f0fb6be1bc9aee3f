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

"""An S3 service on the same cluster: Ceph's own gateway."""

import json

from cloud import processes
from cloud import web

USER = 'glance'
BUCKET = 'images'


class S3:
    """The gateway, up only where somebody wants it."""

    def __init__(self, settings, ceph):
        self._settings = settings
        self._ceph = ceph
        self._name = 'client.rgw'
        self.url = f'http://127.0.0.1:{settings.port(3)}'
        self.daemon = processes.Daemon(
            settings.root, 'radosgw', settings.root / 'log' / 'radosgw.log')

    def up(self):
        """Create the service if it is new and start it if it is down."""
        self._settings.once('s3-key', self._create_key)
        self.daemon.start(
            'radosgw', '-f', '-n', self._name, '-c', self._ceph.conf,
            f'--keyring={self._keyring}',
            f'--log-file={self._settings.root / "log" / "radosgw.log"}',
            f'--rgw-frontends=beast endpoint=127.0.0.1:'
            f'{self._settings.port(3)}')
        self.daemon.wait_ready(self._answers, 120)
        self._settings.once('s3-user', self._create_user)

    def stop(self):
        self.daemon.stop()

    def options(self):
        """A section of glance-api.conf for a store of type s3."""
        key = json.loads(self._admin('user', 'info'))['keys'][0]
        return {
            's3_store_host': self.url,
            's3_store_region_name': 'default',
            's3_store_access_key': key['access_key'],
            's3_store_secret_key': key['secret_key'],
            's3_store_bucket': BUCKET,
            's3_store_create_bucket_on_put': True,
            's3_store_bucket_url_format': 'path',
        }

    def objects(self):
        """The names of what is in the bucket."""
        return json.loads(self._admin('bucket', 'list',
                                      f'--bucket={BUCKET}', check=False)
                          or '[]')

    @property
    def _keyring(self):
        return self._ceph.dir / f'{self._name}.keyring'

    def _create_key(self):
        self._ceph.run('ceph', 'auth', 'get-or-create', self._name,
                       'mon', 'allow rw', 'osd', 'allow rwx', '-o',
                       self._keyring)

    def _create_user(self):
        self._admin('user', 'create', '--display-name=Glance')

    def _admin(self, *args, check=True):
        return self._ceph.run('radosgw-admin', *args, f'--uid={USER}',
                              check=check).stdout

    def _answers(self):
        return web.answers(self.url)
