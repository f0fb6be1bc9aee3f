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

import hashlib
import itertools
import random
import threading
import tracemalloc
import weakref

import pytest

from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying.sinks import file as file_sink
from glance_conversion_plugins.copying import upload
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import folder as folders
from glance_conversion_plugins.external import marks
from tests.contract import images
from tests.contract import memory
from tests.unit import fakes
from tests.unit import processes

M = upload.BLOCK
K = 1024

IMAGE = '11111111-2222-3333-4444-555555555555'
TASK = 'aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee'
MARK = marks.Mark(IMAGE, TASK)

# Data, a block of zeros, data that begins and ends with zeros, and an end
# that is no whole block.
CONTENT = (images.content('A', M) + bytes(M) + bytes(5) + b'B' * (M - 9)
           + bytes(4) + images.content('C', M) + bytes(2 * M) + b'D' * 777)


@pytest.fixture(autouse=True)
def no_thread_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class Stream:
    """Gives pieces, counts what it gave, and may fail at the end."""

    def __init__(self, pieces, error=None):
        self._pieces = pieces
        self._error = error
        self.given = 0      # pieces
        self.read = 0       # bytes

    def __iter__(self):
        for piece in self._pieces:
            self.given += 1
            self.read += len(piece)
            yield piece
        if self._error:
            raise self._error


class Stuck:
    """A verifier that takes nothing until it is released."""

    def __init__(self):
        self.entered = threading.Event()
        self.release = threading.Event()
        self.seen = 0

    def update(self, data):
        self.entered.set()
        assert self.release.wait(60)
        self.seen += len(data)


class Verifier:
    """A verifier that remembers all it saw."""

    def __init__(self, fail_after=None):
        self._fail_after = fail_after
        self.seen = bytearray()

    def update(self, data):
        self.seen += data
        if self._fail_after is not None and len(self.seen) > self._fail_after:
            raise ArithmeticError('no more')


def _digests(*verifiers):
    return digest.Digests(digest.DigestSpec('sha512'), verifiers)


def _no_digests():
    return digest.Digests(digest.DigestSpec(None, checksum=False))


def _cut(content, size):
    return [content[at:at + size] for at in range(0, len(content), size)]


def _cut_at_random(content, seed):
    """Cut into pieces of any size, some of them empty."""
    rng = random.Random(seed)  # noqa: S311
    at, pieces = 0, []
    while at < len(content):
        size = rng.choice([0, 1, 2, 511, 4096, 65536, 256 * K, M - 1, M,
                           M + 1, rng.randrange(3 * M)])
        pieces.append(content[at:at + size])
        at += size
    return [*pieces, b'']


def _upload(chunks, place, size=0):
    """Do it as a store does, into ``place['a']``."""
    sink = memory.MemorySink(place, 'a')
    stored = upload.upload(chunks, sink, size, _digests())
    # Nothing is there for others before its digests are known.
    assert place == {}
    sink.publish()
    return stored


def _stored(content):
    return upload.Stored(len(content), digest.Digest(
        hashlib.md5(content).hexdigest(),
        hashlib.sha512(content).hexdigest()))


# How a stream is cut

def _check_blocks(pieces):
    """Whatever the chunks were, blocks are the same."""
    content = b''.join(pieces)
    found = list(upload.blocks(pieces))
    assert [length for length, _ in found] == [
        len(block) for block in _cut(content, M)]
    for block, (_, view) in zip(_cut(content, M), found, strict=True):
        if any(block):
            assert isinstance(view, memoryview)
            assert view == block
        else:
            assert view is None


CUTS = {
    'at once': lambda content: [content],
    'small': lambda content: _cut(content, 4096),
    'of no divisor': lambda content: _cut(content, 100_003),
    'short of a block': lambda content: _cut(content, M - 1),
    'blocks': lambda content: _cut(content, M),
    'longer than a block': lambda content: _cut(content, M + 1),
    'two blocks': lambda content: _cut(content, 2 * M),
    'some blocks': lambda content: _cut(content, 3 * M + 5),
    'with empty ones': lambda content: [
        p for piece in _cut(content, 256 * K) for p in (b'', piece, b'')],
}


@pytest.mark.parametrize('cut', CUTS)
def test_blocks_do_not_depend_on_chunks(cut):
    _check_blocks(CUTS[cut](CONTENT))


@pytest.mark.parametrize('seed', range(25))
def test_blocks_of_random_chunks(seed):
    _check_blocks(_cut_at_random(CONTENT[:random.Random(  # noqa: S311
        seed).randrange(len(CONTENT))], seed))


def test_blocks_of_single_bytes():
    _check_blocks(_cut(b'A' + bytes(50_000) + b'B', 1))


def test_blocks_of_single_zeros():
    _check_blocks(_cut(bytes(50_000), 1))


@pytest.mark.parametrize('pieces', [[], [b''], [b''] * 5])
def test_no_blocks_of_nothing(pieces):
    assert list(upload.blocks(pieces)) == []


@pytest.mark.parametrize('at', [0, 1, M // 2, M - 1])
def test_one_byte_makes_a_block_data(at):
    content = bytearray(M)
    content[at] = 1
    for size in (4096, M):
        _check_blocks(_cut(bytes(content), size))


def test_blocks_are_given_as_soon_as_they_are_full():
    stream = Stream(_cut(images.content('A' * 12, M), 256 * K))
    found = upload.blocks(stream)
    for number in range(1, 13):
        next(found)
        assert stream.given == 4 * number
    assert next(found, None) is None


def test_a_block_that_comes_at_once_is_not_copied():
    chunk = b'A' * M
    (_, view), = upload.blocks([chunk])
    assert view.obj is chunk


# A stream of known size

@pytest.mark.parametrize('cut', CUTS)
def test_known_size(cut):
    place = {}
    stored = _upload(CUTS[cut](CONTENT), place, len(CONTENT))
    assert stored == _stored(CONTENT)
    assert place == {'a': CONTENT}


def test_calls_of_known_size():
    sink = fakes.FakeSink()
    upload.upload([CONTENT], sink, len(CONTENT), _digests())
    assert sink.calls == [
        ('create', len(CONTENT)), ('write', 0, M), ('zero', M, M),
        ('write', 2 * M, M), ('write', 3 * M, M), ('zero', 4 * M, M),
        ('zero', 5 * M, M), ('write', 6 * M, 777), ('seal',)]


def test_into_a_real_file(tmp_path):
    sink = file_sink.FileSink(lambda size: file_sink.Datadir(str(tmp_path)),
                              MARK, zero_block_size=4096)
    assert upload.upload(_cut(CONTENT, 100_003), sink, 0,
                         _digests()) == _stored(CONTENT)
    partial = tmp_path / folders.name_of(MARK, marks.PARTIAL)
    assert list(tmp_path.iterdir()) == [partial]
    assert partial.read_bytes() == CONTENT
    sink.publish()
    sink.hand_over()
    assert list(tmp_path.iterdir()) == [tmp_path / IMAGE]
    assert (tmp_path / IMAGE).read_bytes() == CONTENT


def test_digests_that_nobody_wants_are_none():
    stored = upload.upload([CONTENT], fakes.FakeSink(), 0, _no_digests())
    assert stored == (len(CONTENT), (None, None, None))


@pytest.mark.parametrize('size', [1, M - 1, M, M + 1, 5 * M])
@pytest.mark.parametrize('known', [True, False])
def test_digests_of_nothing_but_zeros(size, known):
    content, place = bytes(size), {}
    assert _upload(_cut(content, 256 * K), place,
                   size if known else 0) == _stored(content)
    assert place == {'a': content}


# A stream of unknown size

@pytest.mark.parametrize('seed', range(10))
def test_unknown_size(seed):
    content = CONTENT[:random.Random(seed).randrange(  # noqa: S311
        len(CONTENT))]
    place = {}
    assert _upload(_cut_at_random(content, seed), place) == _stored(content)
    assert place == {'a': content}


def test_unknown_size_that_grows_more_than_once():
    content = images.content('A0B' * 7, M) + b'C' * 5
    content += bytes(40 * M) + b'D'
    place = {}
    assert _upload(_cut(content, 256 * K), place) == _stored(content)
    assert place == {'a': content}


def _growth(size):
    """The sizes that a sink is given while a stream comes in."""
    chunk = bytes(32 * M)
    stream = itertools.chain(itertools.repeat(chunk, size // len(chunk)),
                             [bytes(size % len(chunk))])
    sink = fakes.FakeSink()
    stored = upload.upload(stream, sink, 0, _no_digests())
    assert stored.size == size
    assert sink.calls[0] == ('create', 0)
    assert sink.calls[-1] == ('seal',)
    room = 0
    for name, *arguments in sink.calls:
        if name == 'resize':
            room, = arguments
        elif name in ('write', 'zero'):
            assert sum(arguments) <= room, 'written where there is no room'
    return [c[1] for c in sink.calls if c[0] == 'resize']


@pytest.mark.parametrize(('size', 'expected'), [
    (0, [0]),
    (1, [16 * M, 1]),
    (16 * M, [16 * M, 16 * M]),
    (16 * M + 1, [16 * M, 48 * M, 16 * M + 1]),
    (48 * M, [16 * M, 48 * M, 48 * M]),
    (200 * M + 7, [16 * M, 48 * M, 112 * M, 240 * M, 200 * M + 7]),
])
def test_unknown_size_grows_by_doubled_steps_to_the_exact_size(size,
                                                               expected):
    assert _growth(size) == expected


def test_steps_of_growth_have_a_limit():
    """So that an image is never made larger than its data by far."""
    size = (16 << 30) + 1
    *grown, last = _growth(size)
    steps = [b - a for a, b in itertools.pairwise([0, *grown])]
    assert steps == [(16 << n) * M for n in range(10)] + [8 << 30]
    assert last == size


@pytest.mark.parametrize('pieces', [[], [b''], [b'', b'']])
def test_nothing_of_unknown_size_is_an_empty_image(pieces):
    place = {}
    assert _upload(pieces, place) == _stored(b'')
    assert place == {'a': b''}


# A stream of another size than was announced

@pytest.mark.parametrize('pieces', [[], [b''], [b'', b'']])
def test_nothing_of_known_size_is_refused(pieces):
    sink = fakes.FakeSink()
    with pytest.raises(errors.WrongSize, match='expected 5 bytes, got 0'):
        upload.upload(pieces, sink, 5, _digests())
    assert sink.names() == ['create']


@pytest.mark.parametrize('chunk', [b'A' * 256 * K, bytes(256 * K)],
                         ids=['data', 'zeros'])
@pytest.mark.parametrize('size', [1, 256 * K, M, 3 * M - 1, 3 * M])
def test_a_stream_that_is_too_long_is_read_no_further(size, chunk):
    sink, stream = fakes.FakeSink(), Stream(itertools.repeat(chunk))
    with pytest.raises(errors.WrongSize, match='exceeds'):
        upload.upload(stream, sink, size, _digests())
    assert stream.given == size // len(chunk) + 1
    assert 'seal' not in sink.names()
    # Nothing lies beyond the end that was announced.
    assert all(sum(c[1:]) <= size for c in sink.calls
               if c[0] in ('write', 'zero'))


def test_a_stream_that_is_too_long_by_one_byte_at_its_end():
    sink = fakes.FakeSink()
    with pytest.raises(errors.WrongSize, match='exceeds'):
        upload.upload([CONTENT, b'', b'\0'], sink, len(CONTENT), _digests())
    assert 'seal' not in sink.names()


@pytest.mark.parametrize('cut', CUTS)
def test_a_stream_that_is_too_short(cut):
    place = {}
    with pytest.raises(errors.WrongSize, match='mismatch'):
        upload.upload(CUTS[cut](CONTENT), memory.MemorySink(place, 'a'),
                      len(CONTENT) + 1, _digests())
    assert place == {}


# What fails. The fixture sees to it that the threads of digests end.

@pytest.mark.parametrize('size', [0, 8 * M])
@pytest.mark.parametrize('given', [0, 1, 4, 6])
def test_an_error_of_the_stream_is_raised(given, size):
    error, sink = ConnectionResetError('gone'), fakes.FakeSink()
    stream = Stream([b'A' * M] * given, error)
    with pytest.raises(ConnectionResetError) as caught:
        upload.upload(stream, sink, size, _digests())
    assert caught.value is error
    assert sink.names().count('write') == given
    # To seal is not its business any more, the rest never was.
    assert not {'seal', 'publish', 'hand_over', 'release',
                'abort'} & set(sink.names())


@pytest.mark.parametrize('call', ['create', 'write', 'zero', 'resize',
                                  'seal'])
def test_an_error_of_the_sink_is_raised(call):
    error = errors.StoreFull('full')
    sink = fakes.FakeSink(fail_at={call: error})
    if call == 'write':
        def fail(offset):
            raise error
        sink = fakes.FakeSink(before_write=fail)
    stream = Stream(_cut(CONTENT, M))
    with pytest.raises(errors.StoreFull) as caught:
        upload.upload(stream, sink, 0, _digests())
    assert caught.value is error
    assert stream.given == {'create': 0, 'write': 1, 'zero': 2, 'resize': 1,
                            'seal': 7}[call]
    assert not {'publish', 'abort'} & set(sink.names())


def test_an_error_of_the_last_resize_is_raised():
    class Sink(fakes.FakeSink):
        def resize(self, size):
            super().resize(size)
            if size == len(CONTENT):
                raise errors.SinkFailed('not so')

    sink = Sink()
    with pytest.raises(errors.SinkFailed):
        upload.upload([CONTENT], sink, 0, _digests())
    assert 'seal' not in sink.names()


@pytest.mark.parametrize('fail_after', [0, 2 * M, 7 * M - 1])
def test_an_error_of_a_verifier_is_raised_before_the_seal(fail_after):
    content = images.content('A0BC00D', M)
    sink = fakes.FakeSink()
    with pytest.raises(ArithmeticError):
        upload.upload(_cut(content, M), sink, len(content),
                      _digests(Verifier(fail_after)))
    assert 'seal' not in sink.names()


def test_an_error_while_digests_wait_for_room():
    """The queues are full, and nobody waits for them for ever."""
    stuck = Stuck()
    timer = threading.Timer(0.1, stuck.release.set)

    def pieces():
        # One block is in the works, and as many wait as can.
        yield b'A' * M * 17
        timer.start()
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        upload.upload(pieces(), fakes.FakeSink(), 0, _digests(stuck))
    timer.join(60)
    # What was queued is dropped, not digested.
    assert stuck.seen == M


# What verifiers see, and what memory is needed

@pytest.mark.parametrize('size', [0, len(CONTENT)])
@pytest.mark.parametrize('cut', CUTS)
def test_verifiers_see_every_byte_in_order(cut, size):
    first, second = Verifier(), Verifier()
    stored = upload.upload(CUTS[cut](CONTENT), fakes.FakeSink(), size,
                           _digests(first, second))
    assert first.seen == second.seen == CONTENT
    assert stored == _stored(CONTENT)


@pytest.mark.parametrize('chunk', [b'A' * 256 * K, b'A' * 4 * M,
                                   bytes(256 * K)],
                         ids=['data', 'large', 'zeros'])
def test_a_slow_digest_holds_up_the_stream(chunk):
    stuck, total = Stuck(), 128 * M
    stream = Stream(itertools.repeat(chunk, total // len(chunk)))
    uploading = threading.Thread(target=upload.upload, args=(
        stream, fakes.FakeSink(), total,
        digest.Digests(digest.DigestSpec(None, checksum=False), [stuck])))
    uploading.start()
    try:
        assert stuck.entered.wait(60)
        processes.wait_for(lambda: stream.read >= 16 * M, 'the stream')
        # Long enough for all of it, if nothing held it up.
        uploading.join(0.5)
        assert stream.read <= 40 * M
    finally:
        stuck.release.set()
        uploading.join(60)
    assert stream.read == stuck.seen == total


def test_chunks_are_freed_once_they_are_written():
    class Chunk(bytearray):
        """One that can be watched."""

    given, alive = [], []

    def pieces():
        for _ in range(400):
            chunk = Chunk(b'A' * 256 * K)
            given.append(weakref.ref(chunk))
            yield chunk
            alive.append(sum(ref() is not None for ref in given))

    upload.upload(pieces(), fakes.FakeSink(), 0, _no_digests())
    assert len(alive) == 400
    # Those of one block, and those of the next.
    assert max(alive) <= 8


@pytest.mark.parametrize('size', [1, 7, 64])
def test_small_chunks_need_little_memory(size):
    """A client that sends few bytes at a time takes no more than others."""
    content = random.Random(1).randbytes(M // 8)  # noqa: S311
    pieces = (content[at:at + size] for at in range(0, len(content), size))
    tracemalloc.start()
    try:
        (_, view), = upload.blocks(pieces)
        assert view == content
        assert tracemalloc.get_traced_memory()[1] < 3 * M
    finally:
        tracemalloc.stop()
