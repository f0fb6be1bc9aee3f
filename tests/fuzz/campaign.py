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

"""Many mutants, one after the other, and what is to be said of them.

As a program it is ``python -m tests.fuzz``.
"""

import argparse
import collections
from collections.abc import Sequence
import json
import logging
import os
import pathlib
import random
import re
import sys
import tempfile
import time
import traceback

from glance_conversion_plugins import errors
from tests.fuzz import ova
from tests.fuzz import packages
from tests.fuzz import qcow2
from tests.fuzz import second
from tests.fuzz import streams
from tests.fuzz import structure
from tests.fuzz import trial
from tests.fuzz import vdi
from tests.fuzz import vhd
from tests.fuzz import vhdx
from tests.fuzz import vmdk
from tests.fuzz import zip as zip_

SUBJECTS = (qcow2.SUBJECTS | vdi.SUBJECTS | vhd.SUBJECTS | vhdx.SUBJECTS
            | vmdk.SUBJECTS | streams.SUBJECTS | zip_.SUBJECTS
            | ova.SUBJECTS)

# One of so many that a program is shown is converted in staging as well.
_STAGED = 8
# So many faults are told before a campaign gives up.
_MOST_FAULTS = 20


class Campaign:
    """Runs mutants of several subjects, and counts."""

    def __init__(self, folder: pathlib.Path, options: argparse.Namespace
                 ) -> None:
        self._folder = folder
        self._keep: pathlib.Path | None = options.keep
        self._shown: int = options.one_of
        self._opinion = second.Opinion()
        self.faults = 0
        self.counts: dict[str, collections.Counter[str]] = {
            name: collections.Counter() for name in SUBJECTS}

    def run(self, name: str, seed: int) -> None:
        """Make one mutant, and see that it does no harm."""
        subject, counts = SUBJECTS[name], self.counts[name]
        rng = random.Random(f'{name} {seed}')  # noqa: S311
        data = structure.mutant(subject, rng)
        counts['mutants'] += 1
        try:
            if self._passes(counts, data, subject):
                if rng.random() * self._shown < 1:
                    self._import(counts, data, subject,
                                 staged=rng.random() * _STAGED < 1)
        except (Exception, trial.Late):
            self.faults += 1
            counts['faults'] += 1
            print(f'FAULT of {name}: python -m tests.fuzz {name} --seed '
                  f'{seed} --count 1\n{traceback.format_exc()}',
                  file=sys.stderr, flush=True)
            if self._keep:
                (self._keep / f'{name}-{seed}').write_bytes(data)
            for path in self._folder.iterdir():
                path.unlink()

    def _passes(self, counts: collections.Counter[str], data: bytes,
                subject: structure.Subject) -> bool:
        """Whether a program would be shown a mutant."""
        error = trial.look(data, subject, self._folder)
        if error is None or isinstance(error, errors.LogNotReplayed):
            counts['passed by our tables'] += 1
            return True
        _note(counts, error)
        return False

    def _import(self, counts: collections.Counter[str], data: bytes,
                subject: structure.Subject, *, staged: bool) -> None:
        verdict = trial.run(data, subject, self._folder, staged=staged)
        counts['shown to a program'] += verdict.decoded
        if verdict.refused:
            _note(counts, verdict.refused)
            return
        counts['imported'] += 1
        if subject.disk_format in second.FORMATS:
            self._compare(counts, packages.content(data, subject.container),
                          subject.disk_format, verdict.disk)

    def _compare(self, counts: collections.Counter[str], data: bytes,
                 disk_format: str, disk: bytes) -> None:
        path = self._folder / 'judged'
        path.write_bytes(data)
        found = self._opinion.read(disk_format, path)
        path.unlink()
        if found is None:
            counts['without a second opinion'] += 1
            return
        assert second.agrees(disk_format, data, disk, found), (
            f'a library reads {len(found)} other bytes')
        counts['the same to a second reader'] += 1

    def end(self) -> None:
        self._opinion.close()


def _note(counts: collections.Counter[str], error: errors.ConversionError
          ) -> None:
    message = re.sub(r'\d+', 'N', str(error))
    counts[f'{type(error).__name__}: {message}'] += 1


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    disabled = logging.root.manager.disable
    logging.disable()
    # What is decoded in vain leaves no file where nobody looks.
    with tempfile.TemporaryDirectory(prefix='fuzz-') as folder:
        names = options.names or list(SUBJECTS)
        for name in names:
            structure.original(SUBJECTS[name])
        tempfile.tempdir = os.path.realpath(folder)
        campaign = Campaign(pathlib.Path(tempfile.tempdir), options)
        start = time.monotonic()
        try:
            for seed in range(options.seed, options.seed + options.count):
                for name in names:
                    campaign.run(name, seed)
                if campaign.faults >= _MOST_FAULTS or (
                        options.seconds
                        and time.monotonic() - start > options.seconds):
                    break
        except KeyboardInterrupt:
            # What was found until then is told all the same.
            pass
        finally:
            campaign.end()
            tempfile.tempdir = None
            logging.disable(disabled)
    print(json.dumps({name: dict(counts.most_common())
                      for name, counts in campaign.counts.items()
                      if counts}, indent=1))
    return 1 if campaign.faults else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m tests.fuzz',
        description='Imports mutants of images, and sees what becomes of '
        'each.')
    parser.add_argument('names', nargs='*', metavar='NAME',
                        help=f'all, or some of {", ".join(SUBJECTS)}')
    parser.add_argument('--seed', type=int, default=1, help='of the first')
    parser.add_argument('--count', type=int, default=100,
                        help='mutants of each')
    parser.add_argument('--one-of', type=int, default=1, metavar='N',
                        help='of those that are not refused before, so many '
                        'are shown to a program: one of N')
    parser.add_argument('--seconds', type=float, default=0,
                        help='after which no other begins; 0: no limit')
    parser.add_argument('--keep', type=pathlib.Path,
                        help='a folder for mutants that do harm')
    return parser.parse_args(arguments)
