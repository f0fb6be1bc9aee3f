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

"""The wiring: what Glance passes in, and what it gets."""

from oslo_config import cfg
import pytest

from glance_conversion_plugins import flows
from glance_conversion_plugins import importing
from glance_conversion_plugins import tasks

KWARGS = {
    'image_id': 'image', 'task_id': 'task', 'task_type': 'api_image_import',
    'context': None, 'task_repo': None, 'image_repo': None,
    'action_wrapper': None, 'backend': ['ceph'],
    'import_req': {'method': {'name': 'glance-direct'}},
}


def test_takes_a_file_and_hands_one_on():
    flow = flows.rbd_direct_convert(**KWARGS)
    assert flow.requires == {'file_path'}
    assert flow.provides == {'file_path'}


def test_name_is_unique_to_the_import():
    names = set()
    for task_id in ('one', 'two'):
        flow = flows.rbd_direct_convert(**KWARGS | {'task_id': task_id})
        names |= {task.name for task in flow}
    assert len(names) == 2


@pytest.mark.parametrize('request_, expected', [
    ({}, True), ({'all_stores_must_succeed': False}, False)])
def test_all_stores_must_succeed_unless_said_otherwise(request_, expected):
    flow = flows.rbd_direct_convert(**KWARGS | {'import_req': request_})
    task, = flow
    assert task._this.all_stores_must_succeed is expected


def test_single_store_deployments_have_no_backends():
    task, = flows.rbd_direct_convert(**KWARGS | {'backend': None})
    assert task._this.stores == []


@pytest.fixture
def raw(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(bytes(4096))
    return str(path)


OURS = {'ceph': object()}


@pytest.mark.parametrize('facts, targets, why', [
    (('qcow2', 'bare', {}), OURS, None),
    (('raw', 'bare', {}), OURS, None),
    (('qcow2', 'bare', {}), OURS | {'local': None}, 'not every target store'),
    (('vmdk', 'bare', {}), OURS, 'disk format is vmdk'),
    (('iso', 'bare', {}), OURS, 'disk format is iso'),
    (('qcow2', 'ovf', {}), OURS, 'container format is ovf'),
    (('qcow2', 'bare', {'img_signature_hash_method': 'SHA-256'}), OURS,
     'properties img_signature'),
    (('qcow2', 'bare', {'os_encrypt_format': 'LUKSv1'}), OURS,
     'properties os_encrypt'),
])
def test_when_it_steps_aside(raw, facts, targets, why):
    found = tasks._step_aside(importing.Facts(*facts), targets, raw)
    assert (found is None) if why is None else (why in found)


def test_raw_that_is_smaller_than_a_placeholder(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(bytes(4095))
    facts = importing.Facts('raw', 'bare', {})
    assert 'smaller' in tasks._step_aside(facts, OURS, str(path))


@pytest.mark.parametrize('ours, stock, expected', [
    (None, 'raw', 'raw'), (None, 'qcow2', 'qcow2'), ('raw', 'qcow2', 'raw')])
def test_output_format_is_that_of_stock_unless_ours_is_set(ours, stock,
                                                           expected):
    conf = cfg.CONF
    conf.set_override('output_format', stock, group='image_conversion')
    conf.set_override('output_format', ours, group='conversion')
    try:
        assert tasks.target_format() == expected
    finally:
        conf.clear_override('output_format', group='image_conversion')
        conf.clear_override('output_format', group='conversion')
