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

"""Runs of the tests, each in a tree in which one thing is changed."""

from collections.abc import Sequence
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from mutation import changes

PACKAGE = 'glance_conversion_plugins'

_LEFT_OUT = shutil.ignore_patterns(
    '.git', '.tox', '.venv', '.*_cache', '__pycache__', '*.egg-info', 'cover',
    'build')
# What a change may make endless ends all the same.
_MEMORY = 8 << 30       # bytes
_NOTICED = (1, 2)       # pytest: tests failed; could not be collected
_SLACK_SECONDS = 30


class UnusableTests(Exception):
    """The tests fail without a change, or there are none."""


class Tree:
    """A copy of the project, in which one module at a time is changed."""

    def __init__(self, root: pathlib.Path, runs: int) -> None:
        """Make it.

        :param root: of the project
        :param runs: of the simulation
        """
        self._folder = tempfile.TemporaryDirectory(prefix='mutants-')
        self._root = pathlib.Path(self._folder.name, 'tree')
        shutil.copytree(root, self._root, ignore=_LEFT_OUT, symlinks=True)
        self._environment = os.environ | {
            'PYTHONPATH': str(self._root), 'PYTHONDONTWRITEBYTECODE': '1',
            'GLANCE_TEST_SIMULATIONS': str(runs)}
        self._limit: float | None = None

    def __enter__(self) -> 'Tree':
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def begin(self, tests: Sequence[str]) -> None:
        """Run the tests of a module as it is, and see how long they take.

        :raises UnusableTests: if they fail
        """
        self._limit = None
        begun = time.monotonic()
        status = self._run(tests)
        if status:
            raise UnusableTests(f'{" ".join(tests)} failed without a change: '
                                f'{status}')
        self._limit = 2 * (time.monotonic() - begun) + _SLACK_SECONDS

    def notices(self, change: changes.Change, tests: Sequence[str]) -> bool:
        """Say whether the tests notice a change; one that hangs is noticed."""
        path = self._root / PACKAGE / f'{change.module}.py'
        source = path.read_bytes()
        path.write_bytes(change.apply(source))
        try:
            status = self._run(tests)
        except subprocess.TimeoutExpired:
            return True
        finally:
            path.write_bytes(source)
        if status > max(_NOTICED):
            raise UnusableTests(f'{change}: pytest ended with {status}')
        return bool(status)

    def _run(self, tests: Sequence[str]) -> int:
        """The exit status of pytest."""
        process = subprocess.Popen(
            [sys.executable, '-m', 'pytest', '-x', '-q', '-p',
             'no:cacheprovider', '--basetemp',
             os.path.join(self._folder.name, 'temporary'), *tests],
            cwd=self._root, env=self._environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS,
                                                  (_MEMORY, _MEMORY)))
        try:
            return process.wait(self._limit)
        finally:
            # Also what it has started, and has not ended.
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
