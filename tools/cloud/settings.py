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

"""What makes one cloud differ from another, kept in its root folder."""

import json
import os
import pathlib
import secrets
import sys
import uuid

DEFAULT_ROOT = '/var/tmp/glance-conversion-cloud'
DEFAULTS = {'base_port': 28700, 'objectstore': 'memstore'}


def cache_dir():
    """The folder that keeps what is slow to build, across clouds."""
    default = pathlib.Path.home() / '.cache' / 'glance-conversion-plugins'
    return pathlib.Path(os.environ.get('GLANCE_CLOUD_CACHE') or default)


class Settings:
    """Choices of the caller, completed by what an earlier run saved."""

    def __init__(self, root=None, venv=None, base_port=None,
                 objectstore=None):
        self.root = pathlib.Path(
            root or os.environ.get('GLANCE_CLOUD_DIR') or DEFAULT_ROOT
        ).absolute()
        self._file = self.root / 'cloud.json'
        self._saved = self._load()
        asked = {'base_port': base_port, 'objectstore': objectstore}
        for name, value in asked.items():
            saved = self._saved.get(name)
            if None not in (value, saved) and value != saved:
                raise ValueError(f'the cloud in {self.root} has {name} '
                                 f'{saved}: destroy it to choose {value}')
            setattr(self, name, value or saved or DEFAULTS[name])
        self.venv = self._find_venv(venv)
        self.fsid = self._saved.get('fsid') or str(uuid.uuid4())
        self.password = self._saved.get('password') or secrets.token_hex(12)

    def port(self, offset):
        """A port of this cloud's own range of one hundred."""
        return self.base_port + offset

    def bin(self, name):
        """The path of a command of the virtual environment."""
        return self.venv / 'bin' / name

    def save(self):
        """Make the folders and remember the choices."""
        for folder in ('', 'log', 'run', 'done'):
            (self.root / folder).mkdir(0o700, parents=True, exist_ok=True)
        names = 'base_port', 'objectstore', 'fsid', 'password'
        saved = {name: getattr(self, name) for name in names}
        saved['venv'] = str(self.venv)
        self._file.touch(0o600)
        self._file.write_text(json.dumps(saved, indent=1))

    def once(self, name, action):
        """Run a step of the set-up unless it has succeeded before."""
        done = self.root / 'done' / name
        if not done.exists():
            action()
            done.touch()

    def _load(self):
        try:
            return json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}

    def _find_venv(self, venv):
        in_venv = sys.prefix if sys.prefix != sys.base_prefix else None
        return pathlib.Path(
            venv or os.environ.get('GLANCE_CLOUD_VENV') or in_venv
            or self._saved.get('venv') or self.root / 'venv').absolute()
