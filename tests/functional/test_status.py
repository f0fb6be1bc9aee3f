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


"""What the commands for operators say of a deployment and of a file."""

import json
import os

import pytest

from glance_conversion_plugins.formats import remarks
from tests.functional import support
from tests.functional import test_packages
from tests.functional import test_sparse
from tests.hostile import vhd
from tests.hostile import vhdx

MIB = support.MIB
SOUND = {'DEFAULT': {'enabled_backends': 'ceph:sparse_rbd, files:sparse_file'},
         'glance_store': {'default_backend': 'ceph'}}
SUCCESS, WARNING, FAILURE = range(3)


@pytest.fixture
def commands(glance, tmp_path):
    glance.configure()
    return support.Commands(glance, tmp_path)


def check(commands, **sections):
    """{check: (result, details)}, after the exit status was compared."""
    commands.configure(**sections)
    done = commands.run('glance-conversion-status', 'upgrade', 'check',
                        '--json')
    found = {each['check']: (each['result'], each['details'])
             for each in json.loads(done.stdout)['checks']}
    assert done.returncode == max(result for result, _ in found.values()), (
        found)
    return found


def test_a_sound_deployment(commands, glance):
    found = check(commands, **SOUND)
    # What this machine's kernel and disk offer is its own affair.
    found.pop('Confinement of qemu')
    found.pop('Staging')
    assert {result for result, _ in found.values()} == {SUCCESS}, found
    assert found['Stores'][1].endswith('in ceph, files')
    assert glance.leftovers() == {}
    shown = commands.run('glance-conversion-status', 'upgrade', 'check')
    assert 'Check: Stores' in shown.stdout


@pytest.mark.parametrize('title, result, words, sections', [
    ('Import plugins', FAILURE, 'The import plugin nope does not load',
     {'image_import_opts': {'image_import_plugins':
                            '[nope,rbd_direct_convert,convert_image]'}}),
    ('Import plugins', FAILURE, 'inject_image_metadata comes after',
     {'image_import_opts': {'image_import_plugins':
                            '[convert_image,inject_image_metadata]'}}),
    ('Import plugins', WARNING, 'No import is converted',
     {'image_import_opts': {'image_import_plugins': '[]'}}),
    ('Stock conversion under uWSGI', WARNING, 'python_interpreter',
     {'image_import_opts': {'image_import_plugins': '[image_conversion]'}}),
    ('Types of stores', FAILURE, 'of type sparse_tape, which is not',
     {'DEFAULT': {'enabled_backends': 'ceph:sparse_rbd, x:sparse_tape'}}),
    ('Types of stores', WARNING, 'Let it be sparse_rbd',
     {'DEFAULT': {'enabled_backends': 'ceph:rbd'}}),
    ('Types of stores', WARNING, 'data_pools names cehp, which is no store',
     {'sparse_store': {'data_pools': 'cehp:coded'}}),
    ('Values of options', FAILURE, 'max_concurrent',
     {'conversion': {'max_concurrent': 'many'}}),
    ('Stores', FAILURE, '"profile rbd"',
     {'ceph': {'rbd_store_pool': 'no-such-pool'}}),
    ('Stores', FAILURE, 'has to be mounted',
     {'sparse_store': {'mount_marker': '.mounted'}}),
    ('Staging', FAILURE, 'is not there',
     {'os_glance_staging_store': {'filesystem_store_datadir': '/proc/no'}}),
    ('URL of this node', WARNING, 'is not set',
     {'DEFAULT': {'worker_self_reference_url': ''}}),
])
def test_each_finding_says_what_to_do(commands, title, result, words,
                                      sections):
    merged = {name: SOUND.get(name, {}) | sections.get(name, {})
              for name in SOUND | sections}
    found = check(commands, **merged)
    assert found[title][0] == result, found
    assert words in found[title][1]


@pytest.mark.parametrize('rights', [
    'profile rbd-read-only pool=images', 'allow rw pool=images',
    'profile rbd pool=images2'])
def test_a_user_of_ceph_that_may_not_write(commands, glance, rights):
    ceph = glance.cloud.ceph
    keyring = ceph.dir / 'client.weak.keyring'
    ceph.run('ceph', 'auth', 'get-or-create', 'client.weak',
             'mon', 'profile rbd', 'osd', rights, '-o', keyring)
    try:
        sections = SOUND | {'ceph': {'rbd_store_user': 'weak'}}
        result, details = check(commands, **sections)['Stores']
    finally:
        ceph.run('ceph', 'auth', 'rm', 'client.weak')
        keyring.unlink()
    assert result == FAILURE
    assert 'Store ceph: ' in details
    assert 'ermi' in details
    assert '"profile rbd" for mon, mgr and the pool' in details
    assert glance.leftovers() == {}


def test_leftovers_are_found_and_left(commands, glance):
    image_id = glance.create('raw')
    name = glance.leave_behind(image_id)
    result, details = check(commands, **SOUND)['Leftovers']
    assert result == WARNING
    assert image_id in details
    assert 'glance-conversion-manage cleanup' in details
    assert name in glance.stored()
    glance.rbd('rm', '--no-progress', f'images/{name}')


def test_inspect_says_what_an_import_would_come_to(commands, images):
    qcow2, raw = images.qcow2('inspected', size=256 * MIB, pieces=200)
    done = commands.run('glance-conversion-manage', 'inspect', qcow2)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(': ', 1) for line in done.stdout.splitlines())
    assert said['format'] == 'qcow2'
    assert said['verdict'] == 'it would be imported'
    assert said['size of the disk'] == '256 MiB'
    assert said['rbd_direct_convert'].endswith('its stores: ceph')
    assert said['convert_image'] == 'would find it done'
    stored = int(said['to be stored'].split()[1])
    data = test_sparse.data_in(raw.read_bytes(), 4096) / MIB
    assert data * 0.9 <= stored <= data * 1.1 + 1
    assert stored <= int(said['data in it'].split()[0]) <= 256
    assert said['time'].startswith('at least ')

    done = commands.run('glance-conversion-manage', 'inspect', qcow2,
                        '--store', 'local', '--store', 'files')
    assert 'rbd_direct_convert: would step aside' in done.stdout
    assert 'convert_image: the image would be converted in staging' in (
        done.stdout)
    said = dict(line.split(': ', 1) for line in done.stdout.splitlines())
    assert said['in staging beyond the upload'] == f'about {stored} MiB'
    assert said['to be stored'] == (
        f'about {stored} MiB; 256 MiB where a store keeps zeros')

    done = commands.run('glance-conversion-manage', 'inspect', raw,
                        '--store', 'local')
    assert 'inspected, and kept as it is: local' in done.stdout
    assert 'to be stored: 256 MiB\n' in done.stdout


def test_inspect_finds_the_format_and_makes_remarks(commands, tmp_path):
    path = tmp_path / 'image'
    path.write_bytes(vhd.fixed()[:-512] + bytes(MIB) + vhd.fixed()[-512:])
    done = commands.run('glance-conversion-manage', 'inspect', path)
    assert done.returncode == 0, done.stderr
    assert 'format: vhd\n' in done.stdout
    assert f'remark: {remarks.BEYOND}\n' in done.stdout
    data = vhdx.with_log(vhdx.plain(), vhdx.Entry(((3 * MIB, bytes(4096)),)))
    path.write_bytes(data)
    done = commands.run('glance-conversion-manage', 'inspect', path)
    assert done.returncode == 0, done.stderr
    assert f'remark: {remarks.LOG}\n' in done.stdout
    assert 'verdict: it would be imported, if ' in done.stdout
    assert path.read_bytes() == data


@pytest.mark.parametrize('disk_format, kind, unpacked', [
    ('raw', 'xz', False), ('qcow2', 'gzip', True), ('qcow2', 'ova', False)])
def test_inspect_looks_into_packages(commands, images, disk_format, kind,
                                     unpacked):
    qcow2, raw = images.qcow2('packed', size=64 * MIB)
    inner = raw if disk_format == 'raw' else qcow2
    path, container_format = test_packages.packed(images, inner, kind)
    done = commands.run('glance-conversion-manage', 'inspect', path)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(': ', 1) for line in done.stdout.splitlines())
    assert (said['container'], said['format']) == (container_format,
                                                   disk_format)
    assert said['size of the disk'] == '64 MiB'
    assert said['verdict'] == 'it would be imported'
    assert ('unpacked in staging' in said) is unpacked
    done = commands.run('glance-conversion-manage', 'inspect', path,
                        '--container-format', 'bare')
    assert done.returncode == 1
    assert 'verdict: refused: The image is no disk: ' in done.stdout


def test_inspect_refuses_in_the_words_of_an_import(commands, images,
                                                   tmp_path):
    qcow2, _ = images.qcow2('inspected', size=256 * MIB, pieces=200)
    done = commands.run('glance-conversion-manage', 'inspect', qcow2,
                        '--disk-format', 'vmdk')
    assert done.returncode == 1
    assert ('verdict: refused: The image is declared as vmdk, but its '
            'content is qcow2.') in done.stdout
    cut = tmp_path / 'cut.qcow2'
    cut.write_bytes(qcow2.read_bytes()[:os.path.getsize(qcow2) // 2])
    done = commands.run('glance-conversion-manage', 'inspect', cut)
    assert done.returncode == 1
    assert 'verdict: refused: The image is ' in done.stdout
    done = commands.run('glance-conversion-manage', 'inspect', 'no-such-file')
    assert done.returncode == 2
    assert done.stderr.endswith('no-such-file: No such file or directory\n')
    done = commands.run('glance-conversion-manage', 'inspect', qcow2,
                        '--store', 'nope')
    assert done.returncode == 2
    assert 'There is no store nope.' in done.stderr
