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

_BLOCKLIST_SECONDS = 300


def is_open(ioctx: Any, name: str) -> bool:
    """Say whether some client may be writing to an image.

    One that was killed counts for 30 s longer.
    """
    return bool(_watchers(ioctx, name))


def fence(cluster: Any, ioctx: Any, name: str) -> None:
    """Shut out whoever still has an image open.

    A client that was killed is watched for 30 s, in which the image can not
    be removed; one that only seemed dead must not write any more.
    """
    own = set(re.findall(r'[^,\[\]]+', cluster.get_addrs()))
    for address in _watchers(ioctx, name) - own:
        LOG.info('Shutting out the client %s of %s', address, name)
        cluster.blocklist_add(address, _BLOCKLIST_SECONDS)


def _watchers(ioctx: Any, name: str) -> set[str]:
    """Addresses of the clients that have an image open for writing."""
    try:
        with rbd.Image(ioctx, name, read_only=True) as image:
            return {watcher['addr'] for watcher in image.watchers_list()}
    except rbd.ImageNotFound:
        return set()
