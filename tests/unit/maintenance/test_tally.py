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

"""What the processes of a node add up, as Prometheus reads it."""

import json
import multiprocessing
import os

import prometheus_client
from prometheus_client import parser
import pytest

from glance_conversion_plugins.external import locks
from glance_conversion_plugins.maintenance import tally

KEY = tally.Key('imports', ('converted', '', 'qcow2', 'bare'))


def _served(folder):
    """{(name, labels): value} of what is served."""
    registry = prometheus_client.CollectorRegistry()
    registry.register(tally.Collector(str(folder)))
    text = prometheus_client.generate_latest(registry).decode()
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in parser.text_string_to_metric_families(text)
            for sample in family.samples}


def _add_often(folder):
    for _ in range(50):
        tally.add(folder, {KEY: 1, tally.Key('disk_bytes', ('kept',)): 2.5})


def test_processes_add_up(tmp_path):
    fork = multiprocessing.get_context('spawn')
    processes = [fork.Process(target=_add_often, args=(str(tmp_path),))
                 for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert tally.read(str(tmp_path)) == {
        KEY: 200, tally.Key('disk_bytes', ('kept',)): 500}


def test_what_is_served(tmp_path):
    assert set(_served(tmp_path).values()) == {0}
    assert {labels for _, labels in _served(tmp_path)} == {
        (('outcome', outcome),) for outcome in tally.OUTCOMES}
    for seconds in (0.5, 1, 1.5, 4000):
        tally.add(str(tmp_path), {KEY: 1} | tally.observation(
            'import_seconds', 'converted', seconds))
    found = _served(tmp_path)
    assert found['glance_conversion_imports_total', (
        ('container', 'bare'), ('format', 'qcow2'), ('outcome', 'converted'),
        ('reason', ''))] == 4
    assert found['glance_conversion_import_outcomes_total', (
        ('outcome', 'converted'),)] == 4

    def histogram(part, *labels):
        return found[f'glance_conversion_import_seconds_{part}', (
            *labels, ('outcome', 'converted'))]

    assert {bound: histogram('bucket', ('le', bound)) for bound in (
        '1.0', '2.0', '3600.0', '+Inf')} == {
            '1.0': 2, '2.0': 3, '3600.0': 3, '+Inf': 4}
    assert histogram('count') == 4
    assert histogram('sum') == 4003


def test_what_can_not_be_counted_harms_nobody(tmp_path, caplog):
    os.chmod(tmp_path, 0o700)
    (tmp_path / 'glance-conversion-tally').write_text('{"damaged')
    tally.add(str(tmp_path), {KEY: 1})
    assert tally.read(str(tmp_path)) == {KEY: 1}
    (tmp_path / 'file').write_text('')
    tally.add(str(tmp_path / 'file'), {KEY: 1})
    assert 'is not counted' in caplog.text
    assert set(_served(tmp_path / 'file').values()) == {0}


def test_what_another_version_has_counted_is_left_out(tmp_path):
    path = tmp_path / 'glance-conversion-tally'
    tally.add(str(tmp_path), {KEY: 1})
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | {
        json.dumps(['other', ['x'], '']): [1], '["imports", ["x"], ""]': [2],
        'nonsense': [3]}))
    tally.add(str(tmp_path), {KEY: 1})
    assert tally.read(str(tmp_path)) == {KEY: 2}
    assert _served(tmp_path)


def test_no_import_waits_for_one_that_keeps_the_counters(
        tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(tally, '_PATIENCE_SECONDS', 0.1)
    fd = locks.acquire(str(tmp_path / 'glance-conversion-tally.lock'))
    tally.add(str(tmp_path), {KEY: 1})
    assert 'is not counted' in caplog.text
    os.close(fd)


@pytest.mark.parametrize('name', tally.FAMILIES)
def test_each_is_documented(name):
    """By the name under which it is served."""
    suffix = '' if tally.FAMILIES[name].is_histogram else '_total'
    with open('doc/source/admin/monitoring.rst') as f:
        assert f'``glance_conversion_{name}{suffix}``' in f.read()
