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

"""Reads an image whose layout is known.

What is stored as it is comes from the file itself, and only the rest by way of
qemu: through a socket 4 GiB take twice as long, and 4 KiB a hundred times.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import sources
from glance_conversion_plugins.copying.sources import file
from glance_conversion_plugins.formats import layout as layout_

_MOST_AT_ONCE = 1024    # IOV_MAX
_KINDS = {layout_.HOLE: extent.Kind.HOLE, layout_.ZEROS: extent.Kind.ZERO}


class LayoutSource:
    """Reads plain pieces of a file, and the others by another source."""

    def __init__(self, path: str, offset: int, layout: layout_.Layout,
                 open_decoder: Callable[[], sources.Source]) -> None:
        """Open an image.

        :param offset: of the image in the file, in bytes
        :param open_decoder: opens what can read all of the disk; not called
            if nothing of it is encoded
        """
        self.size = layout.size
        self._layout = layout
        self._offset = offset
        self._decoder: sources.Source | None = None
        self._file = file.FileSource(path)
        if not layout.is_plain:
            try:
                self._decoder = open_decoder()
            except BaseException:
                self._file.close()
                raise

    def extents(self, start: int, length: int) -> Iterator[extent.Extent]:
        for piece in self._layout.pieces(start, length):
            yield extent.Extent(piece.start, piece.length, _KINDS.get(
                piece.place, extent.Kind.DATA))

    def read(self, offset: int, length: int) -> sources.Data:
        pieces = [*self._layout.pieces(offset, length)]
        if len(pieces) == 1:
            place = pieces[0].place
            if place >= 0:
                return self._file.read(self._offset + place, length)
            if place == layout_.ENCODED and self._decoder:
                return self._decoder.read(offset, length)
        data = bytearray(length)
        self._gather(pieces, memoryview(data), offset)
        return data

    def _gather(self, pieces: Iterable[layout_.Piece], view: memoryview,
                offset: int) -> None:
        """Fill a view of zeros with what is at an offset."""
        # What lies in a row in the file is read at once, wherever it goes.
        row: list[memoryview] = []
        begin = end = 0
        for start, length, place in pieces:
            part = view[start - offset:start - offset + length]
            if place >= 0:
                if row and (place != end or len(row) == _MOST_AT_ONCE):
                    self._file.scatter(row, begin)
                    row = []
                if not row:
                    begin = self._offset + place
                row.append(part)
                end = place + length
            elif place == layout_.ENCODED and self._decoder:
                part[:] = self._decoder.read(start, length)
        if row:
            self._file.scatter(row, begin)

    def interrupt(self) -> None:
        self._file.interrupt()
        if self._decoder:
            self._decoder.interrupt()

    def close(self) -> None:
        self._file.close()
        if self._decoder:
            self._decoder.close()
