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


import pytest

from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins import units


class FakeTime:
    """A clock that moves when told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return FakeTime()


@pytest.fixture
def progress(time):
    return progress_.Progress(time)


@pytest.mark.parametrize(('size', 'expected'), [
    (0, '0 B'),
    (1023, '1023 B'),
    (1024, '1 KiB'),
    (64 << 10, '64 KiB'),
    (1 << 20, '1 MiB'),
    (512 << 20, '512 MiB'),
    (1 << 30, '1.0 GiB'),
    (10 << 30, '10.0 GiB'),
    (5 << 39, '2560.0 GiB'),
])
def test_amount(size, expected):
    assert units.amount(size) == expected


@pytest.mark.parametrize(('seconds', 'expected'), [
    (0, '0 s'),
    (0.4, '0 s'),
    (59.4, '59 s'),
    (59.6, '1 min 00 s'),
    (61, '1 min 01 s'),
    (3599, '59 min 59 s'),
    (3599.9, '1 h 00 min'),
    (7260, '2 h 01 min'),
])
def test_duration(seconds, expected):
    assert units.duration(seconds) == expected


def test_begins_with_preparing(progress, time):
    time.now += 5
    assert str(progress) == 'Preparing, 5 s so far'


def test_phase_without_a_total(progress, time):
    time.now += 100
    progress.enter('Checking the image')
    time.now += 2
    assert str(progress) == 'Checking the image, 2 s so far'


def test_nothing_done_yet(progress, time):
    progress.enter('Converting', 10 << 30)
    time.now += 3
    assert str(progress) == ('Converting: 0% (0 B of 10.0 GiB), 3 s so far')


def test_time_left_follows_from_the_time_spent_in_the_phase(progress, time):
    time.now += 1000
    progress.enter('Converting', 4 << 30)
    progress.advance(1 << 30)
    progress.wrote(3 << 20)
    time.now += 30
    assert str(progress) == ('Converting: 25% (1.0 GiB of 4.0 GiB, 3 MiB '
                             'written), about 1 min 30 s left')


def test_percent_is_100_only_at_the_end(progress, time):
    progress.enter('Converting', 1000)
    progress.advance(999)
    assert '99%' in str(progress)
    progress.advance(1)
    assert '100%' in str(progress)
    assert 'about 0 s left' in str(progress)


def test_phase_starts_over_and_keeps_what_was_written(progress, time):
    progress.enter('Converting', 100)
    progress.advance(50)
    progress.wrote(10)
    progress.enter('Computing digests', 100)
    assert str(progress).startswith('Computing digests: 0%')
    assert progress.written == 10


def test_another_program_says_how_far_it_is(progress, time):
    progress.enter('Converting', 4 << 30)
    progress.reach(1 << 30, 2 << 20)
    progress.reach(2 << 30, 3 << 20)
    time.now += 30
    assert str(progress) == ('Converting: 50% (2.0 GiB of 4.0 GiB, 3 MiB '
                             'written), about 30 s left')
    assert progress.written == 3 << 20


def test_position_changes_with_every_step(progress):
    seen = [progress.position()]
    for step in (lambda: progress.advance(1), lambda: progress.wrote(1),
                 lambda: progress.reach(2, 1), lambda: progress.reach(2, 2)):
        step()
        seen.append(progress.position())
    assert seen == [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2)]


def test_position_does_not_change_with_time(progress, time):
    progress.advance(1)
    before = progress.position()
    time.now += 100
    assert progress.position() == before


def test_elapsed_covers_all_phases(progress, time):
    time.now += 7
    progress.enter('Converting', 100)
    time.now += 8
    assert progress.elapsed == 15


def test_clock_adds_up_stages(time):
    clock = progress_.Clock(time)
    for stage, spent in (('read', 1), ('write', 2), ('read', 0.5)):
        with clock.run(stage):
            time.now += spent
    assert str(clock) == 'read 1.50 s, write 2.00 s'


def test_clock_counts_parallel_stages_each_for_itself(time):
    clock = progress_.Clock(time)
    with clock.run('outer'):
        time.now += 1
        with clock.run('inner'):
            time.now += 2
    assert str(clock) == 'inner 2.00 s, outer 3.00 s'


def test_clock_counts_stages_that_fail(time):
    clock = progress_.Clock(time)
    with pytest.raises(KeyError):
        with clock.run('read'):
            time.now += 4
            raise KeyError
    assert str(clock) == 'read 4.00 s'
