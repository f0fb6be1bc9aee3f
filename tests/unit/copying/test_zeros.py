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

import contextlib
import itertools
import os
import random
import subprocess
import threading

import pytest

from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying.sources import file as file_source
from glance_conversion_plugins.copying import zeros as zeros_
from glance_conversion_plugins import errors
from tests.contract import images

B = images.BLOCK
M = 1 << 20

BLOCKS = [4096, B]

# What ext4 counts files in, so that its holes are of whole ones.
PAGE = 4096


@contextlib.contextmanager
def _opened(path):
    source = file_source.FileSource(str(path))
    try:
        yield source
    finally:
        source.close()


def _joined(zeros):
    """Neighbours as one, in (start, end) pairs."""
    joined = []
    for zero in zeros:
        assert zero.kind is extent.Kind.ZERO
        if joined and joined[-1][1] == zero.start:
            joined[-1] = joined[-1][0], zero.end
        else:
            joined.append((zero.start, zero.end))
    return joined


def _found(path, block, progress=None):
    """The zeros that are stored."""
    with _opened(path) as source:
        return _joined(zeros_.stored_zeros(
            source, block, progress or progress_.Progress()))


def _punch(path, block=4096, progress=None):
    with _opened(path) as source:
        zeros_.punch(str(path), source, block,
                       progress or progress_.Progress())


def _room(path):
    """What a file takes on the disk, in bytes; written back first."""
    subprocess.run(['sync', str(path)], check=True)
    return os.stat(path).st_blocks * 512


def _data(path):
    """What is not a hole, in (start, end) pairs."""
    with _opened(path) as source:
        return [(part.start, part.end)
                for part in source.extents(0, source.size)
                if part.kind is extent.Kind.DATA]


def _expected(path, gap):
    """Pages of zeros in a row, at an end of what is read or enough of them."""
    content, zeros = path.read_bytes(), []
    for run in _data(path):
        for part in extent.split(extent.Extent(
                run[0], run[1] - run[0], extent.Kind.DATA), M):
            pages = [(page.start, page.end)
                     for page in extent.split(part, PAGE)]
            for is_zero, found in itertools.groupby(
                    pages, lambda page: not any(content[slice(*page)])):
                (start, _), *_, (_, end) = [*found] * 2
                if is_zero and (end - start >= gap or start == part.start
                                or end == part.end):
                    zeros.append(extent.Extent(start, end - start,
                                               extent.Kind.ZERO))
    return _joined(zeros)


def _random_file(path, seed):
    """Data, stored zeros at odd offsets and holes; of an odd size."""
    rng = random.Random(seed)  # noqa: S311
    size = rng.randrange(1, 5 * M)
    with open(path, 'wb') as f:
        f.truncate(size)
        for _ in range(rng.randrange(1, 12)):
            at = rng.randrange(size)
            length = min(rng.choice([1, 100, 5000, B, 300_001, M]),
                         size - at)
            f.seek(at)
            f.write(bytes(length) if rng.random() < 0.6
                    else rng.randbytes(length))
    return path


# What is found

@pytest.mark.parametrize('block', BLOCKS)
@pytest.mark.parametrize('seed', range(20))
def test_finds_zeros_that_are_stored(tmp_path, block, seed):
    path = _random_file(tmp_path / 'disk.raw', seed)
    assert _found(path, block) == _expected(path, block)


@pytest.mark.parametrize('gap', BLOCKS)
def test_zeros_at_odd_offsets_count_in_whole_pages(tmp_path, gap):
    path = tmp_path / 'disk.raw'
    path.write_bytes(b'A' * 10_000 + bytes(M - 10_001) + b'B')
    assert _found(path, gap) == [(3 * PAGE, M - PAGE)]


@pytest.mark.parametrize(('zeros', 'expected'), [
    (B - PAGE, []), (B, [(2 * PAGE, 2 * PAGE + B)])])
def test_few_zeros_between_data_are_left(tmp_path, zeros, expected):
    path = tmp_path / 'disk.raw'
    path.write_bytes(b'A' * 2 * PAGE + bytes(zeros) + b'B' * PAGE)
    assert _found(path, B) == expected


@pytest.mark.parametrize('block', BLOCKS)
@pytest.mark.parametrize('size', [1, 511, 4096, 4097, M, M + 1, 3 * M - 1])
def test_a_file_of_stored_zeros_is_found_to_its_last_byte(tmp_path, block,
                                                          size):
    path = tmp_path / 'disk.raw'
    path.write_bytes(bytes(size))
    assert _found(path, block) == [(0, size)]


@pytest.mark.parametrize('block', BLOCKS)
def test_holes_are_not_found_again(tmp_path, block):
    path = images.raw(tmp_path / 'disk.raw', '---A0-0B-00--')
    assert _found(path, block) == [
        (4 * B, 5 * B), (6 * B, 7 * B), (9 * B, 11 * B)]


@pytest.mark.parametrize('pattern', ['', '-' * 100, 'ABC' * 10, 'A-B-'])
def test_nothing_to_find(tmp_path, pattern):
    path = images.raw(tmp_path / 'disk.raw', pattern)
    assert _found(path, 4096) == []


def test_extents_found_are_in_order_and_no_larger_than_what_is_read(
        tmp_path):
    """So that a thread that punches them is never busy for long."""
    path = images.raw(tmp_path / 'disk.raw', '0' * 100 + 'A' + '0' * 100)
    with _opened(path) as source:
        found = list(zeros_.stored_zeros(source, B, progress_.Progress()))
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))
    assert max(part.length for part in found) <= M


@pytest.mark.parametrize('pattern', ['', '-' * 50, 'A' * 50, '0' * 50,
                                     'A0-' * 20, '--A0B--'])
@pytest.mark.parametrize('end', ['data', 'hole'])
def test_progress_reaches_its_total(tmp_path, pattern, end):
    path = images.raw(tmp_path / 'disk.raw', pattern)
    size = len(pattern) * B + 777
    with open(path, 'ab') as f:
        if end == 'data':
            f.write(bytes(777))
        f.truncate(size)
    for run in (_found, _punch):
        progress = progress_.Progress()
        run(path, 4096, progress=progress)
        assert progress.position()[0] == size
        assert str(progress).startswith('Looking for zeros: 100% ')


def test_progress_never_goes_back_and_is_told_meanwhile(tmp_path):
    path = images.raw(tmp_path / 'disk.raw', 'A' * 32 + '-' * 16 + '0' * 80)
    progress, seen = progress_.Progress(), []
    with _opened(path) as source:
        for _ in zeros_.stored_zeros(source, B, progress):
            seen.append(progress.position()[0])
    assert seen == sorted(seen)
    assert len(set(seen)) > 2
    assert seen[-1] < source.size


# What is punched

@pytest.mark.parametrize('block', BLOCKS)
def test_zeros_become_holes(tmp_path, block):
    path = images.raw(tmp_path / 'disk.raw', 'A' + '0' * 60 + 'B0' + 'C')
    before, content = _room(path), images.content('A' + '0' * 60 + 'B0C')
    progress = progress_.Progress()
    _punch(path, block, progress)
    assert before - _room(path) == 61 * B
    assert _data(path) == [(0, B), (61 * B, 62 * B), (63 * B, 64 * B)]
    assert progress.written == 61 * B
    with open(path, 'rb') as f:
        assert f.read() == content


@pytest.mark.parametrize('block', BLOCKS)
@pytest.mark.parametrize('seed', range(15))
def test_content_and_size_stay_as_they_were(tmp_path, block, seed):
    path = _random_file(tmp_path / 'disk.raw', seed)
    content, before = path.read_bytes(), _room(path)
    zeros = _expected(path, block)
    _punch(path, block)
    assert path.read_bytes() == content
    assert _room(path) <= before
    # Of whole pages nothing is left; those of the last piece may stay.
    for start, end in zeros:
        start, end = -(-start // PAGE) * PAGE, end // PAGE * PAGE
        assert not [part for part in _data(path)
                    if part[0] < end and start < part[1]]


def test_a_second_time_there_is_nothing_to_do(tmp_path):
    path = images.raw(tmp_path / 'disk.raw', 'A0B00-0C')
    _punch(path)
    room, progress = _room(path), progress_.Progress()
    assert _found(path, 4096) == []
    _punch(path, progress=progress)
    assert progress.written == 0
    assert _room(path) == room


@pytest.mark.parametrize('mode', [0o640, 0o600])
def test_it_stays_the_same_file(tmp_path, mode):
    """Whoever has it open, or has another link to it, sees the same one."""
    path = images.raw(tmp_path / 'disk.raw', 'A0B')
    os.chmod(path, mode)
    os.link(path, tmp_path / 'another')
    before = os.stat(path)
    _punch(path)
    after = os.stat(path)
    for name in ('st_ino', 'st_nlink', 'st_size', 'st_mode', 'st_uid'):
        assert getattr(after, name) == getattr(before, name)


def test_whoever_reads_meanwhile_sees_no_difference(tmp_path):
    pattern = 'A0B00C000' * 30
    path, content = tmp_path / 'disk.raw', images.content(pattern)
    done, begun = threading.Event(), threading.Event()
    passes, wrong = [], []

    def read_on():
        while not done.is_set() or not passes:
            begun.set()
            if path.read_bytes() != content:
                wrong.append(len(passes))
            passes.append(True)

    images.raw(path, pattern)
    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        assert begun.wait(60)
        for _ in range(3):
            # The same file, of the same content: zeros are stored again.
            with open(path, 'r+b') as f:
                f.write(content)
            _punch(path)
    finally:
        done.set()
        reader.join(60)
    assert passes
    assert not wrong


def test_one_that_is_half_done_has_the_same_content(tmp_path):
    """As it is found where the machine has failed meanwhile."""
    pattern = 'A' + '0' * 40 + 'B' + '0' * 40
    path = images.raw(tmp_path / 'disk.raw', pattern)

    class Failing(file_source.FileSource):
        def read(self, offset, length):
            if offset >= 42 * B:
                raise errors.SourceFailed('no more')
            return super().read(offset, length)

    source = Failing(path)
    before = _room(path)
    try:
        with pytest.raises(errors.SourceFailed):
            zeros_.punch(path, source, B, progress_.Progress())
    finally:
        source.close()
    assert 0 < _room(path) < before
    with open(path, 'rb') as f:
        assert f.read() == images.content(pattern)
    _punch(path)
    assert _room(path) == 2 * B


def test_no_descriptor_is_left(tmp_path):
    path = images.raw(tmp_path / 'disk.raw', 'A0B')
    before = len(os.listdir('/proc/self/fd'))
    _punch(path)
    assert len(os.listdir('/proc/self/fd')) == before


@pytest.fixture
def disk_without_holes(tmp_path):
    """A folder whose files are as large as they seem."""
    folder = tmp_path / 'plain'
    folder.mkdir()
    subprocess.run(['mount', '-t', 'ramfs', 'ramfs', str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(['umount', '--lazy', str(folder)], check=True)


def test_a_file_system_without_holes_is_told(disk_without_holes):
    path = disk_without_holes / 'disk.raw'
    path.write_bytes(images.content('A0B'))
    before = len(os.listdir('/proc/self/fd'))
    with pytest.raises(errors.SinkFailed, match='can not make holes'):
        _punch(path)
    assert path.read_bytes() == images.content('A0B')
    assert len(os.listdir('/proc/self/fd')) == before


def test_a_file_system_without_holes_takes_what_needs_none(
        disk_without_holes):
    path = disk_without_holes / 'disk.raw'
    path.write_bytes(images.content('ABC'))
    _punch(path)
    assert path.read_bytes() == images.content('ABC')


def test_a_file_that_may_not_be_changed(disk_without_holes):
    path = disk_without_holes / 'disk.raw'
    path.write_bytes(images.content('A0B'))
    subprocess.run(['mount', '-o', 'remount,ro', str(disk_without_holes)],
                   check=True)
    with pytest.raises(errors.SinkFailed) as caught:
        _punch(path)
    assert str(disk_without_holes) not in str(caught.value)


def test_a_file_that_was_deleted_meanwhile(tmp_path):
    path = images.raw(tmp_path / 'disk.raw', 'A0B')
    with _opened(path) as source:
        os.unlink(path)
        with pytest.raises(errors.SinkFailed) as caught:
            zeros_.punch(path, source, 4096, progress_.Progress())
    assert str(tmp_path) not in str(caught.value)
    assert os.listdir(tmp_path) == []
