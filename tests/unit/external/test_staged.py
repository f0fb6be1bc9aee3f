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

"""A disk that fails is not the fault of the image that lies on it."""

import os
import subprocess
import threading
import time

import pytest

from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import convert
from glance_conversion_plugins.copying.sources import nbd as nbd_source
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.external import staged
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import inspection
from tests.contract import images

MIB = 1 << 20
POLICY = detection.Policy(1 << 40)


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk of 16 MiB; mounting it needs root."""
    device, folder = tmp_path / 'device', tmp_path / 'disk'
    folder.mkdir()
    with open(device, 'wb') as f:
        f.truncate(16 * MIB)
    images.run('mkfs.ext4', '-q', '-O', '^has_journal', device)
    images.run('mount', '-o', 'loop', device, folder)
    yield folder
    subprocess.run(['umount', '--lazy', folder], check=True)


@pytest.fixture
def fail(disk, tmp_path):
    """Let a file be unreadable from some place on."""
    def fail(path, good):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        said = images.run('filefrag', '-v', '-b4096', path)
        # "  0:        0..    1023:      8192..      9215:   1024: ..."
        start, end = [int(part) for part in next(
            line for line in said.splitlines() if line.strip()[:2] == '0:'
        ).split(':')[2].split('..')]
        assert (end - start) * 4096 > good
        os.truncate(tmp_path / 'device', start * 4096 + good)
        with pytest.raises(OSError, match='Input/output'):
            with open(path, 'rb') as f:
                f.read()
    return fail


@pytest.fixture
def path(disk, tmp_path):
    """An image in one piece."""
    made, found = tmp_path / 'made', disk / 'image'
    images.qcow2(made, 'ABCDEFGH' * 8)
    with open(found, 'wb') as f:
        os.posix_fallocate(f.fileno(), 0, made.stat().st_size)
        f.write(made.read_bytes())
    return str(found)


def test_reads_before_it_fails(path, fail):
    staged.see_readable(path, lambda: False)
    fail(path, MIB)
    with pytest.raises(errors.SourceFailed, match='could not be read'):
        staged.see_readable(path, lambda: False)


def test_reads_no_further_for_nobody(path, fail):
    fail(path, MIB)
    staged.see_readable(path, lambda: True)


def test_skips_holes(tmp_path, monkeypatch):
    read, preadv = [], os.preadv

    def counted(fd, buffers, offset):
        read.append(offset)
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, 'preadv', counted)
    path = tmp_path / 'sparse'
    with open(path, 'wb') as f:
        f.truncate(1 << 42)
        f.seek(1 << 40)
        f.write(b'x')
    staged.see_readable(str(path), lambda: False)
    assert 1 <= len(read) <= 2
    assert min(read) == 1 << 40


@pytest.mark.parametrize('question', [
    qemu_img.info, qemu_img.check,
    lambda image: list(qemu_img.extents(image, 4 * MIB)),
    lambda image: nbd_source.NbdSource(image, 4 * MIB)],
    ids=['info', 'check', 'map', 'nbd'])
def test_the_tables_can_not_be_read(path, fail, question):
    fail(path, 0)
    with pytest.raises(errors.SourceFailed, match='could not be read'):
        question(qemu_img.Image(path, 'qcow2'))


def test_the_content_can_not_be_read(path, fail):
    source = nbd_source.NbdSource(qemu_img.Image(path, 'qcow2'), 4 * MIB)
    try:
        fail(path, MIB)
        with pytest.raises(errors.SourceFailed, match='could not be read'):
            source.read(3 * MIB, MIB)
    finally:
        source.close()


def test_the_content_can_not_be_read_for_staging(path, fail, tmp_path):
    info = inspection.inspect(path, 'qcow2', POLICY)
    fail(path, MIB)
    with pytest.raises(errors.SourceFailed, match='could not be read'):
        convert.stage(info, POLICY, str(tmp_path / 'target'), 'raw', (),
                      conversion_.Conversion())


def test_an_image_that_is_damaged_still_is(tmp_path):
    path = images.damaged(tmp_path / 'image', 'zlib')
    source = nbd_source.NbdSource(qemu_img.Image(path, 'qcow2'),
                                  4 * images.BLOCK)
    try:
        with pytest.raises(errors.DamagedImage):
            source.read(0, 4 * images.BLOCK)
    finally:
        source.close()


def _free(disk):
    return os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize


def test_a_file_goes_at_once_and_is_freed_by_and_by(disk, monkeypatch):
    path = disk / 'upload'
    path.write_bytes(os.urandom(4 * MIB))
    before, may_close, close = _free(disk), threading.Event(), os.close

    def wait_and_close(fd):
        may_close.wait()
        close(fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, 'close', wait_and_close)
        staged.unlink(path)
        assert not os.path.lexists(path)
        assert _free(disk) == before
        may_close.set()
        deadline = time.monotonic() + 10
        while _free(disk) < before + 4 * MIB:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_link_goes_and_not_what_it_leads_to(tmp_path):
    (tmp_path / 'other').write_bytes(b'other')
    (tmp_path / 'upload').symlink_to('other')
    staged.unlink(tmp_path / 'upload')
    assert os.listdir(tmp_path) == ['other']


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError):
        staged.unlink(tmp_path / 'upload')


def test_where_no_thread_can_be_had(tmp_path, monkeypatch):
    path = tmp_path / 'upload'
    path.write_bytes(b'upload')
    before = len(os.listdir('/proc/self/fd'))

    def start(thread):
        raise RuntimeError('no more threads')
    monkeypatch.setattr(threading.Thread, 'start', start)
    staged.unlink(path)
    assert not path.exists()
    assert len(os.listdir('/proc/self/fd')) == before
