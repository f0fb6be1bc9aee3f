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

"""The sample policies and the metadef namespace, with Glance's enforcer."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess

import pytest

from tests.functional import support
from tests.functional import test_import
from tests.functional import test_stores

ETC = pathlib.Path(__file__).parents[2] / 'etc'
METADEFS = ETC / 'metadefs'
POLICY = ETC / 'policy'
OURS = json.loads((METADEFS / 'glance-conversion-plugins.json').read_text())
NAME = OURS['namespace']
SPACES = '/v2/metadefs/namespaces'
TYPE = 'OS::Glance::Image'
DATA = os.urandom(4096)
OCTETS = {'Content-Type': 'application/octet-stream'}


def with_policy(name, **sections):
    return {'oslo_policy': {'policy_file': POLICY / f'{name}.yaml'},
            **sections}


# The metadef namespace.

def manage(glance, *args):
    """Glance's own tool for its database."""
    cloud = glance.cloud
    return subprocess.run(
        [cloud.settings.bin('glance-manage'), '--config-dir',
         cloud.glance.config_dir, *args], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=True, timeout=60)


def namespaces(glance, user='admin'):
    found = glance.api('GET', SPACES, user=user)['namespaces']
    return sorted(space['namespace'] for space in found)


@pytest.fixture
def metadefs(glance):
    """A Glance without metadata definitions, before and after."""
    yield glance
    left = namespaces(glance)
    # Also the resource types, for which the API has no way.
    manage(glance, 'db_unload_metadefs')
    assert not left


def test_the_namespace(metadefs, configure):
    """Loaded, shown, loaded again and deleted, with Glance's own tools."""
    configure()
    client = metadefs.cloud.client
    manage(metadefs, 'db_load_metadefs', METADEFS)
    assert namespaces(metadefs, 'demo') == [NAME]

    shown = client('md-namespace-show', NAME).stdout
    for word in (OURS['display_name'], 'public', TYPE, 'prefetch'):
        assert word in shown
    listed = client('md-property-list', NAME).stdout
    assert [[cell.strip() for cell in line.split('|')[1:-1]]
            for line in listed.splitlines()[3:-1]] == [
                ['prefetch', 'Prefetch', 'string']]
    shown = metadefs.api('GET', f'{SPACES}/{NAME}/properties/prefetch')
    assert shown == {'name': 'prefetch'} | OURS['properties']['prefetch']
    assert NAME in client('md-namespace-list', '--resource-types',
                          TYPE).stdout

    # A new version of the file replaces what is there.
    metadefs.api('PUT', f'{SPACES}/{NAME}/properties/prefetch', user='admin',
                 json={'name': 'prefetch', 'title': 'old', 'type': 'string'})
    manage(metadefs, 'db', 'load_metadefs', '--path', METADEFS)
    assert metadefs.api('GET', f'{SPACES}/{NAME}/properties/prefetch')[
        'title'] == 'old'
    manage(metadefs, 'db', 'load_metadefs', '--path', METADEFS, '--merge',
           '--overwrite')
    assert metadefs.api('GET', f'{SPACES}/{NAME}/properties/prefetch')[
        'title'] == 'Prefetch'

    remove_protected(metadefs, NAME)


def test_the_namespace_through_the_api(metadefs, configure):
    configure()
    manage(metadefs, 'db_load_metadefs', METADEFS)
    loaded = content(metadefs, NAME)
    remove_protected(metadefs, NAME)
    metadefs.cloud.client(
        'md-namespace-import', '--file',
        METADEFS / 'glance-conversion-plugins.json', user='admin')
    imported = content(metadefs, NAME)
    for field in ('visibility', 'protected', 'properties', 'description'):
        assert imported[field] == loaded[field] == OURS[field]
    remove_protected(metadefs, NAME)


def remove_protected(glance, name):
    """As an operator has to do it."""
    client = glance.cloud.client
    refused = client('md-namespace-delete', name, user='admin', check=False)
    assert 'HTTP 403' in refused.stderr
    assert name in namespaces(glance)
    client('md-namespace-update', name, '--protected', 'False', user='admin')
    client('md-namespace-delete', name, user='admin')
    assert namespaces(glance) == []


def test_what_glance_keeps_to_itself_is_not_in_the_namespace(glance,
                                                             configure):
    """A user can set what the namespace offers; these not."""
    configure()
    image_id = glance.create('raw', prefetch='true')
    for name in ('os_glance_failed_import', 'os_glance_importing_to_stores',
                 'os_glance_import_task'):
        assert name not in OURS['properties']
        glance.api('PATCH', f'/v2/images/{image_id}', expect=(403,),
                   headers={'Content-Type':
                            'application/openstack-images-v2.1-json-patch'},
                   data=json.dumps([{'op': 'add', 'path': f'/{name}',
                                     'value': 'x'}]).encode())
    assert glance.show(image_id)['prefetch'] == 'true'


# Who may do what to metadata definitions.

def reads(name):
    space = f'{SPACES}/{name}'
    return {
        'get_metadef_namespaces': ('GET', SPACES),
        'get_metadef_namespace': ('GET', space),
        'list_metadef_resource_types': ('GET', '/v2/metadefs/resource_types'),
        'get_metadef_resource_type': ('GET', f'{space}/resource_types'),
        'get_metadef_properties': ('GET', f'{space}/properties'),
        'get_metadef_property': ('GET', f'{space}/properties/first'),
        'get_metadef_objects': ('GET', f'{space}/objects'),
        'get_metadef_object': ('GET', f'{space}/objects/first'),
        'get_metadef_tags': ('GET', f'{space}/tags'),
        'get_metadef_tag': ('GET', f'{space}/tags/first'),
    }


def writes(name, visibility='public'):
    """Each changes what the one before has left; the last deletes all."""
    space = f'{SPACES}/{name}'
    described = {'namespace': name, 'visibility': visibility}
    more = {'name': 'second', 'title': 'Second', 'type': 'string'}
    return {
        'modify_metadef_namespace': ('PUT', space,
                                     described | {'description': 'new'}),
        'add_metadef_resource_type_association': (
            'POST', f'{space}/resource_types', {'name': 'OS::Nova::Server'}),
        'remove_metadef_resource_type_association': (
            'DELETE', f'{space}/resource_types/OS::Nova::Server'),
        'add_metadef_property': ('POST', f'{space}/properties', more),
        'modify_metadef_property': ('PUT', f'{space}/properties/second',
                                    more | {'title': 'new'}),
        'remove_metadef_property': ('DELETE', f'{space}/properties/second'),
        'add_metadef_object': ('POST', f'{space}/objects',
                               {'name': 'second'}),
        'modify_metadef_object': ('PUT', f'{space}/objects/second',
                                  {'name': 'second', 'description': 'new'}),
        'delete_metadef_object': ('DELETE', f'{space}/objects/second'),
        'add_metadef_tag': ('POST', f'{space}/tags/second'),
        'modify_metadef_tag': ('PUT', f'{space}/tags/second',
                               {'name': 'third'}),
        'delete_metadef_tag': ('DELETE', f'{space}/tags/third'),
        'add_metadef_tags': ('POST', f'{space}/tags',
                             {'tags': [{'name': 'fourth'}]}),
        'delete_metadef_tags': ('DELETE', f'{space}/tags'),
        'delete_metadef_namespace': ('DELETE', space),
    }


def add(glance, name, user, visibility='public', expect=(201,), **more):
    """What add_metadef_namespace is asked for."""
    return glance.api('POST', SPACES, user=user, expect=expect, json={
        'namespace': name, 'visibility': visibility,
        'resource_type_associations': [{'name': TYPE}],
        'properties': {'first': {'title': 'First', 'type': 'string'}},
        'objects': [{'name': 'first'}], 'tags': [{'name': 'first'}], **more})


def delete(glance, name, user='admin'):
    glance.api('DELETE', f'{SPACES}/{name}', user=user, expect=(204,))


def content(glance, name):
    return glance.api('GET', f'{SPACES}/{name}', user='admin')


def statuses(glance, user, requests):
    """{rule: what Glance answers}."""
    found = {}
    for rule, (method, path, *body) in requests.items():
        found[rule], _ = glance.cloud.api(method, path, user=user,
                                          json=body[0] if body else None)
    return found


def assert_done(found):
    assert not {rule: status for rule, status in found.items()
                if status not in (200, 201, 204)}


def assert_refused(found, status):
    assert set(found.values()) == {status}, found


def assert_administrators_do_everything(glance):
    for visibility in ('public', 'private'):
        add(glance, 'of-admin', 'admin', visibility)
        assert_done(statuses(glance, 'admin', reads('of-admin')))
        assert_done(statuses(glance, 'admin', writes('of-admin',
                                                     visibility)))
    assert namespaces(glance) == []


def assert_untouched(glance, name, user, status):
    """Whatever the user tries to write is refused and changes nothing."""
    before = content(glance, name)
    assert_refused(statuses(glance, user, writes(name)), status)
    assert content(glance, name) == before


def test_metadefs_without_a_file(metadefs, configure):
    """Users read what is public; only administrators write."""
    configure()
    assert_administrators_do_everything(metadefs)
    add(metadefs, 'refused', 'demo', expect=(403,))
    add(metadefs, 'open', 'admin')
    assert namespaces(metadefs, 'demo') == ['open']
    assert_done(statuses(metadefs, 'demo', reads('open')))
    assert_untouched(metadefs, 'open', 'demo', 403)
    delete(metadefs, 'open')

    add(metadefs, 'hidden', 'admin', 'private')
    assert namespaces(metadefs, 'demo') == []
    assert_untouched(metadefs, 'hidden', 'demo', 404)
    delete(metadefs, 'hidden')


def test_metadefs_for_administrators_only(metadefs, configure):
    configure(**with_policy('metadefs-admin-only'))
    assert_administrators_do_everything(metadefs)
    # Who may not know of a namespace is told that there is none.
    add(metadefs, 'refused', 'demo', expect=(404,))
    add(metadefs, 'open', 'admin')
    assert_refused(statuses(metadefs, 'demo', reads('open')), 404)
    assert_untouched(metadefs, 'open', 'demo', 404)
    assert namespaces(metadefs) == ['open']
    delete(metadefs, 'open')


def test_metadefs_open_to_users(metadefs, configure):
    configure(**with_policy('metadefs-open'))
    assert_administrators_do_everything(metadefs)
    for visibility in ('public', 'private'):
        add(metadefs, 'own', 'demo', visibility)
        assert namespaces(metadefs, 'demo') == ['own']
        assert_done(statuses(metadefs, 'demo', reads('own')))
        assert_done(statuses(metadefs, 'demo', writes('own', visibility)))
        assert namespaces(metadefs) == []

    add(metadefs, 'open', 'admin')
    add(metadefs, 'hidden', 'admin', 'private')
    assert namespaces(metadefs, 'demo') == ['open']
    assert_done(statuses(metadefs, 'demo', reads('open')))
    assert_untouched(metadefs, 'open', 'demo', 403)
    assert_untouched(metadefs, 'hidden', 'demo', 404)
    delete(metadefs, 'open')
    delete(metadefs, 'hidden')


def test_what_no_rule_for_metadefs_can_see(metadefs, configure):
    """Users who may write also give away and publish."""
    configure(**with_policy('metadefs-open'))
    add(metadefs, 'given', 'demo', owner='somebody-else')
    assert content(metadefs, 'given')['owner'] == 'somebody-else'
    assert_untouched(metadefs, 'given', 'demo', 403)
    delete(metadefs, 'given')

    add(metadefs, 'own', 'demo', 'private')
    metadefs.api('PUT', f'{SPACES}/own',
                 json={'namespace': 'own', 'visibility': 'public'})
    assert content(metadefs, 'own')['visibility'] == 'public'
    delete(metadefs, 'own', 'demo')


def test_metadefs_open_without_regard_to_owners(metadefs, configure,
                                                tmp_path):
    """What the sample warns of: "" as metadef_default."""
    text = (POLICY / 'metadefs-open.yaml').read_text()
    rule = ('"rule:context_is_admin or (role:member and '
            'project_id:%(project_id)s)"')
    assert text.count(rule) == 1
    path = tmp_path / 'policy.yaml'
    path.write_text(text.replace(rule, '""'))
    configure(oslo_policy={'policy_file': path})
    add(metadefs, 'open', 'admin', protected=True)
    # The first request of the user also takes the protection off.
    assert_done(statuses(metadefs, 'demo', writes('open')))
    assert namespaces(metadefs) == []
    add(metadefs, 'hidden', 'admin', 'private')
    assert_untouched(metadefs, 'hidden', 'demo', 404)
    delete(metadefs, 'hidden')


# Who may bring data without an import.

def upload(glance, image_id, expect, user='demo', **headers):
    glance.api('PUT', f'/v2/images/{image_id}/file', user=user, data=DATA,
               headers=OCTETS | headers, expect=expect)


def assert_uploaded(glance, image_id):
    image = glance.show(image_id)
    assert (image['status'], image['os_hash_value']) == (
        'active', hashlib.sha512(DATA).hexdigest())


def test_without_a_file_users_upload(glance, configure):
    configure()
    image_id = glance.create('raw')
    upload(glance, image_id, (204,))
    assert_uploaded(glance, image_id)


def test_users_import_and_do_not_upload(glance, configure, images):
    configure(**with_policy('force-import'))
    qcow2, raw = images.qcow2('forced')
    image_id = glance.create()
    upload(glance, image_id, (403,))
    assert glance.show(image_id)['status'] == 'queued'
    assert glance.leftovers() == {}
    # The same image, imported.
    glance.stage(image_id, qcow2)
    glance.start_import(image_id)
    test_import.assert_stored(glance, glance.finish(image_id), raw)
    # What was imported is read, changed and deleted as ever.
    assert glance.api('GET', f'/v2/images/{image_id}/file'
                      ) == raw.read_bytes()
    glance.api('PUT', f'/v2/images/{image_id}/tags/imported')
    glance.delete(image_id)
    assert glance.leftovers() == {}


def test_administrators_upload(glance, configure):
    configure(**with_policy('force-import'))
    image_id = glance.create('raw')
    upload(glance, image_id, (204,), user='admin')
    assert_uploaded(glance, image_id)


def test_services_upload_on_behalf_of_users(glance, configure):
    configure(**with_policy('force-import'))
    token = glance.cloud.keystone.token
    image_id = glance.create('raw')
    # Neither the user's own token nor a claim makes a service.
    for header in ({'X-Service-Token': token('demo')},
                   {'X-Service-Token': 'invented'},
                   {'X-Service-Roles': 'service'}):
        upload(glance, image_id, (403,), **header)
    assert glance.show(image_id)['status'] == 'queued'
    upload(glance, image_id, (204,), **{'X-Service-Token': token('glance')})
    assert_uploaded(glance, image_id)


def test_the_real_client_imports(glance, configure, images):
    configure(**with_policy('force-import'))
    qcow2, raw = images.qcow2('forced-client')
    described = ['--disk-format', 'qcow2', '--container-format', 'bare',
                 '--file', qcow2]
    refused = glance.cloud.client('image-create', '--name', 'uploaded',
                                  *described, check=False)
    # It says 403, or that the connection was reset: Glance has answered
    # before it has read the data.
    assert refused.returncode
    # The client creates the record first, and leaves it.
    found = glance.api('GET', '/v2/images?name=uploaded')['images']
    assert [image['status'] for image in found] == ['queued']
    glance.delete(found[0]['id'])

    glance.cloud.client('image-create-via-import', '--name', 'imported',
                        *described, '--store', 'ceph')
    found = glance.api('GET', '/v2/images?name=imported')['images']
    image = glance.finish(found[0]['id'])
    test_import.assert_stored(glance, image, raw)
    glance.delete(image['id'])
    assert glance.leftovers() == {}


def test_web_download(glance, configure, images, http_server):
    configure(**with_policy('force-import',
                            **test_stores.from_loopback(http_server)))
    qcow2, raw = images.qcow2('forced-web')
    image_id = glance.create()
    glance.start_import(image_id, name='web-download',
                        uri=f'{http_server}/{qcow2.name}')
    test_import.assert_stored(glance, glance.finish(image_id), raw)


def point_at(glance, image_id, url, expect, way, user='demo'):
    """Give an image data that lies somewhere, as each API does it."""
    if way == 'locations':
        glance.api('POST', f'/v2/images/{image_id}/locations', user=user,
                   json={'url': url}, expect=expect)
    else:
        glance.api('PATCH', f'/v2/images/{image_id}', user=user,
                   expect=expect, headers={
                       'Content-Type':
                       'application/openstack-images-v2.1-json-patch'},
                   data=json.dumps([{
                       'op': 'add', 'path': '/locations/-', 'value': {
                           'url': url, 'metadata': {}}}]).encode())


@pytest.mark.parametrize('forced', [False, True])
def test_pointing_at_data_is_no_way_around(glance, configure, images,
                                           http_server, forced):
    options = test_stores.from_loopback(http_server) | {
        'DEFAULT': {'enabled_backends': 'ceph:sparse_rbd, web:http',
                    'show_multiple_locations': True},
        'web': {}}
    configure(**with_policy('force-import', **options) if forced
              else options)
    qcow2, _ = images.qcow2('pointed-at')
    url = f'{http_server}/{qcow2.name}'
    for way in ('locations', 'patch'):
        image_id = glance.create()
        if forced:
            point_at(glance, image_id, url, (403,), way)
            assert glance.show(image_id)['status'] == 'queued'
        point_at(glance, image_id, url, (200, 202), way,
                 user='admin' if forced else 'demo')
        image = support.wait_for(
            lambda i=image_id: glance.show(i)['status'] == 'active'
            and glance.unlocked(i), 30, what=lambda i=image_id: glance.show(i))
        # Nobody has converted it.
        assert image['disk_format'] == 'qcow2'
        assert image['stores'] == 'web'
        glance.delete(image_id)


# Several files at once.

def test_files_side_by_side(metadefs, configure, tmp_path):
    """In a folder, beside a main file that may be empty."""
    (tmp_path / 'policy.d').mkdir()
    (tmp_path / 'policy.yaml').touch()
    for name in ('force-import', 'metadefs-admin-only'):
        shutil.copy(POLICY / f'{name}.yaml', tmp_path / 'policy.d')
    configure(oslo_policy={'policy_file': tmp_path / 'policy.yaml',
                           'policy_dirs': tmp_path / 'policy.d'})
    upload(metadefs, metadefs.create('raw'), (403,))
    assert_refused(statuses(metadefs, 'demo', {
        'get_metadef_namespaces': ('GET', SPACES)}), 404)
    assert namespaces(metadefs) == []
