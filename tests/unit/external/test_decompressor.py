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

"""What comes out of a zstd file, by way of memory that is shared."""

import contextlib
import errno
import mmap
import os
import pathlib
import subprocess
import sys
import time

import pytest

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import decompressor
from glance_conversion_plugins.external import program
from glance_conversion_plugins.external import zstd_script
from tests.contract import packages
from tests.unit import processes

MIB = 1 << 20
NOISE = os.urandom(MIB)
PIECE = zstd_script.PIECE

CONTENTS = {
    'a byte': b'A',
    'more data than is shared': NOISE * 40 + b'end',
    'zeros': bytes(MIB),
    'more zeros than are told at once': bytes(200 * MIB + 1),
    'zeros and a byte': bytes(3 * MIB) + b'A',
    'a byte and zeros': b'A' + bytes(3 * MIB),
    'gaps': b''.join(NOISE[:length] + bytes(gap) for length, gap in (
        (4096, 3 * MIB), (MIB, 1), (MIB + 1, 90 * MIB), (1, MIB - 1),
        (512, 70 * MIB))) + b'A',
}


@pytest.fixture(autouse=True)
def nothing_left():
    before = os.listdir('/proc/self/fd')
    yield
    assert processes.children('zstd') == []
    assert len(os.listdir('/proc/self/fd')) == len(before)


def _decompressed(tmp_path, data, cancel=cancel_.NEVER):
    path = tmp_path / 'image'
    path.write_bytes(data)
    return decompressor.decompress(str(path), 'zstd', 60, cancel)


@pytest.mark.parametrize('content', CONTENTS.values(), ids=CONTENTS)
def test_all_of_it_comes_in_its_place(tmp_path, content):
    data = packages.compressed('zstd', content)
    assert b''.join(_decompressed(tmp_path, data)) == content


def test_frames_follow_each_other(tmp_path):
    parts = [NOISE[:700_000], bytes(5 * MIB), b'', NOISE + b'A']
    data = b''.join(packages.compressed('zstd', part) for part in parts)
    assert b''.join(_decompressed(tmp_path, data)) == b''.join(parts)


def test_no_slot_is_filled_before_it_was_read(tmp_path):
    """By far more than there are slots, for a reader that takes its time."""
    content = b''.join(bytes([number]) * MIB for number in range(1, 60))
    pieces = _decompressed(tmp_path, packages.compressed('zstd', content))
    found = [next(pieces)]
    time.sleep(0.5)
    assert b''.join([*found, *pieces]) == content


@pytest.mark.parametrize('content', [NOISE * 40, bytes(MIB) * 40],
                         ids=['data', 'zeros'])
def test_what_is_cut_anywhere_is_damaged(tmp_path, content):
    data = packages.compressed('zstd', content)
    for length in (len(data) - 1, len(data) // 2, 20):
        with pytest.raises(errors.DamagedImage):
            for _ in _decompressed(tmp_path, data[:length]):
                pass


def test_a_reader_that_has_enough(tmp_path):
    data = packages.compressed('zstd', NOISE * 40)
    with contextlib.closing(_decompressed(tmp_path, data)) as pieces:
        assert next(pieces) == NOISE


def test_a_reader_that_is_cancelled(tmp_path):
    cancel = cancel_.Cancel()
    data = packages.compressed('zstd', NOISE * 40)
    pieces = _decompressed(tmp_path, data, cancel)
    next(pieces)
    cancel.set()
    with pytest.raises(errors.Cancelled):
        list(pieces)


# A process that is somebody else's by now

@pytest.fixture
def shared():
    with decompressor._Shared() as found:
        yield found


def _told(shared, *said):
    return list(shared.pieces(said, bytes))


def test_it_takes_no_memory_from_its_reader(shared):
    memory, _ = shared.descriptors
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(memory, size)


def test_it_changes_nothing_that_was_read(shared):
    with mmap.mmap(shared.descriptors[0], 0) as memory:
        memory[:5] = b'first'
        first, = _told(shared, PIECE.pack(5, True))
        memory[:5] = b'other'
        assert first == b'first'


@pytest.mark.parametrize('length', [0, MIB + 1, (1 << 32) - 1])
def test_it_says_that_there_is_what_can_not_be(shared, length):
    with pytest.raises(program.Overflow):
        _told(shared, PIECE.pack(length, True))


def test_nobody_waits_for_it_to_take_its_turns(shared):
    with pytest.raises(program.Overflow):
        _told(shared, PIECE.pack(1, True) * 100_000)


def test_what_is_shared_is_no_program(shared):
    """No barrier to programs holds for a file that is only in memory."""
    memory, _ = shared.descriptors
    true = pathlib.Path('/bin/true').read_bytes()
    os.pwrite(memory, true, 0)
    done = subprocess.run(
        [sys.executable, '-c', 'import os, sys\n'
         'try: os.execv(sys.argv[1], ["true"])\n'
         'except PermissionError: sys.exit(7)', f'/proc/self/fd/{memory}'],
        pass_fds=[memory])
    assert done.returncode == 7


def test_no_descriptor_is_left_where_there_are_too_few(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.EMFILE, 'Too many open files')

    for module, name in ((mmap, 'mmap'), (os, 'pipe'), (os, 'fchmod')):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            with pytest.raises(OSError), decompressor._Shared():
                pass


@pytest.mark.parametrize('at', range(2 * PIECE.size + 1))
def test_what_it_says_comes_in_parts(shared, at):
    with mmap.mmap(shared.descriptors[0], 0) as memory:
        memory[:3] = b'abc'
    said = PIECE.pack(3, True) + PIECE.pack(2 * MIB + 1, False)
    assert b''.join(_told(shared, said[:at], said[at:])) == (
        b'abc' + bytes(2 * MIB + 1))


# Where it can not be had

def test_the_library_is_missing(tmp_path, monkeypatch):
    script = tmp_path / 'script.py'
    source = pathlib.Path(zstd_script.__file__).read_text()
    script.write_text(source.replace(zstd_script.LIBRARY, 'no-such.so.1'))
    monkeypatch.setattr(zstd_script, '__file__', str(script))
    with pytest.raises(errors.Misconfigured, match='a program is missing'):
        list(_decompressed(tmp_path, packages.compressed('zstd', b'A')))


def test_what_is_lacking_is_told(monkeypatch):
    assert list(decompressor.lacking()) == []
    monkeypatch.setattr(zstd_script, 'LIBRARY', 'no-such.so.1')
    monkeypatch.setitem(decompressor.PROGRAMS, 'xz', ('no-such-xz', '-dc'))
    assert dict(decompressor.lacking()) == {'zstd': 'no-such.so.1',
                                            'xz': 'no-such-xz'}
