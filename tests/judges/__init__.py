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

"""Readers of images that share nothing with the package, nor with qemu.

Each module reads one format as its specification says, from bytes to bytes,
and refuses nothing but what it can not read; ``libraries`` asks libqcow,
libvhdi and libvmdk. Of a package they read the file in it.
"""


class Unreadable(Exception):
    """The image does not say what its disk holds."""


def part(data: bytes, offset: int, length: int) -> bytes:
    """A part of a file, which has to be there."""
    if offset + length > len(data):
        raise Unreadable(f'{length} bytes at {offset} of {len(data)}')
    return data[offset:offset + length]
