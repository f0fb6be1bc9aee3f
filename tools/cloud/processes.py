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

"""Commands that end, and daemons that stay until they are stopped.

A daemon and all it starts inherit one environment variable that names
the cloud and the daemon. A process is signalled only if it still bears
that mark, so a recycled pid is never hit and no worker is forgotten.
"""

import contextlib
import os
import pathlib
import select
import signal
import subprocess
import time

MARK = 'GLANCE_CLOUD_PROCESS'

# Held so that this process reaps the daemons it started itself.
_children = []


class CloudError(Exception):
    """Something of the cloud does not work; the text says what."""


class CommandError(subprocess.CalledProcessError):
    """A command failed; unlike its parent it says what was printed."""

    def __str__(self):
        output = (self.stdout or '') + (self.stderr or '')
        return f'{super().__str__()}\n{output}'


def run(*argv, check=True, **kwargs):
    """Run a command to its end; text in, text out, nothing on stdin."""
    kwargs = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE,
              'stdin': subprocess.DEVNULL, 'text': True} | kwargs
    result = subprocess.run([str(word) for word in argv], **kwargs)
    if check and result.returncode:
        raise CommandError(result.returncode, result.args,
                           result.stdout, result.stderr)
    return result


def run_as_root(*argv, **kwargs):
    """Run a command as root, through sudo where that is needed."""
    sudo = () if os.geteuid() == 0 else ('sudo',)
    return run(*sudo, *argv, **kwargs)


def wait_until(ready, timeout, what, interval=0.1):
    """Return the first true answer of ready(); TimeoutError without."""
    deadline = time.monotonic() + timeout
    while not (answer := ready()):
        if time.monotonic() > deadline:
            raise TimeoutError(f'{what}: not after {timeout} s')
        time.sleep(interval)
    return answer


def _bears(pid, mark):
    """Whether this live process was started under the mark."""
    try:
        environ = pathlib.Path(f'/proc/{pid}/environ').read_bytes()
    except OSError:
        return False
    return mark in environ.split(b'\0')


@contextlib.contextmanager
def _held(pids, mark):
    """Handles of those that bear the mark, whoever gets their pids later."""
    with contextlib.ExitStack() as stack:
        handles = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                stack.callback(os.close, handle)
                if _bears(pid, mark):
                    handles.append(handle)
        yield handles


def _send(handle, number):
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, number)


def _wait_for_end(handles, timeout):
    """Wait until processes hold no file and no port any more.

    They lose their environment, hence the mark, some time before: 18 ms
    have been seen, in which another could not have the port.
    """
    deadline = time.monotonic() + timeout
    for handle in handles:
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        ended.poll(max(0, deadline - time.monotonic()) * 1000)


def _tail(path, lines=25):
    """The last lines of a log, under its name."""
    try:
        text = path.read_text(errors='replace')
    except FileNotFoundError:
        return f'(no {path})'
    return '\n'.join([f'--- {path}', *text.splitlines()[-lines:]])


class Daemon:
    """One long-running program of a cloud, with its pid file.

    What it prints goes to log; own_log is the file it writes itself.
    """

    def __init__(self, root, name, own_log):
        self.name = name
        self.pid_file = root / 'run' / f'{name}.pid'
        self.log = root / 'log' / f'{name}.out'
        self._own_log = own_log
        self._mark = f'{root}:{name}'
        self._entry = f'{MARK}={self._mark}'.encode()

    def pid(self):
        """The pid of the program itself, None when it does not run."""
        try:
            pid = int(self.pid_file.read_text())
        except (OSError, ValueError):
            return None
        return pid if _bears(pid, self._entry) else None

    def pids(self):
        """The program and every process that descends from it."""
        for child in _children:
            child.poll()
        found = [int(entry) for entry in os.listdir('/proc')
                 if entry.isdigit() and _bears(entry, self._entry)]
        main = self.pid()
        return sorted(found, key=lambda pid: (pid != main, pid))

    def start(self, *argv, env=None):
        """Start the program in a session of its own, if it is not up."""
        if self.pid():
            return
        self.kill()
        for path in (self.pid_file, self.log):
            path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, 'ab') as log:
            child = subprocess.Popen(
                [str(word) for word in argv], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
                cwd=self.pid_file.parent,
                env=os.environ | (env or {}) | {MARK: self._mark})
        _children.append(child)
        self.pid_file.write_text(f'{child.pid}\n')
        # The kernel shows a program's environment a moment after exec.
        wait_until(lambda: self.pid() or child.poll() is not None, 10,
                   self.name, interval=0.001)

    def wait_ready(self, ready, timeout=60):
        """Wait for ready(); an early end or a timeout shows the log."""
        def settled():
            return ready() or not self.pid()
        try:
            wait_until(settled, timeout, self.name)
            if self.pid():
                return
            reason = 'ended early'
        except TimeoutError as error:
            reason = str(error)
        # The first line is all that a summary of tests shows.
        printed = _tail(self.log)
        raise CloudError('\n'.join(
            [f'{self.name} {reason}: {printed.splitlines()[-1]}', printed,
             _tail(self._own_log)]))

    def stop(self, timeout=30):
        """Ask the program to end, then end by force what is left."""
        if main := self.pid():
            with _held([main], self._entry) as asked, \
                    _held(self.pids(), self._entry) as all_of_them:
                for handle in asked:
                    _send(handle, signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    wait_until(lambda: not self.pids(), timeout, self.name)
                    _wait_for_end(all_of_them, timeout)
        self.kill()

    def kill(self, only=lambda pid: True):
        """SIGKILL all processes of the daemon, or only the chosen."""
        def gone():
            doomed = [pid for pid in self.pids() if only(pid)]
            with _held(doomed, self._entry) as handles:
                for handle in handles:
                    _send(handle, signal.SIGKILL)
                _wait_for_end(handles, 30)
            return not doomed
        wait_until(gone, 30, f'end of {self.name}', interval=0.02)
        if not self.pid():
            self.pid_file.unlink(missing_ok=True)
