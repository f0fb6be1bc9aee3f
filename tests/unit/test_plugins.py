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

import inspect

from glance.async_.flows import api_image_import
from oslo_config import cfg
import pytest

from glance_conversion_plugins.image_import import decision
from glance_conversion_plugins.image_import import image
from glance_conversion_plugins.image_import import task as task_
from glance_conversion_plugins import plugins

KWARGS = {
    'image_id': 'image', 'task_id': 'task', 'task_type': 'api_image_import',
    'context': None, 'task_repo': None, 'image_repo': None,
    'action_wrapper': None, 'backend': ['ceph'],
    'import_req': {'method': {'name': 'glance-direct'}},
}

PLUGINS = {plugins.convert_image: task_.ConvertImage,
           plugins.rbd_direct_convert: task_.RbdDirectConvert}


@pytest.fixture(params=PLUGINS, ids=lambda plugin: plugin.__name__)
def plugin(request):
    return request.param


def test_takes_a_file_and_hands_one_on(plugin):
    flow = plugin(**KWARGS)
    assert flow.requires == {'file_path'}
    assert flow.provides == {'file_path'}


def test_runs_the_task_of_the_plugin(plugin):
    task, = plugin(**KWARGS)
    assert type(task) is PLUGINS[plugin]


def test_name_is_unique_to_the_import_and_the_plugin():
    """Both may be in one deployment's list, and so in one flow."""
    names = set()
    for plugin in PLUGINS:
        for task_id in ('one', 'two'):
            names |= {t.name for t in plugin(**KWARGS | {'task_id': task_id})}
    assert len(names) == 4


@pytest.mark.parametrize('request_, expected', [
    ({}, True), ({'all_stores_must_succeed': False}, False)])
def test_all_stores_must_succeed_unless_said_otherwise(plugin, request_,
                                                       expected):
    task, = plugin(**KWARGS | {'import_req': request_})
    assert task._request.all_stores_must_succeed is expected


def test_single_store_deployments_have_no_backends(plugin):
    task, = plugin(**KWARGS | {'backend': None})
    assert task._request.stores == []


def test_glance_passes_what_is_needed():
    """All of our keys are what stock Glance gives to plugins."""
    text = inspect.getsource(api_image_import.get_flow)
    for name in KWARGS:
        assert f"'{name}'" in text, name


# When rbd_direct_convert steps aside

@pytest.fixture
def path(tmp_path):
    found = tmp_path / 'disk'
    found.write_bytes(bytes(4096))
    return str(found)


def _decide(plugin, declared, path, kinds):
    task, = plugin(**KWARGS)
    return task._decide(image.Declaration(*declared), path, kinds)


RBD = {'ceph': 'sparse_rbd'}
FILE = {'local': 'sparse_file'}
QCOW2 = ('qcow2', 'bare', {})
SIGNED = dict.fromkeys((
    'img_signature', 'img_signature_hash_method', 'img_signature_key_type',
    'img_signature_certificate_uuid'), 'x')


@pytest.mark.parametrize('declared, kinds, why', [
    (QCOW2, RBD, None),
    (('raw', 'bare', {}), RBD, None),
    (('vmdk', 'bare', {}), RBD, None),
    (QCOW2, RBD | {'second': 'sparse_rbd'}, None),
    (QCOW2, RBD | {'local': None}, 'directly into its stores'),
    (QCOW2, {'local': None}, 'directly into its stores'),
    (QCOW2, {}, 'directly into its stores'),
    (QCOW2, FILE, 'not every target store'),
    (QCOW2, RBD | FILE, 'not every target store'),
    (('iso', 'bare', {}), RBD, 'disk format is iso'),
    (('qcow2', 'ovf', {}), RBD, 'container format is ovf'),
    (('qcow2', 'bare', SIGNED), RBD, 'is signed'),
    (('qcow2', 'bare', {'img_signature': 'x'}), RBD, None),
])
def test_when_it_steps_aside(path, declared, kinds, why):
    found = _decide(plugins.rbd_direct_convert, declared, path, kinds)
    if why is None:
        assert found == decision.Decision(decision.Action.DIRECT)
    else:
        assert found.action is decision.Action.KEEP
        assert why in found.reason


@pytest.mark.parametrize('kinds', [RBD | FILE, FILE, {'local': None}, {}])
def test_it_does_not_tell_the_owner_of_stores(path, kinds):
    assert not _decide(plugins.rbd_direct_convert, QCOW2, path,
                       kinds).concerns_owner


def test_raw_that_is_smaller_than_a_placeholder(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(bytes(4095))
    found = _decide(plugins.rbd_direct_convert, ('raw', 'bare', {}), str(path),
                    RBD)
    assert found.action is decision.Action.KEEP


@pytest.mark.parametrize('kinds, action', [
    (RBD, decision.Action.DIRECT), (RBD | FILE, decision.Action.DIRECT),
    (FILE, decision.Action.DIRECT), (RBD | {'s': None}, decision.Action.STAGE),
    ({'s': None}, decision.Action.STAGE), ({}, decision.Action.STAGE)])
def test_convert_image_takes_every_way(path, kinds, action):
    assert _decide(plugins.convert_image, QCOW2, path,
                   kinds) == decision.Decision(action)


@pytest.mark.parametrize('plugin_, action', [
    (plugins.convert_image, decision.Action.STAGE),
    (plugins.rbd_direct_convert, decision.Action.KEEP)])
def test_the_output_format_counts(path, plugin_, action):
    conf = cfg.CONF
    conf.set_override('output_format', 'qcow2', group='conversion')
    try:
        found = _decide(plugin_, ('raw', 'bare', {}), path, RBD)
        assert found.action is action
    finally:
        conf.clear_override('output_format', group='conversion')


def test_what_the_first_plugin_has_converted_the_second_keeps(path, tmp_path):
    """Both are in the list of plugins, in whatever order."""
    (tmp_path / 'image.converted').write_bytes(bytes(4096))
    for plugin_ in PLUGINS:
        found = _decide(plugin_, ('raw', 'bare', {}),
                        str(tmp_path / 'image.converted'), RBD)
        assert found.action is decision.Action.KEEP
