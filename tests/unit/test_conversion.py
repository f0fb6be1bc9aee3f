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
import threading

import pytest

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import conversion
from glance_conversion_plugins import digest
from glance_conversion_plugins import errors
from glance_conversion_plugins import inspection
from glance_conversion_plugins import progress as progress_
from tests.contract import images
from tests.contract import memory
from tests.unit import fakes

POLICY = inspection.Policy(max_virtual_size=1 << 30)
PATTERN = 'A-0BCD--' * 5
BOTH = conversion.Wanted('sha512', True)


@pytest.fixture(autouse=True)
def no_thread_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def _convert(path, disk_format, sink, wanted=BOTH, cancel=None):
    return conversion.convert(
        inspection.inspect(path, disk_format, POLICY), POLICY, sink, wanted,
        progress=progress_.Progress(), clock=progress_.Clock(),
        cancel=cancel or cancel_.NEVER)


@pytest.mark.parametrize(('disk_format', 'make'), [
    ('qcow2', images.qcow2), ('qcow2', images.compressed),
    ('raw', images.raw),
])
def test_writes_the_image_and_computes_its_digests(tmp_path, disk_format,
                                                   make):
    place = {}
    path = make(tmp_path / 'disk', PATTERN)
    found = _convert(path, disk_format, memory.MemorySink(place, 'i'))
    expected = images.content(PATTERN)
    assert place == {'i': expected}
    assert found == digest.Digest(hashlib.md5(expected).hexdigest(),
                                  hashlib.sha512(expected).hexdigest())


@pytest.mark.parametrize(('wanted', 'which'), [
    (conversion.Wanted(None, False), (False, False)),
    (conversion.Wanted(None, True), (False, False)),
    (conversion.Wanted('sha256', False), (False, True)),
    (conversion.Wanted('sha256', True), (True, True)),
])
def test_digests_that_are_not_wanted_are_none(tmp_path, wanted, which):
    path = images.raw(tmp_path / 'disk', PATTERN)
    found = _convert(path, 'raw', memory.MemorySink({}, 'i'), wanted)
    assert tuple(d is not None for d in found) == which


@pytest.mark.parametrize('call', ['create', 'write', 'zero', 'seal'])
def test_a_sink_that_fails_is_aborted(tmp_path, call):
    error = errors.StoreFull('full')
    sink = fakes.FakeSink(fail_at={call: error})
    with pytest.raises(errors.StoreFull) as caught:
        _convert(images.raw(tmp_path / 'disk', PATTERN), 'raw', sink)
    assert caught.value is error
    assert sink.names()[-1] == 'abort'


def test_cancelled(tmp_path):
    cancel, sink = cancel_.Cancel(), fakes.FakeSink()
    cancel.set()
    with pytest.raises(errors.Cancelled):
        _convert(images.qcow2(tmp_path / 'disk', PATTERN), 'qcow2', sink,
                 cancel=cancel)
    assert sink.names() == []


def test_cancelled_while_it_copies(tmp_path):
    cancel, sink = cancel_.Cancel(), fakes.FakeSink()
    create = sink.create

    def create_and_cancel(size):
        create(size)
        cancel.set()
    sink.create = create_and_cancel
    with pytest.raises(errors.Cancelled):
        _convert(images.qcow2(tmp_path / 'disk', PATTERN), 'qcow2', sink,
                 cancel=cancel)
    assert sink.names()[-1] == 'abort'
    assert 'seal' not in sink.names()


def test_damaged_tables_are_found_before_anything_is_written(tmp_path):
    path = images.qcow2(tmp_path / 'disk', PATTERN)
    images.patch(path, images.number_at(path, 40),
                 (1 << 63 | 1000 << 16).to_bytes(8, 'big'))
    sink = fakes.FakeSink()
    with pytest.raises(errors.DamagedImage):
        _convert(path, 'qcow2', sink)
    assert set(sink.names()) <= {'abort'}


def test_image_inside_an_image_is_refused_and_removed(tmp_path):
    inner = images.qcow2(tmp_path / 'inner', 'A')
    outer = tmp_path / 'outer'
    images.run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', inner,
               outer)
    sink = fakes.FakeSink()
    with pytest.raises(errors.UnsafeImage, match='hides'):
        _convert(str(outer), 'qcow2', sink)
    assert sink.names()[-1] == 'abort'
    assert 'seal' not in sink.names()


def test_digests_of_a_source():
    source = fakes.FakeSource(PATTERN)
    expected = images.content(PATTERN)
    assert conversion.digest_source(source, BOTH) == digest.Digest(
        hashlib.md5(expected).hexdigest(),
        hashlib.sha512(expected).hexdigest())
