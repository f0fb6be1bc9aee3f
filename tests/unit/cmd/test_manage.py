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

"""What the command says of what nobody has foreseen."""

import subprocess
import sys

CONF = """
[DEFAULT]
log_file = {log}
enabled_backends = ceph:sparse_rbd
[glance_store]
default_backend = ceph
[ceph]
rbd_store_ceph_conf = {missing}
"""


def test_a_store_that_is_not_there_is_told_where_it_is_asked_for(tmp_path):
    """And all of it in the log."""
    log, conf = tmp_path / 'log', tmp_path / 'glance-api.conf'
    conf.write_text(CONF.format(log=log, missing=tmp_path / 'missing.conf'))
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-m',
         'glance_conversion_plugins.cmd.manage', '--config-file', conf,
         'cleanup', '--dry-run'], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        'glance-conversion-manage: ')
    assert done.stderr.endswith('(the log has more)\n')
    assert 'Traceback' not in done.stderr
    assert 'Traceback' in log.read_text()
