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

"""Imports that were interrupted, and how their owners go on."""

import pytest

from tests.functional import support
from tests.functional import test_crash

MIB = support.MIB


def converting(glance, images, store='ceph'):
    """Begin an import that takes half a minute; returns the image's id."""
    path, _ = images.slow('slower', size=16 * 1024 * MIB)
    image_id = glance.begin(path, stores=[store])
    support.wait_for(lambda: 'Converting: ' in glance.message(image_id))
    return image_id


def imported_again(glance, image_id, raw):
    """Import what is staged; the image is whole then."""
    glance.start_import(image_id)
    image = glance.finish(image_id)
    assert image['status'] == 'active', glance.message(image_id)
    assert image['os_hash_value'] == support.digests(raw)[1]
    glance.settled(image_id)
    assert glance.present() == {'images': [image_id]}


def stopped(glance):
    """Stop Glance as its init system does, and start it again."""
    glance.cloud.glance.stop()
    glance.cloud.glance.start()


# One plugin converts into the first, another one into the second.
@pytest.mark.parametrize('store', ['ceph', 'files'])
def test_a_glance_that_is_stopped_gives_imports_back(glance, images, store):
    image_id = converting(glance, images, store)
    stopped(glance)
    image = glance.show(image_id)
    assert image['status'] == 'uploading'
    assert image['disk_format'] == 'qcow2'
    assert 'os_glance_import_task' not in image
    assert glance.message(image_id).endswith(
        'The upload is kept: import the image again.')
    assert glance.present() == {'staging': [image_id]}


def test_so_it_does_with_those_that_wait(glance, configure, images):
    configure(conversion={'max_concurrent': 1})
    first = converting(glance, images)
    second = glance.begin(images.slow()[0])
    glance.expect_message(second, 'Waiting for a free conversion slot')
    stopped(glance)
    assert [glance.show(each)['status'] for each in (first, second)] == [
        'uploading'] * 2
    assert glance.present() == {'staging': sorted((first, second))}


def test_where_staging_does_not_last_the_owner_uploads_again(
        glance, configure, images):
    configure(conversion={'keep_upload': 'false'})
    image_id = converting(glance, images)
    stopped(glance)
    assert glance.show(image_id)['status'] == 'queued'
    assert glance.message(image_id).endswith(
        'Upload the image and import it again.')
    assert glance.present() == {}


def test_an_upload_outlives_its_node(glance, images):
    image_id = test_crash.crashed_midway(glance, images)
    test_crash.clean(glance)
    image = glance.show(image_id)
    assert (image['status'], image['disk_format']) == ('uploading', 'qcow2')
    assert 'The upload is kept' in glance.message(image_id)
    assert glance.present() == {'staging': [image_id]}
    imported_again(glance, image_id, images.slow()[1])


def test_where_the_upload_is_lost_its_owner_is_told(glance, images):
    image_id = test_crash.crashed_midway(glance, images)
    (glance.cloud.glance.staging / image_id).unlink()
    test_crash.clean(glance)
    assert glance.show(image_id)['status'] == 'queued'
    assert 'upload the image and import it again' in glance.message(image_id)
    assert glance.present() == {}


@pytest.mark.parametrize('kept', [True, False])
def test_an_image_that_was_given_back_can_be_deleted(glance, images, kept):
    image_id = test_crash.crashed_midway(glance, images)
    if not kept:
        (glance.cloud.glance.staging / image_id).unlink()
    test_crash.clean(glance)
    glance.delete(image_id)
    assert glance.leftovers() == {}
