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

"""What the documentation says: examples, messages and commands in it."""

import functools
import pathlib
import re

from docutils import core
from docutils import nodes
from docutils.parsers import rst
from docutils.parsers.rst import directives
from docutils.parsers.rst import roles

ROOT = pathlib.Path(__file__).parents[1]
REFUSALS = ROOT / 'doc' / 'source' / 'admin' / 'refusals.rst'
TROUBLESHOOTING = ROOT / 'doc' / 'source' / 'admin' / 'troubleshooting.rst'
PAGES = sorted(
    [ROOT / 'README.rst', ROOT / 'CONTRIBUTING.rst',
     *(ROOT / 'contrib').rglob('*.rst'),
     *(path for path in (ROOT / 'doc' / 'source').rglob('*.rst'))])


class _Ignored(rst.Directive):
    """A directive that Sphinx knows and docutils does not."""

    has_content = True
    optional_arguments = 10
    option_spec = dict.fromkeys((
        'maxdepth', 'config-file', 'language'), directives.unchanged)

    def run(self):
        found = nodes.container()
        if self.name == 'glossary':
            self.state.nested_parse(self.content, self.content_offset, found)
        return [found]


for _name in ('toctree', 'show-options', 'literalinclude', 'glossary'):
    directives.register_directive(_name, _Ignored)
roles.register_generic_role('doc', nodes.emphasis)


def name(path):
    return str(path.relative_to(ROOT))


@functools.cache
def tree(path):
    return core.publish_doctree(
        path.read_text(), source_path=str(path),
        settings_overrides={'halt_level': 2})


def blocks(path):
    """[(language, text)] of what a page shows word for word."""
    found = []
    for block in tree(path).findall(nodes.literal_block):
        language = [word for word in block['classes'] if word != 'code']
        found.append((language[0] if language else None, block.astext()))
    return found


def typed(text):
    """The commands in a block, without what they print."""
    return re.findall(r'(?m)^\$ (.+)$', re.sub(r'\\\n\s*', '', text))


def commands(path):
    """The commands that a page says to type."""
    return [command for language, text in blocks(path)
            if language == 'console' for command in typed(text)]


def words(path):
    """All text of a page, with single spaces."""
    return re.sub(r'\s+', ' ', tree(path).astext())


def rows():
    """The cells of each row in the table of refusals, but for its head."""
    table, = tree(REFUSALS).findall(nodes.table)
    body, = table.findall(nodes.tbody)
    return [row.children for row in body.children]


def refusals():
    """The messages in the first column of that table.

    What differs from case to case is … in them, and in those that follow.
    """
    return [re.sub(r'\s+', ' ', message.astext()) for cells in rows()
            for message in cells[0].findall(nodes.emphasis)]


def troubles():
    """All other messages, which the page on troubleshooting explains."""
    text = TROUBLESHOOTING.read_text()
    return [message for line
            in text[text.index('Messages about the image'):].splitlines()
            for message in re.findall(
                r'(?:^|, )\*((?:The|This) [^*]+)\*', line)]


def explained():
    """The messages that the documents explain."""
    return refusals() + troubles()


def pattern(message):
    """What any message is like that an owner reads in these words."""
    return re.compile('.+'.join(map(re.escape, message.split('…'))))


@functools.cache
def _patterns():
    return [pattern(message) for message in explained()]


def is_explained(message):
    """Whether the documents explain what an owner reads."""
    return any(pattern.fullmatch(message) for pattern in _patterns())
