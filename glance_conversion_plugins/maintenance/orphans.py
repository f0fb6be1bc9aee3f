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

"""Processes of qemu whose conversion is gone."""

from collections.abc import Iterator
import contextlib
import os
import signal

from glance_conversion_plugins.external import sandbox


def find() -> Iterator[int]:
    """Pids of processes that our sandbox started and nobody waits for."""
    for pid in [int(p) for p in os.listdir('/proc') if p.isdigit()]:
        with contextlib.suppress(OSError, ValueError):
            # Pids mean nothing in another container's namespace.
            if (os.readlink(f'/proc/{pid}/ns/pid')
                    != os.readlink('/proc/self/ns/pid')):
                continue
            owner = _owner(pid)
            if owner and sandbox.identity(int(owner.split()[0])) != owner:
                yield pid


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _owner(pid: int) -> str:
    prefix = f'{sandbox.OWNER_VARIABLE}='.encode()
    with open(f'/proc/{pid}/environ', 'rb') as f:
        for entry in f.read().split(b'\0'):
            if entry.startswith(prefix):
                return entry.removeprefix(prefix).decode()
    return ''
