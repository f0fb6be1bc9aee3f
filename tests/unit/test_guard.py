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


import io
import random

from glance_store import exceptions
import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins import ledger
from glance_conversion_plugins import placeholder
from glance_conversion_plugins.stores import guard

CONTENT = random.Random(1).randbytes(300_000)  # noqa: S311
WRITTEN = ledger.Written('rbd://f/p/i/snap', 1 << 20, 'md5', 'sha',
                         {'store': 'ceph'})


class Unreadable:
    """Data that must not be touched."""

    def read(self, size=None):
        raise AssertionError('data was read')


class Dribbling(io.BytesIO):
    """Gives 10 bytes at most, as a socket may."""

    def read(self, size=-1):
        return super().read(10 if size is None or size < 0
                            else min(size, 10))


@pytest.fixture(autouse=True)
def empty():
    yield
    ledger.forget('task')


@pytest.fixture
def placeholder_file(tmp_path):
    made = placeholder.Placeholder(
        str(tmp_path), placeholder.Maker('i', 'task', 'raw', 'bare'))
    made.extend(1 << 20)
    with open(made.path, 'rb') as f:
        yield f
    made.release()


def test_nothing_to_adopt():
    assert guard.adopt('ceph', 'i', 1 << 20) is None


def test_no_store_to_adopt_from():
    ledger.put('ceph', 'i', 'task', WRITTEN)
    assert guard.adopt(None, 'i', 1 << 20) is None


def test_adopts_once():
    ledger.put('ceph', 'i', 'task', WRITTEN)
    found = guard.adopt('ceph', 'i', 1 << 20)
    assert found == ('rbd://f/p/i/snap', 1 << 20, 'md5', 'sha',
                     {'store': 'ceph'})
    assert found._fields == ('url', 'size', 'checksum', 'os_hash_value',
                             'metadata')
    assert guard.adopt('ceph', 'i', 1 << 20) is None


def test_a_file_of_another_size_is_not_adopted():
    ledger.put('ceph', 'i', 'task', WRITTEN)
    assert guard.adopt('ceph', 'i', (1 << 20) - 1) is None


def test_a_failure_is_told_in_its_own_words():
    ledger.put('ceph', 'i', 'task', errors.StoreFull('There is no room.'))
    with pytest.raises(exceptions.BackendException, match='no room'):
        guard.adopt('ceph', 'i', 1 << 20)


@pytest.mark.parametrize('chunk_size', [64, 4096, 8 << 20])
def test_refuses_a_placeholder(placeholder_file, chunk_size):
    with pytest.raises(exceptions.Invalid, match='placeholder'):
        guard.Guarded(placeholder_file, chunk_size)


def test_refuses_a_placeholder_that_comes_in_small_pieces(placeholder_file):
    with pytest.raises(exceptions.Invalid, match='placeholder'):
        guard.Guarded(Dribbling(placeholder_file.read()), 8 << 20)


def test_refuses_a_placeholder_of_one_sector(placeholder_file):
    head = placeholder_file.read(512)
    with pytest.raises(exceptions.Invalid, match='placeholder'):
        guard.Guarded(io.BytesIO(head), 8 << 20)


def test_takes_an_image_that_quotes_a_placeholder(placeholder_file):
    content = b'x' + placeholder_file.read(4096)
    guarded = guard.Guarded(io.BytesIO(content), 8 << 20)
    assert guarded.read(8192) == content


def _read_on(data, size):
    """Read to the end; never more than was asked for."""
    found = bytearray()
    while chunk := data.read(size):
        assert size is None or size < 0 or len(chunk) <= size
        found += chunk
    return bytes(found)


@pytest.mark.parametrize('source', [io.BytesIO, Dribbling])
@pytest.mark.parametrize('first', [100, 64 * 1024, len(CONTENT),
                                   8 << 20])
@pytest.mark.parametrize('size', [7_001, 64 * 1024, 100_000, 8 << 20, -1,
                                  None])
def test_read_gives_everything(source, first, size):
    assert _read_on(guard.Guarded(source(CONTENT), first), size) == CONTENT


def test_read_of_changing_sizes():
    rng = random.Random(2)  # noqa: S311
    guarded = guard.Guarded(io.BytesIO(CONTENT), 5000)
    found = bytearray()
    while len(found) < len(CONTENT):
        size = rng.choice([0, 1, 10, 4999, 5000, 5001, 70_000])
        chunk = guarded.read(size)
        assert len(chunk) <= size
        found += chunk
    assert found == CONTENT
    assert guarded.read(10) == b''


def test_read_of_nothing_is_not_the_end():
    guarded = guard.Guarded(io.BytesIO(b'abc'), 100)
    assert guarded.read(0) == b''
    assert guarded.read(100) == b'abc'


@pytest.mark.parametrize('first', [1, 100, 64 * 1024, 8 << 20])
def test_iteration_gives_everything(first):
    chunks = list(guard.Guarded(io.BytesIO(CONTENT), first))
    assert b''.join(chunks) == CONTENT
    assert all(chunks)


def test_no_data_at_all():
    assert guard.Guarded(io.BytesIO(), 100).read(100) == b''
    assert list(guard.Guarded(io.BytesIO(), 100)) == []


def test_close_closes_the_data():
    data = io.BytesIO(CONTENT)
    guard.Guarded(data, 100).close()
    assert data.closed


def test_error_of_the_data_is_passed_on():
    with pytest.raises(AssertionError, match='data was read'):
        guard.Guarded(Unreadable(), 100)
