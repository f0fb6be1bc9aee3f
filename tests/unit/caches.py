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


"""Another process that uses the cache."""

import subprocess
import sys

from oslo_config import cfg

CONF = cfg.CONF

_CHILD = """
import sys
from oslo_config import cfg
from glance_conversion_plugins.maintenance.prefetch import node
cfg.CONF.set_override('image_cache_driver', 'sqlite')
cfg.CONF.set_override('image_cache_dir', sys.argv[1])
with node.Node().lock() as held:
    print(held, flush=True)
    sys.stdin.readline()
"""


def holder():
    """Start a process that holds the lock of the cache; says so on stdout."""
    return subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-c', _CHILD, CONF.image_cache_dir],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True)
