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

"""What libqcow, libvhdi and libvmdk read of an image.

They know less than the specifications do: libqcow neither zstd nor entries of
16 bytes, and libvmdk takes the size of a disk from the descriptor.
"""

import io

import pyqcow
import pyvhdi
import pyvmdk


def qcow2(data: bytes) -> bytes:
    file = pyqcow.file()
    file.open_file_object(io.BytesIO(data))
    return _read(file)


def vhd(data: bytes) -> bytes:
    file = pyvhdi.file()
    file.open_file_object(io.BytesIO(data))
    return _read(file)


def vmdk(data: bytes, extent: bytes = b'') -> bytes:
    """Read a single file, or a description and its one extent."""
    handle = pyvmdk.handle()
    handle.open_file_object(io.BytesIO(data))
    handle.open_extent_data_files_as_file_objects(
        [io.BytesIO(extent or data)])
    return _read(handle)


def _read(image) -> bytes:
    try:
        return image.read_buffer(image.get_media_size())
    finally:
        image.close()
