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

"""The line that tells of an import, read as programs read it."""

import logging
import re
import shlex

import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins.image_import import journal
from glance_conversion_plugins.maintenance import tally


def read(line):
    """The keys and values of a line, as a parser of logfmt finds them."""
    assert line.startswith('import ')
    return dict(word.split('=', 1) for word in shlex.split(line)[1:])


@pytest.fixture(autouse=True)
def folder(tmp_path, override):
    """Where the node counts, which is not that of other tests."""
    override('lock_path', str(tmp_path), 'oslo_concurrency')
    return str(tmp_path)


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, journal.LOG.name)
    return lambda: caplog.messages


def _tell(error=None, **known):
    found = journal.Journal(image='i', task='t', **known)
    try:
        with found.told():
            found.spent({'wait for data': 1.234, 'read': 2.})
            if error:
                raise error
            found.note(outcome='converted')
    except type(error or Exception):
        assert error


def test_each_key_is_there_and_in_order(lines):
    _tell(format='qcow2', upload_bytes=5, reason='')
    line, = lines()
    assert [word.partition('=')[0] for word in line.split()[1:]] == [
        *journal.KEYS, 'wait_for_data_seconds', 'read_seconds']
    found = read(line)
    assert float(found.pop('seconds')) >= 0
    assert found == dict.fromkeys(set(journal.KEYS) - {'seconds'}, '-') | {
        'image': 'i', 'task': 't', 'outcome': 'converted', 'format': 'qcow2',
        'upload_bytes': '5', 'wait_for_data_seconds': '1.23',
        'read_seconds': '2.0'}


@pytest.mark.parametrize('error, outcome, reason', [
    (errors.DamagedImage('words'), 'refused', 'DamagedImage'),
    (errors.TakenOver('words'), 'stopped', 'TakenOver'),
    (errors.StoreFull('words'), 'failed', 'StoreFull'),
    (KeyError('words'), 'failed', 'KeyError')])
def test_how_an_import_fails(lines, error, outcome, reason):
    _tell(error)
    found = read(lines()[0])
    assert (found['outcome'], found['reason']) == (outcome, reason)
    # A refusal is told once, to whom it concerns.
    assert 'words' not in lines()[0]


@pytest.mark.parametrize('value', [
    'two words', 'outcome=converted', 'a\nimport image=forged', '"', "it's",
    '\x1b[2J', 'ü'])
def test_a_value_is_one_whatever_is_in_it(lines, value):
    _tell(container=value)
    line, = lines()
    assert re.fullmatch(r'[ -~]+', line)
    assert set(read(line)) == {*journal.KEYS, 'wait_for_data_seconds',
                               'read_seconds'}
    assert read(line)['outcome'] == 'converted'


def test_what_another_plugin_decides_is_not_told(lines):
    found = journal.Journal()
    with found.told():
        found.omit()
    assert lines() == []


def test_what_is_told_is_counted(folder):
    _tell(format='qcow2', container='bare', upload_bytes=5, disk_bytes=70,
          written_bytes=6)
    _tell(errors.StoreFull('words'), format='qcow2', container='bare')
    counted = tally.read(folder)
    outcomes = {key.labels: value for key, value in counted.items()
                if key.family == 'imports'}
    assert outcomes == {('converted', '', 'qcow2', 'bare'): 1,
                        ('failed', 'StoreFull', 'qcow2', 'bare'): 1}
    for name, value in (('upload', 5), ('disk', 70), ('written', 6)):
        assert counted[tally.Key(f'{name}_bytes', ('converted',))] == value
        assert counted[tally.Key(f'{name}_bytes', ('failed',))] == 0
    assert counted[tally.Key('stage_seconds', ('read',), 'sum')] == 4
    assert counted[tally.Key('stage_seconds', ('read',), '2.0')] == 2


def test_what_is_kept_has_no_words_for_a_label(folder):
    found = journal.Journal()
    with found.told():
        found.note(outcome='kept', reason='its container format is docker')
    assert [key.labels[:2] for key in tally.read(folder)
            if key.family == 'imports'] == [('kept', '')]


def test_each_outcome_is_served():
    told = {*journal.DONE.values(), 'kept', *(
        journal._outcome(error) for error in (
            errors.DamagedImage(), errors.TakenOver(), KeyError()))}
    assert told == set(tally.OUTCOMES)
