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


"""Every sink, held to the contract in sinks/__init__.py."""

import hashlib
import itertools

import pytest

from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import pipeline
from glance_conversion_plugins.copying.sinks import bounded
from glance_conversion_plugins.copying.sinks import discard
from glance_conversion_plugins.copying.sinks import fanout
from glance_conversion_plugins.copying.sinks import file as file_sink
from glance_conversion_plugins.copying.sinks import patient as patient_sink
from glance_conversion_plugins.copying.sources import file as file_source
from glance_conversion_plugins.external import marks
from tests.contract import checks
from tests.contract import images
from tests.contract import memory


IMAGE = '11111111-2222-3333-4444-555555555555'


def _alone(folder):
    place = {}
    return lambda: memory.MemorySink(place, 'a'), lambda: place.get('a')


def _fanned_out(all_must_succeed):
    place = {}

    def open_sink():
        return fanout.FanOut({n: memory.MemorySink(place, n) for n in 'ab'},
                             all_must_succeed)

    def read_back():
        assert place.get('a') == place.get('b')
        return place.get('a')

    return open_sink, read_back


def _bounded(folder):
    """A limit that is not reached."""
    open_sink, read_back = _file(folder)
    return lambda: bounded.Bounded(open_sink(), 1 << 40), read_back


def _patient(folder):
    open_sink, read_back = _file(folder)
    return lambda: patient_sink.PatientSink(open_sink(), 'files'), read_back


def _file(folder):
    """Each attempt is a task of its own."""
    tasks = itertools.count()
    path = folder / IMAGE

    def open_sink():
        return file_sink.FileSink(
            lambda size: file_sink.Datadir(str(folder)),
            marks.Mark(IMAGE, f'{next(tasks):08x}', 'deadbeef'),
            zero_block_size=images.BLOCK)

    return open_sink, lambda: path.read_bytes() if path.exists() else None


def _fanned_out_files(folder, all_must_succeed):
    folders = {name: folder / name for name in 'ab'}
    for each in folders.values():
        each.mkdir()
    files = {name: _file(each) for name, each in folders.items()}

    def open_sink():
        return fanout.FanOut(
            {name: open_() for name, (open_, _) in files.items()},
            all_must_succeed)

    def read_back():
        one, two = [read() for _, read in files.values()]
        assert one == two
        return one

    return open_sink, read_back


PLACES = {
    'memory': _alone,
    'fan-out-all': lambda _: _fanned_out(True),
    'fan-out-any': lambda _: _fanned_out(False),
    'file': _file,
    'file-bounded': _bounded,
    'file-patient': _patient,
    'files-fan-out-all': lambda folder: _fanned_out_files(folder, True),
    'files-fan-out-any': lambda folder: _fanned_out_files(folder, False),
}


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('check', checks.SINK_CHECKS, ids=checks.name)
def test_sink(check, place, tmp_path):
    open_sink, read_back = PLACES[place](tmp_path)
    check(open_sink, read_back)
    # No check leaves an image, so nothing at all is left.
    assert not [f for f in tmp_path.rglob('*') if f.is_file()]


def test_discard_sink_lets_consumers_see_every_byte(tmp_path):
    path = images.raw(tmp_path / 'disk.raw', checks.PATTERN)
    source, sink = file_source.FileSource(path), discard.DiscardSink()
    digests = digest.Digests(digest.DigestSpec('sha256'))
    try:
        sink.create(source.size)
        pipeline.copy(source, sink, (digests,))
        sink.seal()
    finally:
        source.close()
    assert digests.finish() == digest.Digest(
        hashlib.md5(checks.EXPECTED).hexdigest(),
        hashlib.sha256(checks.EXPECTED).hexdigest())


def test_discard_sink_stores_nothing_and_may_be_aborted_at_any_time():
    sink = discard.DiscardSink()
    sink.abort()
    sink.create(10)
    # What is thrown away is not written.
    assert sink.write(memoryview(b'A' * 10), 0) == 0
    sink.zero(0, 10)
    sink.interrupt()
    sink.seal()
    sink.abort()
    sink.abort()
    assert not vars(sink)
