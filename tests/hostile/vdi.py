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



"""VDI images, and what is wrong with some of them."""

from glance_conversion_plugins import errors
from tests.hostile import build
from tests.hostile.build import case
from tests.hostile.build import le32
from tests.hostile.build import le64
from tests.hostile.build import MIB

# Where the fields of a header are.
VERSION, TYPE, MAP, DATA, SECTOR, SIZE, BLOCK, EXTRA, BLOCKS, ALLOCATED = (
    68, 76, 340, 344, 360, 368, 376, 380, 384, 388)
LINKED, PARENT = 424, 440
TABLE = 512

DAMAGED = errors.DamagedImage
UNSAFE = errors.UnsafeImage


def plain() -> bytes:
    return build.image('vdi')


def changed(*changes: tuple[int, bytes]) -> bytes:
    return build.patched(plain(), *changes)


def _valid():
    yield case('vdi-without-a-block', 'vdi', lambda: changed(
        (TABLE, le32(0xffffffff))))
    yield case('vdi-with-a-block-of-zeros', 'vdi', lambda: changed(
        (TABLE, le32(0xfffffffe))))
    yield case('vdi-of-no-whole-sector', 'vdi', lambda: changed(
        (SIZE, le64(5 * MIB - 100))))
    yield case('vdi-and-more', 'vdi', lambda: plain() + bytes(1000))


def _hostile():
    yield case('vdi-of-changes', 'vdi', lambda: changed((TYPE, le32(4))),
               UNSAFE, 'changes')
    yield case('vdi-with-a-link', 'vdi', lambda: changed(
        (LINKED, b'L' * 16)), UNSAFE, 'changes')
    yield case('vdi-with-a-parent', 'vdi', lambda: changed(
        (PARENT, b'P' * 16)), UNSAFE, 'changes')
    for name, at, new in (
            ('unknown-type', TYPE, le32(9)),
            ('large-sectors', SECTOR, le32(4096)),
            ('blocks-of-nothing', BLOCK, le32(0)),
            ('blocks-beyond-all-sense', BLOCK, le32(1 << 31)),
            ('something-before-blocks', EXTRA, le32(512)),
            ('table-in-between', MAP, le32(513)),
            ('data-in-between', DATA, le32(1025)),
            ('disk-beyond-its-table', SIZE, le64(6 * MIB)),
            ('too-few-blocks', BLOCKS, le32(4)),
            ('more-than-all-blocks', ALLOCATED, le32(6)),
            ('one-block-twice', TABLE, le32(1))):
        yield case(f'vdi-{name}', 'vdi', lambda a=at, n=new: changed((a, n)),
                   DAMAGED, 'makes no sense')
    for name, at, new in (
            ('unknown-version', VERSION, le32(0x00020000)),
            ('old-version', VERSION, le32(0x00000001)),
            ('undo', TYPE, le32(3)),
            ('small-blocks', BLOCK, le32(4096)),
            ('large-blocks', BLOCK, le32(4 * MIB))):
        yield case(f'vdi-{name}', 'vdi', lambda a=at, n=new: changed((a, n)),
                   UNSAFE, 'of a kind that is not read here')
    for name, at, new in (
            ('table-elsewhere', MAP, le32(1 << 31)),
            ('table-beyond-all-sense', BLOCKS, le32(0x3fffffff)),
            ('data-elsewhere', DATA, le32(1 << 31)),
            ('block-elsewhere', TABLE, le32(1 << 30)),
            ('block-just-outside', TABLE, le32(5)),
            ('last-of-all-blocks', TABLE, le32(0xfffffffd))):
        yield case(f'vdi-{name}', 'vdi', lambda a=at, n=new: changed((a, n)),
                   DAMAGED, 'truncated')
    yield case('vdi-last-block-cut', 'vdi', lambda: plain()[:-1],
               DAMAGED, 'truncated')
    yield case('vdi-disk-too-large', 'vdi', lambda: changed(
        (SIZE, le64(1 << 45)), (BLOCKS, le32(1 << 25))),
        errors.TooLarge, 'too large')


CASES = [*_valid(), *_hostile()]
