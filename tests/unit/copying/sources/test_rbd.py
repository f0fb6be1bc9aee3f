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
"""What is known of a stored image before it is read, in a Ceph in memory."""

import pytest

from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying.sources import rbd as rbd_source
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import rbd_pool
from tests.unit import clusters

BLOCK = 4096
DATA, HOLE = extent.Kind.DATA, extent.Kind.HOLE


@pytest.fixture
def source(monkeypatch):
    """16 blocks, of which 2, 3, 7 and 15 hold data."""
    cluster = clusters.in_memory(monkeypatch)
    header = clusters.create(cluster, 'image')
    header.size = 16 * BLOCK
    header.data = {at * BLOCK: b'x' * BLOCK for at in (2, 3, 7, 15)}
    opened = rbd_source.RbdSource(rbd_pool.Pool('', '', clusters.POOL),
                                  'image')
    yield opened
    opened.close()


@pytest.mark.parametrize('window', [1, 3, 4, 16, 100])
@pytest.mark.parametrize('start, length, expected', [
    (0, 16, [(0, 2, HOLE), (2, 2, DATA), (4, 3, HOLE), (7, 1, DATA),
             (8, 7, HOLE), (15, 1, DATA)]),
    (3, 5, [(3, 1, DATA), (4, 3, HOLE), (7, 1, DATA)]),
    (8, 4, [(8, 4, HOLE)]), (5, 0, [])])
def test_extents_are_the_same_in_windows(source, monkeypatch, window, start,
                                         length, expected):
    monkeypatch.setattr(rbd_source, '_WINDOW', window * BLOCK)
    found = extent.merge(source.extents(start * BLOCK, length * BLOCK))
    assert [(each.start // BLOCK, each.length // BLOCK, each.kind)
            for each in found] == expected


def test_the_first_are_known_before_the_last_are_asked_for(source,
                                                           monkeypatch):
    monkeypatch.setattr(rbd_source, '_WINDOW', 4 * BLOCK)
    found = source.extents(0, 16 * BLOCK)
    assert next(found) == extent.Extent(0, 2 * BLOCK, HOLE)
    source.interrupt()
    with pytest.raises(errors.Cancelled):
        list(found)
