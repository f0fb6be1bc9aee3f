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

"""The quick start, followed to the letter."""

import os
import re
import subprocess
import sys

import pytest

from tests import documents
from tests.functional import conftest

QUICKSTART = documents.ROOT / 'doc' / 'source' / 'quickstart' / 'index.rst'
# Of which the page says what else than success they are.
STATUS = {'glance-conversion-status upgrade check': 1}


@pytest.fixture
def environment():
    """A place and ports of its own; all else is as for a newcomer."""
    cloud = conftest.fresh_cloud(f'{conftest.ROOT}-quickstart',
                                 conftest.PORT + 100)
    yield os.environ | {'GLANCE_CLOUD_DIR': str(cloud.root),
                        'VENV': sys.prefix}
    cloud.destroy()


def script():
    """All commands of the page, one after the other."""
    yield 'set -ex'
    for command in documents.commands(QUICKSTART):
        command = command.replace(' .venv ', f' {sys.prefix} ')
        status = STATUS.get(command)
        yield (f'status=0; {command} || status=$?; test $status = {status}'
               if status else command)


def pattern(line):
    """What a shown line may look like on another machine."""
    found = re.escape(line.strip())
    found = re.sub(r'\d+(\\\.\d+)?', r'[\\d.]+', found)
    found = found.replace(r'\.\.\.', '.*').replace('IMAGE_ID', r'[\w-]+')
    found = found.replace('MiB', '[KMG]iB')
    # A minute or more on a machine that is busy.
    found = re.sub(r'in\\ (\S+)\\ s$', r'in\\ ([\\d.]+ min )?\1\\ s', found)
    return re.sub(r'(\\ )+', r'\\s+', found)


def test_the_pattern_of_a_line():
    line = pattern('a: 12% (1.2 GiB, 118 MiB written) of ...  | IMAGE_ID@x')
    assert re.match(line, 'a: 9% (0.2 GiB, 1 GiB written) of it | 1-f@x')
    assert not re.match(line, 'a: 9% (0.2 GiB written) of it | 1-f@x')


def test_the_pattern_of_a_line_that_ends_with_a_duration():
    line = pattern('Converted: 10.0 GiB, in 16 s') + '$'
    assert re.match(line, 'Converted: 10.0 GiB, in 7 s')
    assert re.match(line, 'Converted: 10.0 GiB, in 1 min 09 s')


def test_every_command_works_and_shows_what_the_page_says(environment):
    done = subprocess.run(
        ['bash', '-c', '\n'.join(script())], env=environment, text=True,
        cwd=documents.ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors='replace')
    assert done.returncode == 0, done.stdout
    assert not os.path.exists(environment['GLANCE_CLOUD_DIR'])
    shown = [line for language, text in documents.blocks(QUICKSTART)
             if language == 'text' for line in text.splitlines()]
    assert '== A copy-on-write clone of it boots' in shown
    rest = done.stdout
    for line in shown:
        found = re.search(pattern(line), rest)
        assert found, f'not in this order: {line}\n{done.stdout}'
        rest = rest[found.end():]
