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
import logging
import socket
import time
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
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import deployment
from glance_conversion_plugins.stores import adoption
from glance_conversion_plugins.stores import handover
from glance_conversion_plugins.stores import liveness
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


def mark(image_id: str, task_id: str) -> marks.Mark:
    """The mark of what this process writes."""
    return marks.Mark(image_id, task_id, deployment.identifier(),
                      socket.gethostname())


def refuse_placeholder(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Look at the beginning of image data, and give all of it.

    :raises exceptions.Invalid: if it is a placeholder of ours
    """
    rest, head = iter(chunks), b''
    while (len(head) < placeholder.MAGIC_LENGTH
           and (chunk := next(rest, None)) is not None):
        head += chunk
    if placeholder.is_placeholder(head):
        raise exceptions.Invalid(
            'This is the placeholder of an image that is stored '
            'elsewhere, not image data.')
    yield head
    yield from rest


def _give_up(sink: sinks.StoredSink, error: BaseException) -> None:
    """Leave nothing of what failed.

    :raises errors.Fenced: if it was taken from this writer before, whatever
        it failed of; what is left then tells the clean-up to go on
    """
    if isinstance(error, errors.Fenced) or not sink.is_held():
        sink.release()
        raise errors.Fenced from error
    sink.abort()


def _request(context: Any) -> str | None:
    """Which request of Glance's it is that a store is called by."""
    return getattr(context, 'request_id', None)


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
    except errors.Fenced as e:
        # By then the image may be another upload's. Of this error alone
        # Glance concludes that it has to leave the record as it is.
        raise exceptions.NotFound(message=str(e)) from e
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

    sink: Callable[[str, str], sinks.StoredSink]
    source: Callable[[str], Any]
    location: Callable[[str], tuple[str, dict[str, Any]]]
    marked: Callable[[], Iterable[marks.Found]]

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
        with as_stock(image_id):
            # Nothing may be read before this: Glance takes what was read for
            # the image's virtual size.
            sealed = adoption.take(self.backend_group or '', image_id,
                                   image_size)
            if sealed:
                LOG.info('Store %s adopts image %s, %d bytes',
                         self.backend_group, image_id, sealed.size)
            else:
                chunks = refuse_placeholder(compat.chunkreadable(
                    image_file, min(self.WRITE_CHUNKSIZE, upload.BLOCK)))
                sealed = self._store(image_id, chunks, image_size or 0,
                                     hashing_algo,
                                     [verifier] if verifier else [])
            url, metadata = self._publish(image_id, sealed.sink, context)
        return (url, sealed.size, sealed.digest.checksum,
                sealed.digest.os_hash_value, metadata)

    def _store(self, image_id: str, chunks: Iterable[bytes], size: int,
               algorithm: str, verifiers: Sequence[Any]) -> adoption.Sealed:
        """Write a stream under a mark."""
        sink = self.sink(image_id, liveness.new_id())
        try:
            stored = upload.upload(chunks, sink, size, digest.Digests(
                digest.DigestSpec(algorithm), verifiers))
        except BaseException as e:
            _give_up(sink, e)
            raise
        LOG.info('Stored image %s in %s, %d bytes', image_id,
                 self.backend_group, stored.size)
        return adoption.Sealed(sink, *stored)

    def _publish(self, image_id: str, sink: sinks.StoredSink, context: Any
                 ) -> tuple[str, dict[str, Any]]:
        """Let an image be there for Glance, and watch it being recorded."""
        try:
            sink.publish()
            url, metadata = self.location(image_id)
            handover.watch(handover.Published(
                self.backend_group, image_id, _request(context), url, sink,
                time.monotonic()))
        except BaseException as e:
            _give_up(sink, e)
            raise
        return url, metadata

    def _is_own(self, image_id: str, context: Any) -> bool:
        """Before an image is deleted: let go of it.

        :returns: whether all is gone that this request may delete
        """
        with as_stock(image_id):
            return handover.release(self.backend_group, image_id,
                                    _request(context))

    def probe(self) -> None:
        """Do with a small image what an import does, and remove it."""
        image_id = str(uuid.uuid4())
        sink = self.sink(image_id, str(uuid.uuid4()))
        try:
            sink.create(_PROBE)
            sink.write(memoryview(b'probe' * _PROBE)[:_PROBE], 0)
            sink.seal()
            sink.publish()
        finally:
            sink.abort()
        if any(found.mark.image_id == image_id for found in self.marked()):
            raise errors.SinkFailed('What was written could not be removed.')

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
