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

"""What may be done about a marked image: every case there is."""

import itertools

from glance.db.sqlalchemy import api
import pytest

from glance_conversion_plugins.stores import verdict

LEAVE = verdict.Verdict.LEAVE
HAND_OVER = verdict.Verdict.HAND_OVER
REMOVE = verdict.Verdict.REMOVE
FENCE = verdict.Verdict.FENCE

ALIVE = verdict.Writer.ALIVE

# Writers that may be a moment away from being done, asleep, and those that
# are known not to be.
UNSURE = [verdict.Writer.SILENT, verdict.Writer.ENDED]
GONE = [verdict.Writer.LOST, verdict.Writer.DEAD]

# What may be done about an image of this deployment whose writer is gone, and
# that Glance has not recorded under its name; by the status of its record, and
# by whether it is
#
#                   not published:         published:
#                   awaited,     if not,   awaited,     if not.
UNRECORDED = {
    # Not this Glance's to judge.
    'unknown':        (LEAVE,     LEAVE,     LEAVE,     LEAVE),
    # Data may still come, and lead to 'active', by one step. That can be
    # prevented by whoever knows that this is the data that Glance waits for.
    'saving':         (FENCE,     REMOVE,    FENCE,     LEAVE),
    'importing':      (FENCE,     REMOVE,    FENCE,     LEAVE),
    # Here it can not be prevented: data may come at any time, to one more
    # store.
    'active':         (REMOVE,    REMOVE,    LEAVE,     LEAVE),
    'deactivated':    (REMOVE,    REMOVE,    LEAVE,     LEAVE),
    # Into staging; what comes next is not known.
    'uploading':      (REMOVE,    REMOVE,    LEAVE,     LEAVE),
    # It would have to be written anew.
    'queued':         (REMOVE,    REMOVE,    REMOVE,    REMOVE),
    'killed':         (REMOVE,    REMOVE,    REMOVE,    REMOVE),
    'deleted':        (REMOVE,    REMOVE,    REMOVE,    REMOVE),
    'pending_delete': (REMOVE,    REMOVE,    REMOVE,    REMOVE),
}

# The same while its writer may only be silent: what Glance waits for and has
# its name is left as well, for its writer may be having it recorded.
UNSURELY = UNRECORDED | {
    'saving':         (FENCE,     REMOVE,    LEAVE,     LEAVE),
    'importing':      (FENCE,     REMOVE,    LEAVE,     LEAVE),
}

EVERYTHING = [
    verdict.Evidence(is_ours, is_published, is_recorded, writer, status,
                     is_awaited, is_written)
    for (is_ours, is_published, is_recorded, writer, status, is_awaited,
         is_written)
    in itertools.product((True, False), (True, False), (True, False),
                         verdict.Writer, UNRECORDED, (True, False),
                         (True, False))]


def _expected(found):
    if found.is_published and found.is_recorded:
        return HAND_OVER
    if found.writer is ALIVE or not found.is_ours:
        return LEAVE
    # Of what is only spoken of nobody can be shut out; nor is there anything
    # of it that could be lost.
    if not found.is_written:
        if found.status == 'unknown':
            return REMOVE
        if found.writer not in GONE:
            return LEAVE
    row = (UNRECORDED if found.writer in GONE else UNSURELY)[found.status]
    awaited, not_awaited = row[2:] if found.is_published else row[:2]
    return awaited if found.is_awaited else not_awaited


def _judged(*verdicts):
    return [found for found in EVERYTHING
            if verdict.judge(found) in verdicts]


@pytest.mark.parametrize('status', UNRECORDED)
def test_every_case_is_judged_as_the_table_says(status):
    cases = [found for found in EVERYTHING if found.status == status]
    assert len(cases) == 160
    assert {found: verdict.judge(found) for found in cases} == {
        found: _expected(found) for found in cases}


def test_the_table_has_every_status_of_glance():
    assert {*UNRECORDED} == {*api.STATUSES, 'unknown'}


def test_the_cases_are_all_there_are():
    """One more field, or one more thing to know of a writer, is missed."""
    assert verdict.Evidence._fields == (
        'is_ours', 'is_published', 'is_recorded', 'writer', 'status',
        'is_awaited', 'is_written')
    assert {*verdict.Writer} == {ALIVE, *UNSURE, *GONE}
    assert len(EVERYTHING) == len({*EVERYTHING}) == 2 ** 5 * 5 * 10


def test_each_verdict_is_given():
    assert {verdict.judge(found) for found in EVERYTHING} == {
        *verdict.Verdict}


# What must never happen, whatever the table says

def test_nothing_recorded_and_published_is_ever_touched():
    for found in _judged(REMOVE, FENCE):
        assert not (found.is_recorded and found.is_published)


def test_all_that_is_recorded_and_published_is_handed_over():
    assert _judged(HAND_OVER) == [
        found for found in EVERYTHING
        if found.is_recorded and found.is_published]


def test_nothing_of_a_living_writer_is_touched():
    for found in _judged(REMOVE, FENCE):
        assert found.writer is not ALIVE


def test_nothing_of_another_deployment_is_touched():
    for found in _judged(REMOVE, FENCE):
        assert found.is_ours


def test_what_is_not_said_to_be_only_begun_is_taken_for_written():
    found = verdict.Evidence(True, False, False, verdict.Writer.DEAD,
                             'unknown', False)
    assert verdict.judge(found) is LEAVE


def test_nothing_of_an_image_that_glance_does_not_know_is_touched():
    for found in _judged(REMOVE, FENCE):
        assert found.status != 'unknown' or not found.is_written


@pytest.mark.parametrize('status', ['active', 'deactivated'])
def test_published_data_of_an_active_image_is_never_touched(status):
    for found in _judged(REMOVE, FENCE):
        assert found.status != status or not found.is_published


def test_what_glance_may_yet_record_is_never_removed_at_once():
    for found in _judged(REMOVE):
        assert not found.is_published or found.status not in (
            'saving', 'importing', 'uploading')


def test_glance_is_kept_only_from_recording_what_it_waits_for():
    """Else it would be kept from recording what another one writes."""
    for found in _judged(FENCE):
        assert found.is_awaited
        assert found.status in ('saving', 'importing')


def test_only_what_has_its_name_is_handed_over():
    for found in _judged(HAND_OVER):
        assert found.is_published


def test_what_glance_waits_for_is_not_removed_before_it_was_told():
    """Also without a name: its writer could have both in one moment."""
    for found in _judged(REMOVE):
        assert not found.is_awaited or found.status not in (
            'saving', 'importing')


def test_what_is_complete_is_kept_from_nobody_who_may_only_sleep():
    """One who wakes would have it recorded, were it not for that."""
    for found in _judged(FENCE):
        assert not found.is_published or found.writer in GONE


def _judged_by(writer):
    return {found._replace(writer=None): verdict.judge(found)
            for found in EVERYTHING if found.writer is writer}


@pytest.mark.parametrize('alike', [UNSURE, GONE])
def test_why_a_writer_is_thought_to_be_so_makes_no_difference(alike):
    """Before anything is removed, any of them is shut out of the store."""
    one, other = alike
    assert one is not other
    assert _judged_by(one) == _judged_by(other)


def test_the_more_is_known_of_a_writer_the_more_may_be_done():
    unsure, gone = _judged_by(UNSURE[0]), _judged_by(GONE[0])
    changed = {found for found in gone if gone[found] is not unsure[found]
               and found.is_written}
    assert {(unsure[found], gone[found]) for found in changed} == {
        (LEAVE, FENCE)}
    assert {found.status for found in changed} == {'saving', 'importing'}
