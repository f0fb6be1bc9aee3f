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



"""Images of every format that end too early."""

from collections.abc import Callable
import random

from glance_conversion_plugins import errors
from tests.hostile import build
from tests.hostile.build import Case
from tests.hostile.build import case
from tests.hostile.build import KIB
from tests.hostile.build import MIB
from tests.hostile import qcow2
from tests.hostile import vhd
from tests.hostile import vhdx
from tests.hostile import vmdk

# An image without its first sectors is of no format; then it is not what it
# claims to be. One with a part of a header may be of several.
REFUSED = (errors.DamagedImage, errors.FormatMismatch, errors.UnsafeImage)
WORDS = ('truncated|damaged|declared as|not certain|footer'
         '|names other files|several files')

IMAGES = {
    'qcow2': lambda: build.image('qcow2'),
    'qcow2-4k': lambda: build.image('qcow2', 'cluster_size=4k'),
    'qcow2-v2': lambda: build.image('qcow2', 'compat=0.10'),
    'vdi': lambda: build.image('vdi'),
    'vdi-static': lambda: build.image('vdi', 'static=on'),
    'vhd': lambda: build.image('vhd', 'force_size=on'),
    'vhd-by-hand': vhd.dynamic,
    'vhd-fixed': lambda: build.image('vhd', 'subformat=fixed'),
    'vhdx': vhdx.plain,
    'vhdx-fixed': lambda: build.image('vhdx', 'subformat=fixed',
                                      'block_size=1M'),
    'vmdk': lambda: build.image('vmdk'),
    'vmdk-stream': vmdk.stream,
    'vmdk-stream-without-a-footer': lambda: vmdk.stream(at_end=False),
    'vmdk-stream-by-qemu': lambda: build.image(
        'vmdk', 'subformat=streamOptimized'),
}

# Where the structures of each format begin and end.
PLACES: dict[str, Callable[[], list[int]]] = {
    'qcow2': lambda: [8, 72, 104, 64 * KIB, qcow2.l1(), qcow2.l1() + 8,
                      qcow2.l2(), qcow2.l2() + 8, qcow2.refcounts()],
    'vdi': lambda: [64, 400, 511, 512, 515, 532, 1024, 1025, 1024 + MIB],
    'vhd': lambda: [8, 511, 512, 540, 1536, 1540, 2048, 2049, 2560],
    'vhdx': lambda: [8, 64 * KIB, 64 * KIB + 80, 128 * KIB, 192 * KIB,
                     192 * KIB + 16, 256 * KIB, MIB, 2 * MIB, 2 * MIB + 8,
                     3 * MIB, 3 * MIB + 64 * KIB, 4 * MIB],
    'vmdk': lambda: [4, 64, 512, 1024, 20 * 512, vmdk.places()[0],
                     vmdk.places()[0] + 4, vmdk.places()[1],
                     vmdk.places()[1] + 4, 64 * KIB],
}


def _cases():
    rng = random.Random(7)  # noqa: S311
    for name, image in IMAGES.items():
        disk_format = name.partition('-')[0]
        fractions = [n / 12 for n in range(1, 12)] + [rng.random()]
        for number, fraction in enumerate(fractions, 1):
            yield case(f'{name}-cut-{number}', disk_format,
                       lambda i=image, f=fraction: i()[:int(len(i()) * f)],
                       REFUSED, WORDS)
    for disk_format, places in PLACES.items():
        for number, place in enumerate(places(), 1):
            yield case(f'{disk_format}-cut-at-structure-{number}',
                       disk_format, lambda d=disk_format, p=place: IMAGES[d]()
                       [:p], REFUSED, WORDS)


CASES: list[Case] = list(_cases())
