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

"""The pool that everybody writes to, and what is in it."""

import time

from cloud import processes

POOL = 'images'
# The OSD counts what it holds every few seconds.
COUNT_SECONDS = 6


def same(case, target):
    """Whether what qemu finds there has the very content of the case."""
    return processes.run(
        'qemu-img', 'compare', '-f', case.disk_format, '-F', 'raw',
        case.disk or case.path, target, check=False).returncode == 0


class Pool:
    """Questions about the images in the pool, and a clean-up."""

    def __init__(self, cloud):
        self._ceph = cloud.ceph

    def target(self, name):
        """The image as qemu writes it, with Glance's own rights."""
        return f'rbd:{POOL}/{name}:id=glance:conf={self._ceph.conf}'

    def names(self):
        """The images in the pool."""
        return self._ceph.json('rbd', 'ls', POOL)

    def used(self, name):
        """Bytes that the image's snapshot holds."""
        extents = self._ceph.json('rbd', 'diff', f'{POOL}/{name}@snap')
        return sum(extent['length'] for extent in extents
                   if extent['exists'] == 'true')

    def stored(self):
        """Bytes that the OSD keeps for the pool, once it has counted."""
        time.sleep(COUNT_SECONDS)
        return self._stats()['stored']

    def same(self, case, name):
        """Whether the image has the very content of the case."""
        return same(case, self.target(f'{name}@snap'))

    def remove(self, name):
        """Remove an image and its snapshot, whatever there is of it."""
        for command in ('snap unprotect', 'snap purge', 'rm'):
            spec = f'{POOL}/{name}'
            if command == 'snap unprotect':
                spec += '@snap'
            self._ceph.run('rbd', *command.split(), spec, check=False)

    def fill(self, size):
        """Write so much into an image."""
        self._ceph.run('rbd', 'create', '--size', size, f'{POOL}/fill')
        self._ceph.run('rbd', 'bench', '--io-type', 'write', '--io-size',
                       '4M', '--io-total', size, f'{POOL}/fill')

    def empty(self, timeout=180):
        """Remove leftovers, and wait until the OSD is done with it.

        What a client has just let go of may count as in use for a while.
        """
        def cleared():
            for name in self.names():
                self.remove(name)
            return self._stats()['objects'] < 10
        processes.wait_until(cleared, timeout, 'an empty pool', 0.5)

    def _stats(self):
        pools = self._ceph.json('ceph', 'df')['pools']
        return next(found['stats'] for found in pools
                    if found['name'] == POOL)
