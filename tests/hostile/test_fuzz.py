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



"""Images with a few wrong bytes, beside what qemu-img makes of them.

A mutant may be refused, or give what qemu-img gives; a wrong number in a
table may well be another right one. Set GLANCE_TEST_FUZZ to the number of
mutants of each image to search for longer, and GLANCE_TEST_SEED to repeat.
"""

from collections.abc import Callable
import os
import pathlib
import random
from typing import NamedTuple

import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import detection
from tests.hostile import build
from tests.hostile.build import KIB
from tests.hostile.build import MIB
from tests.hostile import path as path_
from tests.hostile import qcow2
from tests.hostile import vhd
from tests.hostile import vhdx
from tests.hostile import vmdk

COUNT = int(os.environ.get('GLANCE_TEST_FUZZ', '16'))
SEED = int(os.environ.get('GLANCE_TEST_SEED', '1'))
POLICY = detection.Policy(max_virtual_size=64 * MIB)

NUMBERS = [0, 1, 2, 3, 6, 7, 0x7f, 0x80, 0xff, 511, 512, 1 << 16, 1 << 20,
           (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1,
           1 << 63, (1 << 64) - 1]


class Subject(NamedTuple):
    """An image, and where in it its header and its tables are."""

    disk_format: str
    image: Callable[[], bytes]
    places: Callable[[], list[tuple[int, int]]]     # offset, length
    # Makes checksums right, so that what they guard is looked at.
    repair: Callable[[bytes], bytes] = bytes


def _small(disk_format: str, *options: str, **kwargs) -> Callable[[], bytes]:
    return lambda: build.image(disk_format, *options, size=2 * MIB, **kwargs)


def _vhd() -> bytes:
    return vhd.dynamic(entries=4, block=512 * KIB, size=2 * MIB,
                       numbers=(4, 0xffffffff, 4 + 1 + 1024, 0xffffffff),
                       geometry=(4, 16, 63))


def _sum_vhd(data: bytes) -> bytes:
    head = vhd.summed(data[:512], 64)
    return (head + vhd.summed(data[512:1536], 36) + data[1536:-512] + head)


def _sum_vhdx(data: bytes) -> bytes:
    starts = (*vhdx.HEADERS, vhdx.REGIONS)
    return vhdx.summed(data, *((at, data[at:at + 1]) for at in starts))


def _vhdx_places() -> list[tuple[int, int]]:
    data = _small('vhdx', 'block_size=1M')()
    metadata = vhdx.region(data, 'metadata')
    return [(0, 16), *((h, 80) for h in vhdx.HEADERS), (vhdx.REGIONS, 80),
            (metadata, 200), (metadata + 64 * KIB, 64),
            (vhdx.region(data, 'blocks'), 32)]


def _vmdk_places() -> list[tuple[int, int]]:
    data = _small('vmdk')()
    directory = vmdk.number(data, vmdk.DIRECTORY) * 512
    return [(0, 80), (512, 400), (directory, 8),
            (vmdk.number(data, directory) * 512, 160)]


def _stream_places() -> list[tuple[int, int]]:
    end = len(_stream())
    return [(0, 80), (512, 400), (vmdk.GRAIN * 512, 40), (end - 4608, 200),
            (end - 2048, 8), (end - 1536, 1536)]


def _stream() -> bytes:
    return vmdk.stream(2 * MIB)


def _qcow2_places(image: Callable[[], bytes]
                  ) -> Callable[[], list[tuple[int, int]]]:
    def places() -> list[tuple[int, int]]:
        data = image()
        l1 = qcow2.number(data, qcow2.L1)
        refcounts = qcow2.number(data, qcow2.REFCOUNTS)
        return [(0, 120), (l1, 16),
                (qcow2.number(data, l1) & qcow2.OFFSET, 300),
                (refcounts, 8), (qcow2.number(data, refcounts), 80)]
    return places


def _qcow2(*options: str, **kwargs) -> Subject:
    image = _small('qcow2', *options, **kwargs)
    return Subject('qcow2', image, _qcow2_places(image))


SUBJECTS = {
    'qcow2': _qcow2(),
    'qcow2-v2': _qcow2('compat=0.10', 'cluster_size=4k'),
    'qcow2-compressed': _qcow2(compress=True, text=True),
    'vdi': Subject('vdi', _small('vdi'), lambda: [
        (64, 20), (336, 140), (512, 8)]),
    'vhd': Subject('vhd', _vhd, lambda: [(0, 88), (512, 50), (1536, 16)],
                   _sum_vhd),
    'vhd-fixed': Subject('vhd', lambda: vhd.fixed(
        2 * MIB, geometry=(4, 16, 63)), lambda: [(2 * MIB, 88), (0, 512)],
        lambda data: data[:-512] + vhd.summed(data[-512:], 64)),
    'vhdx': Subject('vhdx', _small('vhdx', 'block_size=1M'), _vhdx_places,
                    _sum_vhdx),
    'vmdk': Subject('vmdk', _small('vmdk'), _vmdk_places),
    'vmdk-stream': Subject('vmdk', _stream, _stream_places),
    'raw': Subject('raw', lambda: build.image('raw', size=2 * MIB),
                   lambda: [(0, 512), (32 * KIB, 2 * KIB)]),
}


def _mutant(subject: Subject, rng: random.Random) -> bytes:
    data = bytearray(subject.image())
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        start, length = rng.choice(subject.places())
        width = min(rng.choice((1, 2, 4, 8)), length)
        # Most numbers are aligned.
        at = start + rng.randrange(length) // width * width
        at = min(at, len(data) - width)
        old = bytes(data[at:at + width])
        order = rng.choice(('little', 'big'))
        number = int.from_bytes(old, order)
        new = rng.choice((
            rng.choice(NUMBERS), rng.getrandbits(8 * width),
            number ^ 1 << rng.randrange(8 * width), number + 1, number - 1))
        data[at:at + width] = (new & (1 << 8 * width) - 1).to_bytes(width,
                                                                    order)
    result = bytes(data)
    return subject.repair(result) if rng.random() < .8 else result


def _accepted(image: pathlib.Path, disk_format: str, sink: path_.FileSink
              ) -> bool:
    try:
        path_.convert(image, disk_format, sink, POLICY)
    except errors.ImageRefused as e:
        path_.assert_presentable(e, image.parent)
        assert not sink.path.exists()
        return False
    assert sink.sealed
    return True


def _try(data: bytes, disk_format: str, folder: pathlib.Path) -> int | None:
    """Hold a mutant to qemu-img; tell the size of its disk."""
    image, expected = folder / 'disk', folder / 'expected'
    image.write_bytes(data)
    sink = path_.FileSink(folder / 'result')
    if not _accepted(image, disk_format, sink):
        return None
    if path_.reference(image, disk_format, expected):
        assert path_.same(sink.path, expected)
        expected.unlink()
    size = sink.path.stat().st_size
    sink.path.unlink()
    return size


@pytest.mark.parametrize('name', SUBJECTS)
def test_mutants(name, tmp_path):
    subject = SUBJECTS[name]
    # As it is, it is accepted; or all the rest would show nothing.
    assert _try(subject.image(), subject.disk_format, tmp_path) == 2 * MIB
    before = path_.children()
    for seed in range(SEED, SEED + COUNT):
        data = _mutant(subject, random.Random(f'{name} {seed}'))  # noqa: S311
        try:
            _try(data, subject.disk_format, tmp_path)
        except BaseException:
            print(f'GLANCE_TEST_SEED={seed} GLANCE_TEST_FUZZ=1')
            raise
    assert path_.children() <= before


@pytest.mark.parametrize('name', [n for n in SUBJECTS if n != 'raw'])
def test_cuts(name, tmp_path):
    """What is cut off is missed, or was nothing."""
    subject = SUBJECTS[name]
    whole, image = subject.image(), tmp_path / 'disk'
    image.write_bytes(whole)
    assert path_.reference(image, subject.disk_format, tmp_path / 'all')
    for seed in range(SEED, SEED + COUNT // 2):
        rng = random.Random(f'{name} {seed}')  # noqa: S311
        lost = rng.choice((rng.randrange(1, 1024), 512, 1024, 4096,
                           rng.randrange(1, len(whole))))
        print(f'{lost} bytes lost with GLANCE_TEST_SEED={seed}')
        image.write_bytes(whole[:-lost])
        sink = path_.FileSink(tmp_path / 'result')
        if _accepted(image, subject.disk_format, sink):
            assert path_.same(sink.path, tmp_path / 'all')
            sink.path.unlink()
