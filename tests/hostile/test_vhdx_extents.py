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



"""What vhdx images store, told from their tables, for qemu does not tell."""

import pytest

from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.formats import vhdx
from tests.contract import images
from tests.hostile import build
from tests.hostile.build import MIB
from tests.hostile import path as path_

GIB = 1024 * MIB


def _extents(path):
    with path.open('rb') as f:
        layout = vhdx.layout(f, path.stat().st_size)
    return [tuple(found)[:2] for found in extent.merge(
        extent.Extent(piece.start, piece.length, extent.Kind.DATA
                      if piece.place >= 0 else extent.Kind.HOLE)
        for piece in layout.pieces(0, layout.size))
        if found.kind is extent.Kind.DATA]


def _write(path, *places):
    commands = [a for place in places for a in ('-c', f'write -P 1 {place}')]
    images.run('qemu-io', '-f', 'vhdx', *commands, path)


def test_empty_image_stores_nothing(tmp_path):
    assert _extents(build.create('vhdx', '1T')(tmp_path)) == []


def test_neighbours_are_joined_and_the_last_block_is_cut(tmp_path):
    path = build.create('vhdx', 20 * MIB + 512, 'block_size=1M')(tmp_path)
    _write(path, '0 512', '3M 2M', '5M 4k', f'{20 * MIB} 512')
    assert _extents(path) == [(0, MIB), (3 * MIB, 3 * MIB),
                              (20 * MIB, 512)]


def test_blocks_beyond_the_first_chunk(tmp_path):
    """The table has an entry between them that is none of a block."""
    path = build.create('vhdx', '20G', 'block_size=1M')(tmp_path)
    _write(path, '4095M 2M', '8191M 2M', '19G 1k')
    assert _extents(path) == [(4095 * MIB, 2 * MIB), (8191 * MIB, 2 * MIB),
                              (19 * GIB, MIB)]


@pytest.mark.parametrize('options', [
    ('block_size=1M',), ('block_size=32M',), ('subformat=fixed',)])
def test_all_else_is_zeros(tmp_path, options):
    path = tmp_path / 'disk'
    path.write_bytes(build.image('vhdx', *options, size=70 * MIB + 512))
    assert path_.reference(path, 'vhdx', tmp_path / 'raw')
    content = bytearray((tmp_path / 'raw').read_bytes())
    at = 0
    for start, length in _extents(path):
        assert at <= start and length > 0
        at = start + length
        content[start:at] = bytes(length)
    assert at <= len(content)
    assert not any(content)
