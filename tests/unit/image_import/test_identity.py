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

"""Whether an upload is the file that its owner means."""

import functools
import hashlib
import os
import pathlib
import threading

import pytest

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import watchdog
from glance_conversion_plugins import errors
from glance_conversion_plugins.image_import import identity
from glance_conversion_plugins.image_import import image

# FIPS 180-4 and RFC 1321 have it of these three bytes.
CONTENT = b'abc'
SHA256 = ('ba7816bf8f01cfea414140de5dae2223'
          'b00361a396177a9cb410ff61f20015ad')
MD5 = '900150983cd24fb0d6963f7d28e17f72'


def _declared(said=None):
    return image.Declaration('qcow2', 'bare', {} if said is None else {
        'conversion_expected_hash': said})


@pytest.fixture
def upload(tmp_path):
    path = tmp_path / 'upload'
    path.write_bytes(CONTENT)
    return str(path)


def _check(path, said, cancel=None):
    identity.check(path, identity.expected(_declared(said)),
                   progress_.Progress(), cancel or cancel_.Cancel())


@pytest.mark.parametrize('said', [
    f'sha256:{SHA256}', f'SHA256:{SHA256.upper()}', f' sha256:{SHA256}\n',
    f'md5:{MD5}'])
def test_the_file_that_was_meant(upload, said):
    _check(upload, said)


@pytest.mark.parametrize('algorithm', ['sha512', 'sha3_256', 'blake2b'])
def test_any_algorithm_of_a_fixed_length(upload, algorithm):
    value = hashlib.new(algorithm, CONTENT).hexdigest()
    _check(upload, f'{algorithm}:{value}')


@pytest.mark.parametrize('algorithm', ['sha256', 'md5'])
def test_another_file_is_refused_with_both_hashes(upload, algorithm):
    wanted = hashlib.new(algorithm, b'of another file').hexdigest()
    found = hashlib.new(algorithm, CONTENT).hexdigest()
    with pytest.raises(errors.WrongUpload) as caught:
        _check(upload, f'{algorithm}:{wanted}')
    assert f'{algorithm}:{wanted}' in str(caught.value)
    assert f'{algorithm}:{found}' in str(caught.value)


@pytest.mark.parametrize('said', [
    SHA256, f':{SHA256}', f'sha257:{SHA256}', f'sha512:{SHA256}',
    f'sha256:{SHA256[1:]}', f'sha256:{SHA256[1:]}x', 'sha256:', 'sha256',
    f'shake_128:{MD5}', 'shake_128:', 'None:'])
def test_what_nobody_can_compare_is_refused(said):
    with pytest.raises(errors.WrongUpload, match='64 hexadecimal digits'):
        identity.expected(_declared(said))


@pytest.mark.parametrize('said', [None, ''])
def test_nothing_is_expected(said):
    assert identity.expected(_declared(said)) is None


def test_it_can_be_stopped(upload):
    cancel = cancel_.Cancel()
    cancel.set()
    with pytest.raises(errors.Cancelled):
        _check(upload, f'md5:{MD5}', cancel)


def test_what_is_recorded():
    found = identity.Hash('sha256', SHA256)
    assert identity.properties(_declared(), 3, found) == {
        'os_glance_conversion_source_format': 'qcow2',
        'os_glance_conversion_source_container': 'bare',
        'os_glance_conversion_source_size': '3',
        'os_glance_conversion_source_hash': f'sha256:{SHA256}'}
    assert identity.properties(_declared(), 3, None)[
        'os_glance_conversion_source_hash'] == ''


def test_an_upload_is_hashed_meanwhile(upload):
    with identity.Hashing(upload, conversion_.Conversion()) as hashing:
        assert hashing.result() == ('sha256', SHA256)
    # Asked again it says the same, also when the file is another.
    pathlib.Path(upload).write_bytes(b'another')
    assert hashing.result() == ('sha256', SHA256)


def test_what_can_not_be_read_has_no_hash(upload):
    os.unlink(upload)
    with identity.Hashing(upload, conversion_.Conversion()) as hashing:
        with pytest.raises(FileNotFoundError):
            hashing.result()


@pytest.fixture
def endless(tmp_path):
    """A file of which nobody writes anything more."""
    path = tmp_path / 'endless'
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR)
    os.write(fd, b'begin')
    yield str(path)
    os.close(fd)


def test_who_waits_for_a_hash_hears_that_it_is_stopped(endless):
    conversion = conversion_.Conversion()
    with identity.Hashing(endless, conversion) as hashing:
        threading.Timer(0.3, conversion.cancel.set).start()
        with pytest.raises(errors.Cancelled):
            hashing.result()
    assert str(conversion.progress).startswith('Hashing the upload')


def test_a_file_that_does_not_answer_is_given_up(endless, monkeypatch):
    monkeypatch.setattr(identity.watchdog, 'watch', functools.partial(
        watchdog.watch, seconds=0.4))
    with identity.Hashing(endless, conversion_.Conversion()) as hashing:
        with pytest.raises(errors.Stalled):
            hashing.result()


def test_it_ends_with_what_is_done_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, '_PIECE', 1)
    path = tmp_path / 'long'
    path.write_bytes(bytes(50_000_000))
    with identity.Hashing(str(path), conversion_.Conversion()) as hashing:
        assert hashing._thread.is_alive()
    hashing._thread.join(10)
    assert not hashing._thread.is_alive()
