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


import itertools
import threading

import pytest

from glance_conversion_plugins.copying import watchdog
from glance_conversion_plugins import errors

# Turns a hang into a failure; nothing waits for so long.
_HANG = 60


@pytest.fixture(autouse=True)
def no_thread_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def _never():
    raise AssertionError('interrupted')


def test_no_interrupt_while_the_state_moves():
    """For several times as long as it would wait otherwise."""
    interrupted, looks = threading.Event(), itertools.count()
    enough = threading.Event()

    def state():
        found = next(looks)
        if found == 16:
            enough.set()
        return found

    with watchdog.watch(state, interrupted.set, 0.2):
        assert enough.wait(_HANG)
    assert not interrupted.is_set()


def test_a_state_that_moves_now_and_then():
    """It may stand still for less than the whole time, again and again."""
    interrupted, looks = threading.Event(), itertools.count()
    enough = threading.Event()

    def state():
        found = next(looks)
        if found == 12:
            enough.set()
        return found // 2

    with watchdog.watch(state, interrupted.set, 0.4):
        assert enough.wait(_HANG)
    assert not interrupted.is_set()


def test_interrupts_what_does_not_move(caplog):
    interrupted = threading.Event()
    with pytest.raises(errors.Stalled, match='nothing moved') as caught:
        with watchdog.watch(lambda: 7, interrupted.set, 0.2):
            assert interrupted.wait(_HANG)
            raise errors.SourceFailed('interrupted')
    assert isinstance(caught.value.__cause__, errors.SourceFailed)
    assert 'No progress' in caplog.text


def test_interrupts_what_moves_no_more():
    interrupted, looks = threading.Event(), itertools.count()
    with pytest.raises(errors.Stalled):
        with watchdog.watch(lambda: min(next(looks), 3), interrupted.set,
                            0.2):
            assert interrupted.wait(_HANG)
            raise errors.Cancelled('interrupted')
    assert next(looks) > 3


def test_interrupts_once():
    interrupted, calls = threading.Event(), []

    def interrupt():
        calls.append(None)
        interrupted.set()

    with pytest.raises(errors.Stalled):
        with watchdog.watch(lambda: 7, interrupt, 0.05):
            assert interrupted.wait(_HANG)
            # Time for it to do so again, as the block takes its own to end.
            assert not threading.Event().wait(0.2)
            raise errors.Cancelled('interrupted')
    assert len(calls) == 1


@pytest.mark.parametrize('error', [KeyError, errors.DamagedImage,
                                   KeyboardInterrupt])
def test_other_errors_pass(error):
    with pytest.raises(error):
        with watchdog.watch(lambda: 7, _never, 60):
            raise error


def test_ends_with_the_block():
    """Without waiting for its next look."""
    with watchdog.watch(lambda: 7, _never, 3600):
        assert any(t.name == 'watchdog' for t in threading.enumerate())
