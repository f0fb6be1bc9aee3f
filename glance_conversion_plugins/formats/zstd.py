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

"""Where a zstd stream ends, found without decoding it.

The layout is that of RFC 8878: frames of blocks, each of which says how long
it is and whether it is the last.
"""

_MAGIC = b'\x28\xb5\x2f\xfd'
_DICTIONARY = (0, 1, 2, 4)      # bytes of its number, by what the header says
_CONTENT_SIZE = (0, 2, 4, 8)    # bytes of it, likewise
_RLE, _RESERVED = 1, 3          # kinds of blocks


def is_complete(stream: bytes) -> bool:
    """Say whether the frames at the beginning are there up to their end.

    What follows them does not count.
    """
    at = _end_of_frame(stream, 0)
    while at and stream.startswith(_MAGIC, at):
        at = _end_of_frame(stream, at)
    return bool(at)


def _end_of_frame(stream: bytes, start: int) -> int:
    """Where a frame ends; 0 if that is beyond the end, or it is none."""
    at = start + len(_MAGIC)
    if not stream.startswith(_MAGIC, start) or len(stream) <= at:
        return 0
    descriptor = stream[at]
    single, checksum = descriptor >> 5 & 1, descriptor >> 2 & 1
    content_size = _CONTENT_SIZE[descriptor >> 6] or single
    at += 1 + (not single) + _DICTIONARY[descriptor & 3] + content_size
    last = 0
    while not last:
        if len(stream) < at + 3:
            return 0
        block = int.from_bytes(stream[at:at + 3], 'little')
        last, kind = block & 1, block >> 1 & 3
        if kind == _RESERVED:
            return 0
        at += 3 + (1 if kind == _RLE else block >> 3)
    at += 4 * checksum
    return at if at <= len(stream) else 0
