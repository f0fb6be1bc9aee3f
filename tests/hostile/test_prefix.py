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

"""Every beginning of an image is refused, or is all of its content.

Of each image so many are tried as GLANCE_TEST_PREFIXES says: most of them
lack little, for that is what nobody notices.
"""

import os
import random

import pytest

from glance_conversion_plugins import errors
from tests.hostile import build
from tests.hostile import cut
from tests.hostile import path as path_

COUNT = int(os.environ.get('GLANCE_TEST_PREFIXES', '8'))
SEED = int(os.environ.get('GLANCE_TEST_SEED', '1'))


def _phrases(count=6, size=64 * build.KIB):
    """Clusters of so little content that several end in one sector."""
    rng = random.Random(3)  # noqa: S311
    disk = b''
    for number in range(count):
        phrase = bytes(rng.randrange(32, 127) for _ in range(24 + number))
        disk += (phrase * size)[:size]
    return disk


def _compressed(kind, data, *options):
    return lambda: build.converted(
        data(), 'qcow2', (f'compression_type={kind}', *options), True)


def _ends_in_noise():
    """A cluster whose last block is stored as it is."""
    size = 2 * build.MIB
    return (b'\1' * size)[:size - 131072] + build.noise(131072, 0)


IMAGES = dict(cut.IMAGES)
for _kind in ('zlib', 'zstd'):
    IMAGES |= {
        f'qcow2-{_kind}': lambda k=_kind: build.image(
            'qcow2', f'compression_type={k}', compress=True, text=True),
        f'qcow2-{_kind}-of-small-clusters': _compressed(_kind, _phrases),
        f'qcow2-{_kind}-of-one-small-cluster': _compressed(
            _kind, lambda: _phrases(1)),
        f'qcow2-{_kind}-that-ends-in-noise': _compressed(
            _kind, _ends_in_noise, 'cluster_size=2M'),
        f'qcow2-{_kind}-of-512-bytes': _compressed(
            _kind, lambda: b'A' * 65536, 'cluster_size=512'),
    }


def _lengths(name, size):
    rng = random.Random(f'{name} {SEED}')  # noqa: S311
    for number in range(COUNT):
        most = (512, 1024, 4096, size)[number % 4]
        yield size - rng.randrange(1, min(most, size))


@pytest.mark.parametrize('name', IMAGES)
def test_prefixes(name, tmp_path):
    disk_format = name.partition('-')[0]
    whole, image = IMAGES[name](), tmp_path / 'disk'
    image.write_bytes(whole)
    assert path_.reference(image, disk_format, tmp_path / 'all')
    for length in (len(whole), *_lengths(name, len(whole))):
        print(f'{length} of {len(whole)} bytes')
        image.write_bytes(whole[:length])
        sink = path_.FileSink(tmp_path / 'result')
        try:
            path_.convert(image, disk_format, sink)
        except errors.ImageRefused as e:
            path_.assert_presentable(e, tmp_path)
            assert length < len(whole)
            assert not sink.path.exists()
            continue
        assert path_.same(sink.path, tmp_path / 'all')
        sink.path.unlink()
