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

"""A confined program that answers, and how far it is listened to.

What a program says of an image is input, as the image is: a table of a few
hundred KiB is worth gigabytes of complaints. So all of it is read through a
bound, little of it is kept, and nobody waits for the end of a pipe: a process
that the program has left behind may hold it open for ever.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import fcntl
import os
import selectors
import subprocess
import time
from typing import Any

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import sandbox

LATE = 'The program that reads the image took too long.'

# How often it is looked whether the program has ended, or is wanted no more;
# what it says, and its ordinary end, wake us at once.
_LOOK_SECONDS = 0.5
# What a pipe holds, where that is allowed: by default it is 64 KiB, for which
# a program that decompresses waits again and again.
_PIECE = 1 << 20
# Who waits for a pipe is woken by each write, of which xz does one for 8 KiB:
# that takes a tenth of its time. After so little the next ones are let come.
_LITTLE, _NAP_SECONDS = 64 << 10, 0.001
# What a pipe may still hold of a program that has ended.
_MOST_AFTER_END = 4 << 20
_LONGEST_LINE = 4096
_KEPT = 4096
_SHOWN = 500

# What qemu says where a limit on memory keeps it from going on: the system's
# words, or some of its own, such as "Could not allocate metadata caches".
_NO_MEMORY = ('allocate memory', 'Could not allocate')


class Overflow(Exception):
    """A program said more than anybody wants to hear."""


def shorten(said: bytes) -> str:
    """Make a line for the log of what a program said."""
    text = said.decode(errors='replace').strip()
    line = '; '.join(part.strip() for part in text.splitlines())
    clean = ''.join(c if c.isprintable() else '?' for c in line[:_SHOWN])
    return clean + (' ...' if len(line) > _SHOWN else '')


def lacked_memory(said: str) -> bool:
    """Whether a qemu that failed said that it got no memory."""
    return any(words in said for words in _NO_MEMORY)


class Program:
    """A program under way, and what it says."""

    def __init__(self, process: 'subprocess.Popen[str]', most: int,
                 seconds: float | None, cancel: cancel_.Cancel) -> None:
        """Describe it.

        :param most: bytes that it may say on stderr
        :param seconds: how long it may take; None: as long as it likes
        """
        self._process = process
        self._most = most
        self._deadline = time.monotonic() + seconds if seconds else None
        self._cancel = cancel
        self._stderr = bytearray()

    @property
    def said(self) -> str:
        """The beginning of what it said on stderr, for the log."""
        return shorten(bytes(self._stderr))

    @property
    def status(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        return self._process.returncode

    def pieces(self, little: int = _LITTLE) -> Iterator[bytes]:
        """What it says on stdout, until it has ended.

        :param little: after fewer bytes more are let come for a moment
        :raises Overflow: if it says too much on stderr
        :raises errors.Cancelled: if it is wanted no more
        :raises errors.SourceFailed: if it takes too long
        """
        stdout, stderr = self._process.stdout, self._process.stderr
        assert stdout and stderr        # noqa: S101
        with contextlib.suppress(OSError):
            fcntl.fcntl(stdout, fcntl.F_SETPIPE_SZ, _PIECE)
        heard = left = 0
        with selectors.DefaultSelector() as pipes:
            pipes.register(stdout, selectors.EVENT_READ)
            pipes.register(stderr, selectors.EVENT_READ)
            while pipes.get_map():
                self._go_on()
                # In this order: what it says just before it ends is there
                # when we look, however late that is.
                has_ended = self._process.poll() is not None
                ready = pipes.select(_LOOK_SECONDS)
                if has_ended:
                    left += _PIECE
                    if not ready or left > _MOST_AFTER_END:
                        break
                for key, _ in ready:
                    data = os.read(key.fd, _PIECE)
                    if not data:
                        pipes.unregister(key.fileobj)
                    elif key.fileobj is stdout:
                        yield data
                        if len(data) < little:
                            time.sleep(_NAP_SECONDS)
                    else:
                        heard += len(data)
                        self._hear(data, heard)
        self._reap()

    def _hear(self, data: bytes, heard: int) -> None:
        self._stderr += data[:_KEPT - len(self._stderr)]
        if heard > self._most:
            raise Overflow

    def _go_on(self) -> None:
        if self._cancel.is_set():
            raise errors.Cancelled('The conversion was stopped.')
        if self._deadline and time.monotonic() > self._deadline:
            raise errors.SourceFailed(LATE)

    def _reap(self) -> None:
        """Wait for the end of a program that has closed its pipes."""
        while self._process.returncode is None:
            self._go_on()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LOOK_SECONDS)

    def answer(self, most: int) -> bytes:
        """All that it says on stdout.

        :param most: bytes that it may say
        :raises Overflow: if it says more
        """
        said = bytearray()
        for piece in self.pieces():
            said += piece
            if len(said) > most:
                raise Overflow
        return bytes(said)

    def lines(self) -> Iterator[str]:
        """What it says on stdout, line by line; '\\r' ends one too.

        Of a line without an end only the beginning is kept.
        """
        rest = b''
        for piece in self.pieces():
            *whole, rest = (rest + piece).replace(b'\r', b'\n').split(b'\n')
            for line in whole:
                yield line.decode(errors='replace')
            rest = rest[:_LONGEST_LINE]
        if rest:
            yield rest.decode(errors='replace')


@contextlib.contextmanager
def run(argv: Sequence[str], limits: sandbox.Limits, *, most: int,
        cancel: cancel_.Cancel, seconds: float | None = None,
        **kwargs: Any) -> Iterator[Program]:
    """Start a program that ends with the block, or when it is cancelled.

    :param most: bytes that it may say on stderr
    :param seconds: how long it may take; None: as long as it likes
    :param kwargs: of ``sandbox.start()``
    """
    process = sandbox.start(argv, limits, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **kwargs)
    try:
        with cancel.interrupting(process.kill):
            yield Program(process, most, seconds, cancel)
    finally:
        sandbox.end(process)
    if cancel.is_set():
        raise errors.Cancelled('The conversion was stopped.')
