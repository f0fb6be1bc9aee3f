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

"""What a command shows of its progress, on a terminal and elsewhere."""

import os
import pty
import subprocess
import sys
import termios
import textwrap

import pytest

from glance_conversion_plugins.cmd import display
from glance_conversion_plugins.cmd import manage
from glance_conversion_plugins.copying import progress

CLEAR = '\r\x1b[K'

PROGRAM = textwrap.dedent('''\
    import time
    from glance_conversion_plugins.cmd import display
    display._TERMINAL_SECONDS = display._LOG_SECONDS = 0.05
    with display.Display(quiet={quiet}) as shown:
        shown.progress.enter('Copying', 200)
        shown.progress.advance(100)
        time.sleep(0.5)
        shown.say('half of it')
''')


def at(done, total=100):
    found = progress.Progress(now=lambda: 0)
    found.enter('Copying', total)
    found.advance(done)
    return found


@pytest.mark.parametrize('done, drawn', [
    (0, '--------------------'),
    (4, '--------------------'),
    (5, '#-------------------'),
    (50, '##########----------'),
    (99, '###################-'),
    (100, '####################'),
    # What is read again after an error counts twice.
    (130, '####################'),
])
def test_a_bar_is_as_long_as_what_is_done(done, drawn):
    line = display.bar(at(done), 200)
    assert line == f'  [{drawn}] {at(done)}'
    assert f' {min(done, 100)}% ({min(done, 100)} B of 100 B), ' in line


def test_without_a_total_there_are_words_only():
    assert display.bar(at(5, total=0), 200) == '  Copying: 5 B, 0 s so far'


@pytest.mark.parametrize('columns', [1, 10, 40])
def test_a_bar_never_fills_its_line(columns):
    line = display.bar(at(50), columns)
    assert len(line) == columns - 1
    assert display.bar(at(50), 200).startswith(line)


def run(quiet, **streams):
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM.format(quiet=quiet)], check=True,
        text=True, stdout=subprocess.PIPE, **streams)
    return done.stdout


# 0 is a terminal that does not know; only the first is too narrow.
@pytest.mark.parametrize('columns, whole', [
    (60, False), (200, True), (0, True)])
def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(columns, whole):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    try:
        assert run(True, stderr=theirs) == 'half of it\n'
        os.close(theirs)
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
    drawn = shown.split(CLEAR)
    assert drawn[1].startswith('  [##########----------] Copying: 50% (100 ')
    assert len(drawn[1]) == 59 or whole
    assert drawn[1].endswith(' left') is whole
    assert drawn[-1] == ''


def test_what_is_done_about_a_finding_is_said_meanwhile(capsys):
    phases = []
    with display.Display(quiet=True) as shown:
        def note():
            phases.append(str(shown.progress).partition(',')[0])

        def found():
            for name in 'ab':
                note()
                yield name, note
        assert manage._carry_out(shown, 'Looking', found(), False,
                                 'remov') == 0
    assert phases == ['Looking', 'Removing a', 'Looking', 'Removing b']
    assert capsys.readouterr().out == 'removing a\nremoving b\n'


def test_a_log_gets_lines():
    lines = run(False, stderr=subprocess.STDOUT).splitlines()
    # There are some more if it takes long to end.
    assert lines.count('half of it') == 1
    lines.remove('half of it')
    assert any(line.startswith('  Copying: 50% (100 B of 200 B), about ')
               for line in lines)
    assert all(line.startswith('  Copying: ') for line in lines)


def test_nothing_follows_the_last_word(capsys):
    shown = display.Display()
    shown.say('half of it')
    shown._log()
    assert capsys.readouterr().out == 'half of it\n'
    shown._log()
    assert capsys.readouterr().out.startswith('  ')


def test_what_programs_read_has_nothing_else():
    assert run(True, stderr=subprocess.STDOUT) == 'half of it\n'
