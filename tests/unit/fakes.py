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


"""A source and a sink that record what happens to them, and fail on demand.

Their images are written as strings, as in tests/contract/images.py.
"""

import threading

from glance_conversion_plugins.copying import extent
from glance_conversion_plugins import errors
from tests.contract import images

_KINDS = {'0': extent.Kind.ZERO, '-': extent.Kind.HOLE}


class FakeSource:
    """An image in memory."""

    def __init__(self, pattern, before_read=None):
        """Describe the image.

        :param before_read: called with each offset before it is read
        """
        self._pattern = pattern
        self._content = images.content(pattern)
        self._before_read = before_read
        self.size = len(self._content)
        self.interrupted = threading.Event()

    def extents(self, start, length):
        for number, char in enumerate(self._pattern):
            yield extent.Extent(number * images.BLOCK, images.BLOCK,
                                _KINDS.get(char, extent.Kind.DATA))

    def read(self, offset, length):
        if self._before_read:
            self._before_read(offset)
        return self._content[offset:offset + length]

    def interrupt(self):
        self.interrupted.set()

    def close(self):
        pass


class FakeSink:
    """Keeps a list of its calls."""

    def __init__(self, before_write=None, fail_at=None, held=True):
        """Prepare the sink.

        :param before_write: called with each offset before it is written
        :param fail_at: {name of a call: the error that it raises}
        :param held: whether what was begun is still this writer's
        """
        self._held = held
        self._before_write = before_write
        self._fail_at = fail_at or {}
        self._lock = threading.Lock()
        self.calls = []
        self.interrupted = threading.Event()

    def _called(self, name, *arguments):
        with self._lock:
            self.calls.append((name, *arguments))
        if name in self._fail_at:
            raise self._fail_at[name]

    def room(self, size):
        self._called('room', size)
        return []

    def create(self, size):
        self._called('create', size)

    def write(self, view, offset):
        if self._before_write:
            self._before_write(offset)
        self._called('write', offset, len(view))
        return len(view)

    def resize(self, size):
        self._called('resize', size)

    def zero(self, offset, length):
        self._called('zero', offset, length)

    def seal(self):
        self._called('seal')

    def read_back(self):
        self._called('read_back')
        return FakeSource('')

    def publish(self):
        self._called('publish')

    def hand_over(self):
        self._called('hand_over')

    def is_held(self):
        return self._held

    def release(self):
        self._called('release')

    def interrupt(self):
        self._called('interrupt')
        self.interrupted.set()

    def abort(self):
        self._called('abort')

    def names(self):
        return [call[0] for call in self.calls]


class Recorder:
    """A consumer that notes what it sees."""

    def __init__(self):
        self.seen = []

    def update(self, view):
        self.seen.append(bytes(view))

    def zeros(self, length):
        self.seen.append(length)


def wait_for_interrupt(part):
    """Block as a program does that has hung, until it is interrupted."""
    assert part.interrupted.wait(60), 'was not interrupted'
    raise errors.Cancelled('interrupted')


def first_comes_last():
    """For before_read: what is read at 0 waits for something else."""
    later = threading.Event()

    def before_read(offset):
        if offset:
            later.set()
        else:
            assert later.wait(60), 'nothing else is read'

    return before_read
