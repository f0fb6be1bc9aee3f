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

"""Ends of zstd streams, against those that qemu writes."""

import random

import pytest

from glance_conversion_plugins.formats import zstd
from tests.contract import images

CONTENT = {
    'repeated': lambda rng: b'A' * images.BLOCK,
    'text': lambda rng: b' '.join(
        rng.choice((b'one', b'two', b'three', b'four'))
        for _ in range(images.BLOCK))[:images.BLOCK],
    'noise at the end': lambda rng: (
        b'A' * 50_000 + rng.randbytes(images.BLOCK - 50_000)),
    'blocks of each kind': lambda rng: (
        rng.randbytes(140_000) + bytes(200_000) + b'text ' * 60_000
        ).ljust(1 << 20, b'x')[:1 << 20],
}


def _stream(tmp_path, content):
    """What qemu makes of a cluster, with what follows it in the file."""
    source, path = tmp_path / 'source', tmp_path / 'disk'
    source.write_bytes(content)
    images.run('qemu-img', 'convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o',
               f'compression_type=zstd,cluster_size={len(content)}', source,
               path)
    table = images.number_at(path, images.number_at(path, 40))
    entry = images.number_at(path, table & 0x00fffffffffffe00)
    assert entry & 1 << 62
    bits = 62 - (len(content).bit_length() - 1 - 8)
    return path.read_bytes()[entry & (1 << bits) - 1:]


@pytest.mark.parametrize('kind', CONTENT)
def test_only_what_is_whole_is_complete(tmp_path, kind):
    stream = _stream(tmp_path, CONTENT[kind](random.Random(1)))  # noqa: S311
    assert zstd.is_complete(stream)
    # A stream may end with zeros of its own, as the file does.
    end = len(stream)
    while zstd.is_complete(stream[:end - 1]):
        end -= 1
    assert len(stream) - end < 512
    assert not any(stream[end:])
    for cut in (*range(1, 600), end // 2, end - 3, end):
        assert not zstd.is_complete(stream[:max(0, end - cut)])


@pytest.mark.parametrize('stream', [
    b'', b'\0' * 100, zstd._MAGIC, zstd._MAGIC + b'\x20',
    # The reserved kind of block.
    zstd._MAGIC + b'\x20\x01' + b'\x07\0\0' + b'\0' * 100])
def test_what_is_none_is_not_complete(stream):
    assert not zstd.is_complete(stream)


def test_frames_that_follow_each_other():
    # One segment of one byte, of which the only block says that it repeats.
    frame = zstd._MAGIC + b'\x20\x01' + b'\x0b\0\0' + b'A'
    assert zstd.is_complete(frame)
    assert zstd.is_complete(frame * 2 + b'rest')
    assert not zstd.is_complete((frame * 2)[:-1])


def test_a_checksum_belongs_to_it():
    frame = zstd._MAGIC + b'\x24\x01' + b'\x0b\0\0' + b'A'
    assert not zstd.is_complete(frame + b'\0\0\0')
    assert zstd.is_complete(frame + b'\0\0\0\0')
