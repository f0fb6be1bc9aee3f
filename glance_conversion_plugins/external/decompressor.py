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

"""The programs that decompress: what they are told, and how they end.

They are the distribution's, and as confined as qemu is. What they write comes
through a pipe, or through memory that is shared with them; whether it was all
that there is shows only at the end.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import fcntl
import logging
import mmap
import os
import shutil
from typing import Any

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import program
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.external import sandbox
from glance_conversion_plugins.external import sandbox_exec
from glance_conversion_plugins.external import staged
from glance_conversion_plugins.external import zstd_script

LOG = logging.getLogger(__name__)

# One thread each: several of xz would need more memory than there is.
PROGRAMS = {
    'bzip2': ('bzip2', '-dc'),
    'gzip': ('gzip', '-dc'),
    'xz': ('xz', '-dc', '-T1', '--format=xz'),
    # By the names in the directory alone, of which a field gives another one.
    'zip': ('unzip', '-UU', '-p'),
}
# What is in a zip beside the file that is meant: what macOS knows of it.
BESIDE = '__MACOSX/'
_AFTER_PATH = {'zip': ('-x', f'{BESIDE}*')}

# What is shared with zstd: few enough slots for the caches of a processor.
_SLOT, _SLOTS = 1 << 20, 16
_MFD_NOEXEC_SEAL = 8        # linux/memfd.h

# They complain once, but for a name that may be long.
_MOST_SAID = 64 * 1024
# gzip and bzip2 say so and go on. It may as well be the second half of what
# was compressed in pieces, and damaged.
_GARBAGE = 'trailing garbage'
# What they say where something was compressed with more memory than they get.
_NO_MEMORY = ('too much memory', 'emory usage limit',
              'Cannot allocate memory', 'not enough memory',
              'memory exhausted', "couldn't allocate")


def lacking() -> Iterator[tuple[str, str]]:
    """What can not be decompressed here, and for want of what."""
    for kind, argv in PROGRAMS.items():
        if not shutil.which(argv[0]):
            yield kind, argv[0]
    try:
        zstd_script.load()
    except OSError:
        yield 'zstd', zstd_script.LIBRARY


def decompress(path: str, kind: str, cpu_seconds: int,
               cancel: cancel_.Cancel = cancel_.NEVER,
               zeros: Callable[[int], bytes] = bytes
               ) -> Iterator[bytes]:
    """What a file holds, in pieces; it is whole if none of them raises.

    :param kind: one of PROGRAMS, or zstd
    :param cpu_seconds: how much of a processor's time that may take
    :param zeros: makes so many of them, at most 1 MiB
    :raises errors.DamagedImage: if the file is truncated or corrupt
    """
    if kind == 'zstd':
        with _Shared() as shared:
            yield from _run(
                [path, *shared.arguments], path, kind, cpu_seconds, cancel,
                lambda running: shared.pieces(running.pieces(0), zeros),
                script=zstd_script.__file__, pass_fds=shared.descriptors)
        return
    yield from _run([*PROGRAMS[kind], path, *_AFTER_PATH.get(kind, ())],
                    path, kind, cpu_seconds, cancel, program.Program.pieces)


def _memory() -> int:
    """A file that is only in memory; nobody can shorten or execute it."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        memory = os.memfd_create('glance-conversion', flags | _MFD_NOEXEC_SEAL)
    except OSError:     # before Linux 6.3
        memory = os.memfd_create('glance-conversion', flags)
    try:
        os.fchmod(memory, 0o600)
        os.ftruncate(memory, _SLOT * _SLOTS)
        # To read where it has no end any more ends the process that reads.
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK
                    | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(memory)
        raise
    return memory


class _Shared:
    """Memory that a confined process fills, slot after slot, in a ring.

    Nothing in it is believed twice: the process may be anybody's by now.
    """

    def __enter__(self) -> '_Shared':
        with contextlib.ExitStack() as stack:
            memory = _memory()
            stack.callback(os.close, memory)
            self._view = memoryview(mmap.mmap(memory, 0, prot=mmap.PROT_READ))
            stack.callback(self._view.release)
            turns, self._turns = os.pipe()
            stack.callback(os.close, turns)
            stack.callback(os.close, self._turns)
            # Whoever takes none of them is not waited for.
            os.set_blocking(self._turns, False)
            self.descriptors = memory, turns
            self._begin = 0     # of the slot that is filled next
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def arguments(self) -> list[str]:
        """Of the script."""
        return [str(number) for number in (*self.descriptors, _SLOT)]

    def pieces(self, said: Iterable[bytes],
               zeros: Callable[[int], bytes]) -> Iterator[bytes]:
        """What was put into the slots, by what the process says of it.

        :raises program.Overflow: if it says what can not be
        """
        for length, is_data in _parsed(said):
            if is_data:
                yield self._take(length)
            else:
                for begin in range(0, length, _SLOT):
                    yield zeros(min(_SLOT, length - begin))

    def _take(self, length: int) -> bytes:
        if not 0 < length <= _SLOT:
            raise program.Overflow
        found = bytes(self._view[self._begin:self._begin + length])
        self._begin = (self._begin + _SLOT) % len(self._view)
        try:
            os.write(self._turns, b'.')
        except BlockingIOError as e:
            raise program.Overflow from e
        return found


def _parsed(said: Iterable[bytes]) -> Iterator[tuple[int, bool]]:
    """The pieces of which a process has told."""
    rest, size = b'', zstd_script.PIECE.size
    for words in said:
        rest += words
        whole = len(rest) // size * size
        yield from zstd_script.PIECE.iter_unpack(rest[:whole])
        rest = rest[whole:]


def _run(argv: list[str], path: str, kind: str, cpu_seconds: int,
         cancel: cancel_.Cancel,
         pieces: Callable[[program.Program], Iterator[bytes]], **kwargs: Any
         ) -> Iterator[bytes]:
    try:
        with program.run(argv, sandbox.Limits(cpu_seconds), most=_MOST_SAID,
                         cancel=cancel, readable=[path],
                         **kwargs) as running:
            yield from pieces(running)
    except program.Overflow as e:
        LOG.warning('%s said far too much, or what can not be', kind)
        raise _damaged() from e
    if running.status or _GARBAGE in running.said:
        LOG.warning('%s failed with %s: %s', kind, running.status,
                    running.said)
        raise _failure(running, path, cancel)


def _failure(running: program.Program, path: str, cancel: cancel_.Cancel
             ) -> errors.ConversionError:
    status, said = running.status, running.said
    if status == sandbox_exec.NOT_STARTED:
        return errors.Misconfigured(sandbox.MISSING)
    if status is None or status < 0:
        return errors.SourceFailed(qemu_img.STOPPED)
    if any(words in said for words in _NO_MEMORY):
        return errors.TooLarge(
            'The image can not be decompressed here: that takes more than '
            '512 MiB of memory; compress it again with the defaults of the '
            'program.')
    staged.see_readable(path, cancel.is_set)
    if _GARBAGE in said:
        return errors.DamagedImage(
            'The image is damaged: its archive is followed by something '
            'else.')
    return _damaged()


def _damaged() -> errors.DamagedImage:
    return errors.DamagedImage(
        'The image is damaged or truncated: it can not be decompressed to '
        'its end.')
