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

"""The small changes of tools/mutants.py, and what is declared of them."""

import ast
import pathlib
import sys

import pytest

TOOLS = pathlib.Path(__file__).resolve().parents[2] / 'tools'
sys.path.insert(0, str(TOOLS))

import mutants  # noqa: E402
from mutation import changes  # noqa: E402
from mutation import trial  # noqa: E402

DECLARED = mutants.Declared(mutants.DECLARED)
PACKAGE = mutants.ROOT / trial.PACKAGE


def _changes(tmp_path, source):
    path = tmp_path / 'module.py'
    path.write_text(source)
    return changes.changes('module', path)


def _changed(tmp_path, source):
    """What a source may become."""
    return {change.apply(source.encode()).decode()
            for change in _changes(tmp_path, source)}


@pytest.mark.parametrize(('source', 'expected'), [
    ('a == b', {'(a != b)'}),
    ('a is b', {'(a is not b)'}),
    ('a not in b', {'(a in b)'}),
    ('a >= b', {'(a > b)', '(a < b)'}),
    ('a < b < c', {'(not (a < b < c))'}),
    ('a and b', {'((a) or (b))', '((a))', '((b))'}),
    ('not a', {'(a)'}),
    ('-a', {'(a)'}),
    ('a + b', {'(a - b)'}),
    ('min(a)', {'max(a)', 'pass'}),
    ('Verdict.LEAVE', {'Verdict.HAND_OVER', 'Verdict.REMOVE',
                       'Verdict.FENCE'}),
    ('a = 7', {'a = 8'}),
    ('a = 60', {'a = 120'}),
    ('a = False', {'a = True'}),
    ('a = ""', {"a = 'mutant'"}),
    ('a = "b"', {"a = ''"}),
    ('a.b = c', {'pass'}),
    ('a(b)', {'pass'}),
    ('raise a', {'pass'}),
    ('del a', {'pass'}),
    ('a = b if c else d', {'a = b if (not (c)) else d'}),
    ('[a for a in b if c]', {'[a for a in b if (not (c))]',
                             '[a for a in b if True]'}),
    ('with contextlib.suppress(a): b',
     {'with contextlib.suppress(): b', 'with contextlib.suppress(a): pass'}),
    ('def f(a=False): return a', {'def f(a=True): return a',
                                  'def f(a=False): return None'}),
    ('def f(a: "b") -> "c": pass', set()),
    ('"""A docstring."""', set()),
    ('LOG.info("a", b)', set()),
    ('raise errors.Busy("a")', {'pass'}),
    ('class A(enum.Enum): A = "a"', set())])
def test_code_is_changed_in_small_ways(tmp_path, source, expected):
    found = _changed(tmp_path, source)
    # An expression alone is a statement too, which may be dropped.
    assert found - {'pass'} == expected - {'pass'}
    assert ('pass' in found) >= ('pass' in expected)


def test_a_handler_that_catches_nothing_is_a_change(tmp_path):
    source = 'try: a\nexcept B: c\n'
    assert 'try: a\nexcept (): c\n' in _changed(tmp_path, source)


def test_a_change_tells_where_it_is(tmp_path):
    source = 'class A:\n  def f(self):\n    é = 1; b.c = 7\n'
    found = [str(change) for change in _changes(tmp_path, source)]
    assert found == ['module.py:3: A.f: 1 -> 2',
                     'module.py:3: A.f: b.c = 7 -> pass',
                     'module.py:3: A.f: 7 -> 8']


@pytest.mark.parametrize('module', sorted(DECLARED.modules))
def test_what_was_changed_can_be_read(module):
    path = PACKAGE / f'{module}.py'
    source, found = path.read_bytes(), changes.changes(module, path)
    assert found
    for change in found[::5]:
        ast.parse(change.apply(source))


@pytest.mark.parametrize('module', sorted(DECLARED.modules))
def test_the_tests_of_every_module_are_there(module):
    found = DECLARED.tests(module)
    assert found[-1] == mutants.SIMULATION
    assert not [path for path in found if not (mutants.ROOT / path).exists()]


def test_what_makes_no_difference_is_there_and_has_a_reason():
    found = [(module, function, name, reason)
             for module, functions in DECLARED.equivalent.items()
             for function, names in functions.items()
             for name, reason in names.items()]
    for module, function, name, reason in found:
        assert (function, name) in {
            (change.function, change.name) for change in changes.changes(
                module, PACKAGE / f'{module}.py')}
        assert len(reason.split()) > 2


def test_a_sample_is_the_same_for_the_same_seed():
    found = mutants.chosen(DECLARED, DECLARED.modules)
    one, two, other = (mutants.sampled(found, 20, seed)
                       for seed in (0, 0, 1))
    assert one == two != other
    assert sum(map(len, one.values())) == 20
    assert mutants.sampled(found, None, 0).keys() == DECLARED.modules.keys()
