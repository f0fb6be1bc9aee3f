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

"""A key manager of castellan that keeps certificates in a folder.

Glance asks it for the certificate of a signed image, as it asks Barbican.
"""

import os
import pathlib

from castellan.common import exception
from castellan.common.objects import x_509
from castellan.key_manager import key_manager

FOLDER = 'GLANCE_TEST_CERTIFICATES'


class FolderKeyManager(key_manager.KeyManager):
    """Only reads; a certificate is a DER file named by its id."""

    def __init__(self, configuration):
        super().__init__(configuration)

    def get(self, context, managed_object_id, metadata_only=False):
        path = pathlib.Path(os.environ[FOLDER]) / managed_object_id
        try:
            return x_509.X509(path.read_bytes())
        except FileNotFoundError as e:
            raise exception.ManagedObjectNotFoundError(
                uuid=managed_object_id) from e

    def _refuse(self, *args, **kwargs):
        raise NotImplementedError

    create_key = create_key_pair = store = list = delete = _refuse
    add_consumer = remove_consumer = _refuse
