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

"""Change the code in small ways, and see whether the tests notice.

Of the modules that decide what is removed, released, recorded or fenced every
small change should be noticed. Each change is made in a copy of the tree; the
tests that concern its module, and need no cloud, run up to the first failure.
The exit status is 0 if as many changes are noticed as there should be.
"""

import argparse
import collections
from collections.abc import Iterable
import pathlib
import random
import sys
import tomllib
from typing import Any

from mutation import changes
from mutation import trial

ROOT = pathlib.Path(__file__).resolve().parents[1]
DECLARED = pathlib.Path(__file__).with_suffix('.toml')
SIMULATION = 'tests/simulation/test_simulation.py'


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--module', action='append', default=[],
                        help='only of this module, "stores/verdict" say; may '
                        'be given several times')
    parser.add_argument('--sample', type=int, help='of so many changes; by '
                        'default of all')
    parser.add_argument('--seed', type=int, default=0, help='of the sample')
    parser.add_argument('--runs', type=int, default=300,
                        help='runs of the simulation for each change')
    parser.add_argument('--least', type=float, default=95, help='percentage '
                        'that should be noticed; default: 95')
    parser.add_argument('--list', action='store_true',
                        help='only say what would be changed')
    return parser.parse_args()


class Declared:
    """What is known of the modules: which tests they have, and which changes
    of them make no difference, and why.
    """

    def __init__(self, path: pathlib.Path) -> None:
        found = tomllib.loads(path.read_text())
        self.modules: dict[str, list[str]] = found['modules']
        # {module: {function: {change: reason}}}
        self.equivalent: dict[str, Any] = found['equivalent']

    def tests(self, module: str) -> list[str]:
        """What is run for a module, in this order."""
        folder, _, name = module.rpartition('/')
        mirrored = f'tests/unit/{folder}/test_{name}.py'
        return [*([mirrored] if (ROOT / mirrored).exists() else []),
                *self.modules.get(module, []), SIMULATION]

    def is_equivalent(self, change: changes.Change) -> bool:
        """Say whether nothing could notice a change."""
        return change.name in self.equivalent.get(change.module, {}).get(
            change.function, {})


def chosen(declared: Declared, modules: Iterable[str]
           ) -> list[changes.Change]:
    """All changes of some modules that may be noticed."""
    return [change for module in modules for change in changes.changes(
        module, ROOT / trial.PACKAGE / f'{module}.py')
        if not declared.is_equivalent(change)]


def sampled(found: list[changes.Change], size: int | None, seed: int
            ) -> dict[str, list[changes.Change]]:
    """Some changes, or all, by their module."""
    if size is not None and size < len(found):
        found = sorted(random.Random(seed).sample(found, size))  # noqa: S311
    by_module = collections.defaultdict(list)
    for change in found:
        by_module[change.module].append(change)
    return by_module


def survivors(tree: trial.Tree, found: list[changes.Change],
              tests: list[str]) -> list[changes.Change]:
    """Changes of one module that no test notices."""
    tree.begin(tests)
    survived = []
    for change in found:
        if not tree.notices(change, tests):
            print(f'SURVIVED {change}', flush=True)
            survived.append(change)
    return survived


def report(made: int, survived: int, what: str) -> float:
    """Say how many were noticed; returns how many of a hundred."""
    percentage = 100 * (made - survived) / made if made else 100.
    print(f'{what}: {made - survived} of {made} noticed, {percentage:.0f} %',
          flush=True)
    return percentage


def main() -> int:
    wanted = options()
    declared = Declared(DECLARED)
    found = sampled(chosen(declared, wanted.module or declared.modules),
                    wanted.sample, wanted.seed)
    if wanted.list:
        print(*(change for each in found.values() for change in each),
              sep='\n')
        return 0
    left = {}
    with trial.Tree(ROOT, wanted.runs) as tree:
        for module, each in found.items():
            left[module] = survivors(tree, each, declared.tests(module))
            report(len(each), len(left[module]), module)
    noticed = report(sum(map(len, found.values())),
                     sum(map(len, left.values())), 'all')
    return 0 if noticed >= wanted.least else 1


if __name__ == '__main__':
    sys.exit(main())
