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

"""Images that are stored already become raw, under new ids."""

import contextlib
import os
import re
import signal
import subprocess

import pytest

from tests.functional import support

MIB = support.MIB
FROM = 'os_glance_conversion_converted_from'
TO = 'os_glance_conversion_converted_to'
AT = 'os_glance_conversion_converted_at'


@pytest.fixture(autouse=True)
def configured(configure):
    configure()


@pytest.fixture
def store(glance):
    """Upload a file as it is, which converts nothing; returns the id."""
    made = []

    def store(path, disk_format='qcow2', where='ceph', **props):
        image_id = glance.create(disk_format, **props)
        made.append(image_id)
        with open(path, 'rb') as f:
            glance.api('PUT', f'/v2/images/{image_id}/file', data=f, headers={
                'Content-Type': 'application/octet-stream',
                'X-Image-Meta-Store': where})
        glance.settled(image_id)
        return image_id

    yield store
    # What has taken the place of one is nobody else's to remove.
    for image_id in made:
        with contextlib.suppress(AssertionError):
            image = glance.show(image_id)
            for each in filter(None, (image_id, image.get(TO))):
                remove(glance, each)


def remove(glance, image_id):
    glance.api('PATCH', f'/v2/images/{image_id}', user='admin', expect=(
        200, 404), headers={'Content-Type': 'application/openstack-images-'
                            'v2.1-json-patch'},
        json=[{'op': 'replace', 'path': '/protected', 'value': False}])
    glance.api('DELETE', f'/v2/images/{image_id}', user='admin',
               expect=(204, 404))


def convert(glance, *args, status=0):
    """What the command says, line by line."""
    done = glance.manage('convert', *args)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stdout.splitlines()


def successor(lines):
    found = [match[1] for line in lines
             if (match := re.search(r'has become image (\S+): ', line))]
    assert len(found) == 1, lines
    return found[0]


def listed(glance):
    return {image['id'] for image in glance.api(
        'GET', '/v2/images?limit=100')['images']}


def test_all_that_an_image_had_its_successor_has(glance, images, store):
    path, raw = images.qcow2('stored', '-c')
    former = store(path, name='debian', tags=['blue', 'green'], min_ram=512,
                   visibility='shared', hw_disk_bus='scsi', protected=True)
    glance.api('POST', f'/v2/images/{former}/members',
               json={'member': 'a-project'})
    glance.api('POST', f'/v2/images/{former}/members',
               json={'member': 'b-project'})
    glance.api('PUT', f'/v2/images/{former}/members/b-project', user='admin',
               json={'status': 'accepted'})
    before = glance.show(former)

    said = convert(glance, former)
    new = successor(said)
    assert said[0].startswith(f'image {former} "debian" (qcow2, ')
    found = glance.show(new)
    for name in ('name', 'owner', 'visibility', 'protected', 'os_hidden',
                 'min_ram', 'hw_disk_bus', 'container_format', 'stores'):
        assert found[name] == before[name], name
    assert {name for name in found if name not in before
            and 'import' not in name and '_source_' not in name} == {FROM, AT}
    assert sorted(found['tags']) == ['blue', 'green']
    assert (found['status'], found['disk_format'], found['size']) == (
        'active', 'raw', raw.stat().st_size)
    assert (found['checksum'], found['os_hash_value']) == support.digests(raw)
    assert glance.content(new) == support.digests(raw)
    assert {member['member_id']: member['status'] for member in glance.api(
        'GET', f'/v2/images/{new}/members')['members']} == {
            'a-project': 'pending', 'b-project': 'accepted'}

    after = glance.show(former)
    assert (after['os_hidden'], after[TO], found[FROM]) == (True, new, former)
    changed = {'os_hidden', 'updated_at', TO, AT}
    assert {name: value for name, value in after.items()
            if name not in changed} == {
        name: value for name, value in before.items() if name not in changed}
    assert glance.content(former) == support.digests(path)
    assert new in listed(glance)
    assert former not in listed(glance)

    # Once is enough.
    assert convert(glance, '--all') == []
    assert convert(glance, former)[1] == (
        '  stays as it is: another image has its place already')


def test_any_format_in_any_store(glance, images, store):
    raw, formers = images.raw('any'), {}
    for disk_format, driver, where in (
            ('vmdk', 'vmdk', 'local'), ('vdi', 'vdi', 'files'),
            ('vhd', 'vpc', 'ceph2'), ('vhdx', 'vhdx', 'files')):
        path = images.folder / f'any.{disk_format}'
        options = {'vmdk': ['-o', 'subformat=streamOptimized'],
                   'vpc': ['-o', 'force_size=on']}.get(driver, [])
        subprocess.run(['qemu-img', 'convert', '-f', 'raw', '-O', driver,
                        *options, raw, path], check=True)
        formers[store(path, disk_format, where)] = disk_format, where
    convert(glance, *formers)
    for former, (disk_format, where) in formers.items():
        old = glance.show(former)
        found = glance.show(old[TO])
        # Where no plugin writes, it goes into the default store.
        assert found['stores'] == ('ceph' if where == 'local' else where)
        assert found['disk_format'] == 'raw'
        assert (found['checksum'], found['os_hash_value']) == (
            support.digests(raw))
        assert old['disk_format'] == disk_format


def test_all_but_what_is_not_to_be_converted(glance, images, store):
    path, raw = images.qcow2('each')
    converted = store(path, name='\x1b[2Jx\n  is deleted')
    kept = {store(raw, 'raw'): None,
            store(path, cinder_encryption_key_id='a-key'):
                'it names the key of an encrypted disk',
            store(path, container_format='docker'):
                'its container format is docker'}
    queued = glance.create('qcow2')
    plan = convert(glance, '--all', '--dry-run')
    at = plan.index('  would become raw in ceph; at most 48 MiB')
    # A name does not command the terminal.
    assert plan[at - 1].startswith(
        f'image {converted} "?[2Jx?  is deleted" (qcow2, ')
    assert any(line.startswith('store ceph: ') for line in plan)
    assert listed(glance) == {converted, queued, *kept}

    said = convert(glance, '--all')
    new = successor(said)
    assert glance.show(new)[FROM] == converted
    assert listed(glance) == {new, queued, *kept}
    for image_id, reason in kept.items():
        assert TO not in glance.show(image_id)
        if reason:
            at = next(number for number, line in enumerate(said)
                      if image_id in line)
            assert said[at + 1] == f'  stays as it is: {reason}'


def test_what_an_import_refuses_stays(glance, images, store):
    path, _ = images.qcow2('cut', size=16 * MIB, pieces=80)
    whole = path.read_bytes()
    former = store(path)
    # As a bug, or bad luck, leaves it.
    where = glance.cloud.ceph.json('rbd', 'info', f'images/{former}')
    assert where['size'] == len(whole)
    cut = images.folder / 'cut-off.qcow2'
    cut.write_bytes(whole[:len(whole) // 2])
    damaged = store(cut)
    said = convert(glance, damaged, former, status=1)
    assert said[1].startswith('  stays as it is: ')
    assert 'truncated' in said[1]
    assert 'has become image' in said[3]
    assert {name: glance.show(damaged)[name] for name in (
        'status', 'os_hidden')} == {'status': 'active', 'os_hidden': False}
    assert TO not in glance.show(damaged)
    assert glance.staged() == []
    assert len(glance.stored()) == 3


def test_only_what_was_recorded_is_converted(glance, images, store):
    path, _ = images.qcow2('changed')
    former = store(path, where='local')
    stored = glance.cloud.glance.dir / 'images' / former
    with open(stored, 'r+b') as f:
        f.seek(path.stat().st_size // 2)
        f.write(b'something else')
    said = convert(glance, former, status=1)
    assert 'was expected' in said[1]
    assert TO not in glance.show(former)
    assert glance.stored() == []


def test_where_it_does_not_go(glance, images, store):
    former = store(images.qcow2('roomy')[0])
    done = glance.manage('convert', former, '--store', 'local')
    assert done.returncode == 2
    assert 'Store local is not of type' in done.stderr
    said = convert(glance, former, '--pool-room', '1000000', status=1)
    assert said[1].startswith('  stays as it is: Store ceph has room for ')
    assert TO not in glance.show(former)


def test_who_may_not_see_an_image(glance, images, store):
    former = store(images.qcow2('ordinary')[0])
    everything = glance.manage_environ()
    nobody = {name: value for name, value in everything.items()
              if not name.startswith('OS_')} | {
                  'OS_GLANCE_CONFIG_DIR': everything['OS_GLANCE_CONFIG_DIR']}
    for environ, status, words in (
            (nobody, 2, 'needs the rights of an administrator'),
            (everything | {'OS_PASSWORD': 'wrong'}, 2,
             'needs the rights of an administrator'),
            (everything | {'OS_REGION_NAME': 'elsewhere'}, 1,
             'Glance says: ')):
        done = subprocess.run(
            glance.manage_command('convert', former), env=environ,
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=60)
        assert done.returncode == status, (done.stdout, done.stderr)
        assert words in done.stdout + done.stderr
    assert TO not in glance.show(former)


@contextlib.contextmanager
def running(glance, *args):
    """The command, until it is killed."""
    # What began in the background of a shell ignores an interrupt, as would
    # all that it starts.
    process = subprocess.Popen(
        ['env', '--default-signal=INT',
         *glance.manage_command('convert', *args)],
        env=glance.manage_environ(),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def begun(glance, former):
    """What is made for the place of an image, and staged."""
    found = [name for name in glance.staged() if '.' not in name
             and glance.api('GET', f'/v2/images/{name}', user='admin',
                            expect=(200, 404)).get(FROM) == former]
    return found and found[0]


def test_one_that_was_killed_is_gone_on_with(glance, images, store):
    path, raw = images.full()
    former = store(path)
    with running(glance, former):
        new = support.wait_for(lambda: begun(glance, former), interval=0.01)
        # Nobody else sees it, or could change it.
        glance.api('GET', f'/v2/images/{new}', expect=(404,))
        with glance.held(new):
            pass
    assert successor(convert(glance, former)) == new
    assert glance.show(new)['os_hash_value'] == support.digests(raw)[1]
    assert sorted(glance.stored()) == sorted([former, new])


def test_one_that_was_interrupted_while_it_staged(glance, images, store):
    path, raw = images.qcow2('longer', size=200 * MIB, pieces=1500)
    former = store(path)
    with running(glance, former) as process:
        support.wait_for(lambda: begun(glance, former), interval=0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert said == 'glance-conversion-manage: interrupted\n'
    new = successor(convert(glance, former))
    assert glance.show(new)['os_hash_value'] == support.digests(raw)[1]
    assert sorted(glance.stored()) == sorted([former, new])


def test_two_commands_at_once(glance, images, store):
    path, raw = images.full()
    former = store(path)
    with running(glance, former) as process:
        new = support.wait_for(lambda: begun(glance, former), interval=0.01)
        process.send_signal(signal.SIGSTOP)
        said = convert(glance, former, status=1)
        assert f'Image {new} is being staged for its place' in said[1]
        process.send_signal(signal.SIGCONT)
        with glance.held(new):
            other = subprocess.Popen(
                glance.manage_command('convert', former), text=True,
                env=glance.manage_environ(), stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE)
        assert new in process.communicate(timeout=120)[0]
        assert new in other.communicate(timeout=120)[0]
        assert (process.returncode, other.returncode) == (0, 0)
    assert glance.show(new)['os_hash_value'] == support.digests(raw)[1]
    assert sorted(glance.stored()) == sorted([former, new])


def test_retiring(glance, images, store):
    path, raw = images.qcow2('old')
    former, other = store(path), store(path)
    new = successor(convert(glance, former))
    assert convert(glance, '--all', '--retire')[1].startswith(
        '  stays: it was replaced 0 hours ago')
    assert convert(glance, '--all', '--retire', '--grace', '0', '--dry-run'
                   )[1].startswith('  would be deleted')
    # Not where it was to go, nor what was never replaced.
    said = convert(glance, '--all', '--retire', '--grace', '0')
    assert (len(said), said[1]) == (2, '  is deleted')
    glance.api('GET', f'/v2/images/{former}', expect=(404,))
    assert sorted(glance.stored()) == sorted([other, new])
    assert glance.content(new) == support.digests(raw)
    assert convert(glance, other, '--retire')[1] == (
        '  stays: no image has its place')
    remove(glance, new)


def test_nothing_is_retired_whose_successor_is_not_as_recorded(
        glance, images, store):
    former = store(images.qcow2('older', size=4 * MIB)[0], where='files')
    new = successor(convert(glance, former))
    path = glance.cloud.glance.dir / 'files' / new
    content = path.read_bytes()
    os.truncate(path, 1 * MIB)
    said = convert(glance, former, '--retire', '--grace', '0', status=1)
    assert said[1].startswith('  stays as it is: ')
    assert 'DIFFERS' in said[1]
    path.write_bytes(content)
    assert convert(glance, former, '--retire', '--grace', '0')[1] == (
        '  is deleted')
    remove(glance, new)
