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

"""Names of images that are not yet Glance's, and whose they are."""

import itertools
import uuid

import pytest

from glance_conversion_plugins.external import marks

IMAGE = '11111111-2222-3333-4444-555555555555'
TASK = 'aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee'
DEPLOYMENT = '0123abcd'

STATES = ['partial', 'sealed', 'replaced', 'removed', 'unsealed']

MARK = marks.Mark(IMAGE, TASK, DEPLOYMENT)
# Of a version that did not say whose it is.
OLD = marks.Mark(IMAGE, TASK)


@pytest.mark.parametrize('state', STATES)
def test_a_name_says_whose_an_image_is_and_what_is_done_with_it(state):
    assert MARK.name(state) == f'{IMAGE}.{TASK}.{DEPLOYMENT}.{state}'
    assert OLD.name(state) == f'{IMAGE}.{TASK}.{state}'


def test_the_states_have_names_of_their_own():
    assert sorted(STATES) == sorted([
        marks.PARTIAL, marks.SEALED, marks.REPLACED, marks.REMOVED,
        marks.UNSEALED])


@pytest.mark.parametrize('state', STATES)
@pytest.mark.parametrize('mark', [
    MARK, OLD, marks.Mark(str(uuid.uuid4()), str(uuid.uuid4()), 'ffffffff'),
    # Tasks have other ids in tests, and might elsewhere.
    marks.Mark(IMAGE, '0123abcd'), marks.Mark(IMAGE, '0123abcd', '0123abcd'),
    marks.Mark(IMAGE, '1', DEPLOYMENT)])
def test_a_name_is_read_as_it_was_written(mark, state):
    found = marks.parse(mark.name(state), state)
    assert found == mark
    assert found.name(state) == mark.name(state)


def test_the_host_is_not_part_of_a_name():
    mark = MARK._replace(host='node1')
    assert mark.name(marks.PARTIAL) == MARK.name(marks.PARTIAL)
    assert marks.parse(mark.name(marks.PARTIAL), marks.PARTIAL).host == ''


@pytest.mark.parametrize(('written', 'asked'),
                         itertools.product(STATES, STATES))
def test_only_states_that_are_asked_for_are_found(written, asked):
    for mark in (MARK, OLD):
        found = marks.parse(mark.name(written), asked)
        assert found == (mark if written == asked else None)


def test_several_states_may_be_asked_for():
    for state in STATES:
        assert marks.parse(MARK.name(state), *STATES) == MARK
        assert marks.parse(MARK.name(state)) is None


@pytest.mark.parametrize('name', [
    '', '.', 'partial', '.partial', IMAGE, f'{IMAGE}.partial',
    f'{IMAGE}..partial', f'{IMAGE}.{TASK}', f'{IMAGE}.{TASK}.{DEPLOYMENT}',
    f'{IMAGE}.{TASK}.', f'{IMAGE}.{TASK}.{DEPLOYMENT}.',
    f'{IMAGE}.{TASK}..partial', f'{IMAGE}.{TASK}.partial.partial',
    f'{IMAGE}.{TASK}.{DEPLOYMENT}.{DEPLOYMENT}.partial',
    # Neither of our length nor of our digits.
    f'{IMAGE}.{TASK}.0123abc.partial', f'{IMAGE}.{TASK}.0123abcde.partial',
    f'{IMAGE}.{TASK}.0123ABCD.partial', f'{IMAGE}.{TASK}.node0001.partial',
    f'{IMAGE[:-1]}.{TASK}.partial', f'{IMAGE}1.{TASK}.partial',
    f'{IMAGE.replace("1", "A")}.{TASK}.partial',
    f'{IMAGE}.{TASK.upper()}.partial', f'{IMAGE}.task.partial',
    # Hidden, as files are; whoever lists them takes the dot off.
    f'.{IMAGE}.{TASK}.partial', f' {IMAGE}.{TASK}.partial',
    f'{IMAGE}.{TASK}.partial ', f'{IMAGE}.{TASK}.partial\n',
    f'x{IMAGE}.{TASK}.partial', f'{IMAGE}.{TASK}.partial~',
    f'{IMAGE}/{TASK}.partial', f'{IMAGE}.../x.partial',
    f'{IMAGE}.{TASK}.PARTIAL', f'{IMAGE}.{TASK}.unknown',
    f'{IMAGE}.{TASK}.partial|sealed', f'{IMAGE}.{TASK}.un'
    ])
def test_other_names_are_nobodys(name):
    assert marks.parse(name, *STATES) is None


def test_marks_of_one_writer_are_the_same_wherever_they_were_read():
    assert MARK.is_same(MARK._replace(host='node1'))
    assert MARK._replace(host='node2').is_same(MARK._replace(host='node1'))


@pytest.mark.parametrize('other', [
    MARK._replace(image_id=IMAGE.replace('1', '9')),
    MARK._replace(task_id=TASK.replace('a', 'f')),
    MARK._replace(deployment='ffffffff'), OLD])
def test_marks_of_different_writers_are_not_the_same(other):
    assert not MARK.is_same(other)
    assert not other.is_same(MARK)


@pytest.mark.parametrize(('name', 'expected'), [
    (IMAGE, True), (str(uuid.uuid4()), True), (IMAGE + '1', False),
    (IMAGE[:-1], False), (IMAGE.replace('-', ''), False), ('x', False),
    (TASK.upper(), False), (IMAGE + '\n', False),
    (MARK.name(marks.PARTIAL), False)])
def test_published_images_have_the_names_of_images(name, expected):
    assert bool(marks.UUID.fullmatch(name)) is expected
