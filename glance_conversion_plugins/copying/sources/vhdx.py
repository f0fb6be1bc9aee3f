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

"""A vhdx image, whose holes qemu does not tell."""

from collections.abc import Iterator

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying.sources import nbd
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import vhdx


class VhdxSource(nbd.NbdSource):
    """Decoded by qemu-nbd; what is stored is told by the image's own table.

    To qemu 7.2 all of a vhdx image is data, and reading 100 GiB of zeros
    takes a minute.
    """

    def __init__(self, image: qemu_img.Image, virtual_size: int,
                 cancel: cancel_.Cancel = cancel_.NEVER) -> None:
        super().__init__(image, virtual_size, cancel=cancel)
        self._where: binary.Where = image.path
        if image.offset:
            self._where = binary.Part(image.path, image.offset, image.length)

    def extents(self, start: int, length: int) -> Iterator[extent.Extent]:
        end, at = start + length, start
        with binary.opened(self._where, self._stop) as f:
            for first, count in vhdx.data_extents(
                    f, binary.size(self._where)):
                first, last = max(first, at), min(first + count, end)
                if first >= last:
                    continue
                if first > at:
                    yield extent.Extent(at, first - at, extent.Kind.HOLE)
                yield extent.Extent(first, last - first, extent.Kind.DATA)
                at = last
        if at < end:
            yield extent.Extent(at, end - at, extent.Kind.HOLE)
