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

"""Decompresses a zstd file into memory that it shares with who asked.

A script that runs confined, without this package: see ``sandbox_exec``. It
fills one slot of the memory after the other and says so on stdout, in pieces
of ``PIECE``. A byte that comes back says that a slot may be filled again. A
slot of zeros is filled anew at once: zeros are decompressed at 10 GiB/s, and
to hand them on, through a pipe above all, takes longer than that.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import ctypes
import io
import mmap
import os
import struct
import sys
from typing import Any

LIBRARY = 'libzstd.so.1'

# How many bytes there are, and whether they lie in the next slot: zeros do
# not.
PIECE = struct.Struct('<I?')

# After so many it is said that there are some: each word wakes the one who
# listens.
_MOST_ZEROS = 64 << 20

# What has to be remembered of what came before: the images of "--long=29",
# which zstd itself reads with --memory=512MB.
_D_WINDOW_LOG_MAX, _LARGEST_WINDOW = 100, 29    # the first: of zstd.h
_READ_SIZE = 1 << 17

_LIBC = ctypes.CDLL(None)
_LIBC.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_PR_SET_NAME = 15


class Broken(Exception):
    """The file is not what it should be; the words are the library's."""


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer of zstd.h."""

    _fields_ = (('address', ctypes.c_void_p), ('size', ctypes.c_size_t),
                ('position', ctypes.c_size_t))

    @property
    def state(self) -> tuple[int, int]:
        return int(self.size), int(self.position)


def load() -> Any:
    """The library.

    :raises OSError: if there is none
    """
    library = ctypes.CDLL(LIBRARY)
    library.ZSTD_createDStream.restype = ctypes.c_void_p
    library.ZSTD_getErrorName.restype = ctypes.c_char_p
    library.ZSTD_getErrorName.argtypes = (ctypes.c_size_t,)
    library.ZSTD_isError.argtypes = (ctypes.c_size_t,)
    for name, arguments in (
            ('ZSTD_DCtx_setParameter',
             (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)),
            ('ZSTD_decompressStream',
             (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p))):
        getattr(library, name).restype = ctypes.c_size_t
        getattr(library, name).argtypes = arguments
    return library


class _Decoder:
    """All frames of a file, one after the other."""

    def __init__(self, library: Any, file: io.FileIO) -> None:
        self._library = library
        self._file = file
        self._stream = library.ZSTD_createDStream()
        self._check(library.ZSTD_DCtx_setParameter(
            self._stream, _D_WINDOW_LOG_MAX, _LARGEST_WINDOW))
        self._read = ctypes.create_string_buffer(_READ_SIZE)
        self._input = _Buffer(ctypes.addressof(self._read), 0, 0)
        self._missing = 0       # of a frame; 0 at its end

    def _check(self, result: int) -> int:
        if self._library.ZSTD_isError(result):
            raise Broken(self._library.ZSTD_getErrorName(result).decode())
        return result

    def fill(self, address: int, size: int) -> int:
        """Decompress so many bytes, or what is left; returns how many.

        :raises Broken: if the file is damaged, or ends within a frame
        """
        output = _Buffer(address, size, 0)
        while output.position < size:
            if self._input.position == self._input.size:
                self._input.size = self._file.readinto(self._read)
                self._input.position = 0
            before = self._input.state, output.state
            missing = self._check(self._library.ZSTD_decompressStream(
                self._stream, ctypes.byref(output),
                ctypes.byref(self._input)))
            if (self._input.state, output.state) == before:
                if self._missing:
                    raise Broken('The file ends within a frame')
                break
            self._missing = missing
        return int(output.position)


class _Memory:
    """What is shared, in slots that are filled in turn."""

    def __init__(self, shared: mmap.mmap, size: int) -> None:
        self._shared = shared
        self._first = ctypes.addressof(
            (ctypes.c_char * len(shared)).from_buffer(shared))
        self._begin = 0
        self.size = size
        self.free = len(shared) // size

    @property
    def address(self) -> int:
        return self._first + self._begin

    def is_zero(self, length: int) -> bool:
        """Say whether there are only zeros in the slot.

        Each byte is compared with the next: to compare them with zeros that
        lie elsewhere takes more of the processor's cache, and half as long
        again.
        """
        return not self._shared[self._begin] and not _LIBC.memcmp(
            self.address, self.address + 1, length - 1)

    def take_next(self, turns: int) -> None:
        """Go on with the next slot, when it is free."""
        self._begin = (self._begin + self.size) % len(self._shared)
        self.free -= 1
        if not self.free:
            self.free = len(os.read(turns, 1 << 10))
        if not self.free:
            raise Broken('Nobody reads what is decompressed')


def _pieces(decoder: _Decoder, memory: _Memory, turns: int
            ) -> Iterator[tuple[int, bool]]:
    """Decompress all of a file; gives each ``PIECE``."""
    zeros = 0
    while length := decoder.fill(memory.address, memory.size):
        is_zero = memory.is_zero(length)
        if zeros and (not is_zero or zeros >= _MOST_ZEROS):
            yield zeros, False
            zeros = 0
        if is_zero:
            zeros += length
        else:
            yield length, True
            memory.take_next(turns)
    yield zeros, False


def main(arguments: Sequence[str]) -> int:
    """Do it; returns the exit status.

    :param arguments: the file, the descriptors of the memory and of the pipe
        that bytes come back by, and the size of a slot
    """
    path, (shared, turns, size) = arguments[0], map(int, arguments[1:])
    _LIBC.prctl(_PR_SET_NAME, b'zstd', 0, 0, 0)
    library = load()
    try:
        memory = _Memory(mmap.mmap(shared, 0), size)
        with open(path, 'rb', buffering=0) as file:
            for piece in _pieces(_Decoder(library, file), memory, turns):
                os.write(1, PIECE.pack(*piece))
    except (OSError, Broken) as e:
        print(f'zstd: {e}', file=sys.stderr)
        return 1
    return 0
