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

"""Which processes of this node are gone for certain.

A client of Ceph that says nothing, or a file that is not locked, may be that
of a process that only sleeps. What the kernel has ended does not come back:
each process that uploads locks a file of its own in the folder for lock
files, and gives what it writes an id that names that file.
"""

import contextlib
import os
import re
import secrets
import threading
import time
from typing import NamedTuple

from oslo_concurrency import lockutils
from oslo_config import cfg

from glance_conversion_plugins.external import locks

CONF = cfg.CONF

_NAME = 'glance-conversion-process-{}'
_ID = re.compile(r'(?P<process>[0-9a-f]{16})-[0-9a-f]{8}')

# Of a process that is gone: as long as marks may name it. In seconds.
_KEPT = 7 * 24 * 3600


class _Process(NamedTuple):
    """This process, and the lock that says that it lives."""

    pid: int
    name: str
    fd: int


_lock = threading.Lock()
_this: _Process | None = None


def new_id() -> str:
    """An id for what this process writes, short enough for a name in RBD."""
    return f'{_own_name()}-{secrets.token_hex(4)}'


def is_id(task_id: str) -> bool:
    """Say whether this is the id of an upload, and not of an import."""
    return _ID.fullmatch(task_id) is not None


def _own_name() -> str:
    global _this
    with _lock:
        # A fork shares the lock of the process that it was made of.
        if _this is None or _this.pid != os.getpid():
            name = secrets.token_hex(8)
            fd = locks.hold(_path(name))
            _this = _Process(os.getpid(), name, fd)
        return _this.name


def _folder() -> str:
    return locks.folder(lockutils.get_lock_path(CONF))


def _path(name: str) -> str:
    return os.path.join(_folder(), _NAME.format(name))


def is_dead(upload_id: str) -> bool:
    """Say whether the process that made an id is gone for certain.

    Of one on another node, or with another folder for lock files, nobody
    can say so.
    """
    match = _ID.fullmatch(upload_id)
    return match is not None and locks.is_free(_path(match['process']))


def forget_dead() -> None:
    """Remove the files of processes that have been gone for long."""
    folder = _folder()
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.startswith(_NAME.format('')) and locks.is_free(path):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_mtime < time.time() - _KEPT:
                    os.unlink(path)
