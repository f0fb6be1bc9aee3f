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

"""What becomes of an import that was interrupted."""

from glance.async_.flows import api_image_import
from oslo_db import exception
import pytest

from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.image_import import execution
from glance_conversion_plugins.image_import import image as image_
from glance_conversion_plugins.image_import import options
from glance_conversion_plugins.image_import import task
from glance_conversion_plugins.image_import import unpacking
from glance_conversion_plugins.stores import adoption
from glance_conversion_plugins.stores import placeholder
from tests.unit import databases


class _Image:
    """Notes how it is given back; its upload is kept if that has a size."""

    def __init__(self):
        self.given_back = []
        self.request = 'req-1'

    def declaration(self):
        return image_.Declaration('raw', 'bare', {})

    def give_back(self, declaration, staged_size=None):
        self.given_back.append(staged_size)
        return staged_size is None


def _task(image, method='glance-direct'):
    return task.ConvertImage(
        image_.ImportRequest('image', 'task', [], True, method), image, 'name')


def _interrupted(path, method='glance-direct'):
    image = _Image()
    made = _task(image, method)
    made._staged.add(str(path))
    made._is_interrupted = True
    return made, image


@pytest.mark.usefixtures('override')
def test_its_upload_is_kept(tmp_path):
    upload = tmp_path / 'image'
    upload.write_bytes(b'upload')
    made, image = _interrupted(upload)
    made.revert()
    assert image.given_back == [6]
    assert upload.exists()


@pytest.mark.usefixtures('override')
def test_what_was_not_uploaded_is_not_kept(tmp_path):
    upload = tmp_path / 'image'
    upload.write_bytes(b'upload')
    made, image = _interrupted(upload, 'web-download')
    made.revert()
    assert image.given_back == [None]
    assert not upload.exists()


@pytest.mark.usefixtures('override')
def test_where_the_upload_is_gone_the_image_goes_back_all_the_same(tmp_path):
    made, image = _interrupted(tmp_path / 'gone')
    made.revert()
    assert image.given_back == [None]
    assert adoption._entries == {}


@pytest.mark.usefixtures('override')
@pytest.mark.parametrize('error, words', [
    (FileNotFoundError(2, 'No such file'), 'is gone from staging; upload'),
    (OSError(5, 'Input/output error'),
     r'a problem with its disk \(Input/output error\)'),
    (exception.DBConnectionError('host, port'),
     'the database of this cloud did not answer; import the image again'),
    (KeyError('secret'), 'for a reason that only the operator of this cloud'),
], ids=lambda value: type(value).__name__)
def test_what_failed_is_told_in_words(tmp_path, error, words):
    class Failing(_Image):
        def declaration(self):
            raise error

    with pytest.raises(compat.exception.UploadException,
                       match=words) as caught:
        _task(Failing()).execute(f'file://{tmp_path}/image')
    for secret in ('secret', 'host', str(tmp_path)):
        assert secret not in str(caught.value)


@pytest.fixture
def is_stopping(monkeypatch):
    monkeypatch.setattr(compat, 'is_stopping', lambda: True)


@pytest.mark.usefixtures('override', 'is_stopping')
def test_a_glance_that_stops_begins_with_no_upload(tmp_path):
    upload = tmp_path / 'image'
    upload.write_bytes(bytes(4096))
    image = _Image()
    made = _task(image)
    with pytest.raises(compat.exception.UploadException,
                       match='The upload is kept'):
        made.execute(f'file://{upload}')
    made.revert()
    assert image.given_back == [4096]
    assert upload.exists()


@pytest.mark.usefixtures('override', 'is_stopping')
def test_what_another_plugin_has_converted_is_gone_on_with(tmp_path):
    """The upload is gone by then, and so can not be kept."""
    made = placeholder.Placeholder(str(tmp_path), placeholder.Header(
        'image', 'task', 'qcow2', 'bare'))
    made.create()
    made.hand_on(made.path, 1 << 20)
    uri = f'file://{made.path}'
    assert _task(_Image()).execute(uri) == uri
    made.remove()


@pytest.fixture
def database(tmp_path):
    with databases.glance_database(tmp_path / 'glance.sqlite'):
        yield


def _imported(image_id):
    return image_.ImportedImage(
        compat.admin_context(), 'task', None,
        api_image_import.ImportActionWrapper(
            compat.image_repo(), image_id, 'task'), ['ceph'])


@pytest.mark.usefixtures('database')
@pytest.mark.parametrize('status, is_nobodys', [
    ('importing', True), ('queued', True), ('uploading', False)])
def test_an_upload_that_another_plugin_has_kept_is_its_owners(
        status, is_nobodys):
    image_id = databases.add_image(status, lock='task', disk_format='raw')
    declared = image_.Declaration('qcow2', 'bare', {})
    assert _imported(image_id).give_back(declared) is is_nobodys
    found = compat.image_repo().get(image_id)
    assert (found.status, found.disk_format) == (
        ('queued', 'qcow2') if is_nobodys else ('uploading', 'raw'))


@pytest.mark.parametrize('container_format, work', [
    ('bare', execution.execute), ('ova', unpacking.execute),
    ('compressed', unpacking.execute)])
def test_packages_are_unpacked(tmp_path, container_format, work):
    declaration = image_.Declaration('raw', container_format, {})
    context = execution.Context(
        image_.ImportRequest('image', 'task', [], True), _Image(),
        declaration, str(tmp_path / 'image'), {}, placeholder.Placeholder(
            str(tmp_path), placeholder.Header('image', 'task', 'raw',
                                              container_format)),
        conversion_.Conversion())
    assert task._work(context) is work


@pytest.mark.usefixtures('database')
@pytest.mark.parametrize('before, needed, after', [
    (0, 0, 0), (0, 3, 3), (2, 3, 3), (4, 3, 4)])
def test_what_an_image_needs_is_never_lowered(before, needed, after):
    image_id = databases.add_image('importing', lock='task', min_disk=before)
    _imported(image_id).record_source({'os_glance_conversion_source_size':
                                       '5'}, needed)
    found = compat.image_repo().get(image_id)
    assert found.min_disk == after
    assert found.extra_properties['os_glance_conversion_source_size'] == '5'


@pytest.mark.parametrize('size, needed', [
    (0, 0), (1, 1), (1 << 30, 1), ((1 << 30) + 1, 2)])
def test_what_a_disk_needs(override, size, needed):
    assert options.min_disk(size) == 0
    override('raise_min_disk', True, 'conversion')
    assert options.min_disk(size) == needed
