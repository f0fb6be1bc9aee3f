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


from cursive import signature_utils
from glance.common import config as glance_config
import pytest

from glance_conversion_plugins import config
from glance_conversion_plugins import errors
from glance_conversion_plugins.image_import import decision
from glance_conversion_plugins.image_import import image
from glance_conversion_plugins.stores import placeholder

Action = decision.Action

CONVERTED = ('qcow2', 'raw', 'vdi', 'vhd', 'vhdx', 'vmdk')
KEPT = ('ami', 'ari', 'aki', 'iso', 'ploop')
CONTAINERS = ('ami', 'ari', 'aki', 'bare', 'ovf', 'ova', 'docker',
              'compressed')

RBD = {'ceph': 'sparse_rbd'}
FILE = {'local': 'sparse_file'}
STOCK = {'stock': None}
SINGLE = {}
OURS = (RBD, FILE, RBD | FILE, RBD | {'second': 'sparse_rbd'})
OTHERS = (STOCK, RBD | STOCK, RBD | FILE | STOCK, SINGLE)


@pytest.fixture
def path(tmp_path):
    found = tmp_path / 'image'
    found.write_bytes(bytes(placeholder.SMALLEST))
    return str(found)


@pytest.fixture
def small(tmp_path):
    found = tmp_path / 'small'
    found.write_bytes(bytes(placeholder.SMALLEST - 1))
    return str(found)


def _decide(path, disk_format='qcow2', kinds=RBD, output_format='raw',
            container_format='bare', unpacks=True, **properties):
    return decision.decide(
        image.Declaration(disk_format, container_format, properties), path,
        kinds, output_format, unpacks)


def _default(name):
    options = {o.name: o for o in glance_config.image_format_opts}
    return options[name].default


def test_the_tables_here_are_those_of_glance():
    assert sorted(CONVERTED + KEPT) == sorted(_default('disk_formats'))
    assert sorted(CONTAINERS) == sorted(_default('container_formats'))
    options = {o.name: o for o in config.CONVERSION_OPTS}
    assert sorted(options['output_format'].type.choices) == list(CONVERTED)


@pytest.mark.parametrize('kinds', OURS)
@pytest.mark.parametrize('disk_format', CONVERTED)
def test_raw_into_stores_of_ours_is_direct(path, disk_format, kinds):
    assert _decide(path, disk_format, kinds) == decision.Decision(
        Action.DIRECT)


@pytest.mark.parametrize('kinds', OTHERS)
@pytest.mark.parametrize('disk_format', CONVERTED)
def test_raw_into_others_is_staged(path, disk_format, kinds):
    found = _decide(path, disk_format, kinds)
    assert found.action is (Action.INSPECT if disk_format == 'raw'
                          else Action.STAGE)


@pytest.mark.parametrize('kinds', OURS + OTHERS)
@pytest.mark.parametrize('output_format', sorted(set(CONVERTED) - {'raw'}))
@pytest.mark.parametrize('disk_format', CONVERTED)
def test_all_else_is_staged(path, disk_format, output_format, kinds):
    found = _decide(path, disk_format, kinds, output_format)
    assert found.action is (Action.INSPECT if disk_format == output_format
                          else Action.STAGE)


@pytest.mark.parametrize('output_format', CONVERTED)
@pytest.mark.parametrize('kinds', [RBD, STOCK, SINGLE])
@pytest.mark.parametrize('disk_format', KEPT)
def test_formats_that_are_kept(path, disk_format, kinds, output_format):
    found = _decide(path, disk_format, kinds, output_format)
    assert found == decision.Decision(
        Action.KEEP, f'its disk format is {disk_format}', True)


@pytest.mark.parametrize('output_format', ['raw', 'qcow2'])
@pytest.mark.parametrize('disk_format', ['qcow2', 'raw', 'iso'])
@pytest.mark.parametrize('container_format', [
    name for name in CONTAINERS if name not in (
        'bare', 'ova', 'compressed')])
@pytest.mark.parametrize('unpacks', [True, False])
def test_containers_are_kept(path, disk_format, container_format,
                             output_format, unpacks):
    found = _decide(path, disk_format, output_format=output_format,
                    container_format=container_format, unpacks=unpacks)
    assert found == decision.Decision(
        Action.KEEP, f'its container format is {container_format}', True)


@pytest.mark.parametrize('container_format', ['ova', 'compressed'])
@pytest.mark.parametrize('disk_format', CONVERTED)
def test_packages_are_refused_where_they_are_not_unpacked(
        path, disk_format, container_format):
    with pytest.raises(errors.ImageRefused, match='it is a package'):
        _decide(path, disk_format, container_format=container_format,
                unpacks=False)


@pytest.mark.parametrize('container_format', ['ova', 'compressed'])
@pytest.mark.parametrize('disk_format', CONVERTED)
@pytest.mark.parametrize('kinds', OURS)
def test_packages_into_stores_of_ours(small, disk_format, kinds,
                                      container_format):
    """However small they are."""
    found = _decide(small, disk_format, kinds,
                    container_format=container_format)
    assert found == decision.Decision(Action.DIRECT)
    assert decision.only_rbd(found, kinds).action is (
        Action.DIRECT if set(kinds.values()) == {'sparse_rbd'}
        else Action.KEEP)


@pytest.mark.parametrize('container_format', ['ova', 'compressed'])
@pytest.mark.parametrize('disk_format', CONVERTED)
@pytest.mark.parametrize('kinds, output_format', [
    *((kinds, 'raw') for kinds in OTHERS), (RBD, 'qcow2'), (STOCK, 'vmdk')])
def test_packages_that_go_elsewhere(path, disk_format, kinds, output_format,
                                    container_format):
    found = _decide(path, disk_format, kinds, output_format,
                    container_format=container_format)
    assert found == decision.Decision(Action.STAGE)


@pytest.mark.parametrize('container_format', ['ova', 'compressed'])
def test_packages_that_are_kept_all_the_same(path, container_format):
    for found in (_decide(path, 'iso', container_format=container_format),
                  _decide(path, container_format=container_format, **SIGNED)):
        assert found.action is Action.KEEP
        assert found.concerns_owner


SIGNED = dict.fromkeys((signature_utils.SIGNATURE,
                        signature_utils.HASH_METHOD,
                        signature_utils.KEY_TYPE,
                        signature_utils.CERT_UUID), 'x')
BY_NOVA = {'os_encrypt_format': 'LUKS', 'os_encrypt_key_id': 'id'}
BY_CINDER = {'cinder_encryption_key_id': 'id'}
LUKS = b'LUKS\xba\xbe\0\1'


def _qcow2(method):
    return b'QFI\xfb' + bytes(28) + method.to_bytes(4)


@pytest.mark.parametrize('kinds', [RBD, STOCK, SINGLE])
@pytest.mark.parametrize('disk_format', ['qcow2', 'raw'])
def test_signed_images_are_kept(path, disk_format, kinds):
    found = _decide(path, disk_format, kinds, **SIGNED)
    assert found.action is Action.KEEP
    assert 'signed' in found.reason
    assert found.concerns_owner


@pytest.mark.parametrize('missing', SIGNED)
def test_what_glance_would_not_verify_is_converted(path, missing):
    """Or any property would let an owner avoid conversion."""
    some = {name: 'x' for name in SIGNED if name != missing}
    for properties in (some, {missing: 'x'}, {f'{missing}_': 'x'}):
        assert not signature_utils.should_create_verifier(properties)
        assert _decide(path, **properties).action is Action.DIRECT
    assert signature_utils.should_create_verifier(SIGNED)


def _filled(path, content):
    with open(path, 'r+b') as f:
        f.write(content)
    return path


@pytest.mark.parametrize('properties', [BY_NOVA, BY_CINDER])
@pytest.mark.parametrize('kinds', [RBD, STOCK, SINGLE])
@pytest.mark.parametrize('disk_format, content', [
    ('raw', LUKS), ('qcow2', _qcow2(2))])
def test_encrypted_images_are_kept(path, disk_format, content, kinds,
                                   properties):
    found = _decide(_filled(path, content), disk_format, kinds, **properties)
    assert found.action is Action.KEEP
    assert 'encrypted' in found.reason
    assert found.concerns_owner


@pytest.mark.parametrize('properties', [
    {}, {'os_encrypt_format': 'LUKS'}, {'os_encrypt_key_id': 'id'},
    {'os_encrypt_cipher': 'aes', 'os_encrypt': 'x'},
    {'cinder_encryption_key_id_': 'id'}])
@pytest.mark.parametrize('disk_format, content', [
    ('raw', LUKS), ('qcow2', _qcow2(2))])
def test_what_nobody_has_the_key_of_is_not_kept(path, disk_format, content,
                                                properties):
    found = _decide(_filled(path, content), disk_format, **properties)
    assert found.action is Action.DIRECT


@pytest.mark.parametrize('disk_format, content', [
    ('raw', b''), ('raw', _qcow2(2)), ('qcow2', b''), ('qcow2', _qcow2(0)),
    ('qcow2', _qcow2(1)), ('qcow2', LUKS), ('vmdk', LUKS)])
def test_what_is_not_encrypted_is_not_kept(path, disk_format, content):
    found = _decide(_filled(path, content), disk_format,
                    **(BY_NOVA | BY_CINDER))
    assert found.action is Action.DIRECT


def test_other_properties_change_nothing(path):
    found = _decide(path, img_config_drive='mandatory', os_distro='debian',
                    hw_disk_bus='scsi', my_img_signature='x')
    assert found.action is Action.DIRECT


@pytest.mark.parametrize('disk_format, kinds, output_format, action', [
    ('raw', RBD, 'raw', Action.INSPECT),
    ('raw', FILE, 'raw', Action.INSPECT),
    ('raw', STOCK, 'raw', Action.INSPECT),
    ('raw', RBD, 'qcow2', Action.STAGE),
    ('vmdk', RBD, 'raw', Action.STAGE),
])
def test_smaller_than_a_placeholder(small, disk_format, kinds, output_format,
                                    action):
    assert _decide(small, disk_format, kinds, output_format).action is action


@pytest.mark.parametrize('disk_format', ['raw', 'qcow2', 'iso'])
@pytest.mark.parametrize('kinds', [RBD, STOCK, SINGLE])
def test_what_is_converted_already_is_kept(tmp_path, disk_format, kinds):
    """Not even looked at: it need not be there."""
    found = _decide(str(tmp_path / f'image{placeholder.SUFFIX}'), disk_format,
                    kinds)
    assert found == decision.Decision(Action.KEEP, 'it is converted already')


def test_every_reason_is_part_of_a_sentence(path):
    for found in (_decide(path, 'iso'), _decide(path, **SIGNED),
                  _decide(path, 'raw', STOCK),
                  _decide(path, container_format='ovf')):
        assert found.reason.startswith(('it ', 'its '))
        assert not found.reason.endswith('.')


def test_single_store_deployments_convert_too(path):
    """They name no store, which must not look as if all were ours."""
    assert _decide(path, 'qcow2', SINGLE).action is Action.STAGE
    assert _decide(path, 'raw', SINGLE).action is Action.INSPECT
