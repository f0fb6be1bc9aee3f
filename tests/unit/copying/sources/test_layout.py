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

import os
import random

import pytest

from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import convert
from glance_conversion_plugins.copying.sources import file as file_source
from glance_conversion_plugins.copying.sources import layout as layout_source
from glance_conversion_plugins.copying.sources import nbd as nbd_source
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.formats import detection
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.formats import layout as layout_
from tests.contract import images

SIZE = 100_000


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(random.Random(1).randbytes(SIZE))      # noqa: S311
    return path


def _never():
    raise AssertionError('nothing is encoded')


def _read(source, start, length):
    found = source.read(start, length)
    assert len(found) == length
    return bytes(found)


def test_what_lies_in_a_row_is_read_at_once(path, monkeypatch):
    """Wherever it goes; no more than the kernel takes."""
    layout = layout_.Layout()
    for number in range(1500):
        layout.add(10, number * 10)
        layout.add(7, layout_.HOLE)
    layout.add(10, 70_000)
    asked, preadv = [], os.preadv
    monkeypatch.setattr(os, 'preadv', lambda fd, views, at: (
        asked.append((len(views), at)), preadv(fd, views, at))[1])
    source = layout_source.LayoutSource(str(path), 0, layout, _never)
    content = path.read_bytes()
    assert _read(source, 0, layout.size) == b''.join(
        content[at:at + 10] + bytes(7) for at in range(0, 15_000, 10)
    ) + content[70_000:70_010]
    assert asked == [(1024, 0), (476, 10_240), (1, 70_000)]
    source.close()


@pytest.mark.parametrize('most', [1, 9, 10, 11, 25])
def test_the_kernel_may_give_less(path, monkeypatch, most):
    preadv = os.preadv

    def less(fd, views, at):
        left, given = most, []
        for view in views:
            given.append(view[:left])
            left -= len(given[-1])
        return preadv(fd, given, at)

    monkeypatch.setattr(os, 'preadv', less)
    source = file_source.FileSource(str(path))
    buffers = [bytearray(10) for _ in range(4)]
    source.scatter([memoryview(b) for b in buffers], 3)
    assert b''.join(buffers) == path.read_bytes()[3:43]
    source.close()


def test_nor_is_it_asked_again_for_what_it_gave(path, monkeypatch):
    asked, pread = [], os.pread

    def less(fd, length, at):
        asked.append((at, length))
        return pread(fd, min(length, 7), at)

    monkeypatch.setattr(os, 'pread', less)
    source = file_source.FileSource(str(path))
    assert source.read(3, 20) == path.read_bytes()[3:23]
    assert asked == [(3, 20), (10, 13), (17, 6)]
    source.close()


@pytest.mark.parametrize('length', [
    1 << 17, (1 << 17) - 1, 1 << 20, (1 << 20) + 1])
@pytest.mark.parametrize('at', [None, 0, 511, 512, -1])
def test_what_may_be_zeros_is_what_is_in_the_file(tmp_path, length, at):
    """Also where that comes after much that is, and on the same thread."""
    content = bytearray(length)
    if at is not None:
        content[at] = 1
    (tmp_path / 'disk').write_bytes(b'x' * length + content)
    source = file_source.FileSource(str(tmp_path / 'disk'))
    first = source.read(length, length)
    assert source.read(0, length) == b'x' * length
    assert source.read(length, length) == first == content
    source.close()


def test_a_file_that_has_become_shorter(path):
    layout = layout_.Layout()
    layout.add(20, SIZE - 10)
    source = layout_source.LayoutSource(str(path), 0, layout, _never)
    with pytest.raises(errors.SourceFailed, match='shorter'):
        _read(source, 0, 20)
    source.close()


def test_nothing_stays_open_if_the_rest_can_not_be_read(path):
    layout = layout_.Layout()
    layout.add(20, layout_.ENCODED)

    def fail():
        raise errors.SourceFailed('no')

    before = os.listdir('/proc/self/fd')
    with pytest.raises(errors.SourceFailed):
        layout_source.LayoutSource(str(path), 0, layout, fail)
    assert os.listdir('/proc/self/fd') == before


def test_an_image_in_too_many_pieces_is_read_by_qemu(tmp_path, monkeypatch):
    monkeypatch.setattr(layout_, '_MOST', 2)
    path = images.qcow2(tmp_path / 'disk.qcow2', 'A-B-C')
    image = convert.check(
        inspection.inspect(path, 'qcow2', detection.Policy(1 << 30)),
        conversion_.Conversion())
    source = convert.open_source(image)
    assert isinstance(source, nbd_source.NbdSource)
    assert _read(source, 0, source.size) == images.content('A-B-C')
    source.close()


def test_no_limit_is_evaded_by_a_layout_of_another_size(tmp_path, monkeypatch):
    """What qemu says at different times may differ, where it is captured."""
    path = images.qcow2(tmp_path / 'disk.qcow2', 'A-B-C')
    image = inspection.inspect(path, 'qcow2', detection.Policy(1 << 30))
    extents = qemu_img.extents
    monkeypatch.setattr(qemu_img, 'extents', lambda *given: [
        *extents(*given), {'length': 1 << 40, 'data': False, 'zero': True}])
    source = convert.open_source(
        convert.check(image, conversion_.Conversion()))
    assert source.size == image.virtual_size
    source.close()
