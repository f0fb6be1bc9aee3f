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
"""What goes into the sparse stores and comes out of them, without imports."""

import contextlib
import hashlib
import os
import random
import subprocess
import threading

import pytest

from tests.functional import support

MIB = support.MIB


def _scattered(size, grain, pieces, seed=3):
    """Data of odd lengths at odd offsets, or of one block at many."""
    chance = random.Random(seed)    # noqa: S311
    data = bytearray(size)
    for _ in range(pieces):
        length = grain or chance.randrange(1, 200_000)
        at = chance.randrange(0, size - length)
        at -= at % grain if grain else 0
        data[at:at + length] = chance.randbytes(length)
    return bytes(data)


SHAPES = {
    'empty': b'',
    'one byte': b'x',
    'one zero': b'\0',
    'odd holes': _scattered(41 * MIB + 12_345, 0, 30),
    '4 KiB grain': _scattered(24 * MIB, 4096, 300),
    'dense': _scattered(9 * MIB + 1, 0, 1) + os.urandom(12 * MIB + 77),
    'zeros only': bytes(70 * MIB + 3),
    'zeros at the end': os.urandom(5000) + bytes(33 * MIB),
}


def upload(glance, data, store, expect=(204,), **headers):
    image_id = glance.create('raw')
    glance.api('PUT', f'/v2/images/{image_id}/file', data=data, expect=expect,
               headers={'Content-Type': 'application/octet-stream',
                        'X-Image-Meta-Store': store} | headers)
    return image_id


def in_pieces(data):
    """As a client sends what it does not know the length of."""
    chance = random.Random(5)       # noqa: S311
    at = 0
    while at < len(data):
        length = chance.randrange(1, 300_000)
        yield data[at:at + length]
        at += length


def allocated(glance, image_id, store):
    """Bytes that the data of an image takes."""
    if store == 'files':
        path = glance.cloud.glance.dir / 'files' / image_id
        return path.stat().st_blocks * 512
    return sum(extent['length'] for extent in glance.cloud.ceph.json(
        'rbd', 'diff', f'images/{image_id}@snap')
        if extent['exists'] == 'true')


def content(glance, image_id, store):
    if store == 'files':
        return support.digests(glance.cloud.glance.dir / 'files' / image_id)
    return glance.content(image_id)


def data_in(data, block=64 * 1024):
    return sum(len(data[at:at + block]) for at in range(0, len(data), block)
               if data[at:at + block].strip(b'\0'))


@pytest.mark.parametrize('length, shape', [
    *(('known', shape) for shape in SHAPES),
    ('unknown', 'empty'), ('unknown', 'odd holes'),
    ('unknown', 'zeros at the end')])
@pytest.mark.parametrize('store', ['ceph', 'files'])
def test_upload_and_read_back(glance, store, length, shape):
    data = SHAPES[shape]
    image_id = upload(
        glance, data if length == 'known' else in_pieces(data), store)
    image = glance.show(image_id)
    assert (image['status'], image['size']) == ('active', len(data))
    expected = hashlib.md5(data).hexdigest(), hashlib.sha512(data).hexdigest()
    assert (image['checksum'], image['os_hash_value']) == expected
    assert content(glance, image_id, store) == expected
    if store == 'files':
        # Of an RBD image, the diff counts more than was written.
        assert allocated(glance, image_id, store) <= data_in(data) + 4096
    elif not data_in(data):
        assert allocated(glance, image_id, store) == 0
    if data:
        path = f'/v2/images/{image_id}/file'
        assert glance.api('GET', path) == data
        for start, stop in ((len(data) // 3, len(data) // 2 + 1),
                            (len(data) - 1, len(data))):
            if start < stop:
                assert glance.api('GET', path, expect=(206,), headers={
                    'Range': f'bytes={start}-{stop - 1}'}
                    ) == data[start:stop]
    glance.delete(image_id)


@pytest.mark.parametrize('store', ['ceph', 'files'])
def test_record_is_what_stock_writes(glance, configure, store):
    """And what one driver wrote, the other reads and removes."""
    data = SHAPES['4 KiB grain']
    thick = {'DEFAULT': {'enabled_backends':
                         'ceph:rbd, files:file, local:file'}}
    configure(**thick)
    stock = upload(glance, data, store)
    configure()
    ours = upload(glance, data, store)
    names = ('checksum', 'os_hash_algo', 'os_hash_value', 'size',
             'virtual_size', 'disk_format', 'status', 'stores')
    one, two = glance.show(stock), glance.show(ours)
    assert {n: one[n] for n in names} == {n: two[n] for n in names}
    if store == 'ceph':
        assert image_info(glance, stock) == image_info(glance, ours)
    assert glance.api('GET', f'/v2/images/{stock}/file') == data
    glance.delete(stock)
    # Glance restarts, and the stock driver knows nothing of marks.
    glance.settled(ours)
    configure(**thick)
    assert glance.api('GET', f'/v2/images/{ours}/file') == data
    glance.delete(ours)
    assert glance.leftovers() == {}


def image_info(glance, image_id):
    """What RBD says of an image, without what differs between any two."""
    info = glance.cloud.ceph.json('rbd', 'info', f'images/{image_id}')
    snaps = glance.cloud.ceph.json('rbd', 'snap', 'ls', f'images/{image_id}')
    meta = glance.rbd('-p', 'images', 'image-meta', 'list', image_id)
    return ({key: info[key] for key in ('size', 'objects', 'order',
                                        'features', 'flags')},
            [(s['name'], s['protected']) for s in snaps], meta)


def test_stored_by_stock_stays_clonable(glance, configure):
    configure(DEFAULT={'enabled_backends': 'ceph:rbd, local:file'})
    image_id = upload(glance, SHAPES['odd holes'], 'ceph')
    configure()
    for name in ('a-clone', 'another'):
        glance.rbd('clone', f'images/{image_id}@snap', f'images/{name}')
    # In use: Glance refuses, and nothing is lost.
    glance.delete(image_id, expect=(409,))
    data = SHAPES['odd holes']
    assert glance.api('GET', f'/v2/images/{image_id}/file') == data
    assert image_id in glance.stored()
    for name in ('a-clone', 'another'):
        glance.rbd('rm', '--no-progress', f'images/{name}')
    glance.delete(image_id)
    assert glance.stored() == []


@pytest.mark.parametrize('store', ['ceph', 'files'])
def test_upload_that_breaks_off(glance, store):
    """A client that goes away in the middle leaves nothing."""
    def broken():
        yield os.urandom(3 * MIB)
        raise ConnectionAbortedError
    image_id = glance.create('raw')
    with pytest.raises(OSError):
        glance.api('PUT', f'/v2/images/{image_id}/file', data=broken(),
                   headers={'Content-Type': 'application/octet-stream',
                            'X-Image-Meta-Store': store})
    support.wait_for(
        lambda: glance.show(image_id)['status'] in ('queued', 'killed'), 30)
    assert glance.leftovers() == {}


@pytest.mark.parametrize('store', ['ceph', 'files'])
def test_kill_in_the_middle_of_an_upload(glance, store):
    """What it leaves is told from a living upload, and is cleaned up."""
    stop = threading.Event()

    def slow():
        while not stop.wait(0.05):
            yield os.urandom(MIB)

    def send():
        with contextlib.suppress(OSError):
            glance.api('PUT', f'/v2/images/{image_id}/file', data=slow(),
                       headers={'Content-Type': 'application/octet-stream',
                                'X-Image-Meta-Store': store})

    image_id = glance.create('raw')
    sender = threading.Thread(target=send)
    sender.start()
    try:
        support.wait_for(lambda: partial(glance, store, image_id), 20)
        said = glance.manage('cleanup').stdout
        # What tests before this one have left may be found as well.
        assert support.findings(said) and image_id not in said
        assert partial(glance, store, image_id)
        glance.cloud.glance.kill()
    finally:
        stop.set()
        sender.join()
    # A worker may have noticed that its client went first, and tidied up.
    left = partial(glance, store, image_id)
    glance.cloud.glance.start()
    glance.delete(image_id)
    said = []

    def clean():
        said.append(glance.manage('cleanup').stdout)
        return not partial(glance, store, image_id)
    # Ceph remembers a client that was killed for half a minute.
    support.wait_for(clean, 60, interval=2)
    assert not left or 'data of the dead import or upload' in said[-1]
    assert glance.leftovers() == {}


def partial(glance, store, image_id):
    names = (os.listdir(glance.cloud.glance.dir / 'files')
             if store == 'files' else glance.stored())
    return [name for name in names if image_id in name
            and name.endswith('.partial')]


def test_stores_are_described_as_stock_ones(glance):
    stores = glance.api('GET', '/v2/info/stores/detail',
                        user='admin')['stores']
    found = {s['id']: (s['type'], s['properties']) for s in stores}
    assert found['ceph'][0] == 'rbd'
    assert found['ceph'][1]['pool'] == 'images'
    assert found['files'][0] == 'file'
    assert found['files'][1]['data_dir'].endswith('/files')


def test_delayed_delete_and_the_scrubber(glance, configure):
    configure(DEFAULT={'delayed_delete': True, 'scrub_time': 0})
    data = SHAPES['odd holes']
    ids = {store: upload(glance, data, store) for store in ('ceph', 'files')}
    for image_id in ids.values():
        glance.delete(image_id)
    assert glance.stored() == [ids['ceph']]
    done = subprocess.run(
        [glance.cloud.settings.bin('glance-scrubber'), '--config-dir',
         glance.cloud.glance.config_dir], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert glance.leftovers() == {}


def test_image_with_other_snapshots_goes_to_the_trash(glance):
    """As with the stock driver, which removes only its own snapshot."""
    image_id = upload(glance, SHAPES['odd holes'], 'ceph')
    glance.rbd('snap', 'create', '--no-progress', f'images/{image_id}@other')
    glance.delete(image_id)
    assert glance.stored() == []
    trash = glance.cloud.ceph.json('rbd', 'trash', 'ls', 'images')
    assert [found['name'] for found in trash] == [image_id]
    glance.rbd('trash', 'restore', f"images/{trash[0]['id']}")
    glance.sweep()


def test_import_without_any_plugin(glance, configure, images):
    """Staged data comes to the driver as it was uploaded."""
    configure(image_import_opts={'image_import_plugins': '[]'})
    raw = images.raw('as-it-is', size=70 * MIB + 5)
    for store in ('ceph', 'files'):
        image = glance.imported(raw, 'raw', stores=(store,))
        assert content(glance, image['id'], store) == support.digests(raw)
        assert (image['checksum'],
                image['os_hash_value']) == support.digests(raw)


def assert_no_room(glance, store):
    image_id = glance.create('raw')
    before = glance.cloud.glance.log.read_text()
    # Glance answers before it has taken all, which resets the connection.
    with contextlib.suppress(OSError):
        glance.api('PUT', f'/v2/images/{image_id}/file', expect=(413,),
                   data=SHAPES['dense'], headers={
                       'Content-Type': 'application/octet-stream',
                       'X-Image-Meta-Store': store})
    support.wait_for(
        lambda: glance.show(image_id)['status'] in ('queued', 'killed'), 30)
    said = glance.cloud.glance.log.read_text()[len(before):]
    assert 'media is full: The store has no room for the image.' in said


def test_upload_into_a_pool_that_is_full(glance, full_pool):
    assert_no_room(glance, full_pool)
    assert glance.stored('images2') == ['fill']


def test_upload_into_a_folder_that_is_full(glance, configure, full):
    configure(files={'filesystem_store_datadir': full})
    before = os.listdir(full)
    assert_no_room(glance, 'files')
    assert os.listdir(full) == before


def test_stores_of_more_weight_come_first(glance, configure):
    configure(ceph={'weight': 1}, files={'weight': 100})
    data = SHAPES['odd holes']
    image_id = upload(glance, data, 'ceph')
    glance.api('POST', f'/v2/images/{image_id}/import', user='admin', json={
        'method': {'name': 'copy-image'}, 'stores': ['files']})
    copied = support.wait_for(lambda: (
        found := glance.show(image_id))['stores'].count(',') and found)
    assert copied['stores'] == 'files,ceph'
    support.wait_for(lambda: glance.unlocked(image_id), 30)
    # From one store only, and the other still has it.
    glance.api('DELETE', f'/v2/stores/files/{image_id}', user='admin')
    assert glance.show(image_id)['stores'] == 'ceph'
    assert glance.api('GET', f'/v2/images/{image_id}/file') == data
