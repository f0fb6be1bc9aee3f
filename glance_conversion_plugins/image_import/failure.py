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

"""What the owner of an image is told of an error that is not ours."""

from typing import Any

from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import retry


def of(error: Exception) -> Any:
    """The exception of Glance that says so."""
    if isinstance(error, FileNotFoundError):
        return compat.exception.UploadException(
            'The conversion failed: the upload is gone from staging; upload '
            'the image again.')
    if isinstance(error, OSError):
        return compat.exception.UploadException(
            'The conversion failed: the node that does it has a problem with '
            f'its disk ({error.strerror}).')
    if isinstance(error, retry.AWAY):
        return compat.exception.UploadException(
            'The conversion failed: the database of this cloud did not '
            'answer; import the image again.')
    return compat.exception.UploadException(
        'The conversion failed for a reason that only the operator of this '
        'cloud can see.')
