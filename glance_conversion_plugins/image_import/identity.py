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
from typing import NamedTuple

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins import errors
from glance_conversion_plugins.image_import import image

EXPECTED = 'conversion_expected_hash'

# Glance lets nobody else set what begins so, and Nova's snapshots of servers
# do not inherit it.
_PREFIX = 'os_glance_conversion_source_'

_HEXADECIMAL = frozenset('0123456789abcdef')
_PIECE = 1 << 20


class Hash(NamedTuple):
    """A hash of a file."""

    algorithm: str      # one of hashlib's
    value: str          # in hexadecimal digits, lower case

    def __str__(self) -> str:
        return f'{self.algorithm}:{self.value}'


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
                raise errors.Cancelled('The conversion was stopped.')
            found.update(piece)
            done += len(piece)
            progress.reach(done, 0)
    return Hash(algorithm, found.hexdigest())


def properties(declaration: image.Declaration, size: int) -> dict[str, str]:
    """What is recorded of an upload that is what was expected.

    :param size: of the file, in bytes
    """
    # Empty where none was given: an earlier upload may have had one.
    return {f'{_PREFIX}format': declaration.disk_format,
            f'{_PREFIX}container': declaration.container_format,
            f'{_PREFIX}size': str(size),
            f'{_PREFIX}hash': str(expected(declaration) or '')}
