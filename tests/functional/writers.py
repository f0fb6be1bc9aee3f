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

"""Uploads and imports on several nodes, held at the moments that matter."""

import contextlib
import json
import threading

import pymysql
import pytest

from tests.functional import nodes as nodes_
from tests.functional import support


def upload(nodes, image_id, disk, node=None, store='ceph', **slow):
    """Begin an upload; returns what waits for its status."""
    nodes.may_hold(image_id, disk)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(
        (node or nodes.a).put(f'/v2/images/{image_id}/file',
                              nodes_.Slow(disk.raw, **slow),
                              **{'X-Image-Meta-Store': store})),
        daemon=True)
    thread.start()

    def finish():
        thread.join()
        return answers[0]
    return finish


def begin_upload(nodes, disk, node=None, **kwargs):
    image_id = (node or nodes.a).create('raw')
    return image_id, upload(nodes, image_id, disk, node, **kwargs)


def begin_import(nodes, disk, node=None, stores=('ceph',)):
    node = node or nodes.a
    image_id = node.create()
    nodes.may_hold(image_id, disk)
    node.stage(image_id, disk.qcow2)
    node.start_import(image_id, stores)
    return image_id, lambda: nodes.b.finish(image_id)


def is_locked(database, image_id):
    """Whether somebody is amid writing an image's record."""
    with contextlib.closing(database.connect()) as connection:
        try:
            connection.cursor().execute(
                'SELECT id FROM images WHERE id = %s FOR UPDATE NOWAIT',
                [image_id])
        except pymysql.err.OperationalError:
            return True
    return False


@contextlib.contextmanager
def paused_before_the_record(nodes, begin, disk):
    """A node that stands still with its data stored and not recorded.

    That takes Glance a few milliseconds, so this may need some attempts.
    """
    for _ in range(20):
        image_id, finish = begin(nodes, disk)
        support.wait_for(lambda image_id=image_id: image_id in
                         nodes.stored(), interval=0.001)
        with nodes.a.paused():
            record = nodes.records()[image_id]
            if not record.urls and not is_locked(nodes.cloud.database,
                                                 image_id):
                assert record.status in ('saving', 'importing')
                yield image_id, finish
                return
        finish()
    pytest.fail('Glance was always faster')


def killed_after_the_record(nodes, disk):
    """A node that dies before it takes the mark off; returns the image."""
    for _ in range(20):
        image_id, finish = begin_upload(nodes, disk)
        support.wait_for(lambda image_id=image_id:
                         nodes.records()[image_id].urls, interval=0.001)
        with nodes.a.paused():
            if nodes.marks() == {('images', image_id)}:
                nodes.a.kill()
                return image_id
        finish()
    pytest.fail('The mark was always gone')


def give_up(nodes, image_id):
    """Let clean-ups pass until a writer that stands still has lost."""
    support.wait_for(nodes.is_free, 30)

    def passed():
        nodes.all_are_silent(3600)
        nodes.clean()
        return not nodes.marks()
    support.wait_for(passed, 120)
    status = nodes.records()[image_id].status
    assert status in ('queued', 'killed')
    return status


def upload_again(nodes, image_id, disk):
    assert upload(nodes, image_id, disk, nodes.b)() == 204


def import_again(nodes, image_id, disk):
    nodes.may_hold(image_id, disk)
    nodes.b.api('PATCH', f'/v2/images/{image_id}', data=json.dumps(
        [{'op': 'replace', 'path': '/disk_format', 'value': 'qcow2'}]
    ).encode(), headers={'Content-Type':
                         'application/openstack-images-v2.1-json-patch'})
    nodes.b.stage(image_id, disk.qcow2)
    nodes.b.start_import(image_id)
    assert nodes.b.finish(image_id)['status'] == 'active'
