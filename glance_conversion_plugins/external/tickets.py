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

"""Who is at work on a node, in the order in which they came.

Each holds a locked file, whatever process it is of: the file is free however
its holder ends. What is written in it is for the others to read. One more file
is locked by whoever looks at all of them.
"""

from collections.abc import Iterator
import contextlib
import os
import time
import uuid

from glance_conversion_plugins.external import locks

_QUEUE = 'glance-conversion-queue'
_LONGEST = 16 * 1024


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Keep all others from looking; they do so for a moment only."""
    fd = locks.hold(os.path.join(folder, _QUEUE))
    try:
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def drawn(folder: str, kind: str, content: str) -> Iterator[tuple[str, int]]:
    """A ticket, which tells when it was drawn: its name and its file.

    :param kind: what the names of all of its kind begin with
    """
    with alone(folder):
        # All processes of a node have the same monotonic clock.
        name = f'{kind}{time.monotonic_ns():020}-{uuid.uuid4()}'
        fd = locks.hold(os.path.join(folder, name))
        write(fd, content)
    try:
        yield name, fd
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, name))
        os.close(fd)


def write(fd: int, content: str) -> None:
    """Say something in a file that one holds."""
    data = content.encode()[:_LONGEST]
    os.pwrite(fd, data, 0)
    # Who reads meanwhile finds an end of what was there behind what is.
    os.ftruncate(fd, len(data))


def held(folder: str, kind: str, are_tickets: bool = True) -> dict[str, str]:
    """What holders of a kind say, in the order in which they came.

    :param are_tickets: whether one that nobody holds is of no use any more
    """
    found = {}
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if not name.startswith(kind):
            continue
        if (fd := locks.acquire(path)) is None:
            # A ticket may go at any moment.
            with (contextlib.suppress(FileNotFoundError),
                  open(path, errors='replace') as f):
                found[name] = f.read(_LONGEST)
            continue
        if are_tickets:
            # Of a process that died.
            os.unlink(path)
        os.close(fd)
    return found
