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

"""What ``add()`` of each of our drivers does before it stores anything."""

import logging
from typing import Any

from glance_store import capabilities
from glance_store import driver
from glance_store import exceptions

from glance_conversion_plugins import errors
from glance_conversion_plugins import ledger
from glance_conversion_plugins import placeholder

LOG = logging.getLogger(__name__)


def adopt(store_id: str | None, image_id: str, size: int
          ) -> ledger.Written | None:
    """Answer for an image that a task has already written.

    Nothing may be read from the data before this: Glance takes what was read
    for the image's virtual size.
    """
    try:
        written = ledger.take(store_id or '', image_id, size)
    except errors.ConversionError as e:
        raise exceptions.BackendException(str(e)) from e
    if written is None:
        return None
    LOG.info('Store %s adopts image %s, %d bytes', store_id, image_id, size)
    return written


class Guarded:
    """Image data whose beginning has been looked at."""

    def __init__(self, data: Any, chunk_size: int) -> None:
        self._rest = data
        head = data.read(chunk_size)
        while head and len(head) < placeholder.MAGIC_LENGTH:
            more = data.read(chunk_size - len(head))
            if not more:
                break
            head += more
        self._first: bytes | None = head
        if placeholder.is_placeholder(head):
            raise exceptions.Invalid(
                'This is the placeholder of an image that is stored '
                'elsewhere, not image data.')

    def read(self, size: int | None = None) -> bytes:
        if self._first is None:
            return self._rest.read(size)    # type: ignore[no-any-return]
        head, tail = self._first, b''
        if size is not None and 0 <= size < len(head):
            head, tail = head[:size], head[size:]
        self._first = tail or None
        return head

    def __iter__(self) -> 'Guarded':
        return self

    def __next__(self) -> bytes:
        chunk = self.read(64 * 1024)
        if not chunk:
            raise StopIteration
        return chunk

    def close(self) -> None:
        if hasattr(self._rest, 'close'):
            self._rest.close()


class Adopting:
    """The ``add()`` of our drivers, for a class that stands before stock's."""

    backend_group: str | None
    WRITE_CHUNKSIZE: int

    @driver.back_compat_add
    @capabilities.check
    def add(self, image_id: str, image_file: Any, image_size: int,
            hashing_algo: str, context: Any = None, verifier: Any = None
            ) -> Any:
        """Adopt what a task has written, or store ``image_file``.

        Parameters, result and errors are those of the stock driver; the
        digests of an adopted image may be None.
        """
        adopted = adopt(self.backend_group, str(image_id), image_size)
        if adopted:
            return adopted
        data = Guarded(image_file, self.WRITE_CHUNKSIZE)
        return super().add(  # type: ignore[misc]
            image_id, data, image_size, hashing_algo, context=context,
            verifier=verifier)
