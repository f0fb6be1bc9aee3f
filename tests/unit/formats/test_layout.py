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

import random

import pytest

from glance_conversion_plugins.formats import layout as layout_


def _layout(*pieces):
    made = layout_.Layout()
    for length, place in pieces:
        made.add(length, place)
    return made


def _places(layout, size):
    """For each byte where it is."""
    found = []
    for piece in layout.pieces(0, size):
        assert piece.start == len(found)
        found += [piece.place + n if piece.place >= 0 else piece.place
                  for n in range(piece.length)]
    return found


def test_every_byte_has_its_place():
    layout = _layout((2, 100), (3, layout_.HOLE), (1, layout_.ENCODED),
                     (2, 50), (2, layout_.ZEROS))
    assert layout.size == 10
    assert _places(layout, 10) == [100, 101, -1, -1, -1, -3, 50, 51, -2, -2]


@pytest.mark.parametrize('seed', range(20))
def test_a_range_is_a_part_of_all(seed):
    rng = random.Random(seed)       # noqa: S311
    layout = _layout(*((rng.randint(1, 5), rng.choice(
        [layout_.HOLE, layout_.ZEROS, layout_.ENCODED, 7, 100, 1 << 40]))
        for _ in range(30)))
    places = _places(layout, layout.size)
    for start in range(layout.size):
        for end in range(start, layout.size + 1):
            found = [*layout.pieces(start, end - start)]
            assert sum(piece.length for piece in found) == end - start
            for piece in found:
                assert piece.place == places[piece.start]
                assert piece.length > 0


@pytest.mark.parametrize('place', [layout_.HOLE, layout_.ZEROS,
                                   layout_.ENCODED])
def test_neighbours_without_a_place_are_one(place):
    assert [*_layout((5, place), (6, place)).pieces(0, 11)] == [(0, 11, place)]


def test_neighbours_in_the_file_are_one():
    layout = _layout((5, 100), (6, 105), (1, 111), (2, 120), (2, 118))
    assert [*layout.pieces(0, 16)] == [(0, 12, 100), (12, 2, 120),
                                       (14, 2, 118)]


def test_whether_something_is_encoded():
    assert _layout((1, 5), (1, layout_.HOLE), (1, layout_.ZEROS)).is_plain
    assert not _layout((1, 5), (1, layout_.ENCODED), (1, 7)).is_plain


def test_nothing_but_its_size_is_kept_of_too_many_pieces(monkeypatch):
    monkeypatch.setattr(layout_, '_MOST', 3)
    layout = _layout((1, 5), (1, 9), (2, 2), (2, 4))
    assert layout.is_known
    layout.add(4, 20)
    layout.add(4, layout_.ENCODED)
    assert not layout.is_known
    assert layout.size == 14
    assert not layout.is_plain


@pytest.mark.parametrize('length', [0, -1])
def test_a_piece_has_a_length(length):
    with pytest.raises(ValueError):
        _layout((5, 3), (length, 8))
