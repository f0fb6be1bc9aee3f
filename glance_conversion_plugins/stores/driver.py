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

"""What our drivers have in common: how they add and get data."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import itertools
import logging
from typing import Any
import uuid

from glance_store import capabilities
from glance_store import exceptions

from glance_conversion_plugins import config
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import download
from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import sinks
from glance_conversion_plugins.copying import upload
from glance_conversion_plugins.copying import zeros as zeros_
from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.stores import adoption
from glance_conversion_plugins.stores import placeholder

LOG = logging.getLogger(__name__)

_PROBE = 4096       # bytes


def check_options(conf: Any) -> None:
    """Register our options and look at those that Glance uses.

    A store is configured when Glance starts, so it does not start with a
    value that would fail every import later.

    :raises cfg.Error: if one is wrong; it names the option
    """
    config.register_opts(conf)
    config.check(conf, 'conversion', 'sparse_store')


def pose_as_stock(conf: Any, store_id: str | None, ours: str, stock: str
                  ) -> None:
    """Let Glance see a type of store that it knows how to describe.

    ``GET /v2/info/stores/detail`` fails for types that Glance does not know.
    glance_store keeps the real type in its own map.
    """
    if not store_id:
        return
    backends = dict(conf.enabled_backends or {})
    if backends.get(store_id) == ours:
        backends[store_id] = stock
        conf.set_override('enabled_backends', backends)


def adopt(store_id: str | None, image_id: str, size: int | None
          ) -> adoption.Written | None:
    """Answer for an image that a task has already written.

    Nothing may be read from the data before this: Glance takes what was read
    for the image's virtual size.
    """
    try:
        written = adoption.take(store_id or '', image_id, size)
    except errors.ConversionError as e:
        raise exceptions.BackendException(str(e)) from e
    if written is None:
        return None
    LOG.info('Store %s adopts image %s, %d bytes', store_id, image_id,
             written.size)
    return written


def refuse_placeholder(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Look at the beginning of image data, and give all of it.

    :raises exceptions.Invalid: at once, if it is a placeholder of ours
    """
    rest, head = iter(chunks), b''
    while (len(head) < placeholder.MAGIC_LENGTH
           and (chunk := next(rest, None)) is not None):
        head += chunk
    if placeholder.is_placeholder(head):
        raise exceptions.Invalid(
            'This is the placeholder of an image that is stored '
            'elsewhere, not image data.')
    return itertools.chain([head], rest)


@contextlib.contextmanager
def as_stock(image_id: str) -> Iterator[None]:
    """Raise what the stock drivers would."""
    try:
        yield
    except errors.AlreadyStored as e:
        raise exceptions.Duplicate(image=image_id) from e
    except errors.StoreFull as e:
        raise exceptions.StorageFull(message=str(e)) from e
    except errors.WriteDenied as e:
        raise exceptions.StorageWriteDenied(message=str(e)) from e
    except errors.WrongSize as e:
        raise exceptions.Invalid(message=str(e)) from e
    except errors.ConversionError as e:
        if isinstance(e.__cause__, OSError):
            raise e.__cause__ from None
        raise exceptions.BackendException(str(e)) from e


class SparseDriver:
    """``add()`` and ``get()`` for a class that stands before stock's."""

    backend_group: str | None
    READ_CHUNKSIZE: int
    WRITE_CHUNKSIZE: int

    conf: Any

    sink: Callable[[str, str], sinks.Sink]
    source: Callable[[str], Any]
    location: Callable[[str], tuple[str, dict[str, Any]]]
    hand_over: Callable[[str, str], None]
    discard: Callable[[str, str], None]

    @compat.back_compat_add
    @capabilities.check
    def add(self, image_id: str, image_file: Any, image_size: int | None,
            hashing_algo: str, context: Any = None, verifier: Any = None
            ) -> tuple[str, int, str | None, str | None, dict[str, Any]]:
        """Adopt what a task has written, or store ``image_file``.

        Parameters, result and errors are those of the stock driver; the
        digests of an adopted image may be None.
        """
        image_id = str(image_id)
        adopted = adopt(self.backend_group, image_id, image_size)
        if adopted:
            return adopted
        chunks = refuse_placeholder(compat.chunkreadable(
            image_file, min(self.WRITE_CHUNKSIZE, upload.BLOCK)))
        with as_stock(image_id):
            stored, url, metadata = self._store(
                image_id, chunks, image_size or 0, hashing_algo,
                [verifier] if verifier else [])
        return url, stored.size, *stored.digest, metadata

    def _store(self, image_id: str, chunks: Iterable[bytes], size: int,
               algorithm: str, verifiers: Sequence[Any]
               ) -> tuple[upload.Stored, str, dict[str, Any]]:
        """Write a stream under a mark, which is taken off at the end."""
        task_id = str(uuid.uuid4())
        sink = self.sink(image_id, task_id)
        try:
            stored = upload.upload(chunks, sink, size, digest.Digests(
                digest.DigestSpec(algorithm), verifiers))
            url, metadata = self.location(image_id)
            self.hand_over(image_id, task_id)
        except BaseException:
            sink.abort()
            raise
        LOG.info('Stored image %s in %s, %d bytes', image_id,
                 self.backend_group, stored.size)
        return stored, url, metadata

    def probe(self) -> None:
        """Do with a small image what an import does, and remove it."""
        image_id, task_id = str(uuid.uuid4()), str(uuid.uuid4())
        sink = self.sink(image_id, task_id)
        try:
            sink.create(_PROBE)
            sink.write(memoryview(b'probe' * _PROBE)[:_PROBE], 0)
            sink.seal()
        finally:
            sink.abort()
            # What could not be removed raises here.
            self.discard(image_id, task_id)

    def zeros(self, image_id: str, progress: progress_.Progress
              ) -> tuple[int, int]:
        """How many bytes are stored for an image, and how many are zeros."""
        with contextlib.closing(self.source(image_id)) as source:
            zeros = sum(run.length for run in zeros_.stored_zeros(
                source, self.conf.sparse_store.zero_block_size, progress))
            data = extent.data(source.extents(0, source.size), 0)
            return sum(run.length for run in data), zeros

    def _download(self, open_source: Callable[[], download.Readable],
                  size: int, offset: int, length: int | None, ahead: int
                  ) -> tuple[Iterable[bytes], int]:
        """What ``get()`` of the stock drivers returns."""
        return download.Download(open_source, offset, length,
                                 self.READ_CHUNKSIZE, ahead), length or size
