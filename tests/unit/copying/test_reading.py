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

"""Images that are read to their end, and what comes of it."""

import hashlib

import pytest

from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import reading
from glance_conversion_plugins import errors
from tests.contract import images
from tests.unit import fakes

PATTERN = 'AB-z0C'
CONTENT = images.content(PATTERN)
BOTH = digest.DigestSpec('sha512', True)
WRITTEN = digest.Digest(None, hashlib.sha512(CONTENT).hexdigest())


class _Source(fakes.FakeSource):
    """Tells whether it was closed."""

    closed = False

    def close(self):
        self.closed = True


def test_digests_of_a_source():
    assert reading.compute(fakes.FakeSource(PATTERN), BOTH) == digest.Digest(
        hashlib.md5(CONTENT).hexdigest(),
        hashlib.sha512(CONTENT).hexdigest())


def test_what_was_written_is_read():
    source, run = _Source(PATTERN), conversion_.Conversion()
    reading.see_equal(source, BOTH, WRITTEN, run)
    assert source.closed
    assert str(run.progress).startswith('Reading back what was stored: ')
    assert 'read back ' in str(run.clock)


@pytest.mark.parametrize('pattern', [
    'AB-z0D', 'AB-z0', 'AB-z0C-', '-B-z0C'])
def test_something_else_is_read(pattern):
    source = _Source(pattern)
    with pytest.raises(errors.SinkFailed, match='did not give back'):
        reading.see_equal(source, BOTH, WRITTEN, conversion_.Conversion())
    assert source.closed


def test_nothing_can_be_read():
    def before_read(offset):
        raise errors.SourceFailed('The stored image could not be read.')

    source = _Source(PATTERN, before_read)
    with pytest.raises(errors.SourceFailed):
        reading.see_equal(source, BOTH, WRITTEN, conversion_.Conversion())
    assert source.closed


def test_a_reader_that_is_told_to_stop():
    run = conversion_.Conversion()
    source = _Source(PATTERN, lambda offset: run.cancel.set())
    with pytest.raises(errors.Cancelled):
        reading.see_equal(source, BOTH, WRITTEN, run)
    assert source.closed
    assert source.interrupted.is_set()
