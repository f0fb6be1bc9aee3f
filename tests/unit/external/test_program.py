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

"""What a program says is heard up to a bound, and nobody waits for ever."""

import os
import signal
import subprocess
import threading

import pytest

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying.sources import nbd as nbd_source
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import program
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.external import qemu_nbd
from glance_conversion_plugins.external import sandbox
from tests.unit import processes

LIMITS = sandbox.Limits(60)
PYTHON = ('python3', '-I', '-S', '-c')


def _run(code, most=1 << 20, cancel=cancel_.NEVER, seconds=None):
    return program.run([*PYTHON, code], LIMITS, most=most, cancel=cancel,
                       seconds=seconds)


@pytest.fixture
def unconfined(monkeypatch):
    """Start programs as they are, so that they may leave others behind."""
    def start(argv, limits, *, stdin=None, readable=(), writable=(),
              **kwargs):
        return subprocess.Popen(start.argv, text=True,
                                stdin=subprocess.DEVNULL, **kwargs)

    monkeypatch.setattr(sandbox, 'start', start)
    return start


@pytest.fixture
def left_behind(unconfined, tmp_path):
    """A program that ends, and leaves one that keeps its pipes open."""
    pid = tmp_path / 'pid'
    unconfined.argv = ['sh', '-c', f'sleep 600 & echo $! > {pid}; echo out;'
                       'echo err >&2']
    yield lambda: int(pid.read_text())
    os.kill(int(pid.read_text()), signal.SIGKILL)


def test_what_is_said_on_both_pipes():
    with _run('import sys\nsys.stderr.write("err")\nprint("out")') as running:
        assert running.answer(100) == b'out\n'
    assert running.said == 'err'
    assert running.status == 0


def test_more_on_stdout_than_is_wanted():
    with pytest.raises(program.Overflow):
        with _run('while True: print("x" * 1000)') as running:
            running.answer(1 << 20)
    assert running.status == -signal.SIGKILL


def test_more_on_stderr_than_is_wanted():
    with pytest.raises(program.Overflow):
        with _run('import sys\nwhile True: sys.stderr.write("x" * 1000)'
                  ) as running:
            running.answer(100)
    assert running.status == -signal.SIGKILL
    assert len(running._stderr) <= 1 << 12


def test_much_on_stderr_does_not_keep_it_from_stdout():
    """A pipe that nobody reads would be full."""
    with _run('import sys\nsys.stderr.write("x" * (1 << 19))\n'
              'print("out")') as running:
        assert list(running.lines()) == ['out']
    assert len(running._stderr) <= 1 << 12
    assert len(running.said) < 600
    assert running.said.endswith('...')


def test_bytes_that_are_no_text():
    with _run('import os\nos.write(1, b"\\xff\\n")\n'
              'os.write(2, b"\\xfe\\x1b[2J\\nmore\\n")') as running:
        assert list(running.lines()) == ['\ufffd']
    assert running.said == '\ufffd?[2J; more'


def test_lines_end_with_either_end():
    with _run('import os\nos.write(1, b"one\\rtwo\\n\\nthree")') as running:
        assert list(running.lines()) == ['one', 'two', '', 'three']


def test_a_line_without_an_end():
    with _run('import os\nfor _ in range(99): os.write(1, b"x" * 100000)'
              ) as running:
        line, = running.lines()
    assert len(line) <= 1 << 17


def test_what_it_says_last_is_heard(monkeypatch):
    """Also if this thread sleeps while the program writes and ends."""
    monkeypatch.setattr(program, '_LOOK_SECONDS', 0.05)
    with _run('import time\ntime.sleep(0.3)\nprint("last")') as running:
        monkeypatch.setattr(running._process, 'poll',
                            lambda: running._process.wait(60))
        assert running.answer(100) == b'last\n'


def test_takes_too_long():
    with pytest.raises(errors.SourceFailed, match='too long'):
        with _run('import time\ntime.sleep(600)', seconds=0.1) as running:
            running.answer(100)
    assert running.status == -signal.SIGKILL


def test_takes_too_long_without_its_pipes():
    with pytest.raises(errors.SourceFailed, match='too long'):
        with _run('import os, time\nos.close(1); os.close(2)\n'
                  'time.sleep(600)', seconds=0.1) as running:
            running.answer(100)


def test_cancel_is_heard_while_it_is_silent():
    cancel = cancel_.Cancel()
    threading.Timer(0.2, cancel.set).start()
    with pytest.raises(errors.Cancelled):
        with _run('import time\ntime.sleep(600)', cancel=cancel) as running:
            running.answer(100)
    assert running.status == -signal.SIGKILL


def test_cancel_is_heard_while_it_talks():
    cancel = cancel_.Cancel()
    with pytest.raises(errors.Cancelled):
        with _run('while True: print("x")', cancel=cancel) as running:
            for _ in running.lines():
                cancel.set()


def test_nobody_waits_for_what_it_leaves_behind(left_behind):
    with _run('') as running:
        assert running.answer(100) == b'out\n'
    assert running.said == 'err'
    assert not processes.is_gone(left_behind())


def test_what_it_leaves_behind_may_not_talk_for_ever(unconfined, tmp_path):
    pid = tmp_path / 'pid'
    unconfined.argv = ['sh', '-c', f'yes & echo $! > {pid}']
    try:
        with _run('') as running:
            for _ in running.pieces():
                pass
        assert running.status == 0
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_server_that_leaves_something_behind(left_behind, path, caplog):
    server = qemu_nbd.NbdServer(qemu_img.Image(path, 'qcow2'), 1, 1 << 20)
    server._process.wait(60)
    server.close()
    assert not processes.is_gone(left_behind())
    assert 'qemu-nbd said: err' in caplog.text


def test_a_server_that_talks_is_not_kept_waiting(unconfined, path, caplog):
    unconfined.argv = ['python3', '-c', 'import os\nfor _ in range(999):\n'
                       ' try: os.write(2, b"x" * 1000)\n'
                       ' except BlockingIOError: pass']
    server = qemu_nbd.NbdServer(qemu_img.Image(path, 'qcow2'), 1, 1 << 20)
    assert server._process.wait(60) == 0
    server.close()
    assert len(caplog.text) < 2000


def test_a_process_that_can_not_be_killed_is_left(caplog, monkeypatch):
    """As one is that waits for a file server."""
    monkeypatch.setattr(sandbox, '_END_SECONDS', 0.1)
    with subprocess.Popen(['sleep', '600']) as process:
        monkeypatch.setattr(process, 'kill', lambda: None)
        sandbox.end(process)
        assert 'does not end' in caplog.text
        assert process.poll() is None
        monkeypatch.undo()
        process.kill()


@pytest.mark.parametrize('words', [
    'Could not initialize refcount handling: Cannot allocate memory',
    'Could not allocate metadata caches',
    'Unable to allocate memory for page table'])
def test_want_of_memory_is_not_the_fault_of_the_image(unconfined, path,
                                                      caplog, words):
    unconfined.argv = ['sh', '-c', f'echo "qemu: {words}" >&2; exit 1']
    image = qemu_img.Image(path, 'qcow2')
    for question in (lambda: qemu_img.info(image),
                     lambda: qemu_img.check(image),
                     lambda: list(qemu_img.extents(image, 1 << 18)),
                     lambda: nbd_source.NbdSource(image, 1 << 18)):
        caplog.clear()
        with pytest.raises(errors.SourceFailed, match='stopped'):
            question()
        assert words in caplog.text
