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

"""Reading tables of files that mean harm."""

import os
from typing import BinaryIO

from glance_conversion_plugins import errors


def read(f: BinaryIO, offset: int, length: int) -> bytes:
    """Read exactly so many bytes.

    :raises errors.DamagedImage: if the file does not have them
    """
    # Beyond what the file system could hold seek() has errors of its own.
    if offset > f.seek(0, os.SEEK_END):
        raise truncated()
    f.seek(offset)
    data = f.read(length)
    if len(data) < length:
        raise truncated()
    return data


def truncated() -> errors.DamagedImage:
    """The error for an image that refers to what it does not have."""
    return errors.DamagedImage(
        'The image is truncated: it refers to content beyond its end.')


def senseless(table: str) -> errors.DamagedImage:
    """The error for a table that no tool would write."""
    return errors.DamagedImage(
        f'The image is damaged: its {table} makes no sense.')
