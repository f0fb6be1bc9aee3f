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

"""Where the figures come from: the machine and its software."""

import os
import pathlib
import platform
import re

from cloud import processes

PACKAGES = ('glance', 'glance_store', 'glance-conversion-plugins')


def machine(venv):
    """What decides how fast everything is."""
    return {
        'cores': len(os.sched_getaffinity(0)),
        'processor': _first(r'model name\s*: (.*)', '/proc/cpuinfo'),
        'memory GiB': int(_first(r'MemTotal:\s*(\d+)', '/proc/meminfo')
                          or 0) >> 20,
        'load before': os.getloadavg()[0],
        'kernel': platform.release(),
        'python': platform.python_version(),
        'ceph': _version('ceph', '--version'),
        'qemu': _version('qemu-img', '--version'),
    } | {name: _package(venv, name) for name in PACKAGES}


def _first(pattern, path):
    found = re.search(pattern, pathlib.Path(path).read_text())
    return found and found[1]


def _version(*command):
    found = re.search(r'version (\S+)', processes.run(*command).stdout)
    return found and found[1]


def _package(venv, name):
    return processes.run(
        venv / 'bin' / 'python', '-c',
        'import importlib.metadata as m, sys; print(m.version(sys.argv[1]))',
        name).stdout.strip()
