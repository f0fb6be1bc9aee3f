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

"""The files for Kolla, with the templates of the real Kolla."""

import pathlib
import subprocess
import sys

TOOL = pathlib.Path(__file__).parents[2] / 'tools' / 'check-kolla'


def test_the_real_templates_take_them():
    """Rendered for Debian, Ubuntu and Rocky; the role copies and merges."""
    done = subprocess.run([sys.executable, TOOL], text=True,
                          stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for system in ('debian', 'ubuntu', 'rocky'):
        assert f'ok     {system}: the package, by the pip call that' in (
            done.stdout)
    assert 'ok     enabled_backends = http:http, rbd:sparse_rbd' in done.stdout
