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

"""Glance with both configuration files, two Ceph stores and a folder."""

from cloud import ini
from cloud import keystone as identity
from cloud import processes
from cloud import wsgi

# Sections of the second file; Glance reads both as one.
IMPORT_SECTIONS = ('image_import_opts', 'image_conversion',
                   'import_filtering_opts', 'inject_metadata_properties')


class Glance(wsgi.WsgiService):
    """The image service: what Kolla configures, with our plugins on.

    One node of it: others have another name and port, and a staging of their
    own; what is in shared_dir is the same for all of them.
    """

    def __init__(self, settings, ceph, database, auth_url, name='glance',
                 port=1, shared_dir=None):
        self.dir = settings.root / name
        self._shared_dir = shared_dir or self.dir
        self.config_dir = self.dir / 'etc'
        self.staging = self.dir / 'staging'
        self._ceph = ceph
        self._database = database
        self._auth_url = auth_url
        super().__init__(
            settings, name, settings.port(port),
            'glance.wsgi.api:application',
            {'OS_GLANCE_CONFIG_DIR': self.config_dir}, f'{name}-api.log',
            # The client uploads in chunks; uWSGI's own limit is too low
            # for them.
            {'processes': 2,
             'chunked-input-limit': 64 * 2 ** 20,
             'http-auto-chunked': 'true',
             'http-chunked-input': 'true',
             'http-raw-body': 'true'})

    def up(self):
        """Create the service if it is new and start it if it is down."""
        self.settings.once(f'{self.name}-conf', self.configure)
        self.settings.once(f'{self.name}-db', self._create_tables)
        self.start()

    def configure(self, overrides=None):
        """Write both files: the defaults, changed by the overrides.

        Overrides are {section: {option: value}}; None removes an option
        or a section. They take effect when Glance starts.
        """
        for folder in ('files', 'images', 'staging', 'tasks', 'lock'):
            (self.dir / folder).mkdir(parents=True, exist_ok=True)
        merged = ini.merge(self._service(), self._stores(),
                           self._imports(), overrides)
        imports = {name: merged.pop(name) for name in IMPORT_SECTIONS
                   if name in merged}
        ini.write(self.config_dir / 'glance-api.conf', merged)
        ini.write(self.config_dir / 'glance-image-import.conf', imports)

    def reconfigure(self, overrides=None):
        """Write the configuration and restart with it."""
        self.configure(overrides)
        self.restart()

    def _service(self):
        etc = self.settings.venv / 'etc' / 'glance'
        return {
            'DEFAULT': {
                'debug': False,
                'log_file': self.log,
                # Where the other nodes would find what this one staged.
                'worker_self_reference_url': self.url,
                'use_keystone_limits': False,
            },
            'database': {'connection': self._database.url},
            'keystone_authtoken': self._credentials() | {
                'service_type': 'image',
                'www_authenticate_uri': self._auth_url,
                'project_domain_id': 'default',
                'project_name': 'service',
            },
            'oslo_limit': self._credentials() | {
                'system_scope': 'all',
                'endpoint_service_type': 'image',
                'endpoint_region_name': identity.REGION,
            },
            'paste_deploy': {
                'flavor': 'keystone',
                'config_file': etc / 'glance-api-paste.ini',
            },
            'oslo_concurrency': {'lock_path': self.dir / 'lock'},
            'oslo_messaging_notifications': {'driver': 'noop'},
            'oslo_middleware': {'enable_proxy_headers_parsing': True},
        }

    def _stores(self):
        def rbd(pool):
            return {'rbd_store_pool': pool, 'rbd_store_user': 'glance',
                    'rbd_store_ceph_conf': self._ceph.conf}

        def folder(name, parent=self.dir):
            return {'filesystem_store_datadir': parent / name}
        return {
            'DEFAULT': {'enabled_backends':
                        'ceph:sparse_rbd, ceph2:sparse_rbd, '
                        'files:sparse_file, local:file'},
            'glance_store': {'default_backend': 'ceph'},
            'ceph': rbd('images'),
            'ceph2': rbd('images2'),
            'files': folder('files', self._shared_dir),
            'local': folder('images', self._shared_dir),
            'os_glance_staging_store': folder('staging'),
            'os_glance_tasks_store': folder('tasks'),
        }

    @staticmethod
    def _imports():
        return {
            'DEFAULT': {'enabled_import_methods':
                        '[glance-direct,web-download,glance-download,'
                        'copy-image]'},
            'image_import_opts': {
                'image_import_plugins':
                "['rbd_direct_convert','convert_image']"},
        }

    def _credentials(self):
        return {
            'auth_type': 'password',
            'auth_url': self._auth_url,
            'username': 'glance',
            'password': self.settings.password,
            'user_domain_id': 'default',
            'region_name': identity.REGION,
        }

    def _create_tables(self):
        processes.run(self.settings.bin('glance-manage'), '--config-dir',
                      self.config_dir, 'db_sync')
