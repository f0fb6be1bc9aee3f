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

"""More of what several nodes are put through: tox -e nodes."""

import contextlib
import threading
import time

import pytest

from tests.functional import nodes as nodes_
from tests.functional import support
from tests.functional import writers


def test_import_that_paused_before_the_record(nodes, disks):
    """Nobody knows it for dead so soon: its data is left alone."""
    with writers.paused_before_the_record(
            nodes, writers.begin_import, disks[0]) as (image_id, finish):
        support.wait_for(lambda: not nodes.watchers('images', image_id), 30)
        for _ in range(2):
            assert all(support.findings(said) == support.NOTHING
                       for said in nodes.clean())
    # A pause of more than 30 s looks to librados like a cluster that is down.
    assert finish()['status'] in ('active', 'queued')


def test_record_that_comes_between_a_look_and_the_removal(nodes, disks):
    """A clean-up that pauses as well looks again before it removes."""
    with writers.paused_before_the_record(
            nodes, writers.begin_upload, disks[0]) as (image_id, finish):
        support.wait_for(nodes.is_free, 30)
        nodes.all_are_silent(3600)
        cleaning = nodes.b.start_managing('cleanup')
        assert any('data of the dead' in line for line in cleaning.stdout)
        nodes_.send([cleaning.pid], nodes_.STOP)
    support.wait_for(lambda: nodes.records()[image_id].status != 'saving',
                     interval=0.001)
    # Before it takes the mark off.
    nodes.a.kill()
    nodes_.send([cleaning.pid], nodes_.CONT)
    cleaning.communicate()
    finish()
    if nodes.records()[image_id].urls:
        nodes.assert_whole(image_id)


def test_owner_tries_again_while_the_first_upload_pauses_amid_its_data(
        nodes, disks):
    go_on = threading.Event()
    image_id, finish = writers.begin_upload(nodes, disks[0], pause_at=0.5,
                                    pause=go_on)
    support.wait_for(nodes.marks)
    try:
        with nodes.a.paused():
            status = writers.give_up(nodes, image_id)
            if status == 'queued':
                nodes.forget(image_id)
                writers.upload_again(nodes, image_id, disks[1])
    finally:
        go_on.set()
    assert finish() != 204
    if status == 'queued':
        nodes.assert_whole(image_id)


def test_owner_tries_again_while_the_first_import_pauses_amid_its_data(
        nodes, disks, large):
    image_id, finish = writers.begin_import(nodes, large)
    support.wait_for(nodes.marks)
    with nodes.a.paused():
        status = writers.give_up(nodes, image_id)
        if status == 'queued':
            nodes.forget(image_id)
            writers.import_again(nodes, image_id, disks[1])
    finish()
    if status == 'queued':
        nodes.assert_whole(image_id)


@pytest.mark.parametrize('suffix', ['', '.converted'])
@pytest.mark.parametrize('stores', [('ceph',), ('local',)], ids='+'.join)
def test_staged_file_that_goes_under_a_living_import(nodes, large, stores,
                                                     suffix):
    """It succeeds or fails; it is not stuck."""
    image_id, finish = writers.begin_import(nodes, large, stores=stores)
    staging = nodes.a.cloud.glance.staging
    support.wait_for((staging / f'{image_id}.converted').exists)
    (staging / f'{image_id}{suffix}').unlink()
    image = finish()
    assert image['status'] in ('active', 'queued')


def test_database_that_hangs_costs_time_and_nothing_else(nodes, disks,
                                                         large):
    """Longer than any lease, at several moments of imports and uploads."""
    server = nodes.cloud.database.daemon.pids()
    begun = [writers.begin_import(nodes, disks[0], stores=('ceph', 'files')),
             writers.begin_upload(nodes, disks[1], nodes.b, seconds=5)]
    amid, finish = writers.begin_import(nodes, large)
    begun.append((amid, finish))
    with nodes.a.held(amid):
        begun.append(writers.begin_import(nodes, disks[2], nodes.b))
        passing = nodes.b.start_managing('cleanup')
        nodes_.send(server, nodes_.STOP)
    try:
        time.sleep(70)
    finally:
        nodes_.send(server, nodes_.CONT)
    for _, finish in begun:
        finish()
    passing.communicate()
    assert passing.returncode == 0
    assert {image_id: nodes.records()[image_id].status
            for image_id, _ in begun} == {
                image_id: 'active' for image_id, _ in begun}


@contextlib.contextmanager
def cleaned_all_the_time(nodes):
    """Clean-ups on both nodes without a rest; gives what they say."""
    done, said = threading.Event(), []

    def clean(node):
        while not done.is_set():
            said.append(node.start_managing('cleanup').communicate()[0])
    threads = [threading.Thread(target=clean, args=[node])
               for node in (nodes.a, nodes.b)]
    for thread in threads:
        thread.start()
    try:
        yield said
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_cleanups_that_never_rest_among_imports_and_uploads(nodes, disks):
    begun = []
    with cleaned_all_the_time(nodes) as said:
        for n in range(4):
            node, disk = (nodes.a, nodes.b)[n % 2], disks[n]
            store = ('ceph', 'files')[n // 2]
            begun += [
                writers.begin_upload(nodes, disk, node, store=store,
                                     seconds=n),
                writers.begin_import(nodes, disk, node),
                writers.begin_import(nodes, disk, node, ('files', 'ceph2'))]
        for _, finish in begun:
            finish()
    assert {nodes.records()[image_id].status for image_id, _ in begun
            } == {'active'}
    assert not [words for words in said if 'failed' in words]
    assert not [words for words in said if 'dead import or upload' in words]


def test_store_that_has_another_name_while_a_mark_is_left(nodes, disks,
                                                          tmp_path):
    """What is recorded is known by its URL: the mark goes, the image stays.
    """
    image_id = writers.killed_after_the_record(nodes, disks[0])
    renamed = support.Commands(nodes.b, tmp_path)
    renamed.configure(
        DEFAULT={'enabled_backends': 'new:sparse_rbd, local:file'},
        glance_store={'default_backend': 'new'},
        new={'rbd_store_pool': 'images', 'rbd_store_user': 'glance',
             'rbd_store_ceph_conf': nodes.cloud.ceph.conf})
    support.wait_for(nodes.is_free, 30)
    done = renamed.run('glance-conversion-manage', 'cleanup')
    assert done.returncode == 0, done.stdout + done.stderr
    assert f'mark on the recorded image {image_id}' in done.stdout
    nodes.assert_whole(image_id)
    assert nodes.marks() == set()
    nodes.a.start()


def test_node_that_is_gone_with_its_staging(nodes, large, disks):
    """Another node gives its image back."""
    image_id, _ = writers.begin_import(nodes, large, stores=('files', 'ceph2'))
    support.wait_for(lambda: nodes.is_written('images2'))
    # All of it at once: what is left of a Glance that stops gives imports
    # back as ``uploading``.
    with nodes.a.paused():
        nodes.a.kill()
    for path in nodes.a.cloud.glance.staging.iterdir():
        path.unlink()
    support.wait_for(nodes.is_free, 30)
    nodes.all_are_silent(7200)
    nodes.clean()
    # Its task was at work just now, for it was made to fail.
    nodes.all_are_silent(7200)
    nodes.clean_once(nodes.b)
    assert nodes.records()[image_id].status == 'queued'
    assert nodes.marks() == set()
    nodes.a.start()
    writers.import_again(nodes, image_id, disks[1])
