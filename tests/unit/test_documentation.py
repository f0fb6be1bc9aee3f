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

"""The documentation: examples are read, messages are those of the code."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import glance_conversion_plugins
from glance_conversion_plugins.external import program
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.external import sandbox
from glance_conversion_plugins.external import staged
from glance_conversion_plugins.formats import archives
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.formats import qcow2
from glance_conversion_plugins.formats import remarks
from tests import documents
from tests.unit import test_contrib

PACKAGE = pathlib.Path(glance_conversion_plugins.__file__).parent
LANGUAGES = {'console', 'ini', 'jinja', 'text', 'yaml'}
# Never the last word: whoever stopped it has the reason.
INTERNAL = {'Another part of the copy failed.', 'The copy was stopped.',
            'Reading the image was stopped.',
            'Reading the stored image was stopped.'}

check = test_contrib.check


@pytest.mark.parametrize('path', documents.PAGES, ids=documents.name)
def test_every_example_says_what_it_is(path):
    assert {language for language, _ in documents.blocks(path)} <= LANGUAGES


@pytest.mark.parametrize('path', documents.PAGES, ids=documents.name)
def test_every_configuration_is_one_that_glance_reads(check, path):
    for language, text in documents.blocks(path):
        if language == 'ini':
            assert check(text), text


def literal(argument):
    """The parts of a message that are always the same."""
    if isinstance(argument, ast.JoinedStr):
        return [part.value for part in argument.values
                if isinstance(part, ast.Constant)]
    if isinstance(argument, ast.Constant):
        return [argument.value]
    return []


def messages():
    """What errors of ours say: lists of parts."""
    for path in sorted(PACKAGE.rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if (isinstance(node, ast.Call) and node.args
                    and re.match(r'errors\.\w+$|(vmdk_text\.)?refused$'
                                 r'|_damaged$|RULES\.get$|compat\.exception\.UploadException$',
                                 ast.unparse(node.func))):
                # Of a lookup it is the last that stands for all others.
                yield literal(node.args[-1])
    yield from ([text] for text in detection.RULES.values())
    yield from (text.split('{}') for text in archives.REFUSED.values())
    yield from ([text] for text in inspection.HINTS.values())
    yield from ([text] for name, text in vars(remarks).items()
                if name.isupper())
    yield [sandbox.MISSING]
    yield [qcow2.ENCRYPTED]
    yield [qemu_img.STOPPED]
    yield [qemu_img.NOT_REPLAYED]
    yield [program.LATE]
    yield [staged.UNREADABLE]


@pytest.mark.parametrize('parts', [
    parts for parts in messages() if not INTERNAL.issuperset(parts)],
    ids=lambda parts: ''.join(parts)[:60])
def test_every_message_is_explained(parts):
    shown = documents.words(documents.TROUBLESHOOTING)
    for part in parts:
        # Words such as " and " prove nothing, and need not.
        if len(part) > 10:
            assert part.strip() in shown


def is_said(message):
    """Whether some code says it, or the words within a general refusal."""
    # What is nothing but a frame for other words would match anything.
    said = [parts for parts in messages() if len(''.join(parts)) > 10
            and parts != ['The image is refused: ', '.']]
    source = ''.join(path.read_text() for path in PACKAGE.rglob('*.py'))
    return message in re.sub(r"'\s*\n\s*f?'", '', source) or any(
        re.search('.*'.join(re.escape(part) for part in parts), message)
        for parts in said)


def test_what_nobody_says_would_be_found():
    assert not is_said('The image is refused: it is too blue.')
    assert not is_said('The store is too blue.')


@pytest.mark.parametrize('message', documents.explained())
def test_no_message_is_explained_that_nobody_says(message):
    assert is_said(message)


@pytest.mark.parametrize('folder', ['doc/source', 'releasenotes/source'])
def test_it_builds_without_a_warning(tmp_path, folder):
    subprocess.run(
        [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-E',
         '-b', 'html', folder, str(tmp_path)], check=True,
        cwd=documents.ROOT)
    assert (tmp_path / 'index.html').exists()
