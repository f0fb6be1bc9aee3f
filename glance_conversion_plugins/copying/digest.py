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

"""Digests of a stream, each computed on its own thread.

Glance records an md5 ``checksum`` and an ``os_hash_value``, both over every
byte, zeros included. hashlib releases the interpreter lock, so two threads
digest at the speed of the slower algorithm.
"""

from collections.abc import Sequence
import hashlib
import mmap
import queue
import threading
from typing import NamedTuple
from typing import Protocol

# Views waiting for one digest. They are shared between the digests and with
# the writer, so they bound how far reading may run ahead.
_QUEUE_DEPTH = 16

# The kernel's one page of zeros, over and over, which takes no memory. Whoever
# digests much at once seldom waits for the interpreter lock.
_ZEROS = memoryview(mmap.mmap(
    -1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
    prot=mmap.PROT_READ))


class Updatable(Protocol):
    """A hash object of hashlib, or a signature verifier of cursive."""

    def update(self, data: memoryview, /) -> object: ...


class DigestSpec(NamedTuple):
    """Which digests are to be computed."""

    os_hash_algo: str | None        # a hashlib name; None: no such digest
    checksum: bool = True           # md5
    sha256: bool = False            # for who is to know what was uploaded

    def names(self) -> tuple[str | None, str | None, str | None]:
        """The algorithm of each field of ``Digest``, or None."""
        return ('md5' if self.checksum else None, self.os_hash_algo,
                'sha256' if self.sha256 else None)


class Digest(NamedTuple):
    """Digests of content; None where not computed."""

    checksum: str | None            # these two are what Glance records
    os_hash_value: str | None
    sha256: str | None = None


class _Worker:
    """Feeds one hash from a queue of views and of lengths of zeros."""

    def __init__(self, target: Updatable) -> None:
        self._target = target
        self._error: Exception | None = None
        self._queue: queue.Queue[memoryview | int | None] = queue.Queue(
            _QUEUE_DEPTH)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, item: memoryview | int) -> None:
        if self._error:
            raise self._error
        self._queue.put(item)

    def finish(self) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error:
            raise self._error

    def abort(self) -> None:
        """Forget what is queued and stop."""
        self._error = self._error or InterruptedError()
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error:
                continue    # drain, so that nobody waits for room
            try:
                self._update(item)
            except Exception as e:
                self._error = e

    def _update(self, item: memoryview | int) -> None:
        if not isinstance(item, int):
            self._target.update(item)
            return
        while item and not self._error:
            length = min(item, len(_ZEROS))
            self._target.update(_ZEROS[:length])
            item -= length


class Digests:
    """The digests of one stream, fed in order.

    Views must not change until ``finish()`` has returned, or the ``with``
    block of this is left; an error that leaves it stops the threads.
    """

    def __init__(self, spec: DigestSpec,
                 verifiers: Sequence[Updatable] = ()) -> None:
        """Start the threads.

        :param verifiers: others that must see every byte
        """
        self._names = spec.names()
        # One algorithm may be asked for twice.
        self._hashes = {name: hashlib.new(name, usedforsecurity=False)
                        for name in self._names if name}
        self._workers = [_Worker(target) for target in (
            *self._hashes.values(), *verifiers)]

    def __enter__(self) -> 'Digests':
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            self.abort()

    def update(self, view: memoryview) -> None:
        for worker in self._workers:
            worker.put(view)

    def zeros(self, length: int) -> None:
        for worker in self._workers:
            worker.put(length)

    def finish(self) -> Digest:
        for worker in self._workers:
            worker.finish()
        return Digest(*(self._hashes[name].hexdigest() if name else None
                        for name in self._names))

    def abort(self) -> None:
        for worker in self._workers:
            worker.abort()
