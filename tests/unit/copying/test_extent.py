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

from glance_conversion_plugins.copying import extent

DATA, ZERO, HOLE = extent.Kind.DATA, extent.Kind.ZERO, extent.Kind.HOLE


def _extents(pattern, length=1):
    """One extent for each character: A data, 0 zero, - hole."""
    kinds = {'A': DATA, '0': ZERO, '-': HOLE}
    return [extent.Extent(n * length, length, kinds[c])
            for n, c in enumerate(pattern)]


@pytest.mark.parametrize(('pattern', 'expected'), [
    ('', []),
    ('A', [(0, 1, DATA)]),
    ('AAA', [(0, 3, DATA)]),
    ('000', [(0, 3, ZERO)]),
    ('---', [(0, 3, HOLE)]),
    ('0-', [(0, 2, ZERO)]),
    ('--0--', [(0, 5, ZERO)]),
    ('A-A', [(0, 1, DATA), (1, 1, HOLE), (2, 1, DATA)]),
    ('-AA0', [(0, 1, HOLE), (1, 2, DATA), (3, 1, ZERO)]),
])
def test_merge(pattern, expected):
    assert list(extent.merge(_extents(pattern))) == expected


def test_merge_drops_what_is_empty():
    parts = [extent.Extent(0, 0, HOLE), extent.Extent(0, 2, DATA),
             extent.Extent(2, 0, HOLE), extent.Extent(2, 3, DATA)]
    assert list(extent.merge(parts)) == [(0, 5, DATA)]


def test_merge_is_lazy():
    def endless():
        at = 0
        while True:
            yield extent.Extent(at, 1, DATA if at % 2 else HOLE)
            at += 1

    merged = extent.merge(endless())
    assert [next(merged) for _ in range(2)] == [(0, 1, HOLE), (1, 1, DATA)]


@pytest.mark.parametrize('seed', range(20))
def test_merge_of_anything(seed):
    rng = random.Random(seed)  # noqa: S311
    pattern = ''.join(rng.choices('A0-', k=200))
    merged = list(extent.merge(_extents(pattern)))
    # The merged extents say of each byte whether it must be read ...
    said = ''.join(('A' if e.kind is DATA else '.') * e.length
                   for e in merged)
    assert said == pattern.replace('0', '.').replace('-', '.')
    # ... no neighbours could be joined, and only pure holes are holes.
    assert all((a.kind is DATA) != (b.kind is DATA)
               for a, b in zip(merged, merged[1:], strict=False))
    for part in merged:
        of = set(pattern[part.start:part.end])
        assert part.kind is {'A': DATA, '-': HOLE}.get(''.join(of), ZERO)


@pytest.mark.parametrize(('pattern', 'gap', 'expected'), [
    ('', 0, []),
    ('', 5, []),
    ('-0-', 9, []),
    ('A', 0, [(0, 1)]),
    # Neighbours that touch have a gap of nothing, which is less than one.
    ('AA', 0, [(0, 1), (1, 1)]),
    ('AA', 1, [(0, 2)]),
    ('A-A', 1, [(0, 1), (2, 1)]),
    ('A-A', 2, [(0, 3)]),
    ('A0-A', 2, [(0, 1), (3, 1)]),
    ('A0-A', 3, [(0, 4)]),
    ('--A-A---A--', 2, [(2, 3), (8, 1)]),
    ('--A-A---A--', 4, [(2, 7)]),
    ('A-A-A-A', 2, [(0, 7)]),
])
def test_data(pattern, gap, expected):
    assert list(extent.data(_extents(pattern), gap)) == [
        (*part, DATA) for part in expected]


def test_data_that_is_empty_is_none():
    parts = [extent.Extent(0, 0, DATA), extent.Extent(0, 5, HOLE),
             extent.Extent(5, 0, DATA), extent.Extent(5, 2, DATA),
             extent.Extent(7, 0, DATA)]
    assert list(extent.data(parts, 5)) == [(5, 2, DATA)]
    assert list(extent.data(parts, 100)) == [(5, 2, DATA)]


def test_data_is_lazy():
    def endless():
        at = 0
        while True:
            yield extent.Extent(at, 1, DATA if at % 3 == 1 else HOLE)
            at += 1

    found = extent.data(endless(), 1)
    assert [next(found) for _ in range(2)] == [(1, 1, DATA), (4, 1, DATA)]


@pytest.mark.parametrize('seed', range(20))
def test_data_of_anything(seed):
    rng = random.Random(seed)  # noqa: S311
    pattern = ''.join(rng.choices('A0-', k=300))
    gap = rng.randrange(6)
    found = list(extent.data(_extents(pattern), gap))
    kept = ''.join('x' if any(p.start <= n < p.end for p in found) else '.'
                   for n in range(len(pattern)))
    # Nothing of the data is lost, and no part begins or ends without any.
    assert all(k == 'x' for k, c in zip(kept, pattern, strict=True)
               if c == 'A')
    for part in found:
        inner = pattern[part.start:part.end].replace('-', '0')
        assert inner[0] == inner[-1] == 'A'
        assert '0' * max(gap, 1) not in inner
    assert all(b.start - a.end >= gap
               for a, b in zip(found, found[1:], strict=False))


@pytest.mark.parametrize(('start', 'length', 'expected'), [
    (0, 0, []),
    (0, 10, [(0, 10)]),
    (0, 11, [(0, 10), (10, 1)]),
    (3, 7, [(3, 7)]),
    (9, 2, [(9, 1), (10, 1)]),
    (5, 30, [(5, 5), (10, 10), (20, 10), (30, 5)]),
])
def test_split(start, length, expected):
    parts = list(extent.split(extent.Extent(start, length, ZERO), 10))
    assert [(p.start, p.length) for p in parts] == expected
    assert all(p.kind is ZERO for p in parts)


def test_end():
    assert extent.Extent(3, 4, DATA).end == 7


@pytest.mark.parametrize(('data', 'expected'), [
    (b'', True),
    (b'\0', True),
    (bytes(1 << 20), True),
    (bytes((1 << 20) - 1) + b'\1', False),
    (b'\1' + bytes((1 << 20) - 1), False),
    (bytes(4095) + b'\x80', False),
])
def test_is_zero(data, expected):
    assert extent.is_zero(memoryview(data)) is expected


def _naive_runs(data, offset, gap):
    """Byte by byte: what is data, then which gaps are left out of it."""
    grain = extent.GRAIN
    full = {(offset + n) // grain for n, byte in enumerate(data) if byte}
    runs = []
    for number in range(len(data)):
        if (offset + number) // grain not in full:
            continue
        if runs and number - runs[-1][1] < gap:
            runs[-1][1] = number + 1
        else:
            runs.append([number, number + 1])
    return [tuple(r) for r in runs]


KIB = 1024


@pytest.mark.parametrize(('data', 'offset', 'expected'), [
    (b'', 0, []),
    (b'', 3, []),
    (bytes(100), 0, []),
    (b'A' * 100, 0, [(0, 100)]),
    # Blocks are aligned in the image: the first of the view is short.
    (b'A' + bytes(8 * KIB), 4095, [(0, 1)]),
    (b'\0A' + bytes(8 * KIB), 4095, [(1, 4097)]),
    # Zeros at an end of a view are left out, however few.
    (bytes(4 * KIB) + b'A' + bytes(8 * KIB), 0, [(4 * KIB, 8 * KIB)]),
    # Of those between data it depends, wherever they begin.
    (b'A' + bytes(32 * KIB - 1) + b'A', 0, [(0, 32 * KIB + 1)]),
    (b'A' + bytes(36 * KIB - 1) + b'A', 0,
     [(0, 4 * KIB), (36 * KIB, 36 * KIB + 1)]),
    (b'A' + bytes(60 * KIB - 1) + b'A', 0,
     [(0, 4 * KIB), (60 * KIB, 60 * KIB + 1)]),
])
def test_data_runs(data, offset, expected):
    assert list(extent.data_runs(memoryview(data), offset, 32 * KIB)) == (
        expected)
    assert _naive_runs(data, offset, 32 * KIB) == expected


@pytest.mark.parametrize('gap', [4 * KIB, 5000, 8 * KIB, 20 * KIB, 32 * KIB,
                                 100_000])
@pytest.mark.parametrize('seed', range(12))
def test_data_runs_of_anything(seed, gap):
    rng = random.Random(seed)  # noqa: S311
    offset = rng.randrange(5 * gap)
    data = bytearray(rng.randrange(20 * gap) % 400_000)
    for _ in range(rng.randrange(12)):
        if data:
            at = rng.randrange(len(data))
            length = min(rng.choice([1, 5000, gap]), len(data) - at)
            data[at:at + length] = b'x' * length
    view = memoryview(bytes(data))
    runs = list(extent.data_runs(view, offset, gap))
    assert runs == _naive_runs(bytes(data), offset, gap)
    # What lies outside of the runs is zeros, whatever the model says.
    rest = bytearray(data)
    for start, stop in runs:
        assert start < stop
        rest[start:stop] = bytes(stop - start)
    assert not any(rest)
