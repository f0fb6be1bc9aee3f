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

"""A store that throws the bytes away: what is left is the way there.

Glance loads it from a folder that the benchmark makes for it; it is no
part of what is installed.
"""

from glance_store import capabilities
from glance_store.common import utils
from glance_store import driver
from glance_store import location

SCHEME = 'null'


class StoreLocation(location.StoreLocation):
    """The URL of an image that is nowhere."""

    def process_specs(self):
        self.image_id = self.specs['image_id']

    def get_uri(self):
        return f'{SCHEME}://{self.image_id}'

    def parse_uri(self, uri):
        self.validate_schemas(uri, valid_schemas=(f'{SCHEME}://',))
        self.image_id = uri.partition('://')[2]


class Store(driver.Store):
    """Takes data as fast as it comes, and computes no digest of it."""

    _CAPABILITIES = capabilities.BitMasks.WRITE_ACCESS
    # Even none: only then there are those that every store has.
    OPTIONS = ()

    def get_schemes(self):
        # The name of the entry point: Glance does not start without.
        return (SCHEME,)

    def add(self, image_id, image_file, image_size, hashing_algo,
            context=None, verifier=None):
        """Count the bytes of an image."""
        size = sum(len(chunk) for chunk in utils.chunkreadable(
            image_file, self.WRITE_CHUNKSIZE))
        return (f'{SCHEME}://{image_id}', size, '0' * 32, '0' * 128,
                {'store': self.backend_group})

    def delete(self, location, context=None):
        """There is nothing to delete."""
