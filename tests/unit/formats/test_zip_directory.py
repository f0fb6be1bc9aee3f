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

"""The one file of a zip archive."""

import io
import zipfile
import zlib

import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import decompressor
from glance_conversion_plugins.formats import zip_directory
from tests.contract import packages
from tests.hostile import build

DATA = build.noise(10_000) + bytes(50_000)


def _size(tmp_path, data):
    path = tmp_path / 'a.zip'
    path.write_bytes(data)
    return zip_directory.member_size(str(path))


def _made(method=zipfile.ZIP_DEFLATED, comment=b'', **kwargs):
    made = io.BytesIO()
    with zipfile.ZipFile(made, 'w', method) as archive:
        with archive.open('disk', 'w', **kwargs) as f:
            f.write(DATA)
        archive.comment = comment
    return made.getvalue()


@pytest.mark.parametrize('options', [(), ('-0',), ('-9',), ('-fz',)], ids=str)
def test_archives_by_the_tool(tmp_path, options):
    data = packages.zipped({'disk': DATA}, *options)
    assert _size(tmp_path, data) == len(DATA)


def test_archives_of_large_numbers(tmp_path):
    data = bytearray(_made(force_zip64=True))
    assert _size(tmp_path, bytes(data)) == len(DATA)


def _large(data):
    """The same archive, with its directory's numbers where large ones are."""
    end = data.rindex(b'PK\5\6')
    at = data.index(b'PK\1\2')
    entry = bytearray(data[at:end])
    entry[20:28] = b'\xff' * 8
    entry[30:32] = (20).to_bytes(2, 'little')
    entry += (b'\1\0\x10\0' + len(DATA).to_bytes(8, 'little')
              + data[at + 20:at + 24] + bytes(4))
    place = at + len(entry)
    return (data[:at] + bytes(entry)
            + zip_directory._LARGE_END.pack(b'PK\6\6', 44, 45, 45, 0, 0, 1, 1,
                                            len(entry), at)
            + zip_directory._LOCATOR.pack(b'PK\6\7', 0, place, 1)
            + zip_directory._END.pack(b'PK\5\6', 0, 0, 0xffff, 0xffff,
                                      len(entry), 0xffffffff, 0))


def test_a_directory_of_large_numbers(tmp_path):
    assert _size(tmp_path, _large(_made())) == len(DATA)


def test_large_numbers_that_are_not_there(tmp_path):
    data = _large(_made())
    for magic in (b'PK\6\6', b'PK\6\7', b'PK\1\2', b'\1\0\x10\0'):
        with pytest.raises(errors.DamagedImage):
            _size(tmp_path, data.replace(magic, b'PK\7\7'))


def test_the_first_of_two_fields_of_large_numbers_counts(tmp_path):
    data = bytearray(_made())
    at, end = data.index(b'PK\1\2'), data.index(b'PK\5\6')
    data[end:end] = (b'\1\0\0\0\1\0\x10\0' + len(DATA).to_bytes(8, 'little')
                     + data[at + 20:at + 24] + bytes(4))
    data[at + 20:at + 28] = b'\xff' * 8
    data[at + 30:at + 32] = (24).to_bytes(2, 'little')
    with pytest.raises(errors.DamagedImage, match='archive makes no sense'):
        _size(tmp_path, bytes(data))


@pytest.mark.parametrize('comment', [b'', b'of a tool', b'PK\5\6' * 20,
                                     b'x' * 0xffff])
def test_a_comment(tmp_path, comment):
    assert _size(tmp_path, _made(comment=comment)) == len(DATA)


def test_another_number_of_files(tmp_path):
    for count in (0, 2, 3):
        made = io.BytesIO()
        with zipfile.ZipFile(made, 'w') as archive:
            for number in range(count):
                archive.writestr(str(number), b'x')
        with pytest.raises(errors.UnsafeImage, match=f'has {count} files'):
            _size(tmp_path, made.getvalue())


def _archive(*names):
    made = io.BytesIO()
    with zipfile.ZipFile(made, 'w') as archive:
        for name in names:
            archive.writestr(name, b'' if name.endswith('/') else
                             b'x' if 'disk' not in name else DATA)
    return made.getvalue()


@pytest.mark.parametrize('names', [
    ('folder/', 'folder/disk'), ('disk', '__MACOSX/', '__MACOSX/._it'),
    ('__MACOSX/x', 'disk')], ids=str)
def test_what_does_not_count(tmp_path, names):
    assert _size(tmp_path, _archive(*names)) == len(DATA)


@pytest.mark.parametrize('names, count', [
    (('folder/',), 0), (('disk', '__MACOSX'), 2),
    (('disk', 'x/__MACOSX/y'), 2),
    (('disk', *[f'{n}/' for n in range(200)]), 201),
    ([f'disk{n}' for n in range(200)], 200)],
    ids=['folder', 'file', 'within', 'folders', 'many'])
def test_what_does(tmp_path, names, count):
    with pytest.raises(errors.UnsafeImage, match=f'has {count} files'):
        _size(tmp_path, _archive(*names))


def _entries(*files):
    """An archive of (name, size in the directory, data, extra field)."""
    made, directory = b'', b''
    for name, size, data, extra in files:
        packer = zlib.compressobj(wbits=-15)
        packed = packer.compress(data) + packer.flush()
        numbers = (zlib.crc32(data), len(packed), size, len(name))
        place = len(made)
        made += zip_directory._LOCAL.pack(
            b'PK\3\4', 20, 0, 8, 0, 0, *numbers, 0) + name + packed
        directory += zip_directory._ENTRY.pack(
            b'PK\1\2', 20, 20, 0, 8, 0, 0, *numbers, len(extra), 0, 0, 0, 0,
            place) + name + extra
    return made + directory + zip_directory._END.pack(
        b'PK\5\6', 0, 0, len(files), len(files), len(directory), len(made),
        0)


def _renamed(name, other):
    """A field by which a file has another name for who reads it."""
    data = b'\1' + zlib.crc32(name).to_bytes(4, 'little') + other
    return b'up' + len(data).to_bytes(2, 'little') + data


MAC = b'__MACOSX/x'


def _unzipped(path):
    return b''.join(decompressor.decompress(str(path), 'zip', 60))


def test_what_is_counted_is_what_is_read(tmp_path):
    """Whatever else a file is called in a field of its own."""
    size = _size(tmp_path, _entries(
        (b'disk', 4, b'AAAA', _renamed(b'disk', b'__MACOSX/disk')),
        (MAC, 4, b'BBBB', _renamed(MAC, b'disk'))))
    assert size == 4
    assert _unzipped(tmp_path / 'a.zip') == b'AAAA'


def test_a_folder_may_be_deflated(tmp_path):
    assert _size(tmp_path, _entries(
        (b'folder/', 0, b'', b''), (b'folder/disk', 4, b'AAAA', b''))) == 4
    assert _unzipped(tmp_path / 'a.zip') == b'AAAA'


@pytest.mark.parametrize('name', [b'folder/', b'f\0/'])
def test_a_folder_that_has_content(tmp_path, name):
    """unzip would give it, though its size is said to be 0."""
    data = _entries((b'disk', 4, b'', b''), (name, 0, b'BBBB', b''))
    with pytest.raises((errors.DamagedImage, errors.UnsafeImage)):
        _size(tmp_path, data)
    assert _unzipped(tmp_path / 'a.zip') == b'BBBB'


def test_more_files_than_are_counted(tmp_path):
    """unzip reads all there are, and compares 16 bits of their number."""
    data = bytearray(_entries((b'disk', 4, b'AAAA', b''),
                              (b'other', 4, b'BBBB', b'')))
    end = data.rindex(b'PK\5\6')
    data[end + 8:end + 12] = b'\1\0\1\0'
    with pytest.raises(errors.DamagedImage, match='archive makes no sense'):
        _size(tmp_path, bytes(data))


def test_an_encrypted_one(tmp_path):
    data = packages.zipped({'disk': DATA}, '-P', 'secret')
    with pytest.raises(errors.UnsafeImage, match='encrypted'):
        _size(tmp_path, data)


@pytest.mark.parametrize('method', [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_method_that_unzip_does_not_know_or_not_well(tmp_path, method):
    with pytest.raises(errors.UnsafeImage, match=f'not read here .{method}.'):
        _size(tmp_path, _made(method))


def test_every_beginning_is_refused(tmp_path):
    whole = _made()
    for length in (0, 1, 21, 22, 100, 1000, *range(len(whole) - 80,
                                                   len(whole))):
        with pytest.raises(errors.DamagedImage):
            _size(tmp_path, whole[:length])


@pytest.mark.parametrize('field', [0, 6, 8, 14, 18, 22], ids=[
    'magic', 'flags', 'method', 'sum', 'packed', 'size'])
def test_two_headers_that_differ(tmp_path, field):
    whole = _made()
    assert _size(tmp_path, whole) == len(DATA)
    other = bytes([whole[field] ^ 8])
    with pytest.raises(errors.DamagedImage, match='archive makes no sense'):
        _size(tmp_path, build.patched(whole, (field, other)))


def test_more_data_than_there_is(tmp_path):
    whole = _made()
    at, more = whole.index(b'PK\1\2'), len(whole).to_bytes(4, 'little')
    with pytest.raises(errors.DamagedImage, match='archive makes no sense'):
        _size(tmp_path, build.patched(whole, (18, more), (at + 20, more)))


class _Pipe(io.BytesIO):
    """Where no header can be mended once it is written."""

    def tell(self):
        raise OSError


def test_numbers_behind_the_data(tmp_path):
    made = _Pipe()
    with zipfile.ZipFile(made, 'w') as archive, archive.open(
            'disk', 'w') as f:
        f.write(DATA)
    assert made.getvalue()[6] & 8
    assert _size(tmp_path, made.getvalue()) == len(DATA)


def test_a_place_beyond_what_was_foreseen(tmp_path):
    """As by Go, which says all of its numbers so where one is large."""
    data = bytearray(_large(_made()))
    at = data.index(b'PK\1\2')
    extra = data.index(b'\1\0\x10\0', at)
    data[at + 30:at + 32] = (28).to_bytes(2, 'little')
    data[at + 42:at + 46] = b'\xff' * 4
    data[extra:extra + 12] = b'\1\0\x18\0' + len(DATA).to_bytes(8, 'little')
    packed = int.from_bytes(_made()[18:22], 'little')
    data[extra + 12:extra + 20] = packed.to_bytes(8, 'little') + bytes(8)
    end = data.index(b'PK\6\7') + 8
    place = int.from_bytes(data[end:end + 8], 'little') + 8
    data[end:end + 8] = place.to_bytes(8, 'little')
    assert _size(tmp_path, bytes(data)) == len(DATA)


def test_what_follows_the_end(tmp_path):
    with pytest.raises(errors.DamagedImage, match='directory at the end'):
        _size(tmp_path, _made() + b'x')
