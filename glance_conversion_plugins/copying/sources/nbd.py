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

"""An image of any format that qemu knows, decoded by qemu-nbd."""

from collections.abc import Iterator
import errno
import logging
import queue
import threading
from typing import Any

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import watchdog
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import bindings
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.external import qemu_nbd

nbd = bindings.load('nbd')

LOG = logging.getLogger(__name__)

# How much one query for extents covers: far less than the 4 GiB - 1 that the
# protocol allows, so that no answer holds more than some 100,000 entries.
_QUERY = 1 << 30

_CONNECTION_LOST = (errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE,
                    errno.ESHUTDOWN, 0)


class NbdSource:
    """Reads through several connections to one qemu-nbd."""

    def __init__(self, image: qemu_img.Image, virtual_size: int,
                 connections: int = 4,
                 cancel: cancel_.Cancel = cancel_.NEVER) -> None:
        """Open an image.

        :param virtual_size: in bytes, as ``qemu-img info`` told
        :param connections: how many reads may be under way at once
        :param cancel: when set, opening ends with errors.Cancelled
        """
        # First of all: the binding may be missing.
        self._context = nbd.CONTEXT_BASE_ALLOCATION
        self._stop = cancel_.Cancel()
        self._error: errors.ConversionError | None = None
        self._failing = threading.Lock()
        self._server = qemu_nbd.NbdServer(image, connections + 1,
                                            virtual_size)
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        try:
            # A server that says nothing is ended, which ends the wait for it.
            with (cancel.interrupting(self._server.kill),
                  watchdog.watch(lambda: None, self._server.kill)):
                self._connect(cancel)
        except BaseException:
            self._server.close()
            raise

    def _connect(self, cancel: cancel_.Cancel) -> None:
        try:
            handles = [self._handshake(s) for s in self._server.sockets]
            self._describe: Any = handles.pop()
            self.size: int = self._describe.get_size()
            # Some formats are served in sectors only.
            self._grain: int = max(1, self._describe.get_block_size(
                nbd.SIZE_MINIMUM))
        except nbd.Error as e:
            if cancel.is_set():
                raise errors.Cancelled('The conversion was stopped.') from e
            LOG.warning('qemu-nbd does not serve the image: %s', e)
            raise self._server.why_unusable() from e
        for handle in handles:
            self._idle.put(handle)

    def _handshake(self, client: Any) -> Any:
        handle = nbd.NBD()
        handle.set_pread_initialize(False)
        handle.add_meta_context(self._context)
        handle.connect_socket(client.detach())
        return handle

    def extents(self, start: int, length: int) -> Iterator[extent.Extent]:
        end = start + length
        while start < end:
            entries = self._block_status(min(_QUERY, end - start), start)
            for size, flags in zip(entries[::2], entries[1::2], strict=True):
                # The last entry of an answer may reach beyond the query.
                size = min(size, end - start)
                yield extent.Extent(start, size, _kind(flags))
                start += size

    def _block_status(self, length: int, offset: int) -> list[int]:
        answer: list[int] = []

        def collect(_context: str, _offset: int, entries: list[int],
                    _error: Any) -> None:
            answer.extend(entries)

        try:
            self._describe.block_status(length, offset, collect)
        except nbd.Error as e:
            raise self._failure(e.errnum, offset, str(e)) from e
        return answer

    def read(self, offset: int, length: int) -> memoryview:
        handle = self._idle.get()
        try:
            # qemu-nbd drops a connection on which a read has failed.
            if self._error:
                raise self._error
            return self._read(handle, offset, length)
        finally:
            self._idle.put(handle)

    def _read(self, handle: Any, offset: int, length: int) -> memoryview:
        # Not aio_pread(): libnbd 1.14 never lets go of the buffers it is
        # given, which adds up to the size of the image.
        start = offset // self._grain * self._grain
        end = -(-(offset + length) // self._grain) * self._grain
        try:
            # Nobody is asked for nothing, which the protocol does not allow.
            data = memoryview(handle.pread(end - start, start)
                              if end > start else b'')
            return data[offset - start:offset - start + length]
        except nbd.Error as e:
            raise self._failure(e.errnum, offset, str(e)) from e

    def _failure(self, errnum: int, offset: int, reason: str
                 ) -> errors.ConversionError:
        """Why reading failed: the first reason, for others follow from it."""
        with self._failing:
            self._error = self._error or self._reason(errnum, offset, reason)
            return self._error

    def _reason(self, errnum: int, offset: int, reason: str
                ) -> errors.ConversionError:
        if self._stop.is_set():
            return errors.Cancelled('The conversion was stopped.')
        if errnum in _CONNECTION_LOST and self._server.status() is not None:
            LOG.error('qemu-nbd ended while the image was read: %s', reason)
            return errors.SourceFailed(qemu_img.STOPPED)
        LOG.warning('Reading at %d failed with %s: %s', offset, errnum, reason)
        if errnum == errno.ENOMEM:
            return errors.SourceFailed(qemu_img.STOPPED)
        try:
            self._server.see_readable(self._stop.is_set)
        except errors.SourceFailed as e:
            return e
        return errors.DamagedImage(
            f'The image is damaged: its content at offset {offset} '
            'can not be decoded.')

    def interrupt(self) -> None:
        self._stop.set()
        self._server.kill()

    def close(self) -> None:
        self._stop.set()
        self._server.close()
        # A handle closes its connection when it is forgotten.
        self._describe = None
        while not self._idle.empty():
            self._idle.get()


def _kind(flags: int) -> extent.Kind:
    if flags & nbd.STATE_HOLE and flags & nbd.STATE_ZERO:
        return extent.Kind.HOLE
    return extent.Kind.ZERO if flags & nbd.STATE_ZERO else extent.Kind.DATA
