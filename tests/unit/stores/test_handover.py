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

"""What was published is watched until a real database of Glance settles it."""

import logging
import threading
import time
import uuid

import pytest

from glance_conversion_plugins.copying import sinks
from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.stores import handover
from tests.unit import databases
from tests.unit import fakes

# Statuses that do not say what will become of an image.
OPEN = ['importing', 'saving', 'uploading', 'active', 'deactivated']

# And those with which it is lost, as they are set.
OVER = ['queued', 'killed', 'pending_delete']


@pytest.fixture(autouse=True)
def database(tmp_path):
    with databases.glance_database(tmp_path / 'glance.sqlite'):
        yield


@pytest.fixture(autouse=True)
def watching(database, monkeypatch):
    """Begins with nothing, looks often, and leaves no thread behind."""
    before = set(threading.enumerate())
    watching = {}
    monkeypatch.setattr(handover, '_watches', watching)
    monkeypatch.setattr(handover, '_FIRST_SECONDS', 0.01)
    monkeypatch.setattr(handover, '_LAST_SECONDS', 0.03)
    yield watching
    for watch in watching.values():
        with watch._lock:
            watch._waiting.clear()
            watch._changed.set()
    _await(lambda: set(threading.enumerate()) <= before)


@pytest.fixture(autouse=True)
def over(monkeypatch):
    """Requests that have ended; Glance still answers all others."""
    ended = set()
    monkeypatch.setattr(compat, 'is_under_way', lambda work: work not in ended)
    return ended


@pytest.fixture
def looks(monkeypatch):
    """The number of looks at the database, as the length of a list."""
    looks, status = [], records.status

    def counted(image_id):
        looks.append(image_id)
        return status(image_id)

    monkeypatch.setattr(records, 'status', counted)
    return looks


def _await(condition):
    deadline = time.monotonic() + 150
    while not condition():
        assert time.monotonic() < deadline, 'it never came'
        time.sleep(0.005)


def _url(image_id, store='ceph'):
    return f'rbd://fsid/{store}/{image_id}/snap'


def _image(status='importing', recorded=False):
    """Record an image; returns its id."""
    image_id = str(uuid.uuid4())
    compat.database().image_create(compat.admin_context(), {
        'id': image_id, 'status': status, 'visibility': 'private',
        'owner': 'somebody', 'min_disk': 0, 'min_ram': 0, 'size': 5,
        'disk_format': 'raw', 'container_format': 'bare', 'properties': {}})
    if recorded:
        _record(image_id)
    return image_id


def _record(image_id, url=None):
    compat.database().image_location_add(compat.admin_context(), image_id, {
        'url': url or _url(image_id), 'metadata': {'store': 'ceph'},
        'status': 'active'})


def _set_status(image_id, status):
    compat.database().image_update(compat.admin_context(), image_id,
                                   {'status': status})


def _delete(image_id):
    _set_status(image_id, 'deleted')
    compat.database().image_destroy(compat.admin_context(), image_id)


def _watch(image_id, store='ceph', request=None, sink=None, since=None,
           **options):
    sink = sink or fakes.FakeSink(**options)
    handover.watch(handover.Published(
        store, image_id, request, _url(image_id, store), sink,
        time.monotonic() if since is None else since))
    return sink


def _look_again(looks, times=3):
    """Wait until everything has been looked at so often."""
    before = len(looks)
    _await(lambda: len(looks) >= before + times)


def _has_ended(watching):
    return not _threads() and all(
        watch._thread is None for watch in watching.values())


def _threads():
    return [thread for thread in threading.enumerate()
            if thread.name == 'hand over']


def test_the_fake_has_all_that_a_sink_of_a_store_has():
    names = {name for each in (sinks.Sink, sinks.StoredSink)
             for name in vars(each) if not name.startswith('_')}
    assert {'hand_over', 'release', 'abort', 'is_held'} <= names
    assert names <= {*dir(fakes.FakeSink)}


# Recorded

def test_what_is_recorded_is_handed_over_once(watching):
    sink = _watch(_image('active', recorded=True))
    _await(lambda: _has_ended(watching))
    assert sink.calls == [('hand_over',)]


@pytest.mark.parametrize('status', [*OPEN, *OVER])
def test_what_is_recorded_is_handed_over_whatever_the_status(watching,
                                                             status):
    sink = _watch(_image(status, recorded=True))
    _await(lambda: _has_ended(watching))
    assert sink.names() == ['hand_over']


def test_what_is_recorded_later_is_waited_for(watching, looks):
    image_id = _image('importing')
    sink = _watch(image_id)
    _look_again(looks)
    assert sink.calls == []
    _record(image_id)
    _await(lambda: _has_ended(watching))
    assert sink.names() == ['hand_over']


def test_the_url_counts_and_not_the_image(watching, looks):
    """Another location of the same image is another store's."""
    image_id, other = _image('active'), _image('active')
    _record(image_id, _url(image_id, 'far'))
    sink = _watch(image_id)
    _look_again(looks)
    assert sink.calls == []
    _record(other, _url(image_id))
    _await(lambda: _has_ended(watching))
    assert sink.names() == ['hand_over']


def test_each_store_of_an_image_is_watched_for_itself(watching, looks):
    image_id = _image('importing')
    near, far = _watch(image_id, 'near'), _watch(image_id, 'far')
    _record(image_id, _url(image_id, 'near'))
    _await(near.names)
    _look_again(looks)
    assert far.calls == []
    _set_status(image_id, 'queued')
    _await(lambda: _has_ended(watching))
    assert (near.names(), far.names()) == (['hand_over'], ['abort'])


# Given up

@pytest.mark.parametrize('status', OVER)
def test_what_can_not_be_recorded_any_more_is_removed(watching, looks,
                                                      status):
    image_id = _image('importing')
    sink = _watch(image_id)
    _look_again(looks)
    _set_status(image_id, status)
    _await(lambda: _has_ended(watching))
    assert sink.calls == [('abort',)]


def test_what_was_deleted_before_it_was_recorded_is_removed(watching, looks):
    image_id = _image('saving')
    sink = _watch(image_id)
    _look_again(looks)
    _delete(image_id)
    _await(lambda: _has_ended(watching))
    assert sink.calls == [('abort',)]


def test_what_was_recorded_and_deleted_at_once_is_removed(watching):
    image_id = _image('active', recorded=True)
    _delete(image_id)
    sink = _watch(image_id)
    _await(lambda: _has_ended(watching))
    assert sink.calls == [('abort',)]


@pytest.mark.parametrize('status', OPEN)
def test_what_may_yet_be_recorded_is_left_alone(watching, looks, status):
    sink = _watch(_image(status))
    _look_again(looks, 5)
    assert sink.calls == []
    assert not _has_ended(watching)


def test_what_glance_does_not_know_is_left_alone(looks):
    sink = _watch(str(uuid.uuid4()))
    _look_again(looks, 5)
    assert sink.calls == []


# A database that is away

@pytest.mark.parametrize('asked', ['status', 'is_recorded'])
@pytest.mark.parametrize(('recorded', 'expected'), [
    (True, 'hand_over'), (False, 'abort')])
def test_while_the_database_is_away_nothing_is_lost(
        watching, monkeypatch, caplog, asked, recorded, expected):
    tried, back, answer = [], threading.Event(), getattr(records, asked)

    def away(name):
        tried.append(name)
        if not back.is_set():
            raise OSError('away')
        return answer(name)

    monkeypatch.setattr(records, asked, away)
    image_id = _image('queued', recorded)
    sink = _watch(image_id)
    _await(lambda: len(tried) >= 5)
    assert sink.calls == []
    assert f'Image {image_id}: whether it is recorded' in caplog.text
    back.set()
    _await(lambda: _has_ended(watching))
    assert sink.calls == [(expected,)]


def test_while_one_image_can_not_be_judged_others_are(watching, monkeypatch):
    status, strange = records.status, _image('active', recorded=True)

    def some(image_id):
        if image_id == strange:
            raise ValueError('strange')
        return status(image_id)

    monkeypatch.setattr(records, 'status', some)
    stays, goes = _watch(strange), _watch(_image('active', recorded=True))
    _await(goes.names)
    assert stays.calls == []
    monkeypatch.setattr(records, 'status', status)
    _await(lambda: _has_ended(watching))
    assert stays.names() == goes.names() == ['hand_over']


# A sink that fails

@pytest.mark.parametrize('error', [
    errors.Fenced(), errors.SinkFailed('no answer'), ZeroDivisionError()])
def test_what_can_not_be_handed_over_is_told_and_left(watching, caplog,
                                                      error):
    image_id = _image('active', recorded=True)
    with caplog.at_level(logging.ERROR):
        sink = _watch(image_id, fail_at={'hand_over': error})
        _await(lambda: _has_ended(watching))
    assert sink.calls == [('hand_over',)]
    assert f'Image {image_id} is not settled in store ceph' in caplog.text


def test_what_was_taken_from_its_writer_stops_nothing_else(watching):
    fenced = _watch(_image('active', recorded=True),
                    fail_at={'hand_over': errors.Fenced()})
    other = _watch(_image('active', recorded=True))
    _await(lambda: _has_ended(watching))
    later = _watch(_image('active', recorded=True))
    _await(lambda: _has_ended(watching))
    assert [each.names() for each in (fenced, other, later)] == [
        ['hand_over']] * 3


# Let go

def test_what_is_let_go_keeps_its_mark(watching, looks):
    image_id = _image('importing')
    sink = _watch(image_id)
    _look_again(looks)
    assert handover.release('ceph', image_id, 'delete') is False
    assert sink.calls == [('release',)]
    _record(image_id)
    _await(lambda: _has_ended(watching))
    assert sink.calls == [('release',)]


def test_only_one_store_of_one_image_is_let_go(watching, looks):
    image_id, other = _image('importing'), _image('importing')
    sink = _watch(image_id)
    elsewhere, another = _watch(image_id, 'far'), _watch(other)
    handover.release('ceph', image_id, 'delete')
    handover.release('ceph', image_id, 'delete')
    handover.release('ceph', str(uuid.uuid4()), 'delete')
    handover.release(None, image_id, 'delete')
    assert sink.names() == ['release']
    _record(image_id, _url(image_id, 'far'))
    _record(other)
    _await(lambda: _has_ended(watching))
    assert elsewhere.names() == another.names() == ['hand_over']


def test_a_store_without_a_name_is_let_go_too(watching, looks):
    image_id = _image('importing')
    sink = _watch(image_id, None)
    _look_again(looks)
    handover.release('', image_id, 'delete')
    assert sink.calls == []
    handover.release(None, image_id, 'delete')
    assert sink.names() == ['release']


def test_what_is_let_go_while_it_is_judged_is_only_let_go(watching,
                                                          monkeypatch):
    """The image is about to be deleted, and nobody else may touch it."""
    reached, going_on = threading.Event(), threading.Event()
    is_recorded = records.is_recorded

    def slow(url):
        found = is_recorded(url)
        reached.set()
        assert going_on.wait(60)
        return found

    monkeypatch.setattr(records, 'is_recorded', slow)
    image_id = _image('active', recorded=True)
    sink = _watch(image_id)
    assert reached.wait(60)
    handover.release('ceph', image_id, 'delete')
    going_on.set()
    _await(lambda: _has_ended(watching))
    assert sink.calls == [('release',)]


# Deleted by the request that published it, or by another one

def test_what_a_request_published_it_removes_itself(watching, looks):
    image_id = _image('saving')
    sink = _watch(image_id, request='req-1')
    _look_again(looks)
    assert handover.release('ceph', image_id, 'req-1') is True
    assert sink.calls == [('abort',)]
    _record(image_id)
    _await(lambda: _has_ended(watching))
    assert sink.calls == [('abort',)]


@pytest.mark.parametrize(('published_by', 'deleted_by'), [
    ('req-1', 'req-2'), ('req-1', None), (None, 'req-1'), (None, None)])
def test_what_another_request_published_is_only_let_go(watching, published_by,
                                                       deleted_by):
    """Requests without an id are not taken for one."""
    image_id = _image('active')
    sink = _watch(image_id, request=published_by)
    assert handover.release('ceph', image_id, deleted_by) is False
    _await(lambda: _has_ended(watching))
    assert sink.calls == [('release',)]


def test_of_two_only_its_own_is_removed_by_a_request(watching):
    image_id = _image('saving')
    first = _watch(image_id, request='req-1')
    second = _watch(image_id, request='req-2')
    assert handover.release('ceph', image_id, 'req-1') is True
    assert (first.calls, second.calls) == ([('abort',)], [('release',)])
    _await(lambda: _has_ended(watching))


def test_what_a_request_published_elsewhere_is_not_removed_here(watching,
                                                                looks):
    image_id = _image('saving')
    far = _watch(image_id, 'far', request='req-1')
    assert handover.release('ceph', image_id, 'req-1') is False
    _look_again(looks)
    assert far.calls == []


def _lost(watching, request, **options):
    """What ended otherwise than by being handed over; returns its id."""
    image_id = options.pop('image_id', None) or _image('queued')
    _watch(image_id, request=request, **options)
    _await(lambda: _has_ended(watching))
    return image_id


def test_who_had_lost_an_image_has_nothing_more_to_delete(watching):
    """By its URL there may be another upload's by now."""
    image_id = _lost(watching, 'req-1')
    assert handover.release('ceph', image_id, 'req-1') is True
    # Again, as Glance does for each location that it knows of.
    assert handover.release('ceph', image_id, 'req-1') is True


@pytest.mark.parametrize('error', [
    errors.Fenced(), errors.SinkFailed('no answer')])
def test_what_could_not_be_handed_over_counts_as_lost(watching, error):
    image_id = _lost(watching, 'req-1', fail_at={'hand_over': error},
                     image_id=_image('active', recorded=True))
    assert handover.release('ceph', image_id, 'req-1') is True


def test_what_was_handed_over_does_not_count_as_lost(watching):
    image_id = _image('active', recorded=True)
    _watch(image_id, request='req-1')
    _await(lambda: _has_ended(watching))
    assert handover.release('ceph', image_id, 'req-1') is False


def test_what_a_request_has_lost_counts_for_that_one_and_there_only(watching):
    image_id = _lost(watching, 'req-1')
    assert handover.release('ceph', image_id, 'req-2') is False
    assert handover.release('ceph', image_id, None) is False
    assert handover.release('ceph', _image('queued'), 'req-1') is False
    assert handover.release('far', image_id, 'req-1') is False
    assert handover.release('ceph', image_id, 'req-1') is True


def test_what_no_request_published_is_lost_for_none(watching):
    image_id = _lost(watching, None)
    assert handover.release('ceph', image_id, None) is False


def test_who_has_lost_one_image_lets_go_of_a_later_one(watching):
    image_id = _lost(watching, 'req-1')
    _set_status(image_id, 'saving')
    later = _watch(image_id, request='req-2')
    assert handover.release('ceph', image_id, 'req-1') is True
    assert later.calls == [('release',)]


def test_not_everything_that_was_ever_lost_is_remembered(watching,
                                                         monkeypatch):
    monkeypatch.setattr(handover, '_REMEMBERED', 2)
    ids = [_lost(watching, 'req-1') for _ in range(3)]
    assert [handover.release('ceph', each, 'req-1') for each in ids] == [
        False, True, True]


# What is being settled

class _Slow(fakes.FakeSink):
    """Waits at a call until it is told to go on."""

    def __init__(self, at, **options):
        super().__init__(**options)
        self._at = at
        self.reached, self.going_on = threading.Event(), threading.Event()

    def _called(self, name, *arguments):
        if name == self._at:
            self.reached.set()
            assert self.going_on.wait(60)
        super()._called(name, *arguments)


def _slow(at, image_id, **options):
    sink = _watch(image_id, sink=_Slow(at, **options.pop('fails', {})),
                  **options)
    assert sink.reached.wait(60)
    return sink


def _released(image_id, request):
    """Release by another thread; returns it and where its answer will be."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(
        handover.release('ceph', image_id, request)))
    thread.start()
    return thread, answers


@pytest.mark.parametrize(('at', 'options', 'expected'), [
    ('hand_over', {}, False),
    ('hand_over', {'fails': {'fail_at': {'hand_over': errors.Fenced()}}},
     True),
    ('abort', {}, True)])
def test_who_deletes_waits_for_the_end_of_what_is_being_settled(
        watching, at, options, expected):
    image_id = (_image('active', recorded=True) if at == 'hand_over'
                else _image('queued'))
    sink = _slow(at, image_id, request='req-1', **options)
    thread, answers = _released(image_id, 'req-1')
    thread.join(0.1)
    assert answers == []
    sink.going_on.set()
    thread.join(60)
    assert answers == [expected]
    assert sink.names() == [at]


def test_who_deletes_does_not_wait_for_ever(watching, monkeypatch):
    monkeypatch.setattr(handover, '_SETTLED_SECONDS', 0.01)
    image_id = _image('queued')
    slow = _slow('abort', image_id)
    waiting = _watch(_image('importing'))
    with pytest.raises(errors.SinkFailed, match='did not answer in time'):
        handover.release('ceph', image_id, 'req-1')
    slow.going_on.set()
    _await(slow.names)
    assert waiting.calls == []
    assert handover.release('ceph', image_id, 'req-1') is False


def test_a_store_that_hangs_keeps_nothing_in_another_one_waiting(watching):
    hung = _slow('abort', _image('queued'), store='hung')
    image_id, deleted = _image('active', recorded=True), _image('active')
    sink, other = _watch(image_id), _watch(deleted)
    _await(sink.names)
    assert handover.release('ceph', deleted, 'delete') is False
    assert other.names() == ['release']
    hung.going_on.set()
    _await(lambda: _has_ended(watching))


# What is never decided

def test_what_stays_undecided_for_a_day_is_left_with_its_mark(watching):
    day = 24 * 3600
    image_id = _image('importing')
    old = _watch(image_id, since=time.monotonic() - day - 1, request='req-1')
    _await(lambda: _has_ended(watching))
    assert old.calls == [('release',)]
    # Nobody has lost it: it may still be recorded.
    assert handover.release('ceph', image_id, 'req-1') is False


def test_until_then_it_is_waited_for(watching, looks):
    sink = _watch(_image('importing'),
                  since=time.monotonic() - 24 * 3600 + 600)
    _look_again(looks, 5)
    assert sink.calls == []


@pytest.mark.parametrize(('status', 'recorded', 'expected'), [
    ('active', True, 'hand_over'), ('queued', False, 'abort')])
def test_what_is_decided_at_last_is_settled_however_late(
        watching, status, recorded, expected):
    sink = _watch(_image(status, recorded), since=time.monotonic() - 10**6)
    _await(lambda: _has_ended(watching))
    assert sink.names() == [expected]


# Many at once

def test_many_images_are_settled_each_as_it_is(watching):
    recorded = [_watch(_image('active', recorded=True)) for _ in range(15)]
    given_up = [_watch(_image('queued')) for _ in range(15)]
    waiting_ids = [_image('importing') for _ in range(15)]
    waiting = [_watch(image_id) for image_id in waiting_ids]
    _await(lambda: all(each.calls for each in recorded + given_up))
    assert [each.calls for each in waiting] == [[]] * 15
    for image_id in waiting_ids:
        _record(image_id)
    _await(lambda: _has_ended(watching))
    assert {tuple(each.names()) for each in recorded + waiting} == {
        ('hand_over',)}
    assert {tuple(each.names()) for each in given_up} == {('abort',)}


def test_of_two_that_wrote_one_image_each_is_seen_to(watching, looks):
    """The first was given up, and another one came before that was seen."""
    image_id = _image('importing')
    first, second = _watch(image_id), _watch(image_id)
    _look_again(looks, 4)
    assert first.calls == second.calls == []
    _record(image_id)
    _await(lambda: _has_ended(watching))
    assert first.names() == second.names() == ['hand_over']


@pytest.mark.parametrize('refused', [0, 1])
def test_of_two_that_wrote_one_image_none_ends_with_the_other(watching, looks,
                                                              refused):
    """One of them was taken from its writer."""
    image_id = _image('importing')
    failing = {'fail_at': {'hand_over': errors.Fenced()}}
    sinks_ = [_watch(image_id, **failing if number == refused else {})
              for number in range(2)]
    _look_again(looks, 4)
    _record(image_id)
    _await(lambda: _has_ended(watching))
    assert [each.names() for each in sinks_] == [['hand_over']] * 2


# The thread

def test_one_thread_watches_a_store_and_ends_with_it(watching, looks):
    assert _threads() == []
    ids = [_image('importing') for _ in range(3)]
    found = [_watch(image_id) for image_id in ids]
    _look_again(looks)
    thread, = _threads()
    assert thread.daemon
    for image_id in ids:
        assert _threads() == [thread]
        _record(image_id)
    _await(lambda: _has_ended(watching))
    assert not thread.is_alive()
    assert [each.names() for each in found] == [['hand_over']] * 3


def test_each_store_has_a_thread_of_its_own(watching, looks):
    image_id = _image('importing')
    for store in ('near', 'far', None):
        _watch(image_id, store)
    assert len(_threads()) == 3
    _set_status(image_id, 'queued')
    _await(lambda: _has_ended(watching))


def test_another_image_begins_another_thread(watching):
    for _ in range(3):
        sink = _watch(_image('active', recorded=True))
        _await(lambda: _has_ended(watching))
        assert sink.names() == ['hand_over']


def test_a_new_image_is_not_kept_waiting_by_an_old_one(monkeypatch, looks):
    monkeypatch.setattr(handover, '_FIRST_SECONDS', 3600)
    monkeypatch.setattr(handover, '_LAST_SECONDS', 3600)
    old = _watch(_image('importing'))
    _look_again(looks, 1)
    new = _watch(_image('active', recorded=True))
    _await(new.names)
    assert old.calls == []


@pytest.fixture
def pauses(watching, monkeypatch):
    """How long it was waited between two looks, which takes no time here."""
    class Noting(threading.Event):
        def wait(self, timeout=None):
            pauses.append(timeout)
            return super().wait(0.001)

    pauses = []
    monkeypatch.setattr(handover, '_FIRST_SECONDS', 0.2)
    monkeypatch.setattr(handover, '_LAST_SECONDS', 5)
    handover._watch_of('ceph')._changed = Noting()
    return pauses


def test_the_longer_nothing_comes_the_more_seldom_it_is_looked_for(pauses):
    _watch(_image('importing'))
    _await(lambda: pauses[-1:] == [5])
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.5
    assert pauses.index(5) < 12
    before = len(pauses)
    _watch(_image('importing'))
    _await(lambda: any(pause < 0.5 for pause in pauses[before:]))


def test_what_comes_between_waiting_and_looking_is_soon_looked_for_again(
        pauses, monkeypatch):
    changed, came = handover._watch_of('ceph')._changed, []
    image_id, wait = _image('importing'), changed.wait

    def then_comes(pause):
        is_set = wait(pause)
        if pause == 5 and not came:
            came.append(_watch(image_id))
        return is_set

    monkeypatch.setattr(changed, 'wait', then_comes)
    _watch(_image('importing'))
    _await(lambda: came)
    before = pauses.index(5)
    _await(lambda: len(pauses) >= before + 3)
    assert min(pauses[before:]) < 0.5


def test_a_database_that_is_away_is_asked_more_and_more_seldom(pauses,
                                                               monkeypatch):
    def away(image_id):
        raise OSError('away')

    monkeypatch.setattr(records, 'status', away)
    _watch(_image('importing'))
    _await(lambda: pauses[-1:] == [5])
    assert pauses == sorted(pauses)


@pytest.mark.parametrize('status', ['active', 'queued'])
def test_when_one_has_come_to_an_end_others_may_too(pauses, status):
    """Several images are often imported, or given up, together."""
    image_id = _image('importing')
    for each in (image_id, _image('importing')):
        _watch(each)
    _await(lambda: pauses[-1:] == [5])
    before = len(pauses)
    if status == 'active':
        _record(image_id)
    else:
        _set_status(image_id, status)
    _await(lambda: any(pause < 0.5 for pause in pauses[before:]))


# Requests that have ended and could not record what they stored

def _status(image_id):
    return records.status(image_id)


def test_an_upload_that_could_not_be_recorded_is_given_back(watching, looks,
                                                            over):
    image_id = _image('saving')
    sink = _watch(image_id, request='req-1')
    _look_again(looks)
    assert _status(image_id) == 'saving'
    assert sink.calls == []
    over.add('req-1')
    _await(lambda: _has_ended(watching))
    assert sink.names() == ['abort']
    assert _status(image_id) == 'queued'


@pytest.mark.parametrize('status', ['saving', 'active', 'importing'])
def test_what_was_recorded_at_last_is_handed_over(watching, over, status):
    over.add('req-1')
    image_id = _image(status, recorded=True)
    sink = _watch(image_id, request='req-1')
    _await(lambda: _has_ended(watching))
    assert sink.names() == ['hand_over']
    assert _status(image_id) == status


def test_an_import_that_could_not_be_recorded_is_for_the_clean_up(watching,
                                                                  over):
    """Which takes over its lock as well; and finds nobody at work."""
    over.add('req-1')
    image_id = _image('importing')
    sink = _watch(image_id, request='req-1')
    _await(lambda: _has_ended(watching))
    assert sink.names() == ['release']
    assert _status(image_id) == 'importing'


def test_what_was_taken_meanwhile_may_be_uploaded_anew(watching, over):
    over.add('req-1')
    image_id = _image('saving')
    sink = _watch(image_id, request='req-1', held=False)
    _await(lambda: _has_ended(watching))
    assert sink.names() == ['release']
    assert _status(image_id) == 'saving'


def test_what_is_recorded_at_the_last_moment_stays(watching, over,
                                                   monkeypatch, caplog):
    """By another process, which nobody can see from here."""
    over.add('req-1')
    image_id, set_status = _image('saving'), records.set_status

    def recorded_before(*given):
        monkeypatch.setattr(records, 'set_status', set_status)
        _record(image_id)
        _set_status(image_id, 'active')
        return set_status(*given)

    monkeypatch.setattr(records, 'set_status', recorded_before)
    sink = _watch(image_id, request='req-1')
    _await(lambda: _has_ended(watching))
    assert sink.names() == ['hand_over']
    assert _status(image_id) == 'active'
    assert 'is not known yet' not in caplog.text


@pytest.mark.parametrize('status', ['uploading', 'active', 'deactivated'])
def test_where_glance_waits_for_nothing_nothing_is_taken(watching, looks, over,
                                                         status):
    over.add('req-1')
    image_id = _image(status)
    sink = _watch(image_id, request='req-1')
    _look_again(looks)
    assert sink.calls == []
    assert _status(image_id) == status


def test_of_what_no_request_published_nobody_knows_whether_it_is_over(
        watching, looks, over):
    over.add(None)
    image_id = _image('saving')
    sink = _watch(image_id)
    _look_again(looks)
    assert sink.calls == []
    assert _status(image_id) == 'saving'


# What a clean-up has handed over, and its own request deletes

@pytest.mark.parametrize('lost', [False, True])
def test_what_was_handed_over_for_it_is_stocks_to_remove(watching, lost):
    """An import of two stores that fails in the second, say."""
    image_id = _image('importing')
    sink = _watch(image_id, request='req-1', held=False, fail_at={
        'hand_over': errors.Fenced()} if lost else {})
    assert handover.release('ceph', image_id, 'req-1') is lost
    assert 'abort' not in sink.names()
