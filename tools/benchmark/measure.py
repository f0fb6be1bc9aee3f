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

"""Rounds of all contestants, one after the other, and their medians."""

import statistics
import sys
import time

from benchmark import cases
from benchmark import contestants

GLANCE = ('stock', 'inline', 'deferred')
SLOW = {'stock', 'stock-file', 'staged'}
RIVALS = ('qemu', 'import')
PIECES = ('f', 'g', 'h', 'h-raw')


def progress(*words):
    """Say how far the benchmark is."""
    print(time.strftime('%H:%M:%S'), *words, file=sys.stderr, flush=True)


def field(key, options):
    """Who runs in a case, and how many times."""
    if key in PIECES:
        # Stock takes many minutes, and what is dense is (b).
        return dict.fromkeys(('deferred', 'unhashed', 'qemu'), options.runs)
    if key in cases.DECOMPRESSORS:
        return dict.fromkeys(('deferred', 'alone'), options.runs)
    runs = dict.fromkeys((*GLANCE, *RIVALS, *contestants.FLOORS),
                         options.runs)
    if key == 'a':
        runs |= dict.fromkeys((*contestants.FILES, 'sha256'), options.runs)
    # Minutes, and steady: Glance reads and digests what it uploads.
    for slow in SLOW & runs.keys():
        runs[slow] = options.stock_runs
    if key in ('c', 'vmdk', 'vhdx'):
        # What these share is measured with (a).
        for name in (*contestants.FLOORS, 'import'):
            del runs[name]
    if key == 'c':
        # Digests of 100 GiB: minutes, and steady.
        runs['inline'] = runs['stock'] = (
            options.stock_runs if options.stock_c else 0)
    return runs


def compare(contest, case, runs, labels=contestants.LABELS):
    """All runs of all contestants in a case, interleaved.

    A contestant that fails is out; the others go on.
    """
    results = {key: {'label': labels[key], 'runs': []}
               for key in runs}
    for number in range(max(runs.values())):
        for key, wanted in runs.items():
            result = results[key]
            if number >= wanted or 'error' in result:
                continue
            progress(f'({case.key}) {result["label"]}, run {number + 1} of '
                     f'{wanted}')
            _run(contest, key, case, result)
    for result in results.values():
        result['median'] = median(result['runs'])
    return results


def median(runs):
    """The median of everything that was measured in numbers."""
    return {name: statistics.median(run[name] for run in runs)
            for name, value in (runs[0] if runs else {}).items()
            if isinstance(value, int | float)
            and all(name in run for run in runs)}


def _run(contest, key, case, result):
    try:
        measured = contest.run(key, case, verify=not result['runs'])
    except Exception as error:
        result['error'] = f'{type(error).__name__}: {error}'
        progress('failed:', result['error'])
        contest.empty()
        return
    result['runs'].append(measured)
    progress(f'  {measured["seconds"]:.2f} s')
    # Looked at in the first run only.
    for name in ('same', 'stored', 'digest', 'client'):
        if name in measured:
            result.setdefault(name, measured[name])
