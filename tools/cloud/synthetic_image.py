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

"""Images for benchmarks: the same bytes from the same seed."""

import os
import pathlib
import random

from cloud import processes

KIB, GIB = 2 ** 10, 2 ** 30
CHUNK = 256 * KIB


def scattered_image(path, virtual_gib=100, data_gib=1, seed=1):
    """A large qcow2 image with little data, all over the disk."""
    slots = range(virtual_gib * GIB // CHUNK)
    source = random.Random(seed)  # noqa: S311
    chosen = sorted(source.sample(slots, data_gib * GIB // CHUNK))
    return _qcow2(path, virtual_gib * GIB, chosen, source)


def fragmented_image(path, data_mib=256, grain=4 * KIB, every=64 * KIB,
                     seed=3):
    """Data in small pieces, evenly over the disk."""
    count = data_mib * KIB * KIB // grain
    return _qcow2(path, count * every, range(0, count * every // grain,
                                             every // grain),
                  random.Random(seed), grain)  # noqa: S311


def large_image(path, virtual_gib=1024, pieces=1024, seed=4):
    """Pieces of 1 MiB all over a disk of any size."""
    slots = range(virtual_gib * KIB)
    source = random.Random(seed)  # noqa: S311
    return _qcow2(path, virtual_gib * GIB,
                  sorted(source.sample(slots, pieces)), source, KIB * KIB)


def random_image(path, gib=2, seed=2):
    """A qcow2 image full of data that cannot be compressed."""
    source = random.Random(seed)  # noqa: S311
    return _qcow2(path, gib * GIB, range(gib * GIB // CHUNK), source)


def _qcow2(path, size, slots, source, grain=CHUNK):
    """Random data in the given slots of an otherwise empty disk."""
    path = pathlib.Path(path)
    raw = path.with_name(f'.{path.name}.raw')
    try:
        with open(raw, 'wb') as disk:
            disk.truncate(size)
            for slot in slots:
                os.pwrite(disk.fileno(), source.randbytes(grain),
                          slot * grain)
        processes.run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2',
                      raw, path)
    finally:
        raw.unlink(missing_ok=True)
    return path
