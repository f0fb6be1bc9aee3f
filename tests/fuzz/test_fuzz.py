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

"""A share of the mutants that ``python -m tests.fuzz`` makes.

GLANCE_TEST_MUTANTS is how many there are in all, and GLANCE_TEST_SEED the
first of them. What is refused before a program sees it costs next to nothing;
of the others one is shown some.
"""

import json
import os
import subprocess
import sys
import threading

import pytest

from tests.fuzz import campaign
from tests.fuzz import second
from tests.fuzz import structure
from tests.fuzz import trial
from tests.judges import vhd

COUNT = int(os.environ.get('GLANCE_TEST_MUTANTS', '4000'))
SEED = int(os.environ.get('GLANCE_TEST_SEED', '1'))
ONE_OF = 8

NAMES: dict[str, list[str]] = {}
for _name, _subject in campaign.SUBJECTS.items():
    NAMES.setdefault(_subject.disk_format if _subject.container == 'bare'
                     else _name.partition('-')[0], []).append(_name)


@pytest.mark.parametrize('kind', NAMES)
def test_mutants(kind):
    names, count = NAMES[kind], -(-COUNT // len(campaign.SUBJECTS))
    # A process of its own has memory and descriptors that are its alone.
    done = subprocess.run(
        [sys.executable, '-m', 'tests.fuzz', *names, '--seed', str(SEED),
         '--count', str(count), '--one-of', str(ONE_OF)], check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    print(done.stdout.decode())
    assert not done.returncode
    said = json.loads(done.stdout)
    assert [said[name]['mutants'] for name in names] == [count] * len(names)
    # Or they would say nothing of what comes after the tables.
    shown = sum(said[name].get('imported', 0) for name in names)
    assert shown or count < 100


def test_what_does_harm_would_be_found(tmp_path, monkeypatch, capsys):
    """A judge that is wrong is as good as an import that is."""
    monkeypatch.setitem(trial.READERS, 'vdi', lambda data: b'')
    assert campaign.main(['vdi', '--count', '5', '--keep', str(tmp_path)])
    said = capsys.readouterr()
    assert 'FAULT of vdi: python -m tests.fuzz vdi --seed' in said.err
    assert json.loads(said.out)['vdi']['faults'] == len(
        list(tmp_path.iterdir()))


def test_library_that_dies_has_no_opinion_and_is_asked_again(tmp_path):
    path, opinion = tmp_path / 'disk', second.Opinion()
    path.write_bytes(structure.original(campaign.SUBJECTS['vhd']))
    disk = opinion.read('vhd', path)
    assert disk == vhd.read(path.read_bytes())
    path.write_bytes(b'conectix')
    assert opinion.read('vhd', path) is None
    # It waits for ever here, and is ended meanwhile.
    path.unlink()
    os.mkfifo(path)
    end = threading.Timer(1, opinion.kill)
    end.start()
    assert opinion.read('vhd', path) is None
    end.join()
    path.unlink()
    path.write_bytes(structure.original(campaign.SUBJECTS['vhd']))
    assert opinion.read('vhd', path) == disk
    opinion.close()
