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

"""MariaDB, which Glance keeps its records in, as most clouds do.

SQLite refuses a transaction that first reads and then writes whenever another
has written meanwhile; Glance does not try again, and loses a task for it.
"""

import getpass
import shutil

from cloud import processes

NAME = 'glance'


class Database:
    """A server of its own, reached by its socket only."""

    def __init__(self, settings, name=NAME):
        self._settings = settings
        self._name = name
        self._dir = settings.root / 'mariadb'
        self._socket = settings.root / 'run' / 'mariadb.sock'
        self._log = settings.root / 'log' / 'mariadb.log'
        self.daemon = processes.Daemon(settings.root, 'mariadb', self._log)

    @property
    def url(self):
        """How SQLAlchemy connects."""
        return (f'mysql+pymysql://{NAME}:{self._settings.password}@localhost/'
                f'{self._name}?charset=utf8&unix_socket={self._socket}')

    def connect(self):
        """A connection for tests, from an environment with PyMySQL."""
        import pymysql
        return pymysql.connect(
            unix_socket=str(self._socket), user=NAME, database=self._name,
            password=self._settings.password, autocommit=True)

    def beside(self, name):
        """Another database on this server, which is up; new or not."""
        grant = (f'CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8; '
                 f'GRANT ALL ON {name}.* TO {NAME}@localhost')
        processes.run('mariadb', '--no-defaults', f'--socket={self._socket}',
                      '--user=root', '--execute', grant)
        return Database(self._settings, name)

    def up(self):
        """Create the database if it is new and start the server."""
        self._settings.once('mariadb', self._create)
        # For speed; what a crash of the machine loses is only a test's. What
        # was committed is written at once, for tests kill the server.
        self.daemon.start(
            'mariadbd', '--no-defaults', f'--datadir={self._dir}',
            f'--user={getpass.getuser()}', f'--socket={self._socket}',
            f'--pid-file={self._dir / "pid"}', f'--log-error={self._log}',
            f'--init-file={self._dir / "init.sql"}', '--skip-networking',
            '--innodb-flush-log-at-trx-commit=2', '--innodb-doublewrite=0',
            '--innodb-flush-method=nosync', '--innodb-buffer-pool-size=64M',
            '--performance-schema=OFF')
        self.daemon.wait_ready(self._socket.exists)

    def stop(self):
        self.daemon.stop()

    def _install(self):
        processes.run(
            'mariadb-install-db', '--no-defaults', f'--datadir={self._dir}',
            f'--user={getpass.getuser()}', '--skip-test-db',
            '--auth-root-authentication-method=normal')

    def _create(self):
        try:
            self._install()
        except processes.CommandError:
            # Of several that begin at once one fails at times.
            shutil.rmtree(self._dir, ignore_errors=True)
            self._install()
        account = f"{NAME}@localhost IDENTIFIED BY '{self._settings.password}'"
        (self._dir / 'init.sql').write_text(
            f'CREATE DATABASE IF NOT EXISTS {NAME} CHARACTER SET utf8;\n'
            f'CREATE USER IF NOT EXISTS {account};\n'
            f'GRANT ALL ON {NAME}.* TO {NAME}@localhost;\n')
