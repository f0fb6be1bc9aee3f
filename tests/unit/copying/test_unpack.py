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

"""The disk in a package is that of which the package was made, or refused."""

import functools
import hashlib
import lzma
import os
import signal
import threading
import time

import pytest

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import room
from glance_conversion_plugins.copying.sinks import bounded
from glance_conversion_plugins.copying import unpack
from glance_conversion_plugins.copying import watchdog
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import decompressor
from glance_conversion_plugins.formats import detection
from tests.contract import memory
from tests.contract import packages
from tests.hostile import build
from tests.hostile import path as path_
from tests.hostile import qcow2
from tests.hostile import raw
from tests.unit import fakes
from tests.unit import processes

MIB = 1 << 20
POLICY = detection.Policy(max_virtual_size=1 << 30, max_expansion=200)
DISK = build.content(3 * MIB) + b'the end'
SOME = DISK[:200_000]
BOTH = digest.DigestSpec('sha512', True)
TOOLS = ['zstd', *(argv[0] for argv in decompressor.PROGRAMS.values())]


@pytest.fixture(autouse=True)
def nothing_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
    assert not [pid for tool in TOOLS for pid in processes.children(tool)]


@functools.cache
def _packed(kind, data=DISK):
    if kind == 'ova':
        return packages.ova(data, 'disk.raw')
    return packages.compressed(kind, data)


def _package(tmp_path, data, kind='compressed', policy=POLICY):
    path = tmp_path / 'image'
    path.write_bytes(data)
    return unpack.Package(str(path), 'ova' if kind == 'ova' else 'compressed',
                          policy)


def _store(package, sink=None, spec=BOTH, allow=lambda size: None,
           cancel=None):
    """The disk that is written, and what is known of it."""
    place = {}
    stored = unpack.store(package, sink or memory.MemorySink(place, 'i'),
                          spec, allow, conversion_.Conversion(cancel))
    if sink is None:
        assert place == {}, 'published'
    return stored


@pytest.mark.parametrize('kind', ['zip', 'ova'])
def test_room_is_waited_for(tmp_path, kind):
    """In staging as in a store, while somebody before needs it."""
    package = _package(tmp_path, _packed(kind), kind)
    locks = tmp_path / 'locks'
    locks.mkdir()
    run = conversion_.Conversion(node=conversion_.Node(str(locks)))
    target = tmp_path / 'new'
    thread = threading.Thread(target=unpack.unpack, args=(
        package, str(target), run))
    with room.claim(str(locks), 1 << 62, lambda: [
            room.of_folder(str(tmp_path))], progress_.Progress(),
            cancel_.Cancel()):
        thread.start()
        while not str(run.progress).startswith('Waiting for room'):
            assert thread.is_alive()
        assert not target.exists()
    thread.join(60)
    assert target.read_bytes() == DISK


class _Kept(memory.MemorySink):
    """A sink of which the content is seen before it is published."""

    def __init__(self):
        self.place = {}
        super().__init__(self.place, 'i')

    def content(self):
        self.publish()
        return self.place['i']


def _content(package):
    sink = _Kept()
    _store(package, sink)
    return sink.content()


KINDS = (*packages.KINDS, 'ova')


@pytest.mark.parametrize('kind', KINDS)
def test_the_disk_and_its_digests(tmp_path, kind):
    sink, asked = _Kept(), []
    stored = _store(_package(tmp_path, _packed(kind), kind), sink,
                    allow=asked.append)
    assert sink.content() == DISK
    assert stored.size == len(DISK)
    assert stored.digest == digest.Digest(hashlib.md5(DISK).hexdigest(),
                                          hashlib.sha512(DISK).hexdigest())
    assert asked == [len(DISK)]
    assert os.listdir(tmp_path) == ['image']


@pytest.mark.parametrize('kind, options', [
    ('xz', ('-0',)), ('xz', ('-9e',)), ('xz', ('--check=none',)),
    ('xz', ('-T2', '--block-size=100KiB')), ('gzip', ('-1',)),
    ('bzip2', ('-1',)), ('zstd', ('-19', '--long=29')),
    ('zstd', ('--no-check',)), ('zip', ('-0',)),
    ('zip', ('-fz',))], ids=str)
def test_however_it_was_compressed(tmp_path, kind, options):
    data = packages.compressed(kind, DISK, *options)
    assert _content(_package(tmp_path, data)) == DISK


def test_a_zip_by_macos(tmp_path):
    """Beside a file is what it knows of it, which is no part of the disk."""
    data = packages.zipped({'__MACOSX/._disk': b'Mac OS X', 'disk': DISK,
                            '__MACOSX/._other': b'Mac OS X'})
    assert _content(_package(tmp_path, data)) == DISK


@pytest.mark.parametrize('kind', packages.COMPRESSORS)
def test_what_was_compressed_in_pieces(tmp_path, kind):
    pieces = (packages.compressed(kind, part)
              for part in (DISK[:MIB], b'', DISK[MIB:]))
    assert _content(_package(tmp_path, b''.join(pieces))) == DISK


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('disk_format', ['qcow2', 'vmdk', 'vhd', 'vhdx'])
def test_other_formats_by_way_of_a_file(tmp_path, kind, disk_format):
    data = build.image(disk_format)
    package = _package(tmp_path, _packed(kind, data), kind)
    unpack.unpack(package, str(tmp_path / 'new'), conversion_.Conversion())
    assert (tmp_path / 'new').read_bytes() == data


def test_holes_stay_holes(tmp_path):
    data = build.noise(MIB) + bytes(64 * MIB)
    package = _package(tmp_path, packages.compressed('zstd', data))
    unpack.unpack(package, str(tmp_path / 'new'), conversion_.Conversion())
    found = (tmp_path / 'new').stat()
    assert found.st_size == len(data)
    assert found.st_blocks * 512 <= 2 * MIB
    assert found.st_mode & 0o007 == 0


def _refused(package, error=errors.ImageRefused, match=None, **kwargs):
    """Both ways; nothing is left."""
    folder = os.path.dirname(package.path)
    sink = fakes.FakeSink()
    with pytest.raises(error, match=match) as caught:
        _store(package, sink, **kwargs)
    path_.assert_presentable(caught.value, folder)
    assert sink.names()[-1] == 'abort'
    assert 'seal' not in sink.names()
    return sink


def _not_unpacked(package, error=errors.ImageRefused, match=None):
    folder = os.path.dirname(package.path)
    before = set(os.listdir(folder))
    with pytest.raises(error, match=match) as caught:
        unpack.unpack(package, os.path.join(folder, 'new'),
                      conversion_.Conversion())
    path_.assert_presentable(caught.value, folder)
    assert set(os.listdir(folder)) == before


@pytest.mark.parametrize('kind', packages.KINDS)
def test_every_beginning_is_refused(tmp_path, kind):
    whole = _packed(kind, SOME)
    for length in (0, 1, 3, 7, 20, len(whole) // 2, len(whole) - 30,
                   len(whole) - 9, len(whole) - 4, len(whole) - 1):
        _refused(_package(tmp_path, whole[:length]))


@pytest.mark.parametrize('kind', packages.KINDS)
@pytest.mark.parametrize('place', [0.3, 0.7])
def test_damaged_data(tmp_path, kind, place):
    whole = _packed(kind, SOME)
    at = int(len(whole) * place)
    damaged = build.patched(whole, (at, bytes(b ^ 255
                                              for b in whole[at:at + 4])))
    package = _package(tmp_path, damaged)
    _refused(package, errors.DamagedImage)
    _not_unpacked(package, errors.DamagedImage)


# Where a checksum is, of what decodes well.
SUMS = {'gzip': -8, 'zstd': -4, 'bzip2': -4, 'xz': -28 - 16}


@pytest.mark.parametrize('kind', SUMS)
def test_a_wrong_checksum(tmp_path, kind):
    whole = _packed(kind, SOME)
    at = SUMS[kind] % len(whole)
    _refused(_package(tmp_path, build.patched(
        whole, (at, bytes([whole[at] ^ 1])))), errors.DamagedImage)


def test_a_wrong_checksum_of_a_zip(tmp_path):
    whole = _packed('zip', SOME)
    at = whole.index(b'PK\1\2') + 16
    _refused(_package(tmp_path, build.patched(
        whole, (14, b'1234'), (at, b'1234'))), errors.DamagedImage)


def test_a_zip_whose_directory_is_wrong(tmp_path):
    whole = _packed('zip', SOME)
    at = whole.index(b'PK\1\2') + 24
    _refused(_package(tmp_path, build.patched(
        whole, (at, (len(SOME) + 1).to_bytes(4, 'little')))),
        errors.DamagedImage)


def test_a_wrong_checksum_of_a_manifest(tmp_path):
    files = {'vm.ovf': packages.ovf('d'), 'd': SOME}
    for algorithm in ('SHA1', 'SHA256', 'SHA512'):
        data = packages.tar(
            packages.member('vm.ovf', files['vm.ovf']),
            packages.member('vm.mf', packages.manifest(algorithm, files)),
            packages.member('d', SOME[:-1] + b'?'))
        package = _package(tmp_path, data, 'ova')
        _refused(package, errors.DamagedImage, 'does not have the checksum')
        _not_unpacked(package, errors.DamagedImage, 'checksum')


@pytest.mark.parametrize('kind', packages.COMPRESSORS)
def test_what_follows_the_end(tmp_path, kind):
    _refused(_package(tmp_path, _packed(kind, SOME) + b'garbage'),
             errors.DamagedImage)
    # As of a second piece that was damaged at its begin.
    second = b'?' + _packed(kind, SOME)[1:]
    _refused(_package(tmp_path, _packed(kind, SOME) + second),
             errors.DamagedImage)


@pytest.mark.parametrize('kind', ['gzip', 'xz', 'lzma'])
@pytest.mark.parametrize('begin', ['frame', 'skippable'])
def test_what_zstd_reads_besides(tmp_path, kind, begin):
    """Of lzma nothing tells whether it is whole."""
    first = (_packed('zstd', SOME) if begin == 'frame' else
             b'\x50\x2a\x4d\x18\4\0\0\0abcd')
    second = (lzma.compress(SOME, lzma.FORMAT_ALONE) if kind == 'lzma'
              else _packed(kind, SOME))
    _refused(_package(tmp_path, first + second), errors.DamagedImage)


def test_frames_that_are_skipped(tmp_path):
    note = b'\x5f\x2a\x4d\x18\4\0\0\0abcd'
    data = note + _packed('zstd', SOME) + note
    assert _content(_package(tmp_path, data)) == SOME


@pytest.mark.parametrize('kind', ['gzip', 'xz'])
def test_zeros_after_the_end(tmp_path, kind):
    data = _packed(kind, SOME) + bytes(4096)
    assert _content(_package(tmp_path, data)) == SOME


NESTED = {
    'xz': (lambda: packages.compressed('xz', SOME), 'compressed by xz'),
    'zip': (lambda: packages.compressed('zip', SOME), 'compressed by zip'),
    'ova': (lambda: packages.ova(SOME), 'a tar archive'),
    'page': (lambda: b'<html>'.ljust(5000), 'a web page'),
    '7-zip': (lambda: b"7z\xbc\xaf'\x1c".ljust(5000), 'archive of 7-Zip'),
}


@pytest.mark.parametrize('kind', ['gzip', 'zip', 'ova'])
@pytest.mark.parametrize('inner', NESTED)
def test_a_package_in_a_package(tmp_path, kind, inner):
    make, words = NESTED[inner]
    package = _package(tmp_path, _packed(kind, make()), kind)
    assert _refused(package, match=words).names() == ['abort']
    _not_unpacked(package, match=words)


NO_RAW = {
    'qcow2': (qcow2.plain, 'content is qcow2'),
    'vmdk': (lambda: build.image('vmdk'), 'content is vmdk'),
    'vdi': (lambda: build.image('vdi'), 'content is vdi'),
    'vhd': (lambda: build.image('vhd'), 'content is vhd'),
    'vhdx': (lambda: build.image('vhdx'), 'content is vhdx'),
    'iso': (raw.iso, 'content is iso'),
    'luks': (lambda: b'LUKS\xba\xbe\0\1' + bytes(8192), 'content is luks'),
    'bad-gpt': (lambda: raw.gpt(extra=True), 'master boot record'),
    'description': (lambda: b'# Disk DescriptorFile\n'.ljust(4096),
                    'only a description'),
    'snapshot': (lambda: b'COWD'.ljust(4096, b'\0'), 'since a snapshot'),
}


@pytest.mark.parametrize('inner', NO_RAW)
def test_what_is_declared_as_raw_and_is_not(tmp_path, inner):
    make, words = NO_RAW[inner]
    data = packages.compressed('zstd', make() + bytes(64 * MIB))
    sink = _refused(_package(tmp_path, data), match=words)
    # As a rule nothing is begun; a vhdx has its tables in the third MiB.
    assert sum(c[2] for c in sink.calls if c[0] in ('write', 'zero')
               ) <= (4 * MIB if inner == 'vhdx' else 0)


@pytest.mark.parametrize('inner', NO_RAW)
def test_what_is_short_declared_as_raw_and_is_not(tmp_path, inner):
    make, words = NO_RAW[inner]
    _refused(_package(tmp_path, packages.compressed('zstd', make())),
             match=words)


def test_a_fixed_vhd_that_is_declared_as_raw(tmp_path):
    data = build.image('vhd', 'subformat=fixed')
    package = _package(tmp_path, packages.compressed('zstd', data))
    _refused(package, errors.FormatMismatch, 'content is vhd; declare')


@pytest.mark.parametrize('size', [0, 1, 4095])
def test_too_small_a_disk(tmp_path, size):
    package = _package(tmp_path, packages.compressed('gzip', b'A' * size))
    _refused(package, errors.DamagedImage, 'less than 4 KiB')
    _not_unpacked(package, errors.DamagedImage, 'less than 4 KiB')


def test_the_smallest_disk(tmp_path):
    data = packages.compressed('gzip', b'A' * 4096)
    assert _content(_package(tmp_path, data)) == b'A' * 4096


@pytest.mark.parametrize('data, kind, words', [
    (SOME, 'gzip', 'not by gzip, xz, bzip2, zstd or zip'),
    (qcow2.plain(), 'gzip', 'not by gzip, xz, bzip2, zstd or zip'),
    (packages.ova(SOME), 'gzip', 'container format "ova"'),
    (b"7z\xbc\xaf'\x1c" + SOME, 'gzip', 'archive of 7-Zip'),
    (SOME, 'ova', 'no tar archive'),
], ids=['noise', 'qcow2', 'ova', '7-zip', 'no-ova'])
def test_what_is_no_package(tmp_path, data, kind, words):
    package = _package(tmp_path, data, kind)
    _refused(package, errors.FormatMismatch, words)
    _not_unpacked(package, errors.FormatMismatch, words)


# How much it may be

def _bomb(byte, size=32 * MIB):
    return packages.compressed('gzip', byte * size)


def test_far_too_much_data(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, '_ALWAYS_ALLOWED', MIB)
    package = _package(tmp_path, _bomb(b'A'))
    sink = _refused(package, errors.TooLarge, 'far too small')
    assert sum(c[2] for c in sink.calls if c[0] == 'write') < 12 * MIB
    _not_unpacked(package, errors.TooLarge, 'far too small')


def test_zeros_are_no_data(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, '_ALWAYS_ALLOWED', MIB)
    sink = fakes.FakeSink()
    stored = _store(_package(tmp_path, _bomb(b'\0')), sink)
    assert stored.size == 32 * MIB
    assert 'write' not in sink.names()


def test_far_too_large_a_disk(tmp_path):
    policy = POLICY._replace(max_virtual_size=8 * MIB)
    package = _package(tmp_path, _bomb(b'\0', 128 * MIB), policy=policy)
    sink = _refused(package, errors.TooLarge,
                    'more than the 8 MiB that are allowed')
    assert sum(c[2] for c in sink.calls if c[0] == 'zero') <= 8 * MIB
    _not_unpacked(package, errors.TooLarge,
                  'more than the 74 MiB that are allowed')


def test_a_file_may_be_larger_than_its_disk(tmp_path):
    data = build.image('vhd', 'subformat=fixed', 'force_size=on')
    package = _package(tmp_path, packages.compressed('zstd', data),
                       policy=POLICY._replace(
                           max_virtual_size=len(data) - 512))
    unpack.unpack(package, str(tmp_path / 'new'), conversion_.Conversion())
    assert (tmp_path / 'new').read_bytes() == data


def test_it_is_asked_as_the_disk_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, '_STEP', 8 * MIB)
    asked = []
    _store(_package(tmp_path, _bomb(b'\0')), fakes.FakeSink(),
           allow=asked.append)
    # How long a piece is depends on who is faster.
    assert len(asked) in (4, 5)
    assert 8 * MIB <= asked[0] < 9 * MIB
    assert asked == sorted(asked)
    assert asked[-1] == 32 * MIB


def test_what_is_not_allowed(tmp_path):
    def allow(size):
        raise errors.TooLarge('The quota is small.')

    _refused(_package(tmp_path, _bomb(b'\0')), errors.TooLarge, 'quota',
             allow=allow)


@pytest.mark.parametrize('kind', ['zstd', 'ova'])
def test_no_room_in_staging(tmp_path, small_disk, kind):
    package = _package(tmp_path, _packed(kind, build.noise(4 * MIB)), kind)
    with pytest.raises(errors.StagingFull, match='what is in its archive'):
        unpack.unpack(package, str(small_disk / 'new'),
                      conversion_.Conversion())
    assert os.listdir(small_disk) == []


def test_an_existing_file_is_not_overwritten(tmp_path):
    package = _package(tmp_path, _packed('zstd'))
    victim, link = tmp_path / 'victim', tmp_path / 'link'
    victim.write_text('precious')
    link.symlink_to(victim)
    for target in (victim, link):
        with pytest.raises(FileExistsError):
            unpack.unpack(package, str(target), conversion_.Conversion())
    assert victim.read_text() == 'precious'


# When it is to end

@pytest.fixture
def endless(tmp_path):
    """What takes a minute: pieces of zeros, one after the other."""
    return _package(tmp_path, packages.compressed(
        'gzip', bytes(64 * MIB)) * 500, policy=POLICY._replace(
            max_virtual_size=1 << 50))


class _Late:
    """Cancels once something is written, and says how long ago that is."""

    def __init__(self):
        self.cancel = cancel_.Cancel()
        self.sink = fakes.FakeSink()
        self.zero, self.sink.zero = self.sink.zero, self._zero
        self.since = None

    def _zero(self, offset, length):
        self.zero(offset, length)
        if self.since is None and offset > 8 * MIB:
            self.since = time.monotonic()
            threading.Thread(target=self.cancel.set).start()


def test_cancelled(endless):
    late = _Late()
    with pytest.raises(errors.Cancelled):
        _store(endless, late.sink, cancel=late.cancel)
    # One second, on a machine that has nothing else to do.
    assert time.monotonic() - late.since < 5
    assert late.sink.names()[-1] == 'abort'


def test_cancelled_before(tmp_path):
    cancel, sink = cancel_.Cancel(), fakes.FakeSink()
    cancel.set()
    for kind in ('gzip', 'ova'):
        with pytest.raises(errors.Cancelled):
            _store(_package(tmp_path, _packed(kind), kind), sink,
                   cancel=cancel)
    assert 'create' not in sink.names()


def test_a_program_that_hangs(endless, monkeypatch):
    monkeypatch.setattr(watchdog, 'watch', functools.partial(
        watchdog.watch, seconds=0.5))
    sink = fakes.FakeSink()

    def zero(offset, length):
        for pid in processes.children('gzip'):
            os.kill(pid, signal.SIGSTOP)

    sink.zero = zero
    with pytest.raises(errors.Stalled):
        _store(endless, sink)
    assert sink.names()[-1] == 'abort'


def test_a_store_that_hangs(endless, monkeypatch):
    monkeypatch.setattr(watchdog, 'watch', functools.partial(
        watchdog.watch, seconds=0.5))
    sink = fakes.FakeSink()
    sink.zero = lambda offset, length: fakes.wait_for_interrupt(sink)
    with pytest.raises(errors.Stalled):
        _store(endless, sink)
    assert sink.names()[-1] == 'abort'


@pytest.mark.parametrize('call', ['create', 'write', 'seal'])
def test_a_sink_that_fails(tmp_path, call):
    error = errors.StoreFull('full')
    sink = fakes.FakeSink(fail_at={call: error})
    with pytest.raises(errors.StoreFull) as caught:
        _store(_package(tmp_path, _packed('zstd')), sink)
    assert caught.value is error
    assert sink.names()[-1] == 'abort'


def test_a_program_that_is_killed(endless):
    sink = fakes.FakeSink()

    def zero(offset, length):
        for pid in processes.children('gzip'):
            os.kill(pid, signal.SIGKILL)

    sink.zero = zero
    with pytest.raises(errors.SourceFailed, match='stopped before the end'):
        _store(endless, sink)
    assert sink.names()[-1] == 'abort'


def test_a_program_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(decompressor.PROGRAMS, 'xz', ('no-such-program',))
    _refused(_package(tmp_path, _packed('xz')), errors.Misconfigured,
             'a program is missing')


def test_more_memory_than_there_is(tmp_path):
    data = _wide_frame()
    _refused(_package(tmp_path, data), errors.TooLarge, '512 MiB of memory')


def _wide_frame():
    """A frame that asks for a window of 2 GiB, and one raw block."""
    block = b'A' * 5000
    return (b'\x28\xb5\x2f\xfd' + b'\0' + bytes([(31 - 10) << 3])
            + (len(block) << 3 | 1).to_bytes(3, 'little') + block)


def test_progress_shows_how_much_there_is(tmp_path):
    run = conversion_.Conversion()
    unpack.store(_package(tmp_path, _packed('gzip')), fakes.FakeSink(), BOTH,
                 lambda size: None, run)
    assert str(run.progress).startswith('Unpacking: 3 MiB, ')
    assert run.progress.position()[0] == len(DISK)
    assert run.progress.written > 0
    assert 'unpack ' in str(run.clock)
