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

"""A file in staging that is whole, or gone."""

import os

import pytest

from glance_conversion_plugins.copying.sinks import scratch
from glance_conversion_plugins import errors

MIB = 1 << 20


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'image.unpacked')


@pytest.fixture
def sink(path):
    made = scratch.ScratchSink(path)
    made.create(0)
    yield made
    made.abort()


def _content(path):
    with open(path, 'rb') as f:
        return f.read()


def test_data_and_holes(sink, path):
    view = memoryview(bytes(MIB) + b'A' * 5000)
    sink.resize(MIB)
    sink.resize(3 * MIB)
    assert 5000 <= sink.write(view, 0) <= 8192
    sink.zero(2 * MIB, MIB)
    assert sink.write(memoryview(bytes(MIB)), 2 * MIB) == 0
    sink.resize(2 * MIB + 7)
    sink.seal()
    assert _content(path) == bytes(view).ljust(2 * MIB + 7, b'\0')
    assert os.stat(path).st_blocks * 512 < MIB


def test_what_is_sealed_can_still_go(sink, path):
    sink.seal()
    sink.publish()
    assert os.path.exists(path)
    sink.abort()
    assert not os.path.exists(path)
    sink.abort()


def test_what_was_not_begun_leaves_others_alone(path):
    with open(path, 'wb') as f:
        f.write(b'precious')
    made = scratch.ScratchSink(path)
    with pytest.raises(FileExistsError):
        made.create(0)
    made.abort()
    assert _content(path) == b'precious'


def test_interrupted(sink):
    sink.interrupt()
    with pytest.raises(errors.Cancelled):
        sink.write(memoryview(b'A'), 0)
    with pytest.raises(errors.Cancelled):
        sink.seal()


def test_no_room(small_disk):
    sink = scratch.ScratchSink(str(small_disk / 'image'))
    sink.create(4 * MIB)
    with pytest.raises(errors.StagingFull):
        for offset in range(4):
            sink.write(memoryview(b'A' * MIB), offset * MIB)
    sink.abort()
    assert os.listdir(small_disk) == []
