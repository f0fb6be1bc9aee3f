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

import pytest

from glance_conversion_plugins.image_import import image as image_
from glance_conversion_plugins.image_import import task
from glance_conversion_plugins.stores import adoption


class _Image:
    """Notes how it is given back; its upload is kept if that has a size."""

    def __init__(self):
        self.given_back = []

    def give_back(self, declaration, staged_size=None):
        self.given_back.append(staged_size)
        return staged_size is None


def _interrupted(path, method='glance-direct'):
    image = _Image()
    made = task.ConvertImage(
        image_.ImportRequest('image', 'task', [], True, method), image, 'name')
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
