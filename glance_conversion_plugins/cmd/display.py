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

"""What a command says while it works."""

from collections.abc import Callable
import os
import sys
import threading
from types import TracebackType

from glance_conversion_plugins.copying import progress as progress_

_BAR = 20               # characters
_TERMINAL_SECONDS = 1   # what takes less needs no progress
_LOG_SECONDS = 5
_CLEAR = '\r\033[K'


class Display:
    """How far a command is: a bar on a terminal, else a line now and then.

    The bar goes to stderr, and is gone at the end. Lines go to stdout, as
    what ``say()`` is told does, for they belong into a log beside it.

    :param quiet: say nothing of the progress where there is no terminal, for
        output that programs read
    """

    def __init__(self, quiet: bool = False) -> None:
        self.progress = progress_.Progress()
        self._terminal = sys.stderr.isatty()
        self._quiet = quiet
        self._has_said = False
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> 'Display':
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None,
                 error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        self._clear()

    def say(self, line: str) -> None:
        """Print a line that stays."""
        with self._lock:
            self._clear()
            print(printable(line), flush=True)
            self._has_said = True

    def _show(self) -> None:
        step: Callable[[], None] = self._draw if self._terminal else self._log
        while not self._done.wait(_TERMINAL_SECONDS if self._terminal
                                  else _LOG_SECONDS):
            with self._lock:
                step()

    def _draw(self) -> None:
        # Not shutil's, which looks at stdout; 0 if the terminal does not say.
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        line = bar(self.progress, columns)
        print(_CLEAR + line, end='', file=sys.stderr, flush=True)

    def _log(self) -> None:
        # Whoever has just said something lives, and may be about to end.
        if not self._quiet and not self._has_said:
            print(printable(f'  {self.progress}'), flush=True)
        self._has_said = False

    def _clear(self) -> None:
        if self._terminal:
            print(_CLEAR, end='', file=sys.stderr, flush=True)


def bar(progress: progress_.Progress, columns: int) -> str:
    """Draw how far something is; only words where nobody knows."""
    line, part = f'  {progress}', progress.fraction
    if part is not None:
        full = int(part * _BAR)
        line = f'  [{"#" * full}{"-" * (_BAR - full)}]{line[1:]}'
    # A line that wraps is not cleared.
    return printable(line)[:columns - 1]


def printable(line: str) -> str:
    """A line without what would not stay in it, or command the terminal.

    Names of images are anybody's.
    """
    return ''.join(c if c.isprintable() else '?' for c in line)
