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
from glance_conversion_plugins import errors
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
# How what has its reason from elsewhere begins.
FRAMES = {'The image is refused: ', 'The image is no disk: ',
          'The image is damaged: of its tables and clusters '}

check = test_contrib.check


@pytest.mark.parametrize('path', documents.PAGES, ids=documents.name)
def test_every_example_says_what_it_is(path):
    assert {language for language, _ in documents.blocks(path)} <= LANGUAGES


@pytest.mark.parametrize('path', documents.PAGES, ids=documents.name)
def test_every_configuration_is_one_that_glance_reads(check, path):
    for language, text in documents.blocks(path):
        if language == 'ini':
            assert check(text), text


def literal(argument, constants):
    """The parts of a message that are always the same."""
    if isinstance(argument, ast.Name):
        argument = constants.get(argument.id)
    if isinstance(argument, ast.JoinedStr):
        return [part.value for part in argument.values
                if isinstance(part, ast.Constant)]
    if isinstance(argument, ast.Constant):
        return [argument.value]
    return []


def is_refusal(path, name):
    """Whether what is called so there is said of an image on its way in."""
    if name.startswith('compat') or 'maintenance' in path.parts:
        return False
    kind = getattr(errors, name.removeprefix('errors.'), errors.ImageRefused)
    return issubclass(kind, errors.ImageRefused)


def messages():
    """What errors of ours say: whether they are refusals, and their parts."""
    for path in sorted(PACKAGE.rglob('*.py')):
        tree = ast.parse(path.read_text())
        constants = {node.targets[0].id: node.value for node in tree.body
                     if isinstance(node, ast.Assign)
                     and isinstance(node.targets[0], ast.Name)}
        for node in ast.walk(tree):
            if (isinstance(node, ast.Call) and node.args
                    and re.match(r'errors\.\w+$|(vmdk_text\.)?refused$'
                                 r'|HybridIso$|_damaged$|RULES\.get$'
                                 r'|compat\.exception\.UploadException$',
                                 name := ast.unparse(node.func))):
                # Of a lookup it is the last that stands for all others.
                yield (is_refusal(path, name),
                       literal(node.args[-1], constants))
    yield from ((True, [text]) for text in detection.RULES.values())
    yield from ((True, text.split('{}')) for text in archives.REFUSED.values())
    yield from ((True, [text]) for text in inspection.HINTS.values())
    yield True, [qcow2.ENCRYPTED]
    yield True, [qemu_img.NOT_REPLAYED]
    yield from ((False, [text]) for name, text in vars(remarks).items()
                if name.isupper())
    yield False, [sandbox.MISSING]
    yield False, [qemu_img.STOPPED]
    yield False, [program.LATE]
    yield False, [staged.UNREADABLE]


MESSAGES = list(messages())


@pytest.mark.parametrize(('refused', 'parts'), [
    found for found in MESSAGES if not INTERNAL.issuperset(found[1])],
    ids=lambda value: (''.join(value)[:60] if isinstance(value, list)
                       else 'refusal' if value else 'trouble'))
def test_every_message_is_explained_where_it_belongs(refused, parts):
    shown = (' '.join(documents.refusals()) if refused
             else documents.words(documents.TROUBLESHOOTING))
    for part in parts:
        # Words such as " and " prove nothing, and need not.
        if len(part) > 10:
            assert part.strip() in shown


def test_every_row_says_what_it_means_and_what_to_do():
    for cells in documents.rows():
        assert len(cells) == 3
        for cell in cells:
            assert cell.astext().strip()


def test_every_row_is_of_a_message():
    for message, *_ in documents.rows():
        for paragraph in message.children:
            only, = paragraph.children
            assert only.tagname == 'emphasis'


def test_no_refusal_is_explained_as_a_trouble_too():
    patterns = [documents.pattern(found) for found in documents.refusals()]
    assert documents.troubles()
    for message in documents.troubles():
        assert not any(found.fullmatch(message) for found in patterns)


def is_said(message):
    """Whether some code says it, or the words within a general refusal."""
    # What is nothing but a frame for other words would match anything.
    said = [parts for _, parts in MESSAGES
            if len(''.join(parts)) > 10 and parts[0] not in FRAMES]
    source = ''.join(path.read_text() for path in PACKAGE.rglob('*.py'))
    return message in re.sub(r"'\s*\n\s*f?'", '', source) or any(
        re.search('.*'.join(re.escape(part) for part in parts), message)
        for parts in said)


def test_what_nobody_says_would_be_found():
    assert not is_said('The image is refused: it is too blue.')
    assert not is_said('The image is no disk: it is too blue.')
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
