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


import functools
import hashlib
import os
import random
import signal
import threading

import pytest

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import convert
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import room
from glance_conversion_plugins.copying.sinks import bounded
from glance_conversion_plugins.copying.sinks import file as file_sink
from glance_conversion_plugins.copying import throttle
from glance_conversion_plugins.copying import watchdog
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import inspection
from tests.contract import images
from tests.contract import memory
from tests.unit import clusters
from tests.unit import fakes
from tests.unit import processes

POLICY = detection.Policy(max_virtual_size=2 << 30, max_expansion=200)
PATTERN = 'A-0BCD--' * 5
BOTH = digest.DigestSpec('sha512', True)


@pytest.fixture(autouse=True)
def no_thread_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def _convert(path, disk_format, sink, wanted=BOTH, cancel=None,
             policy=POLICY):
    return convert.convert(
        inspection.inspect(path, disk_format, policy), policy, sink, wanted,
        conversion_.Conversion(cancel))


@pytest.mark.parametrize(('disk_format', 'make'), [
    ('qcow2', images.qcow2), ('qcow2', images.compressed),
    ('raw', images.raw),
])
def test_writes_the_image_and_computes_its_digests(tmp_path, disk_format,
                                                   make):
    place = {}
    path = make(tmp_path / 'disk', PATTERN)
    sink = memory.MemorySink(place, 'i')
    found = _convert(path, disk_format, sink)
    expected = images.content(PATTERN)
    # Complete, but nobody's to see.
    assert place == {}
    sink.publish()
    assert place == {'i': expected}
    assert found == digest.Digest(hashlib.md5(expected).hexdigest(),
                                  hashlib.sha512(expected).hexdigest())


@pytest.mark.parametrize(('wanted', 'which'), [
    (digest.DigestSpec(None, False), (False, False, False)),
    (digest.DigestSpec(None, True), (True, False, False)),
    (digest.DigestSpec('sha256', False), (False, True, False)),
    (digest.DigestSpec('sha256', True), (True, True, False)),
    (digest.DigestSpec('sha512', False, True), (False, True, True)),
])
def test_digests_that_are_not_wanted_are_none(tmp_path, wanted, which):
    path = images.raw(tmp_path / 'disk', PATTERN)
    found = _convert(path, 'raw', memory.MemorySink({}, 'i'), wanted)
    assert tuple(d is not None for d in found) == which


def test_ends_with_a_sealed_sink(tmp_path):
    """To publish it is for the store, to which Glance hands it."""
    sink = fakes.FakeSink()
    _convert(images.raw(tmp_path / 'disk', PATTERN), 'raw', sink)
    assert sink.names()[0] == 'create'
    assert sink.names()[-1] == 'seal'
    assert not {'publish', 'hand_over', 'release',
                'abort'} & set(sink.names())


def test_digests_go_on_while_the_store_completes_the_image(tmp_path,
                                                           monkeypatch):
    """They lag behind, and Ceph takes up to a second for a snapshot."""
    sink, finish = fakes.FakeSink(), digest.Digests.finish

    def finish_after(digests):
        assert sink.names()[-1] == 'seal'
        return finish(digests)

    monkeypatch.setattr(digest.Digests, 'finish', finish_after)
    _convert(images.qcow2(tmp_path / 'disk', PATTERN), 'qcow2', sink)
    assert sink.names()[-1] == 'seal'


@pytest.mark.parametrize('call', ['create', 'write', 'zero', 'seal'])
def test_a_sink_that_fails_is_aborted(tmp_path, call):
    error = errors.StoreFull('full')
    sink = fakes.FakeSink(fail_at={call: error})
    with pytest.raises(errors.StoreFull) as caught:
        _convert(images.raw(tmp_path / 'disk', PATTERN), 'raw', sink)
    assert caught.value is error
    assert sink.names()[-1] == 'abort'


def test_cancelled(tmp_path):
    cancel, sink = cancel_.Cancel(), fakes.FakeSink()
    cancel.set()
    with pytest.raises(errors.Cancelled):
        _convert(images.qcow2(tmp_path / 'disk', PATTERN), 'qcow2', sink,
                 cancel=cancel)
    assert sink.names() == []


def test_cancelled_while_it_copies(tmp_path):
    cancel, sink = cancel_.Cancel(), fakes.FakeSink()
    create = sink.create

    def create_and_cancel(size):
        create(size)
        cancel.set()
    sink.create = create_and_cancel
    with pytest.raises(errors.Cancelled):
        _convert(images.qcow2(tmp_path / 'disk', PATTERN), 'qcow2', sink,
                 cancel=cancel)
    assert sink.names()[-1] == 'abort'
    assert 'seal' not in sink.names()


def test_damaged_tables_are_found_before_anything_is_written(tmp_path):
    path = images.qcow2(tmp_path / 'disk', PATTERN)
    images.patch(path, images.number_at(path, 40),
                 (1 << 63 | 1000 << 16).to_bytes(8, 'big'))
    sink = fakes.FakeSink()
    with pytest.raises(errors.DamagedImage):
        _convert(path, 'qcow2', sink)
    assert set(sink.names()) <= {'abort'}


def test_image_inside_an_image_is_refused_and_removed(tmp_path):
    inner = images.qcow2(tmp_path / 'inner', 'A')
    outer = tmp_path / 'outer'
    images.run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', inner,
               outer)
    sink = fakes.FakeSink()
    with pytest.raises(errors.UnsafeImage, match='hides'):
        _convert(str(outer), 'qcow2', sink)
    # Nothing was written first.
    assert sink.names() == ['abort']


def test_image_inside_an_image_that_shows_late_is_removed(tmp_path,
                                                          monkeypatch):
    inner = images.qcow2(tmp_path / 'inner', 'A')
    outer = tmp_path / 'outer'
    images.run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', inner,
               outer)
    monkeypatch.setattr(convert, 'BEGINNING', 0)
    sink = fakes.FakeSink()
    with pytest.raises(errors.UnsafeImage, match='hides'):
        _convert(str(outer), 'qcow2', sink)
    assert sink.names()[-1] == 'abort'
    assert 'seal' not in sink.names()


# By way of a file

def _stage(path, disk_format, target, output_format, *options, run=None,
           policy=POLICY):
    return convert.stage(
        inspection.inspect(path, disk_format, policy), policy, str(target),
        output_format, options, run or conversion_.Conversion())


# Far more holes than data, and no whole number of anything large.
SPARSE = 'A-0BCD' + '-' * 400 + 'EF0-G'

OUTPUTS = {
    'raw': ('raw', ()),
    'qcow2': ('qcow2', ()),
    'qcow2-zlib': ('qcow2', ('-c', '-o', 'compression_type=zlib')),
    'qcow2-zstd': ('qcow2', ('-c', '-o', 'compression_type=zstd')),
    'vmdk': ('vmdk', ()),
    'vdi': ('vdi', ()),
    'vhd': ('vhd', ()),
    'vhdx': ('vhdx', ()),
}


@pytest.mark.parametrize('output', OUTPUTS)
@pytest.mark.parametrize('make', [images.qcow2, images.compressed])
def test_stages_the_image_in_every_format(tmp_path, output, make):
    output_format, options = OUTPUTS[output]
    driver = inspection.DRIVERS[output_format]
    path, target = make(tmp_path / 'disk', SPARSE), tmp_path / 'target'
    run = conversion_.Conversion()
    size = _stage(path, 'qcow2', target, output_format, *options, run=run)
    assert size == target.stat().st_size
    images.run('qemu-img', 'compare', '-f', 'qcow2', '-F', driver, path,
               target)
    virtual_size = len(SPARSE) * images.BLOCK
    staged = qemu_img.Image(str(target), driver)
    assert qemu_img.info(staged)['virtual-size'] == virtual_size
    assert target.stat().st_blocks * 512 < virtual_size / 2
    assert target.stat().st_mode & 0o007 == 0
    detection.check_result(str(target), output_format, POLICY)
    # And so does everything that an upload must pass.
    staged = inspection.inspect(str(target), output_format, POLICY)
    inspection.check_intact(staged)
    assert run.progress.position() == (virtual_size,
                                       target.stat().st_blocks * 512)
    for stage in ('check', 'convert', 'inspect'):
        assert f'{stage} ' in str(run.clock)


@pytest.mark.parametrize('kind', ['zlib', 'zstd'])
def test_compression_takes_less_room(tmp_path, kind):
    path, sizes = images.qcow2(tmp_path / 'disk', 'ABCD' * 16), {}
    for output in (f'qcow2-{kind}', 'qcow2'):
        output_format, options = OUTPUTS[output]
        sizes[output] = _stage(path, 'qcow2', tmp_path / output,
                               output_format, *options)
    assert sizes[f'qcow2-{kind}'] < sizes['qcow2'] / 2
    info = qemu_img.info(
        qemu_img.Image(str(tmp_path / f'qcow2-{kind}'), 'qcow2'))
    assert info['format-specific']['data']['compression-type'] == kind


@pytest.mark.parametrize('sectors', [1, 127, 129, 12345])
@pytest.mark.parametrize('output_format', ['raw', 'qcow2', 'vmdk', 'vdi',
                                           'vhd', 'vhdx'])
def test_the_disk_keeps_its_size(tmp_path, output_format, sectors):
    path = images.qcow2(tmp_path / 'disk', 'A', block=512 * sectors)
    target = tmp_path / 'target'
    _stage(path, 'qcow2', target, output_format)
    driver = inspection.DRIVERS[output_format]
    found = qemu_img.info(qemu_img.Image(str(target), driver))['virtual-size']
    assert found == sectors * 512


class Watching:
    """A conversion that does something each time qemu-img tells how far."""

    def __init__(self, act, cancel=None):
        self.run = conversion_.Conversion(cancel)
        self.told = []
        reach = self.run.progress.reach

        def watched(done, written):
            reach(done, written)
            self.told.append((done, written))
            act()
        self.run.progress.reach = watched


def test_progress_moves_while_it_stages(tmp_path):
    path = images.qcow2(tmp_path / 'disk', 'ABCD' * 64)
    watching = Watching(lambda: None)
    _stage(path, 'qcow2', tmp_path / 'target', 'raw', run=watching.run)
    done = [d for d, _ in watching.told]
    assert done == sorted(done)
    assert len(set(done)) > 5
    assert watching.told[-1] == (256 * images.BLOCK, 256 * images.BLOCK)
    written = [w for _, w in watching.told]
    assert written == sorted(written)
    assert written[0] < written[-1]


def test_cancelled_before_it_stages(tmp_path):
    cancel = cancel_.Cancel()
    cancel.set()
    path = images.qcow2(tmp_path / 'disk', PATTERN)
    with pytest.raises(errors.Cancelled):
        _stage(path, 'qcow2', tmp_path / 'target', 'raw',
               run=conversion_.Conversion(cancel))
    assert os.listdir(tmp_path) == ['disk']


def test_cancelled_while_it_stages(tmp_path, big):
    cancel, target = cancel_.Cancel(), tmp_path / 'target'
    existed = []

    def act():
        existed.append(target.exists())
        cancel.set()

    with pytest.raises(errors.Cancelled):
        _stage(big.path, 'qcow2', target, 'qcow2', '-c',
               run=Watching(act, cancel).run)
    assert existed[0]
    assert os.listdir(tmp_path) == []
    assert not processes.children('qemu-img')


def test_stalled_while_it_stages(tmp_path, big, monkeypatch):
    """qemu-img that hangs, as it does on a file server that is gone."""
    monkeypatch.setattr(watchdog, 'watch', functools.partial(
        watchdog.watch, seconds=0.2))

    def act():
        for pid in processes.children('qemu-img'):
            os.kill(pid, signal.SIGSTOP)

    with pytest.raises(errors.Stalled):
        _stage(big.path, 'qcow2', tmp_path / 'target', 'qcow2', '-c',
               run=Watching(act).run)
    assert os.listdir(tmp_path) == []
    assert not processes.children('qemu-img')


def test_stalled_while_it_copies(tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog, 'watch', functools.partial(
        watchdog.watch, seconds=0.2))
    sink = fakes.FakeSink(lambda _: fakes.wait_for_interrupt(sink))
    with pytest.raises(errors.Stalled):
        _convert(images.qcow2(tmp_path / 'disk', PATTERN), 'qcow2', sink)
    assert sink.names()[-1] == 'abort'
    assert 'seal' not in sink.names()


# Of a streamOptimized VMDK that does not fit, qemu-img 7.2 says no more than
# "Invalid argument".
@pytest.mark.parametrize('output', OUTPUTS)
def test_no_room_in_staging(tmp_path, small_disk, output):
    path = tmp_path / 'disk'
    path.write_bytes(random.Random(1).randbytes(4 << 20))   # noqa: S311
    output_format, options = OUTPUTS[output]
    with pytest.raises(errors.StagingFull, match='no room'):
        _stage(str(path), 'raw', small_disk / 'target', output_format,
               *options)
    assert os.listdir(small_disk) == []


@pytest.mark.parametrize('kind', ['zlib', 'zstd'])
@pytest.mark.parametrize('output_format', ['raw', 'qcow2', 'vmdk'])
def test_a_damaged_cluster_is_not_staged(tmp_path, kind, output_format):
    path = images.damaged(tmp_path / 'disk', kind)
    with pytest.raises(errors.DamagedImage):
        _stage(path, 'qcow2', tmp_path / 'target', output_format)
    assert os.listdir(tmp_path) == ['disk']


def test_damaged_tables_are_found_before_anything_is_staged(tmp_path):
    path = images.qcow2(tmp_path / 'disk', PATTERN)
    images.patch(path, images.number_at(path, 40),
                 (1 << 63 | 1000 << 16).to_bytes(8, 'big'))
    watching = Watching(lambda: None)
    with pytest.raises(errors.DamagedImage):
        _stage(path, 'qcow2', tmp_path / 'target', 'raw', run=watching.run)
    assert watching.told == []
    assert os.listdir(tmp_path) == ['disk']


def test_an_existing_file_is_not_overwritten(tmp_path):
    path = images.qcow2(tmp_path / 'disk', PATTERN)
    victim, link = tmp_path / 'victim', tmp_path / 'link'
    victim.write_text('precious')
    link.symlink_to(victim)
    for target in (victim, link):
        with pytest.raises(FileExistsError):
            _stage(path, 'qcow2', target, 'raw')
    assert victim.read_text() == 'precious'
    assert link.is_symlink()


def test_image_inside_an_image_is_not_staged(tmp_path):
    inner = images.qcow2(tmp_path / 'inner', 'A')
    outer = tmp_path / 'outer'
    images.run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', inner,
               outer)
    with pytest.raises(errors.UnsafeImage, match='hides'):
        _stage(str(outer), 'qcow2', tmp_path / 'target', 'raw')
    assert not (tmp_path / 'target').exists()


# How much it may expand to

def _policy(max_expansion):
    return POLICY._replace(max_expansion=max_expansion)


NO_DIGESTS = digest.DigestSpec(None, False)


def test_far_too_much_data_is_not_stored(big):
    sink = fakes.FakeSink()
    with pytest.raises(errors.TooLarge, match='far too small'):
        _convert(big.path, 'qcow2', sink, NO_DIGESTS, policy=_policy(200))
    assert sink.names()[-1] == 'abort'
    assert 'seal' not in sink.names()
    written = sum(call[2] for call in sink.calls if call[0] == 'write')
    # What others write at the same moment, beyond what is always allowed.
    assert 1 << 30 < written < (1 << 30) + (100 << 20)


def test_far_too_much_data_is_not_staged(tmp_path, big):
    with pytest.raises(errors.TooLarge, match='far too small'):
        _stage(big.path, 'qcow2', tmp_path / 'target', 'raw',
               policy=_policy(200))
    assert os.listdir(tmp_path) == []
    assert not processes.children('qemu-img')


@pytest.mark.parametrize('max_expansion', [0, 2000])
def test_as_much_data_as_is_allowed(big, max_expansion):
    sink = fakes.FakeSink()
    _convert(big.path, 'qcow2', sink, NO_DIGESTS,
             policy=_policy(max_expansion))
    assert sink.names()[-1] == 'seal'
    written = sum(call[2] for call in sink.calls if call[0] == 'write')
    assert written == big.virtual_size


def test_what_is_compressed_again_takes_no_room(tmp_path, big):
    """Only what is written counts, and that is little."""
    size = _stage(big.path, 'qcow2', tmp_path / 'target', 'qcow2', '-c', '-o',
                  'compression_type=zstd', policy=_policy(200))
    assert size < 16 << 20


def test_small_images_may_expand_as_they_like(tmp_path):
    """A gibibyte is always allowed, however small the upload."""
    path = images.compressed(tmp_path / 'disk', 'A' * 200)
    sink = fakes.FakeSink()
    _convert(path, 'qcow2', sink, policy=_policy(1))
    assert sink.names()[-1] == 'seal'


def test_zeros_that_are_read_are_no_stall(tmp_path, monkeypatch):
    path = images.raw(tmp_path / 'disk', '0' * 1000)
    states, watch = [], watchdog.watch

    def record(state, interrupt):
        states.append(state)
        return watch(state, interrupt)
    monkeypatch.setattr(watchdog, 'watch', record)
    run, seen = conversion_.Conversion(), set()
    reach = run.progress.reach

    def reach_and_look(done, written):
        reach(done, written)
        seen.add(states[0]())
    run.progress.reach = reach_and_look
    convert.stage(inspection.inspect(path, 'raw', POLICY), POLICY,
                     str(tmp_path / 'target'), 'qcow2', (), run)
    assert len(seen) > 5


@pytest.mark.parametrize('output_format', ['qcow2', 'vmdk', 'vdi', 'vhd',
                                           'vhdx'])
def test_no_limit_on_expansion_is_none(tmp_path, output_format):
    """Tables take more room than a dense disk has data."""
    policy = POLICY._replace(max_expansion=0)
    path = images.qcow2(tmp_path / 'disk', 'ABCD' * 16)
    target = tmp_path / 'target'
    convert.stage(inspection.inspect(path, 'qcow2', policy), policy,
                     str(target), output_format, (), conversion_.Conversion())
    assert target.stat().st_size


def test_more_than_the_target_format_can_express(tmp_path):
    path = tmp_path / 'disk'
    images.run('qemu-img', 'create', '-f', 'qcow2', path, '3T')
    policy = POLICY._replace(max_virtual_size=1 << 50)
    with pytest.raises(errors.TooLarge, match='for the format'):
        convert.stage(inspection.inspect(str(path), 'qcow2', policy),
                         policy, str(tmp_path / 'target'), 'vhd', (),
                         conversion_.Conversion())


# How much room others are told that it may need

@pytest.fixture
def claimed(monkeypatch):
    """What is claimed, in bytes, of which places."""
    found, claim = [], room.claim

    def record(folder, needed, places, *others):
        found.append((needed, [place.name for place in places()]))
        return claim(folder, needed, places, *others)

    monkeypatch.setattr(room, 'claim', record)
    return found


@pytest.mark.parametrize(('disk_format', 'make', 'blocks'), [
    ('qcow2', images.qcow2, 7), ('qcow2', images.compressed, 7),
    # Zeros that are written are known when they are read.
    ('raw', images.raw, 9)])
def test_all_data_is_claimed_however_it_is_stored(tmp_path, claimed,
                                                  disk_format, make, blocks):
    path = make(tmp_path / 'disk', SPARSE)
    run = conversion_.Conversion(node=conversion_.Node(str(tmp_path)))
    convert.convert(inspection.inspect(path, disk_format, POLICY), POLICY,
                    memory.MemorySink({}, 'i'), BOTH, run)
    needed = blocks * images.BLOCK
    assert claimed == [(needed, ['memory'])]
    run = conversion_.Conversion(node=conversion_.Node(str(tmp_path)))
    _stage(path, disk_format, tmp_path / 'target', 'qcow2', run=run)
    assert claimed[1:] == [(needed, [room.of_folder(str(tmp_path)).name])]


def test_no_more_is_claimed_than_an_image_may_hold(tmp_path, claimed,
                                                   monkeypatch):
    monkeypatch.setattr(bounded, '_ALWAYS_ALLOWED', 1)
    path = images.compressed(tmp_path / 'disk', 'A' * 200)
    run = conversion_.Conversion(node=conversion_.Node(str(tmp_path)))
    with pytest.raises(errors.TooLarge):
        convert.convert(inspection.inspect(path, 'qcow2', POLICY),
                        _policy(1), memory.MemorySink({}, 'i'), BOTH, run)
    assert claimed == [(os.path.getsize(path), ['memory'])]


def test_gaps_take_no_room_and_no_time(tmp_path, monkeypatch):
    """They are read with what lies between them."""
    reached, taken = [], []
    monkeypatch.setattr(room.Claim, 'reach', lambda self, written:
                        reached.append(written))
    monkeypatch.setattr(throttle.Throttle, 'take', lambda self, length:
                        taken.append(length))
    piece = 4096
    path = images.raw(tmp_path / 'disk', 'A')
    with open(path, 'r+b') as f:
        f.truncate(64 * piece)
        for at in range(0, 64, 4):
            os.pwrite(f.fileno(), bytes(4 * piece), at * piece)
            os.pwrite(f.fileno(), b'x' * piece, at * piece)
    run = conversion_.Conversion(node=conversion_.Node(str(tmp_path)))
    convert.convert(inspection.inspect(path, 'raw', POLICY), POLICY,
                    file_sink.FileSink(
                        lambda size: file_sink.Datadir(str(tmp_path), 0, ''),
                        clusters.mark('image', 'aaaa'),
                        zero_block_size=piece), BOTH, run)
    assert run.progress.written == 16 * piece
    assert reached[-1] == sum(taken) == 16 * piece


def test_whoever_is_alone_claims_nothing(tmp_path, claimed):
    path = images.qcow2(tmp_path / 'disk', PATTERN)
    _convert(path, 'qcow2', memory.MemorySink({}, 'i'))
    assert claimed == []
