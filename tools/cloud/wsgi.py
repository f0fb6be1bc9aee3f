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

"""One OpenStack API under uWSGI, run the way kolla-ansible runs it."""

import os
import pathlib

from cloud import ini
from cloud import processes
from cloud import web

OPTIONS = {
    'add-header': 'Connection: close',
    'buffer-size': 65535,
    'die-on-term': 'true',
    'enable-threads': 'true',
    'exit-on-reload': 'false',
    'hook-master-start': 'unix_signal:15 gracefully_kill_them_all',
    'lazy-apps': 'true',
    'master': 'true',
    'thunder-lock': 'true',
    'worker-reload-mercy': 80,
    # Not in Kolla, where a container that serves nothing is found by
    # its health check: end at once when the application does not load.
    'need-app': 'true',
}


class WsgiService:
    """An API service: its uwsgi master, router and workers."""

    def __init__(self, settings, name, port, module, env, log, options):
        self.settings = settings
        self.name = name
        self.module = module
        self.url = f'http://127.0.0.1:{port}'
        self.log = settings.root / 'log' / log
        self.daemon = processes.Daemon(settings.root, name, self.log)
        self._port = port
        self._env = {key: str(value) for key, value in env.items()}
        self.options = options

    def start(self):
        """Start the service and wait until it answers."""
        config = self.settings.root / self.name / 'uwsgi.ini'
        ini.write(config, {'uwsgi': OPTIONS | {
            'home': self.settings.venv,
            'http': f'127.0.0.1:{self._port}',
            'module': self.module,
        } | self.options})
        if not self.daemon.pid():
            # A connection of anybody may have it for a moment.
            processes.wait_until(lambda: web.is_free(self._port), 60,
                                 f'port {self._port} for {self.name}')
        path = f'{self.settings.venv}/bin:{os.environ["PATH"]}'
        self.daemon.start(self.settings.bin('uwsgi'), '--ini', config,
                          env=self._env | {'PATH': path})
        self.daemon.wait_ready(lambda: web.answers(self.url))

    def stop(self, timeout=30):
        """Stop gracefully: requests, and Glance's tasks, may finish."""
        self.daemon.stop(timeout)

    def restart(self):
        """Stop and start, as after a change of the configuration."""
        self.stop()
        self.start()

    def pids(self):
        """The uwsgi processes, master first; not what they started."""
        return [pid for pid in self.daemon.pids() if self._is_uwsgi(pid)]

    def kill(self):
        """SIGKILL to every uwsgi process, as in a crash of the node."""
        self.daemon.kill(only=self._is_uwsgi)

    @staticmethod
    def _is_uwsgi(pid):
        try:
            return pathlib.Path(f'/proc/{pid}/comm').read_text() == 'uwsgi\n'
        except OSError:
            return False
