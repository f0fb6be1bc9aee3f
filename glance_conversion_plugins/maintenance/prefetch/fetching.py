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


"""One image, from whichever store gives it, into the cache of this node."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import logging
import threading
import time
from typing import Any
from typing import NamedTuple
import uuid

import glance_store
from oslo_config import cfg

from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying.sinks import file as file_sink
from glance_conversion_plugins.copying import throttle
from glance_conversion_plugins.copying import upload
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance.prefetch import node as node_
from glance_conversion_plugins.stores import registry
from glance_conversion_plugins import units

LOG = logging.getLogger(__name__)
CONF = cfg.CONF


class Fetched(NamedTuple):
    """What one fetch has brought."""

    store: str
    size: int           # bytes
    allocated: int      # bytes on disk
    seconds: float

    def __str__(self) -> str:
        return (f'fetched {units.amount(self.size)} from {self.store}, '
                f'{units.amount(self.allocated)} on disk, in '
                f'{self.seconds:.1f} s')


class _Copy(NamedTuple):
    """A complete and verified copy, beside the cache."""

    sink: file_sink.FileSink
    mark: marks.Mark
    store: str | None


class Fetcher:
    """Fetches images for a node, several at a time."""

    def __init__(self, node: node_.Node, cancel: threading.Event,
                 progress: progress_.Progress) -> None:
        self._node = node
        self._cancel = cancel
        self._progress = progress
        self._room = threading.Lock()
        self._throttle = throttle.Throttle(
            CONF.cache_prefetch.rate_limit or 0, wait=cancel.wait)

    def fetch(self, image_id: str, make_room: Callable[[], None]) -> Fetched:
        """Fetch an image from the first of its locations that is right.

        :param make_room: called when it is about to be cached
        :raises errors.ConversionError: with what each store had to say
        """
        start = time.monotonic()
        self._go_on()
        image = _load(image_id)
        copy = self._copy_any(image)
        try:
            # One at a time, so that each sees what the last one has left.
            with self._room:
                make_room()
                allocated = self._commit(copy.mark)
        except BaseException:
            copy.sink.abort()
            raise
        copy.sink.release()
        return Fetched(copy.store or 'its store', image.size, allocated,
                       time.monotonic() - start)

    def _copy_any(self, image: Any) -> _Copy:
        """Copy from the first location that gives what it should."""
        complaints = []
        for location in image.locations:
            store = location['metadata'].get('store')
            try:
                return self._copy(image, location['url'], store)
            except errors.Cancelled:
                raise
            except errors.StoreFull as e:
                raise errors.StoreFull(
                    'The disk of the cache is full.') from e
            except Exception as e:
                LOG.warning('Image %s can not be fetched from %s',
                            image.image_id, store, exc_info=True)
                complaints.append(f'{store or "its store"}: {_words(e)}')
        raise errors.SourceFailed(
            '; '.join(complaints) or 'The image has no location.')

    def _copy(self, image: Any, url: str, store: str | None) -> _Copy:
        mark = marks.Mark(image.image_id, str(uuid.uuid4()))
        datadir = file_sink.Datadir(self._node.folder)
        sink = file_sink.FileSink(
            lambda size: datadir, mark,
            zero_block_size=CONF.sparse_store.zero_block_size)
        algorithm = image.os_hash_algo if image.os_hash_value else None
        try:
            chunks = self._paced(_read(url, store), store)
            stored = upload.upload(chunks, sink, image.size, digest.Digests(
                digest.DigestSpec(algorithm, checksum=not algorithm)))
            _verify(image, stored)
            sink.publish()
        except BaseException:
            sink.abort()
            raise
        return _Copy(sink, mark, store)

    def _paced(self, chunks: Iterable[bytes], store: str | None
               ) -> Iterator[bytes]:
        # What our drivers know to be zeros has not been read from anywhere.
        thin = self._throttle.limits and registry.find(store) is not None
        for chunk in chunks:
            self._go_on()
            if not (thin and _is_zero(chunk)):
                self._throttle.take(len(chunk))
            yield chunk
            self._progress.advance(len(chunk))

    def _go_on(self) -> None:
        if self._cancel.is_set():
            raise errors.Cancelled('The agent was stopped.')

    def _commit(self, mark: marks.Mark) -> int:
        image_id = mark.image_id
        allocated = self._node.commit(mark)
        # Whoever deletes an image removes it from the cache if it is there.
        image = records.find_image(image_id)
        if image is None or image['status'] != 'active':
            self._node.evict(image_id)
            raise errors.Cancelled('The image is not active any more.')
        return allocated


def _load(image_id: str) -> Any:
    try:
        return records.load_image(image_id)
    except compat.exception.NotFound as e:
        raise errors.Cancelled('The image was deleted.') from e


def _read(url: str, store: str | None) -> Iterable[bytes]:
    if CONF.enabled_backends:
        chunks: Iterable[bytes] = glance_store.get(url, store)[0]
    else:
        chunks = glance_store.get_from_backend(url)[0]
    return chunks


def _is_zero(chunk: bytes) -> bool:
    view = memoryview(chunk)
    return all(extent.is_zero(view[start:start + upload.BLOCK])
               for start in range(0, len(view), upload.BLOCK))


def _verify(image: Any, stored: upload.Stored) -> None:
    if stored.size != image.size:
        raise errors.WrongSize(f'{stored.size} bytes are stored, not '
                               f'{image.size}')
    os_hash_value = stored.digest.os_hash_value
    if (os_hash_value or stored.digest.checksum) != (image.os_hash_value
                                       or image.checksum):
        raise errors.DamagedImage(
            'what is stored does not have the digest of the image ('
            f'{image.os_hash_algo if os_hash_value else "md5"})')


def _words(error: Exception) -> str:
    if isinstance(error, errors.ConversionError
                  | compat.exception.GlanceException
                  | glance_store.GlanceStoreException):
        return str(error)
    return 'it could not be read'
