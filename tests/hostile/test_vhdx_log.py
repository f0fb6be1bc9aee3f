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

"""vhdx images that were not closed: what their log holds has to be read.

Of each image the table of blocks is lost and stands in the log; who does not
replay it reads zeros, or nothing.
"""

import functools
import subprocess

import pytest

from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import convert
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.formats import remarks
from tests.hostile import build
from tests.hostile.build import KIB
from tests.hostile.build import MIB
from tests.hostile import path as path_
from tests.hostile import vhdx
from tests import judges
from tests.judges import vhdx as vhdx_judge

SIZE = 5 * MIB
_convert = functools.partial(path_.converted, disk_format='vhdx')


def _crashed(*entries, guid=vhdx.LOG):
    """An image whose table of blocks is in its log, and zeros in its place."""
    data = vhdx.plain()
    table = vhdx.region(data, 'blocks')
    sector = data[table:table + 4 * KIB]
    assert any(sector)
    lost = build.patched(data, (table, bytes(4 * KIB)))
    return vhdx.with_log(
        lost, *(entries or [vhdx.Entry(((table, sector),))]), guid=guid)


def test_log_is_replayed(tmp_path):
    found, said = _convert(tmp_path, _crashed())
    assert found == build.content(SIZE)
    assert said == [remarks.LOG]
    # The file is closed by now; whoever stores it as it is stores that.
    path = str(tmp_path / 'disk.vhdx')
    assert inspection.inspect(path, 'vhdx', path_.POLICY)


def test_who_hashes_an_upload_is_told_before_it_changes(tmp_path):
    path, seen = tmp_path / 'disk.vhdx', []
    path.write_bytes(_crashed())
    conversion = conversion_.Conversion()
    conversion.before_change = lambda: seen.append(path.read_bytes())
    convert.inspect(str(path), 'vhdx', path_.POLICY, conversion)
    assert seen == [_crashed()]
    assert path.read_bytes() != _crashed()


def test_qemu_alone_would_refuse_it(tmp_path):
    path = tmp_path / 'disk.vhdx'
    path.write_bytes(_crashed())
    with pytest.raises(errors.DamagedImage, match='can not be opened'):
        qemu_img.info(qemu_img.Image(str(path), 'vhdx'))
    with pytest.raises(errors.LogNotReplayed, match='waits to be replayed'):
        inspection.inspect(str(path), 'vhdx', path_.POLICY)


def test_entries_one_after_the_other(tmp_path):
    """The later one counts; zeros need no content in the log."""
    data = vhdx.plain()
    table = vhdx.region(data, 'blocks')
    good = data[table:table + 4 * KIB]
    found, said = _convert(tmp_path, _crashed(
        vhdx.Entry(((table, b'x' * 4 * KIB),)),
        vhdx.Entry((), zeros=((table, 4 * KIB),)),
        vhdx.Entry(((table, good),))))
    assert found == build.content(SIZE)
    assert said == [remarks.LOG]


@pytest.mark.parametrize('first', [
    0, MIB - 4 * KIB, MIB - 8 * KIB, MIB - 12 * KIB, 512 * KIB])
def test_log_that_goes_on_at_its_beginning(tmp_path, first):
    """Left to itself qemu replays what stands there, and nothing before."""
    data = vhdx.plain()
    table = vhdx.region(data, 'blocks')
    harmless = vhdx.Entry(((table + 4 * KIB, bytes(4 * KIB)),))
    lost = build.patched(data, (table, bytes(4 * KIB)))
    image = vhdx.with_log(lost, vhdx.Entry(
        ((table, data[table:table + 4 * KIB]),)), harmless, first=first)
    assert vhdx_judge.read(image) == build.content(SIZE)
    found, said = _convert(tmp_path, image)
    assert found == build.content(SIZE)
    assert said == [remarks.LOG]


@pytest.mark.parametrize('first', [0, MIB - 8 * KIB])
def test_entries_before_the_oldest_that_counts(tmp_path, first):
    """They follow the newest one, and were replayed long ago."""
    data = vhdx.plain()
    table = vhdx.region(data, 'blocks')
    old = vhdx.Entry(((table, b'x' * 4 * KIB),))
    lost = build.patched(data, (table, bytes(4 * KIB)))
    image = vhdx.with_log(lost, vhdx.Entry(
        ((table, data[table:table + 4 * KIB]),)), first=first, old=(old,))
    assert vhdx_judge.read(image) == build.content(SIZE)
    found, _ = _convert(tmp_path, image)
    assert found == build.content(SIZE)


def test_log_of_which_the_beginning_is_lost(tmp_path):
    """[MS-VHDX] 2.3.3: without a sequence that is complete it is corrupt."""
    data = vhdx.plain()
    table = vhdx.region(data, 'blocks')
    entry = vhdx.Entry(((table, data[table:table + 4 * KIB]),))
    logged = vhdx.with_log(data, entry, entry)
    log = vhdx.number(logged, vhdx.HEADERS[0] + 72)
    path = tmp_path / 'disk.vhdx'
    path.write_bytes(build.patched(logged, (log + 5000, b'y')))
    with pytest.raises(judges.Unreadable):
        vhdx_judge.read(path.read_bytes())
    with pytest.raises(errors.DamagedImage, match='can not be replayed'):
        _convert(tmp_path, path.read_bytes())


def test_file_that_was_longer(tmp_path):
    """Its end was cut off: the log tells how long it was, at least."""
    data = vhdx.plain()
    table = vhdx.region(data, 'blocks')
    entry = vhdx.Entry(((table, data[table:table + 4 * KIB]),))
    longer = vhdx.with_log(data + bytes(MIB), entry)
    with pytest.raises(errors.DamagedImage, match='truncated'):
        _convert(tmp_path, longer[:len(data)])
    (tmp_path / 'whole').mkdir()
    found, _ = _convert(tmp_path / 'whole', longer)
    assert found == build.content(SIZE)


def test_version_that_nobody_knows(tmp_path):
    with pytest.raises(errors.DamagedImage, match='header makes no sense'):
        _convert(tmp_path, vhdx.summed(
            vhdx.plain(), *((at + 66, b'\2') for at in vhdx.HEADERS),
            (vhdx.HEADERS[1] + 8, b'\xff' * 7)))


def test_header_after_which_there_can_be_none(tmp_path):
    image = _crashed()
    for at in vhdx.HEADERS:
        image = vhdx.summed(image, (at + 8, b'\xff' * 8))
    with pytest.raises(errors.DamagedImage, match='header makes no sense'):
        _convert(tmp_path, image)


def test_file_that_has_to_grow(tmp_path):
    """Its last blocks were never written, and read as zeros."""
    data = vhdx.plain()
    table = vhdx.region(data, 'blocks')
    entry = vhdx.Entry(((table, data[table:table + 4 * KIB]),),
                       last=len(data) + 4 * MIB)
    found, _ = _convert(tmp_path, _crashed(entry))
    assert found == build.content(SIZE)


def test_entries_of_another_log_do_not_count(tmp_path):
    """What a log held before it was closed is left in it."""
    data = vhdx.plain()
    found, said = _convert(tmp_path, vhdx.with_log(
        data, vhdx.Entry(((vhdx.region(data, 'blocks'), b'x' * 4 * KIB),)),
        guid=b'K' * 16))
    assert found == build.content(SIZE)
    assert not said


def test_entry_that_is_not_whole_does_not_count(tmp_path):
    """It was being written when the machine stopped: nothing depends on it."""
    data = vhdx.plain()
    table = vhdx.region(data, 'blocks')
    logged = vhdx.with_log(data, vhdx.Entry(((table, b'x' * 4 * KIB),)))
    at = vhdx.number(logged, vhdx.HEADERS[0] + 72)
    found, _ = _convert(tmp_path, build.patched(logged, (at + 5000, b'y')))
    assert found == build.content(SIZE)


def test_what_the_program_of_the_owner_does(tmp_path):
    """The command that the message names mends the image."""
    path = tmp_path / 'disk.vhdx'
    path.write_bytes(_crashed())
    subprocess.run(['qemu-img', 'check', '-q', '-r', 'all', str(path)],
                   check=True)
    found, said = _convert(tmp_path, path.read_bytes())
    assert found == build.content(SIZE)
    assert not said
