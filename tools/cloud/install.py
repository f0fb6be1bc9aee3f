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

"""Installs what the cloud needs: packages and a virtual environment."""

import hashlib
import os
import pathlib

from cloud import processes

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
REQUIREMENTS = ('glance==33.0.0', 'glance_store', 'python-glanceclient',
                'python-openstackclient', 'keystone', 'PyMySQL', 'uwsgi')


def install(venv):
    """Install what is missing; quick when nothing is."""
    missing = missing_packages()
    if missing:
        print('installing', *missing, flush=True)
        _apt('update')
        _apt('install', '--yes', '--no-install-recommends', *missing)
    stamp = venv / 'cloud-install.stamp'
    wanted = _fingerprint()
    if not stamp.exists() or stamp.read_text() != wanted:
        print('installing', *REQUIREMENTS, REPOSITORY, 'into', venv,
              flush=True)
        _fill_venv(venv)
        stamp.write_text(wanted)


def wanted_packages():
    """The names in bindep.txt, whose lines are 'name [profiles]'."""
    lines = (REPOSITORY / 'bindep.txt').read_text().splitlines()
    words = (line.partition('#')[0].split() for line in lines)
    return [found[0] for found in words if found]


def missing_packages():
    """Those of the wanted packages that are not installed."""
    listed = processes.run('dpkg-query', '--show', '--showformat',
                           '${db:Status-Abbrev} ${Package}\\n').stdout
    rows = (line.split() for line in listed.splitlines())
    present = {row[1] for row in rows if row[0] == 'ii'}
    return [name for name in wanted_packages() if name not in present]


def _apt(*args):
    processes.run_as_root('env', 'DEBIAN_FRONTEND=noninteractive',
                          'apt-get', '--quiet', *args)


def _fill_venv(venv):
    # Ceph's and libnbd's Python modules are not on PyPI: the environment
    # has to see those of the distribution, hence its own Python too.
    if not (venv / 'bin' / 'pip').exists():
        processes.run('/usr/bin/python3', '-m', 'venv',
                      '--system-site-packages', venv)
    processes.run(venv / 'bin' / 'pip', 'install', '--quiet',
                  '--disable-pip-version-check', *REQUIREMENTS,
                  '--editable', REPOSITORY)


def _fingerprint():
    """Changes when the requirements or the entry points may have."""
    files = [REPOSITORY / name for name in (
        'pyproject.toml', 'setup.cfg', 'setup.py', 'requirements.txt')]
    texts = [path.read_bytes() for path in files if path.exists()]
    seen = repr((REQUIREMENTS, os.fspath(REPOSITORY), texts))
    return hashlib.sha256(seen.encode()).hexdigest()
