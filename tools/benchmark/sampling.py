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

"""What a contestant takes: CPU, memory and room in a folder."""

import contextlib
import os
import pathlib
import resource
import subprocess
import threading

from cloud import processes

INTERVAL = 0.05
_TICK = os.sysconf('SC_CLK_TCK')
_PAGE = resource.getpagesize()


def cpu_seconds(pids):
    """CPU used by these processes and by their children that ended."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            text = pathlib.Path(f'/proc/{pid}/stat').read_text()
            # Fields 14 to 17; the name, field 2, may contain spaces.
            fields = text.rpartition(')')[2].split()
            total += sum(int(field) for field in fields[11:15])
    return total / _TICK


def descendants(pid):
    """The processes below this one."""
    found = []
    for path in pathlib.Path(f'/proc/{pid}/task').glob('*/children'):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def resident(pids):
    """Bytes in memory of these processes and of those below them."""
    return sum(_resident(pid) for pid in _with_descendants(pids))


def allocated(folder):
    """Bytes allocated to the files of a folder."""
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


class Sampler:
    """Follows memory and a folder, from entry to exit.

    Both are peaks over what was there on entry.
    """

    def __init__(self, pids=(), folder=None):
        self._pids = pids
        self._folder = folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._first = self._sample()
        self._peak = self._first

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._ended.set()
        self._thread.join()

    @property
    def memory(self):
        return self._peak[0] - self._first[0]

    @property
    def peak(self):
        """The most that was in memory, with what was there on entry."""
        return self._peak[0]

    @property
    def staging(self):
        return self._peak[1] - self._first[1]

    def _run(self):
        while not self._ended.wait(INTERVAL):
            pairs = zip(self._peak, self._sample(), strict=True)
            self._peak = tuple(max(pair) for pair in pairs)

    def _sample(self):
        return (resident(self._pids),
                allocated(self._folder) if self._folder else 0)


class Used:
    """What commands that ran one after the other took in all."""

    def __init__(self):
        self.cpu = 0
        self.memory = 0

    def run(self, *argv, env=None):
        """Run a command to its end and add what it took."""
        with subprocess.Popen(
                [str(word) for word in argv], env=env,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE) as process:
            try:
                message = process.stderr.read().decode(errors='replace')
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                raise
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise processes.CloudError(f'{argv}: {message.strip()}')
        self.cpu += usage.ru_utime + usage.ru_stime
        self.memory = max(self.memory, usage.ru_maxrss * 1024)


def _with_descendants(pids):
    """Those given, and below them all that are a program of their own.

    Between fork and exec a child shows the memory of its parent.
    """
    known = set(pids)
    names = {_name(pid) for pid in pids}
    for pid in pids:
        known.update(child for child in descendants(pid)
                     if _name(child) not in names)
    return known


def _name(pid):
    try:
        return pathlib.Path(f'/proc/{pid}/comm').read_text()
    except OSError:
        return None


def _resident(pid):
    try:
        text = pathlib.Path(f'/proc/{pid}/statm').read_text()
    except OSError:
        return 0
    return int(text.split()[1]) * _PAGE
