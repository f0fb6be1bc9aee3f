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

"""What we take from inside of Glance, on every release that is supported."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# glance_store releases, for its private names, come with Glance's.
RELEASES = {31: 'glance_store>=5.1,<5.2', 32: 'glance_store>=5.4,<5.5'}


@pytest.mark.parametrize('release', RELEASES)
def test_release(tmp_path, release):
    """Glance as it was, over the other libraries of this environment."""
    subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet',
                    '--no-deps', '--target', tmp_path,
                    f'glance>={release},<{release + 1}', RELEASES[release]],
                   check=True)
    found = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider',
         'tests/unit/glance_db/test_compat.py'],
        cwd=ROOT, env=os.environ | {'PYTHONPATH': str(tmp_path)},
        check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert ' skipped' not in found.stdout


def test_the_release_here_is_another():
    """That of the unit tests, which is the newest."""
    from importlib import metadata
    assert int(metadata.version('glance').split('.')[0]) not in RELEASES
