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
"""The sparse_file driver on real file systems that fail in real ways."""

import contextlib
import io
import os
import subprocess
import time

import glance_store
from glance_store import exceptions
from glance_store import location
from oslo_config import cfg
import pytest

from glance_conversion_plugins import config
from glance_conversion_plugins.stores import handover
from glance_conversion_plugins.stores import sparse_file

MIB = 1 << 20
IMAGE = '11111111-2222-3333-4444-555555555555'
MARKER = '.mounted'
DATA = os.urandom(MIB + 4321) + bytes(5 * MIB + 17) + os.urandom(70_000)

# How each is made, and how it is mounted. Newer mkfs.xfs wants 300 MiB.
FILE_SYSTEMS = {
    'ext4': ('mkfs.ext4 -q -m 0 {}', 64, 'mount -o loop {} {}'),
    'xfs': ('mkfs.xfs -q {}', 320, 'mount -o loop {} {}'),
    'tmpfs': (None, 24, 'mount -t tmpfs -o size=24m {} {}'),
    # Has neither holes nor links.
    'exfat': ('mkfs.exfat {}', 64, 'mount.exfat-fuse {} {}'),
}


def run(*command):
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def mounted(kind, folder):
    """A new file system of a kind, mounted in a new folder."""
    make, size, mount = FILE_SYSTEMS[kind]
    image, target = folder / f'{kind}.img', folder / kind
    target.mkdir()
    with contextlib.ExitStack() as stack:
        device = str(image)
        if make:
            with open(image, 'wb') as f:
                f.truncate(size * MIB)
            run(*make.format(image).split())
        if 'fuse' in mount:
            device = subprocess.run(
                ['losetup', '--find', '--show', image], check=True,
                capture_output=True, text=True).stdout.strip()
            stack.callback(run, 'losetup', '-d', device)
        run(*mount.format(device, target).split())
        stack.callback(subprocess.run, ['umount', '--lazy', target],
                       stderr=subprocess.DEVNULL)
        yield target


@pytest.fixture(params=FILE_SYSTEMS)
def disk(request, tmp_path):
    with mounted(request.param, tmp_path) as target:
        yield target


@pytest.fixture(autouse=True)
def glance(monkeypatch, override):
    """One that records at once what was published."""
    override('deployment', 'test', 'conversion')
    monkeypatch.setattr(handover, 'watch',
                        lambda published: published.sink.hand_over())


@pytest.fixture
def make_store():
    """Makes drivers with options, as Glance does for a single store."""
    def make(marker='', **options):
        conf = cfg.ConfigOpts()
        glance_store.register_opts(conf)
        config.register_opts(conf)
        conf([])
        conf.set_override('mount_marker', marker, 'sparse_store')
        for name, value in options.items():
            conf.set_override(name, value, 'glance_store')
        made = sparse_file.Store(conf)
        made.configure()
        return made
    return make


@pytest.fixture
def store(make_store, disk):
    return make_store(filesystem_store_datadir=str(disk))


def add(store, data=DATA, size=None):
    return store.add(IMAGE, io.BytesIO(data),
                     len(data) if size is None else size, 'sha256')


def located(store, url):
    return location.Location('file', sparse_file.StoreLocation, store.conf,
                             uri=url)


def read(store, url):
    chunks, size = store.get(located(store, url))
    found = b''.join(chunks)
    assert size == len(found)
    return found


def names(folder):
    return sorted(name for name in os.listdir(folder)
                  if name not in ('lost+found', MARKER))


@pytest.mark.parametrize('size', [None, 0], ids=['known', 'unknown'])
def test_stores_and_gives_back(store, disk, size):
    url, stored, *_ = add(store, size=size)
    assert stored == len(DATA)
    assert names(disk) == [IMAGE]
    assert read(store, url) == DATA
    if disk.name != 'exfat':
        assert (disk / IMAGE).stat().st_blocks * 512 <= 1_400_000
    with pytest.raises(exceptions.Duplicate):
        add(store)
    store.delete(located(store, url))
    assert names(disk) == []


def fill(disk, leave):
    """Take all room on a disk but some."""
    stat = os.statvfs(disk)
    with (contextlib.suppress(OSError),
          open(disk / 'filler', 'wb', buffering=0) as f):
        left = stat.f_bavail * stat.f_bsize - leave
        while left > 0:
            left -= f.write(bytes(min(left, 4 * MIB)))
        os.fsync(f.fileno())


@pytest.mark.parametrize('size', [None, 0], ids=['known', 'unknown'])
def test_a_disk_that_is_full(store, disk, size):
    fill(disk, 3 * MIB)
    free = os.statvfs(disk).f_bfree
    with pytest.raises(exceptions.StorageFull):
        add(store, os.urandom(8 * MIB), size)
    assert names(disk) == ['filler']
    # All of the room is there again, which XFS sees to in the background,
    # and the store works.
    deadline = time.monotonic() + 30
    while os.statvfs(disk).f_bfree < free - 256:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert read(store, add(store, b'x' * MIB)[0]) == b'x' * MIB


def test_a_disk_that_fills_up_meanwhile(store, disk):
    class Filling(io.BytesIO):
        def read(self, size=-1):
            if self.tell() == 2 * MIB:
                fill(disk, 0)
            return super().read(size)
    # More than is reserved at first where there are no holes.
    content = os.urandom(24 * MIB)
    with pytest.raises(exceptions.StorageFull):
        store.add(IMAGE, Filling(content), 0, 'sha256')
    assert IMAGE not in ' '.join(names(disk))


@pytest.mark.parametrize('kind', ['ext4', 'tmpfs'])
def test_a_disk_that_becomes_read_only(make_store, tmp_path, kind):
    with mounted(kind, tmp_path) as disk:
        store = make_store(filesystem_store_datadir=str(disk))
        url = add(store)[0]
        run('mount', '-o', 'remount,ro', disk)
        (disk / IMAGE).stat()
        other = IMAGE.replace('1', '9')
        with pytest.raises(exceptions.StorageWriteDenied):
            store.add(other, io.BytesIO(DATA), len(DATA), 'sha256')
        assert read(store, url) == DATA
        with pytest.raises(exceptions.Forbidden):
            store.delete(located(store, url))
        assert names(disk) == [IMAGE]


def unmount(disk):
    run('umount', '--lazy', disk)


def test_a_mount_that_is_gone_is_noticed(store, disk, make_store):
    """Nothing goes onto the disk below, and nothing counts as deleted."""
    (disk / MARKER).touch()
    store = make_store(MARKER, filesystem_store_datadir=str(disk))
    url = add(store)[0]
    found = located(store, url)
    unmount(disk)
    other = IMAGE.replace('1', '9')
    with pytest.raises(exceptions.StorageWriteDenied):
        store.add(other, io.BytesIO(DATA), len(DATA), 'sha256')
    for call in (store.get, store.get_size, store.delete):
        with pytest.raises(exceptions.RemoteServiceUnavailable):
            call(found)
    assert os.listdir(disk) == []


def test_a_mount_that_goes_away_meanwhile(store, disk):
    class Leaving(io.BytesIO):
        def read(self, size=-1):
            if self.tell() == 2 * MIB:
                unmount(disk)
            return super().read(size)
    with pytest.raises(exceptions.BackendException):
        store.add(IMAGE, Leaving(DATA), len(DATA), 'sha256')
    assert os.listdir(disk) == []


def test_a_folder_below_the_mount_that_refuses(make_store, tmp_path):
    """The scheme of permissions: what is below may not be written to."""
    with mounted('ext4', tmp_path) as disk:
        store = make_store(filesystem_store_datadir=str(disk))
        run('umount', disk)
        run('mount', '--bind', '-o', 'ro', disk, disk)
        with pytest.raises(exceptions.StorageWriteDenied):
            add(store)
        run('umount', disk)
        assert os.listdir(disk) == []


def test_the_best_of_several_folders(make_store, tmp_path):
    with (mounted('ext4', tmp_path) as first,
          mounted('tmpfs', tmp_path) as second):
        for disk in (first, second):
            (disk / MARKER).touch()
        store = make_store(MARKER, filesystem_store_datadir=None,
                           filesystem_store_datadirs=[f'{first}:200',
                                                      f'{second}:100'])
        assert add(store)[0] == f'file://{first / IMAGE}'
        unmount(first)
        other = IMAGE.replace('1', '9')
        url = store.add(other, io.BytesIO(DATA), len(DATA), 'sha256')[0]
        assert url == f'file://{second / other}'
        assert os.listdir(first) == []
        with pytest.raises(exceptions.StorageFull):
            store.add(IMAGE.replace('1', '8'), io.BytesIO(DATA), 1 << 40,
                      'sha256')
        assert names(second) == [other]
