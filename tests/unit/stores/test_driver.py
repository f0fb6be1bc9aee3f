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

from glance_store.common import utils
from glance_store import exceptions
import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins.stores import adoption
from glance_conversion_plugins.stores import driver
from glance_conversion_plugins.stores import placeholder

CONTENT = random.Random(1).randbytes(300_000)  # noqa: S311
WRITTEN = adoption.Written('rbd://f/p/i/snap', 1 << 20, 'md5', 'sha',
                         {'store': 'ceph'})


class Unreadable:
    """Data that must not be touched."""

    def read(self, size=None):
        raise AssertionError('data was read')


@pytest.fixture(autouse=True)
def empty():
    yield
    adoption.forget('task')


@pytest.fixture
def placeholder_file(tmp_path):
    made = placeholder.Placeholder(
        str(tmp_path), placeholder.Header('i', 'task', 'raw', 'bare'))
    made.create()
    made.hand_on(made.path, 1 << 20)
    with open(made.path, 'rb') as f:
        yield f
    made.release()


def test_nothing_to_adopt():
    assert driver.adopt('ceph', 'i', 1 << 20) is None


def test_no_store_to_adopt_from():
    adoption.offer('ceph', 'i', 'task', WRITTEN)
    assert driver.adopt(None, 'i', 1 << 20) is None


def test_adopts_once():
    adoption.offer('ceph', 'i', 'task', WRITTEN)
    found = driver.adopt('ceph', 'i', 1 << 20)
    assert found == ('rbd://f/p/i/snap', 1 << 20, 'md5', 'sha',
                     {'store': 'ceph'})
    assert found._fields == ('url', 'size', 'checksum', 'os_hash_value',
                             'metadata')
    assert driver.adopt('ceph', 'i', 1 << 20) is None


def test_a_file_of_another_size_is_not_adopted():
    adoption.offer('ceph', 'i', 'task', WRITTEN)
    assert driver.adopt('ceph', 'i', (1 << 20) - 1) is None


def test_a_failure_is_told_in_its_own_words():
    adoption.offer('ceph', 'i', 'task', errors.StoreFull('There is no room.'))
    with pytest.raises(exceptions.BackendException, match='no room'):
        driver.adopt('ceph', 'i', 1 << 20)


def _pieces(data, size):
    return utils.chunkreadable(data, size)


@pytest.mark.parametrize('size', [1, 64, 4096, 8 << 20])
def test_refuses_a_placeholder(placeholder_file, size):
    with pytest.raises(exceptions.Invalid, match='placeholder'):
        driver.refuse_placeholder(_pieces(placeholder_file, size))


def test_refuses_a_placeholder_of_one_sector(placeholder_file):
    with pytest.raises(exceptions.Invalid, match='placeholder'):
        driver.refuse_placeholder([placeholder_file.read(512)])


def test_takes_an_image_that_quotes_a_placeholder(placeholder_file):
    content = b'x' + placeholder_file.read(4096)
    assert b''.join(driver.refuse_placeholder([content])) == content


@pytest.mark.parametrize('size', [1, 7_001, 8 << 20])
def test_gives_everything(size):
    found = driver.refuse_placeholder(_pieces(io.BytesIO(CONTENT), size))
    assert b''.join(found) == CONTENT


def test_no_data_at_all():
    assert b''.join(driver.refuse_placeholder([])) == b''


def test_error_of_the_data_is_passed_on():
    with pytest.raises(AssertionError, match='data was read'):
        driver.refuse_placeholder(_pieces(Unreadable(), 100))


@pytest.mark.parametrize('ours, stock', [
    (errors.AlreadyStored, exceptions.Duplicate),
    (errors.StoreFull, exceptions.StorageFull),
    (errors.WriteDenied, exceptions.StorageWriteDenied),
    (errors.WrongSize, exceptions.Invalid),
    (errors.SinkFailed, exceptions.BackendException)])
def test_raises_what_stock_would(ours, stock):
    with pytest.raises(stock), driver.as_stock('i'):
        raise ours('why')


def test_what_the_system_said_is_passed_on_as_stock_does():
    with pytest.raises(NotADirectoryError), driver.as_stock('i'):
        try:
            raise NotADirectoryError
        except OSError as e:
            raise errors.SinkFailed('why') from e
