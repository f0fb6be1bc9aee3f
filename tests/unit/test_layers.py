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


"""The direction of imports, and the size of things."""

import ast
import pathlib
import re

import pytest

import glance_conversion_plugins

DRAWING = (pathlib.Path(__file__).parents[2] / 'doc' / 'source'
           / 'contributor' / 'architecture.svg')
PACKAGE = 'glance_conversion_plugins'
ROOT = pathlib.Path(glance_conversion_plugins.__file__).parent

# From the top to the bottom; what is imported stands below, or in the same
# room.
ROOMS = ('plugins', 'cmd', 'image_import', 'maintenance', 'stores',
         'glance_db', 'copying', 'formats', 'external', 'config', 'cancel',
         'units', 'errors')
# Move bytes, and know nothing of Glance nor of its configuration.
DATA_PATH = {'copying', 'formats', 'external', 'cancel', 'units', 'errors'}
FORBIDDEN = {'glance', 'glance_store', 'oslo_config', 'taskflow'}


def _modules():
    """{dotted name within the package: path}"""
    found = {}
    for path in ROOT.rglob('*.py'):
        parts = path.relative_to(ROOT).with_suffix('').parts
        if parts[-1] == '__init__':
            parts = parts[:-1]
        found['.'.join(parts)] = path
    return found


MODULES = _modules()


def _imported(tree):
    """Dotted names of all that is imported, wherever it stands."""
    for item in ast.walk(tree):
        if isinstance(item, ast.Import):
            yield from (alias.name for alias in item.names)
        elif isinstance(item, ast.ImportFrom):
            assert not item.level, 'relative import'
            yield item.module
            yield from (f'{item.module}.{a.name}' for a in item.names)


def _tree(name):
    return ast.parse(MODULES[name].read_text())


def _ours(tree):
    """Modules of this package that are imported, without its name."""
    found = {name.removeprefix(PACKAGE + '.') for name in _imported(tree)
             if name.startswith(PACKAGE + '.')}
    return found & set(MODULES)


def _room(name):
    return name.split('.')[0]


def _upward(name, imported):
    """What a module imports of a room above its own."""
    own = ROOMS.index(_room(name))
    return {found for found in imported if ROOMS.index(_room(found)) < own}


def test_imports_are_found_wherever_they_stand():
    tree = ast.parse('import os.path\n'
                     'def f():\n'
                     '    from glance_conversion_plugins import plugins\n'
                     '    from glance.api import common as c\n')
    assert 'os.path' in list(_imported(tree))
    assert 'glance.api.common' in list(_imported(tree))
    assert _ours(tree) == {'plugins'}


def test_what_reaches_up_is_noticed():
    assert _upward('copying.pipeline', {'errors', 'formats.vhd'}) == set()
    assert _upward('external.qemu_img', {'formats.vhd', 'errors'}) == {
        'formats.vhd'}


def test_every_module_is_in_a_room():
    assert {_room(name) for name in MODULES if name} == set(ROOMS)


@pytest.mark.parametrize('name', sorted(MODULES))
def test_nothing_reaches_up(name):
    if name:
        assert _upward(name, _ours(_tree(name))) == set()


@pytest.mark.parametrize('name', sorted(
    name for name in MODULES if _room(name) in DATA_PATH))
def test_data_path_knows_nothing_of_glance(name):
    tree = _tree(name)
    assert not {i.split('.')[0] for i in _imported(tree)} & FORBIDDEN
    assert {_room(found) for found in _ours(tree)} <= DATA_PATH


def test_only_compat_knows_what_is_not_public_in_glance():
    """Glance has no public interface; glance_store has a private part."""
    users = {name for name in MODULES if any(
        i.split('.')[0] == 'glance' or i.startswith('glance_store._')
        for i in _imported(_tree(name)))}
    assert users == {'glance_db.compat'}


def test_only_detection_calls_the_inspectors_of_oslo():
    users = {name for name in MODULES
             if any('format_inspector' in i for i in _imported(_tree(name)))}
    assert users == {'formats.detection'}


def _reverts():
    for name in MODULES:
        for item in ast.walk(_tree(name)):
            if isinstance(item, ast.ClassDef):
                yield from ((f'{name}.{item.name}', f) for f in item.body
                            if isinstance(f, ast.FunctionDef)
                            and f.name == 'revert')


def test_every_revert_takes_any_argument():
    found = dict(_reverts())
    assert found, 'no task reverts anything'
    # taskflow passes flow_failures and what execute() required.
    assert not [name for name, f in found.items() if not f.args.kwarg]


def test_the_drawing_shows_every_module():
    drawn = set(re.findall(r'\w+', DRAWING.read_text()))
    assert not {part for name in MODULES for part in name.split('.')
                if part} - drawn


@pytest.mark.parametrize('name', sorted(MODULES))
def test_modules_and_functions_are_short(name):
    assert len(MODULES[name].read_text().splitlines()) < 300
    functions = {f.name: f.end_lineno - f.lineno + 1
                 for f in ast.walk(_tree(name))
                 if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert not {f: n for f, n in functions.items() if n >= 60}
