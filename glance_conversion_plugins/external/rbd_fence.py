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

"""Who has an RBD image open, and how to shut them out."""

import logging
import re
from typing import Any

from glance_conversion_plugins.external import bindings

rbd = bindings.load('rbd')

LOG = logging.getLogger(__name__)

# Longer than any node sleeps and goes on with what it had begun.
_BLOCKLIST_SECONDS = 30 * 86400


def watchers(image: Any) -> list[str]:
    """Addresses of the clients that have an image open, except to read it.

    One that was killed counts for 30 s longer.
    """
    return [watcher['addr'] for watcher in image.watchers_list()]


def is_open(ioctx: Any, name: str) -> bool:
    """Say whether some client has an image open, except to read it."""
    try:
        with rbd.Image(ioctx, name, read_only=True) as image:
            return bool(watchers(image))
    except rbd.ImageNotFound:
        return False


def shut_out(cluster: Any, addresses: set[str]) -> None:
    """Let Ceph take nothing more from some clients; never from this one."""
    own = set(re.findall(r'[^,\[\]]+', cluster.get_addrs()))
    for address in addresses - own:
        LOG.info('Shutting out the client %s', address)
        cluster.blocklist_add(address, _BLOCKLIST_SECONDS)
