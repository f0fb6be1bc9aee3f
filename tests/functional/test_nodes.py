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

"""Several nodes: nothing that is stored is lost, and nothing is stuck.

Two nodes of one Glance, each with a staging of its own, and another Glance
with the same pools. Clean-ups pass on all of them while processes are killed
or stand still. ``tests/campaigns`` has more of this.
"""

import os
import time
import uuid

import pytest

from tests.functional import campaign
from tests.functional import support
from tests.functional import writers


@pytest.mark.parametrize('begin, declared', [
    (writers.begin_upload, 'raw'),
    (writers.begin_import, 'qcow2')])
def test_writer_that_paused_before_the_record_and_was_given_up(
        nodes, disks, begin, declared):
    """It has lost: its data goes, and can not be recorded any more."""
    with writers.paused_before_the_record(nodes, begin, disks[0]) as (
            image_id, finish):
        status = writers.give_up(nodes, image_id)
    finish()
    assert nodes.records()[image_id].status == status
    assert image_id not in nodes.stored()
    # Or its owner could not import the same file again.
    if status == 'queued':
        assert nodes.b.show(image_id)['disk_format'] == declared


@pytest.mark.parametrize('begin, again', [
    (writers.begin_upload, writers.upload_again),
    (writers.begin_import, writers.import_again)])
def test_owner_tries_again_while_the_first_writer_pauses(
        nodes, disks, begin, again):
    """What the second one brought stays, whatever the first one does."""
    with writers.paused_before_the_record(nodes, begin, disks[0]) as (
            image_id, finish):
        status = writers.give_up(nodes, image_id)
        if status == 'queued':
            nodes.forget(image_id)
            again(nodes, image_id, disks[1])
    finish()
    if status == 'queued':
        nodes.assert_whole(image_id)


@pytest.mark.parametrize('begin, again', [
    (writers.begin_upload, writers.upload_again),
    (writers.begin_import, writers.import_again)])
def test_a_database_that_is_away_when_a_record_is_due(nodes, disks, begin,
                                                      again):
    """For a moment: what could not be recorded is given back soon."""
    with writers.paused_before_the_record(nodes, begin, disks[0]) as (
            image_id, _):
        nodes.cloud.database.daemon.kill()
    time.sleep(10)
    nodes.cloud.database.up()

    def is_given_back():
        nodes.clean()
        return nodes.records()[image_id].status == 'queued'

    # What is silent for a minute, and held by nobody, is dead.
    support.wait_for(is_given_back, 180)
    assert image_id not in nodes.stored()
    nodes.forget(image_id)
    again(nodes, image_id, disks[1])
    nodes.assert_whole(image_id)


STORES = 'files', 'ceph2'


def test_one_pass_once_a_dead_import_was_silent(nodes, large):
    """Ten minutes, on a node that has nothing but the stores to look at."""
    writers.begin_import(nodes, large, stores=STORES)
    support.wait_for(lambda: nodes.is_written('images2'))
    nodes.a.kill()
    support.wait_for(nodes.is_free, 30)
    nodes.all_are_silent(660)
    nodes.clean_once(nodes.b)
    assert nodes.marks() == set()
    nodes.a.start()


POINTS = int(os.environ.get('GLANCE_TEST_KILLS', '14'))
AT_ONCE = 7


def test_kill_or_stop_at_a_random_point(nodes, disks, tmp_path):
    """Whatever it hits, nothing that was stored is lost, nothing is stuck."""
    seed = os.environ.get('GLANCE_TEST_SEED') or uuid.uuid4().hex[:8]
    print('GLANCE_TEST_SEED', seed)
    working = campaign.Campaign(
        nodes, disks, seed, tmp_path,
        campaign.LONG_PAUSES if POINTS > 20 else campaign.PAUSES)
    for done in range(0, POINTS, AT_ONCE):
        working.round(min(AT_ONCE, POINTS - done))
