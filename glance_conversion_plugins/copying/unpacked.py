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

"""What comes out of a package, and whether it is what it should be.

Each of these passes a stream on, and raises where it is no image.
"""

from collections.abc import Iterator
import itertools

from glance_conversion_plugins.copying import convert
from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import archives
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.formats import vhd_footer
from glance_conversion_plugins.formats import vmdk_text
from glance_conversion_plugins import units

# What stands for an image in staging has so much.
_LEAST = 4096


def limited(chunks: Iterator[bytes], most: int) -> Iterator[bytes]:
    """Pass on no more than so many bytes.

    :raises errors.TooLarge: if there are more
    """
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > most:
            raise errors.TooLarge(
                'The image is too large: in its archive there is more than '
                f'the {units.amount(most)} that are allowed.')
        yield chunk


def _beginning(chunks: Iterator[bytes], length: int) -> bytes:
    """So much of a stream, or somewhat more."""
    head = bytearray()
    while len(head) < length and (chunk := next(chunks, b'')):
        head += chunk
    return bytes(head)


def whole_file(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass on what is no archive again."""
    head = _beginning(chunks, archives.HEAD)
    archives.refuse(head)
    _see_large_enough(head)
    return itertools.chain([head], chunks)


def _see_large_enough(head: bytes) -> None:
    if len(head) < _LEAST:
        raise errors.DamagedImage(
            'The image is too small: in its archive there is less than '
            '4 KiB.')


def raw_disk(chunks: Iterator[bytes], policy: detection.Policy
            ) -> Iterator[bytes]:
    """Pass on what is a raw disk, and see to its end that it is one.

    Almost all else shows in the beginning, before anything is written.
    """
    head = _beginning(chunks, convert.BEGINNING)
    vmdk_text.explain(head)
    archives.refuse(head)
    _see_large_enough(head)
    result = detection.ResultInspector(policy)
    result.update(memoryview(head))
    is_certain = len(head) < convert.BEGINNING or not result.is_undecided
    if is_certain:
        _see_raw(result)
    return _rest(head, chunks, None if is_certain else result)


def _rest(head: bytes, chunks: Iterator[bytes],
          result: detection.ResultInspector | None) -> Iterator[bytes]:
    """Pass on all, and look at it for as long as it is not certain."""
    tail = head[-vhd_footer.SECTOR:]
    yield head
    for chunk in chunks:
        if result:
            result.update(memoryview(chunk))
            if not result.is_undecided:
                _see_raw(result)
                result = None
        tail = (tail + chunk[-vhd_footer.SECTOR:])[-vhd_footer.SECTOR:]
        yield chunk
    if result:
        _see_raw(result)
    # The last sector of a fixed VHD is none of its disk.
    if vhd_footer.is_footer(tail):
        raise inspection.mismatch('vhd', 'raw')


def _see_raw(result: detection.ResultInspector) -> None:
    if (found := result.name()) != 'raw':
        raise inspection.mismatch(found, 'raw')
