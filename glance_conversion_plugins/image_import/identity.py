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

"""What was uploaded: whether it is what its owner meant, and what it was."""

import hashlib
import os
import threading
from types import TracebackType
from typing import NamedTuple

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import watchdog
from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.image_import import image

EXPECTED = 'conversion_expected_hash'

# Of what is recorded: fast where a processor knows it, as most do.
_ALGORITHM = 'sha256'

_HEXADECIMAL = frozenset('0123456789abcdef')
_PIECE = 1 << 20
_LOOK_SECONDS = 0.1


class Hash(NamedTuple):
    """A hash of a file."""

    algorithm: str      # one of hashlib's
    value: str          # in hexadecimal digits, lower case

    def __str__(self) -> str:
        return f'{self.algorithm}:{self.value}'


def sha256(value: str | None) -> Hash | None:
    """The hash that is recorded of an upload, if there is one."""
    return Hash(_ALGORITHM, value) if value else None


def expected(declaration: image.Declaration) -> Hash | None:
    """What the owner says that the hash of the upload is.

    :raises errors.WrongUpload: if nobody can compute that
    """
    said = declaration.properties.get(EXPECTED)
    if not said:
        return None
    algorithm, _, value = said.strip().lower().partition(':')
    if _digits(algorithm) != len(value) or set(value) - _HEXADECIMAL:
        raise errors.WrongUpload(
            f'The image is refused: its property {EXPECTED} is "{said}", and '
            'has to be like "sha256:" and 64 hexadecimal digits, or those of '
            'another algorithm.')
    return Hash(algorithm, value)


def _digits(algorithm: str) -> int:
    """How many digits a hash has; -1 if there is no such algorithm."""
    if algorithm not in hashlib.algorithms_available:
        return -1
    # Of those of any length nobody could say which one is meant.
    return hashlib.new(algorithm, usedforsecurity=False).digest_size * 2 or -1


def check(path: str, wanted: Hash, progress: progress_.Progress,
          cancel: cancel_.Cancel) -> None:
    """See that a file is what its owner meant to upload.

    :raises errors.WrongUpload: if not
    """
    progress.enter('Checking the upload', os.path.getsize(path))
    found = _compute(path, wanted.algorithm, progress, cancel)
    if found != wanted:
        raise errors.WrongUpload(
            f'The image is refused: its upload has the hash {found}, and '
            f'{wanted} was expected; upload it again.')


def _compute(path: str, algorithm: str, progress: progress_.Progress,
             cancel: cancel_.Cancel) -> Hash:
    found = hashlib.new(algorithm, usedforsecurity=False)
    done = 0
    with open(path, 'rb', buffering=0) as f:
        while piece := f.read(_PIECE):
            if cancel.is_set():
                raise _stopped()
            found.update(piece)
            done += len(piece)
            progress.reach(done, 0)
    return Hash(algorithm, found.hexdigest())


class Hashing:
    """The hash of an upload, computed while all else is done with it."""

    def __init__(self, path: str, conversion: conversion_.Conversion) -> None:
        self._path = path
        self._conversion = conversion
        self._progress = progress_.Progress()
        self._stopped = cancel_.Cancel()
        self._found: Hash | Exception = _stopped()
        self._thread = threading.Thread(target=self._run, daemon=True,
                                        name='upload-hash')

    def __enter__(self) -> 'Hashing':
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None,
                 error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        # Not joined: a file server that hangs has failed the import already.
        self._stopped.set()

    def _run(self) -> None:
        try:
            self._found = _compute(self._path, _ALGORITHM, self._progress,
                                   self._stopped)
        except Exception as e:
            self._found = e

    def result(self) -> Hash:
        """Wait for it, if it is not there yet.

        :raises errors.Cancelled: if the conversion is
        :raises errors.Stalled: if the file can not be read
        """
        progress, cancel = self._conversion.progress, self._conversion.cancel
        if self._thread.is_alive():
            written = progress.written
            progress.enter('Hashing the upload', os.path.getsize(self._path))
            with (watchdog.watch(self._progress.position, self._stopped.set),
                  self._conversion.clock.run('hash')):
                while self._thread.is_alive():
                    if cancel.is_set() or self._stopped.is_set():
                        raise _stopped()
                    self._thread.join(_LOOK_SECONDS)
                    progress.reach(self._progress.position()[0], written)
        if isinstance(self._found, Hash):
            return self._found
        raise self._found


def _stopped() -> errors.Cancelled:
    return errors.Cancelled('The conversion was stopped.')


def properties(declaration: image.Declaration, size: int, found: Hash | None
               ) -> dict[str, str]:
    """What is recorded of an upload that is what was expected.

    :param size: of the file, in bytes
    :param found: its hash, if it was computed
    """
    # Empty where there is none: an earlier upload may have had one.
    return {f'{records.SOURCE}format': declaration.disk_format,
            f'{records.SOURCE}container': declaration.container_format,
            f'{records.SOURCE}size': str(size),
            f'{records.SOURCE}hash': str(found or '')}
