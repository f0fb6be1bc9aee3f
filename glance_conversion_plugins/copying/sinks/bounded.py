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

"""A limit on what an image may expand to."""

import sys
import threading

from glance_conversion_plugins.copying import sinks
from glance_conversion_plugins import errors
from glance_conversion_plugins import units

# Whatever its size on disk, an image may hold so much; what is larger is
# compared with what was uploaded.
_ALWAYS_ALLOWED = 1 << 30


def allowed(size: int, max_expansion: int) -> int:
    """How much data an upload of so many bytes may hold, in bytes.

    :param max_expansion: for each byte; 0: no limit
    """
    if not max_expansion:
        return sys.maxsize
    return max(_ALWAYS_ALLOWED, size * max_expansion)


class Bounded:
    """Refuses more data than an image of its size has reason to hold.

    A few bytes of a compressed cluster can stand for 2 MiB, so a small upload
    could fill a store. Zeros do not count, for they are not stored.
    """

    def __init__(self, sink: sinks.Sink, most: int) -> None:
        """Wrap a sink.

        :param most: how many bytes of data it may be given
        """
        self._sink = sink
        self._most = most
        self._lock = threading.Lock()
        self.written = 0        # bytes of data so far
        self.room = sink.room
        self.create = sink.create
        self.zero = sink.zero
        self.resize = sink.resize
        self.seal = sink.seal
        self.publish = sink.publish
        self.interrupt = sink.interrupt
        self.abort = sink.abort

    def write(self, view: memoryview, offset: int) -> int:
        written = self._sink.write(view, offset)
        with self._lock:
            self.written += written
            check(self.written, self._most)
        return written


def check(written: int, most: int) -> None:
    """Refuse an image that has expanded to more than it may.

    :raises errors.TooLarge: if so
    """
    if written > most:
        raise errors.TooLarge(
            'The image is refused: it is far too small for its content, of '
            f'which there is more than {units.amount(most)}.')
