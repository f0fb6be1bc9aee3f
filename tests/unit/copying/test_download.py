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

import os
import random
import threading
from typing import NamedTuple

import pytest

from glance_conversion_plugins.copying import download
from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying.sources import file as file_source
from glance_conversion_plugins import errors
from tests.contract import checks
from tests.contract import images
from tests.unit import fakes
from tests.unit import processes

B = images.BLOCK
K = 1024
GAP = 256 * K       # neighbours that are nearer are read at once

AHEADS = [0, 1, 2, 5]

_KINDS = {'0': extent.Kind.ZERO, '-': extent.Kind.HOLE}


@pytest.fixture(autouse=True)
def no_thread_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class Read(NamedTuple):
    """What was asked of a source."""

    offset: int
    length: int


class Recording:
    """An image in memory that notes what is read of it."""

    def __init__(self, pattern, block=B, before_read=None):
        """Describe an image, as in tests/contract/images.py.

        :param before_read: called with each offset before it is read
        """
        self.content = images.content(pattern, block)
        self.size = len(self.content)
        self._extents = [
            extent.Extent(number * block, block,
                          _KINDS.get(char, extent.Kind.DATA))
            for number, char in enumerate(pattern)]
        self._before_read = before_read
        self._lock = threading.Lock()
        self.reads = []
        self.under_way = 0
        self.opened = self.closed = 0

    def open(self):
        self.opened += 1
        return self

    def extents(self, start, length):
        assert self.opened > self.closed
        assert 0 <= start <= start + length <= self.size
        for each in self._extents:
            first = max(each.start, start)
            last = min(each.end, start + length)
            if first < last:
                yield extent.Extent(first, last - first, each.kind)

    def read(self, offset, length):
        with self._lock:
            self.reads.append(Read(offset, length))
            self.under_way += 1
        try:
            assert self.opened > self.closed
            if self._before_read:
                self._before_read(offset)
            return self.content[offset:offset + length]
        finally:
            with self._lock:
                self.under_way -= 1

    def close(self):
        assert not self.under_way, 'closed while it is read'
        self.closed += 1


def _download(source, offset=0, length=None, chunk_size=B, ahead=0):
    return download.Download(source.open, offset, length, chunk_size, ahead)


def _check_pieces(pieces, expected, chunk_size):
    assert b''.join(pieces) == expected
    assert all(isinstance(piece, bytes) for piece in pieces)
    assert [len(piece) for piece in pieces] == [
        min(chunk_size, len(expected) - at)
        for at in range(0, len(expected), chunk_size)]


# Content

@pytest.fixture(scope='module')
def sparse_file(tmp_path_factory):
    """A file with holes, and data that begins and ends anywhere."""
    path = tmp_path_factory.mktemp('download') / 'disk.raw'
    images.raw(path, checks.PATTERN)
    images.patch(path, 30 * B + 12_345, b'in the hole')
    images.patch(path, 33 * B - 3, b'across')
    with open(path, 'ab') as f:
        f.write(b'an end that is no whole sector')
    content = path.read_bytes()
    assert os.stat(path).st_blocks * 512 < len(content) - 20 * B
    return str(path), content


@pytest.mark.parametrize('ahead', AHEADS)
@pytest.mark.parametrize('seed', range(15))
def test_any_range_of_a_sparse_file(sparse_file, ahead, seed):
    path, content = sparse_file
    rng = random.Random(seed)  # noqa: S311
    for _ in range(4):
        offset = rng.choice([0, rng.randrange(len(content))])
        length = rng.choice([None, rng.randrange(1, len(content)), 1])
        chunk_size = rng.choice([4096, B, 256 * K, 1 << 20, 8 << 20,
                                 rng.randrange(1000, 10 * B)])
        expected = content[offset:][:length]
        pieces = list(download.Download(
            lambda: file_source.FileSource(path), offset, length, chunk_size,
            ahead))
        _check_pieces(pieces, expected, chunk_size)


@pytest.mark.parametrize('ahead', AHEADS)
def test_pieces_of_single_bytes(sparse_file, ahead):
    path, content = sparse_file
    pieces = list(download.Download(
        lambda: file_source.FileSource(path), B - 20, 40, 1, ahead))
    _check_pieces(pieces, content[B - 20:B + 20], 1)


@pytest.mark.parametrize('ahead', AHEADS)
@pytest.mark.parametrize('seed', range(20))
def test_any_range_of_any_extents(ahead, seed):
    """Also where extents are much smaller than pieces."""
    rng = random.Random(seed)  # noqa: S311
    pattern = ''.join(rng.choices('AB0-', k=rng.randint(1, 200)))
    source = Recording(pattern, block=rng.choice([1, 5, 4096, 70_000]))
    offset = rng.choice([0, rng.randrange(source.size)])
    length = rng.choice([None, 1, rng.randint(1, source.size + 5)])
    chunk_size = rng.randint(source.size // 50 + 1, source.size + 5)
    _check_pieces(list(_download(source, offset, length, chunk_size, ahead)),
                  source.content[offset:][:length], chunk_size)
    assert source.closed == 1


@pytest.mark.parametrize('ahead', AHEADS)
@pytest.mark.parametrize('offset', [0, 1, 100])
def test_nothing_of_an_empty_image(ahead, offset):
    source = Recording('')
    assert list(_download(source, offset, ahead=ahead)) == []
    assert list(_download(source, offset, 10, ahead=ahead)) == []
    assert source.reads == []
    assert source.closed == 2


@pytest.mark.parametrize('ahead', AHEADS)
@pytest.mark.parametrize('offset', [3 * B, 3 * B + 1, 1 << 60])
@pytest.mark.parametrize('length', [None, 1, 10 * B])
def test_nothing_from_the_end_on(ahead, offset, length):
    source = Recording('A-B')
    assert list(_download(source, offset, length, ahead=ahead)) == []
    assert source.reads == []
    assert source.closed == 1


@pytest.mark.parametrize('ahead', AHEADS)
def test_a_range_that_ends_beyond_the_image(ahead):
    source = Recording('A-B')
    assert b''.join(_download(source, 2 * B - 5, 1 << 60,
                              ahead=ahead)) == bytes(5) + b'B' * B


@pytest.mark.parametrize('ahead', AHEADS)
def test_no_length_is_nothing(ahead):
    source = Recording('ABC')
    assert list(_download(source, B, 0, ahead=ahead)) == []
    assert source.reads == []


# What is read

@pytest.mark.parametrize('ahead', AHEADS)
@pytest.mark.parametrize('chunk_size', [70, 100, 640, 10_000])
def test_holes_are_not_read(ahead, chunk_size):
    """Only those that are too small to be worth two requests are."""
    source = Recording('-A---B0-0C--D---EF0-', block=100 * K)
    list(_download(source, chunk_size=chunk_size * K, ahead=ahead))
    blocks = [at // 100 for read in source.reads for at in range(
        read.offset // K, (read.offset + read.length) // K)]
    # Gaps of three blocks are left out, that of two is not; nothing is read
    # twice.
    assert ''.join('x' if n in blocks else '.' for n in range(20)) == (
        '.x...x...xxxx...xx..')
    assert len(blocks) == 8 * 100


@pytest.mark.parametrize('ahead', AHEADS)
def test_an_image_of_holes_is_not_read_at_all(ahead):
    source = Recording('-0' * 50)
    assert not any(b''.join(_download(source, chunk_size=3 * B,
                                      ahead=ahead)))
    assert source.reads == []


@pytest.mark.parametrize(('gap', 'expected'), [
    (1, [Read(0, 65 * K + 64 * K)]),
    (128, [Read(0, 256 * K)]),
    (255, [Read(0, 383 * K)]),
    (256, [Read(0, 64 * K), Read(320 * K, 64 * K)]),
    (300, [Read(0, 64 * K), Read(364 * K, 64 * K)]),
])
@pytest.mark.parametrize('hole', ['-', '0'])
def test_neighbours_are_read_at_once_if_they_are_near(gap, expected, hole):
    source = Recording('A' * 64 + hole * gap + 'B' * 64, block=K)
    piece, = _download(source, chunk_size=1 << 20)
    assert piece == source.content
    assert source.reads == expected


def test_the_limit_of_a_gap_is_exact():
    for gap, count in ((GAP - 1, 1), (GAP, 2)):
        source = Recording('')
        source.content = b'A' + bytes(gap) + b'B'
        source.size = gap + 2
        source._extents = [extent.Extent(0, 1, extent.Kind.DATA),
                           extent.Extent(1, gap, extent.Kind.HOLE),
                           extent.Extent(gap + 1, 1, extent.Kind.DATA)]
        piece, = _download(source, chunk_size=1 << 20)
        assert piece == source.content
        assert len(source.reads) == count


def test_a_piece_of_data_is_one_read():
    source = Recording('ABCDEFGH')
    list(_download(source, chunk_size=4 * B))
    assert source.reads == [Read(0, 4 * B), Read(4 * B, 4 * B)]


def test_no_more_is_read_than_the_range():
    source = Recording('ABC')
    assert b''.join(_download(source, B - 3, B + 5, chunk_size=B)) == (
        source.content[B - 3:2 * B + 2])
    assert source.reads == [Read(B - 3, B), Read(2 * B - 3, 5)]


def test_data_of_a_piece_is_not_copied():
    class Source(Recording):
        def read(self, offset, length):
            self.given = super().read(offset, length)
            return self.given

    source = Source('A')
    piece, = _download(source)
    assert piece is source.given


@pytest.mark.parametrize('ahead', AHEADS)
def test_pieces_of_zeros_are_one_object(ahead):
    """They take no memory, however many of them wait to be sent."""
    source = Recording('A' + '-' * 20 + 'B' + '0' * 20)
    pieces = list(_download(source, chunk_size=B, ahead=ahead))
    zeros = [piece for piece in pieces if not any(piece)]
    assert len(zeros) == 40
    assert len({id(piece) for piece in zeros}) == 1


# Reading ahead

@pytest.mark.parametrize('ahead', AHEADS)
def test_ahead_is_how_many_pieces_are_read_meanwhile(ahead):
    source = Recording('A' * 20)
    pieces = iter(_download(source, ahead=ahead))
    for number in range(1, 21):
        next(pieces)
        # That many are read although nobody asks for them, and no more.
        expected = min(number + ahead, 20)
        processes.wait_for(
            lambda expected=expected: len(source.reads) >= expected, 'reads')
        assert len(source.reads) == expected
    assert next(pieces, None) is None


@pytest.mark.parametrize('ahead', AHEADS)
def test_holes_count_as_pieces_too(ahead):
    source = Recording('A' + '-' * 10 + 'B' * 10)
    pieces = iter(_download(source, ahead=ahead))
    for number in range(1, 22):
        next(pieces)
        assert len(source.reads) <= 1 + max(0, number + ahead - 11)
    assert b''.join(pieces) == b''


@pytest.mark.parametrize('ahead', [1, 2, 5])
def test_pieces_are_read_at_the_same_time(ahead):
    # Each read waits for so many others; alone it would wait for ever.
    together = threading.Barrier(ahead)

    def before_read(offset):
        if offset < ahead * B:
            together.wait(60)

    source = Recording('ABCDEFGH', before_read=before_read)
    assert b''.join(_download(source, ahead=ahead)) == source.content


@pytest.mark.parametrize('ahead', [2, 5])
def test_pieces_come_in_order_whichever_is_read_first(ahead):
    source = Recording('ABCDEFGH', before_read=fakes.first_comes_last())
    assert b''.join(_download(source, ahead=ahead)) == source.content


def test_nothing_is_read_ahead_by_another_thread_unless_asked_for():
    threads = set()
    source = Recording('AB', before_read=lambda offset: threads.add(
        threading.current_thread()))
    list(_download(source))
    assert threads == {threading.current_thread()}


# Beginning and end

@pytest.mark.parametrize('ahead', AHEADS)
def test_nothing_is_opened_before_it_is_iterated(ahead):
    source = Recording('AB')
    found = _download(source, ahead=ahead)
    assert (source.opened, source.reads) == (0, [])
    pieces = iter(found)
    assert (source.opened, source.reads) == (0, [])
    next(pieces)
    assert source.opened == 1
    pieces.close()


@pytest.mark.parametrize('ahead', AHEADS)
def test_is_closed_at_the_end(ahead):
    source = Recording('A-B')
    pieces = iter(_download(source, ahead=ahead))
    for _ in range(3):
        next(pieces)
        assert not source.closed
    assert next(pieces, None) is None
    assert source.closed == 1


@pytest.mark.parametrize('ahead', AHEADS)
def test_may_be_iterated_twice(ahead, sparse_file):
    path, content = sparse_file
    opened = []

    def open_source():
        opened.append(path)
        return file_source.FileSource(path)

    found = download.Download(open_source, 0, None, 256 * K, ahead)
    assert b''.join(found) == b''.join(found) == content
    assert len(opened) == 2


@pytest.mark.parametrize('ahead', AHEADS)
def test_two_may_be_iterated_at_the_same_time(ahead, sparse_file):
    path, content = sparse_file
    found = download.Download(lambda: file_source.FileSource(path), 0, None,
                              256 * K, ahead)
    pairs = list(zip(found, found, strict=True))
    assert all(a == b for a, b in pairs)
    assert b''.join(a for a, _ in pairs) == content


@pytest.mark.parametrize('ahead', AHEADS)
@pytest.mark.parametrize('count', [1, 2, 7])
def test_is_closed_when_the_reader_leaves(ahead, count):
    source = Recording('AB-CDEFGHIJKLMNOPQRSTU')
    pieces = iter(_download(source, ahead=ahead))
    for _ in range(count):
        next(pieces)
    pieces.close()
    assert source.closed == 1
    assert len(source.reads) <= count + ahead
    reads = len(source.reads)
    assert next(pieces, None) is None
    assert len(source.reads) == reads


@pytest.mark.parametrize('ahead', [1, 2, 5])
def test_is_closed_when_reads_under_way_have_ended(ahead):
    """Else they would read from a descriptor of somebody else."""
    going_on, release = threading.Event(), threading.Event()

    def before_read(offset):
        if offset:
            going_on.set()
            assert release.wait(60)

    source = Recording('ABCDEFGH', before_read=before_read)
    pieces = iter(_download(source, ahead=ahead))
    next(pieces)
    assert going_on.wait(60)
    timer = threading.Timer(0.1, release.set)
    timer.start()
    pieces.close()
    timer.join(60)
    assert source.closed == 1
    assert not source.under_way


@pytest.mark.parametrize('ahead', AHEADS)
def test_no_descriptor_is_left(sparse_file, ahead):
    before = len(os.listdir('/proc/self/fd'))
    found = download.Download(
        lambda: file_source.FileSource(sparse_file[0]), 0, None, B, ahead)
    list(found)
    pieces = iter(found)
    next(pieces)
    pieces.close()
    assert len(os.listdir('/proc/self/fd')) == before


# Errors

ERROR = errors.SourceFailed('no more')


@pytest.mark.parametrize('ahead', AHEADS)
@pytest.mark.parametrize('at', [0, 3, 9])
def test_an_error_of_a_read_arrives_in_its_place(ahead, at):
    def before_read(offset):
        if offset == at * B:
            raise ERROR

    source = Recording('ABCDEFGHIJ', before_read=before_read)
    pieces, found = iter(_download(source, ahead=ahead)), []
    with pytest.raises(errors.SourceFailed) as caught:
        for piece in pieces:
            found.append(piece)
    assert caught.value is ERROR
    # All that comes before the error is as good as ever.
    assert b''.join(found) == source.content[:at * B]
    assert source.closed == 1
    assert len(source.reads) <= at + 1 + ahead
    assert next(pieces, None) is None


@pytest.mark.parametrize('ahead', AHEADS)
def test_an_error_of_extents_arrives(ahead):
    class Source(Recording):
        def extents(self, start, length):
            yield extent.Extent(0, B, extent.Kind.DATA)
            raise ERROR

    source = Source('AB')
    with pytest.raises(errors.SourceFailed) as caught:
        list(_download(source, ahead=ahead))
    assert caught.value is ERROR
    assert source.closed == 1


@pytest.mark.parametrize('ahead', AHEADS)
def test_an_error_of_opening_arrives(ahead):
    def open_source():
        raise ERROR

    with pytest.raises(errors.SourceFailed) as caught:
        list(download.Download(open_source, 0, None, B, ahead))
    assert caught.value is ERROR


@pytest.mark.parametrize('ahead', AHEADS)
@pytest.mark.parametrize('pattern', ['A' * 40, 'A--------' * 5],
                         ids=['full', 'sparse'])
def test_a_file_that_becomes_shorter_is_an_error(tmp_path, ahead, pattern):
    """And not an image that ends in zeros."""
    path = images.raw(tmp_path / 'disk.raw', pattern)
    pieces = iter(download.Download(
        lambda: file_source.FileSource(path), 0, None, B, ahead))
    next(pieces)
    os.truncate(path, 19 * B)
    with pytest.raises(errors.SourceFailed):
        list(pieces)
