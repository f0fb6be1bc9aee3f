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


"""The jobs of a node, and the service that does them again and again."""

import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
import uuid

from oslo_config import cfg
import prometheus_client
import pytest

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.cmd import agent as command
from glance_conversion_plugins.cmd import service
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import slots
from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.maintenance import agent
from glance_conversion_plugins.maintenance import cleanup
from glance_conversion_plugins.maintenance import digests
from glance_conversion_plugins.maintenance import metrics
from glance_conversion_plugins.maintenance.prefetch import prefetch

CONF = cfg.CONF

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def cache(override):
    """There is one."""


def _job(work, interval=1):
    """A job with metrics of its own."""
    return agent.PeriodicJob(f'test-{next(_numbers)}', interval, work)


def _metric(name, **labels):
    return prometheus_client.REGISTRY.get_sample_value(
        f'glance_conversion_agent_{name}', labels)


def _done(result='removed', words='something'):
    return agent.ItemResult(result, words)


# Which there are

def _intervals():
    return {job.name: job.interval for job in agent.jobs()}


def test_every_job_is_done_at_its_interval(override):
    override('interval', 7, 'cache_prefetch')
    override('cleanup_interval', 8, 'conversion_agent')
    override('digests_interval', 9, 'conversion_agent')
    override('verify_interval', 10, 'conversion_agent')
    assert _intervals() == {'prefetch': 7, 'cleanup': 8, 'digests': 9,
                            'verify': 10}


def test_by_default_there_are_all_jobs_but_one():
    assert _intervals() == {'prefetch': 300, 'cleanup': 600, 'digests': 300}


@pytest.mark.parametrize(('name', 'group', 'job'), [
    ('interval', 'cache_prefetch', 'prefetch'),
    ('cleanup_interval', 'conversion_agent', 'cleanup'),
    ('digests_interval', 'conversion_agent', 'digests')])
def test_an_interval_of_zero_means_never(override, name, group, job):
    everything = set(_intervals())
    override(name, 0, group)
    assert set(_intervals()) == everything - {job}


@pytest.mark.parametrize('folder', [None, ''])
def test_without_a_cache_nothing_is_prefetched(override, folder):
    override('image_cache_dir', folder)
    assert set(_intervals()) == {'cleanup', 'digests'}


# One pass

def test_a_pass_says_everything_that_was_done():
    said = []
    job = _job(lambda cancel, progress: iter([_done('removed', 'one'),
                                    _done('passed over', 'two')]))
    assert agent.run_once(job, cancel_.Cancel(), said.append) is True
    assert said == ['one', 'two']


def test_a_pass_without_anything_to_do_is_well():
    said, job = [], _job(lambda cancel, progress: [])
    assert agent.run_once(job, cancel_.Cancel(), said.append) is True
    assert said == ['nothing to do']
    assert _metric('passes_total', job=job.name, result='ok') == 1


@pytest.mark.parametrize('at', range(3))
def test_one_failure_lets_a_pass_fail_that_goes_on(at):
    said = []
    results = ['removed'] * 3
    results[at] = 'failed'
    job = _job(lambda cancel, progress: [_done(result, str(number))
                               for number, result in enumerate(results)])
    assert agent.run_once(job, cancel_.Cancel(), said.append) is False
    assert said == ['0', '1', '2']
    assert _metric('passes_total', job=job.name, result='failed') == 1
    assert _metric('passes_total', job=job.name, result='ok') is None


def test_a_pass_hands_on_what_it_was_given():
    seen = []
    cancel, progress = cancel_.Cancel(), progress_.Progress()
    job = _job(lambda *given: seen.append(given) or [])
    agent.run_once(job, cancel, lambda words: None, progress)
    assert seen == [(cancel, progress)]


def test_what_a_pass_did_is_counted():
    job = _job(lambda cancel, progress: [_done('fetched'), _done('fetched'),
                               _done('failed')])
    for _ in range(2):
        agent.run_once(job, cancel_.Cancel(), lambda words: None)
    assert _metric('images_total', job=job.name, result='fetched') == 4
    assert _metric('images_total', job=job.name, result='failed') == 2
    assert _metric('passes_total', job=job.name, result='failed') == 2
    assert _metric('pass_seconds', job=job.name) >= 0


def test_the_last_success_is_the_last_pass_that_failed_nowhere():
    results = ['removed']
    job = _job(lambda cancel, progress: [_done(results[0])])
    before = time.time()
    agent.run_once(job, cancel_.Cancel(), lambda words: None)
    name = 'last_success_timestamp_seconds'
    first = _metric(name, job=job.name)
    assert before <= first <= time.time()
    results[0] = 'failed'
    agent.run_once(job, cancel_.Cancel(), lambda words: None)
    assert _metric(name, job=job.name) == first


@pytest.mark.parametrize('error', [ZeroDivisionError, errors.Misconfigured])
def test_a_pass_that_breaks_off_has_failed(error):
    def work(cancel, progress):
        yield _done('removed', 'one')
        raise error('no')

    said, job = [], _job(work)
    with pytest.raises(error):
        agent.run_once(job, cancel_.Cancel(), said.append)
    assert said == ['one']
    assert _metric('passes_total', job=job.name, result='failed') == 1
    assert _metric('passes_total', job=job.name, result='ok') is None
    assert _metric('images_total', job=job.name, result='removed') == 1


def test_that_another_agent_is_at_work_is_no_failure():
    def work(cancel, progress):
        raise errors.Busy('Another agent fetches.')

    job = _job(work)
    with pytest.raises(errors.Busy):
        agent.run_once(job, cancel_.Cancel(), pytest.fail)
    assert _metric('passes_total', job=job.name, result='busy') == 1
    for result in ('ok', 'failed'):
        assert _metric('passes_total', job=job.name, result=result) is None
    assert not _metric('last_success_timestamp_seconds', job=job.name)


# What the jobs do

def _work(name):
    return next(job for job in agent.jobs() if job.name == name)


def test_a_clean_up_carries_out_every_remedy(monkeypatch):
    carried_out, said = [], []
    monkeypatch.setattr(cleanup, 'find', lambda: iter([
        cleanup.Leftover('one', lambda: carried_out.append(1)),
        cleanup.Leftover('two', lambda: 1 // 0),
        cleanup.Leftover('three', lambda: carried_out.append(3))]))
    assert not agent.run_once(_work('cleanup'), cancel_.Cancel(),
                              said.append)
    assert carried_out == [1, 3]
    assert said[0] == 'removed: one'
    assert said[1].startswith('two: integer division')
    assert said[2] == 'removed: three'


def test_a_clean_up_stops_when_it_is_told_to(monkeypatch):
    carried_out, cancel = [], cancel_.Cancel()
    monkeypatch.setattr(cleanup, 'find', lambda: iter([
        cleanup.Leftover('one', lambda: carried_out.append(1)
                        or cancel.set()),
        cleanup.Leftover('two', lambda: carried_out.append(2))]))
    said = []
    assert agent.run_once(_work('cleanup'), cancel, said.append)
    assert carried_out == [1]
    assert said == ['removed: one']


def test_interrupted_digests_are_computed(monkeypatch):
    silences, computed, said, began = [], [], [], set()
    cancel = cancel_.Cancel()

    def without_digests(silence):
        silences.append(silence)
        return iter(['a', 'b', 'c'])

    def catch_up(image_id, given, progress, since):
        computed.append((image_id, given))
        began.add(since)
        if image_id == 'b':
            raise errors.Cancelled('stopped')

    monkeypatch.setattr(digests, 'without_digests', without_digests)
    monkeypatch.setattr(digests, 'catch_up', catch_up)
    assert agent.run_once(_work('digests'), cancel, said.append)
    assert silences == [600]
    assert computed == [(image_id, cancel) for image_id in 'abc']
    # They give way for as long as one of them would, and not each anew.
    since, = began
    assert since == pytest.approx(time.monotonic(), abs=60)
    assert said == ['computed: digests of image a',
                    'digests of image b: stopped',
                    'computed: digests of image c']


def test_digests_are_not_begun_once_it_is_told_to_stop(monkeypatch):
    cancel, computed = cancel_.Cancel(), []
    cancel.set()
    monkeypatch.setattr(digests, 'without_digests',
                        lambda silence: iter(['a']))
    monkeypatch.setattr(digests, 'catch_up',
                        lambda *names: computed.append(names))
    assert agent.run_once(_work('digests'), cancel, lambda words: None)
    assert computed == []


def test_a_prefetch_tells_what_is_in_the_cache(monkeypatch):
    cache, said = prefetch.Prefetch().node.cache, []
    assert cache.cache_image_iter(str(uuid.uuid4()),
                                  iter([b'x' * 70_000, b'y' * 30_000]))
    gone = str(uuid.uuid4())
    assert cache.queue_image(gone)
    monkeypatch.setattr(records, 'find_image', lambda image_id: None)
    assert agent.run_once(_work('prefetch'), cancel_.Cancel(), said.append)
    assert said == [f'image {gone}: passed over (queued): there is no such '
                    'image']
    assert _metric('cache_images') == 1
    assert _metric('cache_bytes', kind='apparent') == 100_000
    assert _metric('cache_bytes', kind='allocated') >= 100_000
    assert _metric('failing_images') == 0


# Again and again

class Ticking:
    """A job that notes when it runs, until it is told to stop."""

    def __init__(self, lasting=False, error=None):
        self.runs = []
        self.begun = threading.Event()
        self.stopped = threading.Event()
        self._lasting = lasting
        self._error = error

    def __call__(self, cancel, progress):
        self.runs.append(time.monotonic())
        self.begun.set()
        if self._error:
            raise self._error
        if self._lasting:
            assert cancel.wait(30)
            self.stopped.set()
        return []


def _started(*jobs):
    running = agent.Agent(list(jobs))
    running.start()
    return running


def _await(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail('it never came')


def test_a_job_is_done_at_once_and_again():
    work = Ticking()
    running = _started(_job(work, 0.02))
    try:
        _await(lambda: len(work.runs) >= 3)
    finally:
        running.stop()
    assert work.runs == sorted(work.runs)


def test_a_job_is_done_at_once_whatever_its_interval():
    work = Ticking()
    running = _started(_job(work, 3600))
    try:
        assert work.begun.wait(30)
    finally:
        running.stop()
    assert len(work.runs) == 1


def test_stopping_does_not_wait_for_the_next_pass():
    work = Ticking()
    running = _started(_job(work, 3600))
    assert work.begun.wait(30)
    begun = time.monotonic()
    running.stop()
    assert time.monotonic() - begun < 10


def test_stopping_tells_a_job_under_way_and_waits_for_it():
    work = Ticking(lasting=True)
    running = _started(_job(work, 3600))
    assert work.begun.wait(30)
    assert not work.stopped.is_set()
    running.stop()
    assert work.stopped.is_set()


def test_stopping_at_once_is_possible():
    work = Ticking()
    running = _started(_job(work, 0.01))
    running.stop()
    runs = len(work.runs)
    time.sleep(0.05)
    assert len(work.runs) == runs


def test_jobs_do_not_wait_for_each_other():
    lasting, work = Ticking(lasting=True), Ticking()
    running = _started(_job(lasting, 3600), _job(work, 0.02))
    try:
        assert lasting.begun.wait(30)
        _await(lambda: len(work.runs) >= 2)
        assert not lasting.stopped.is_set()
    finally:
        running.stop()
    assert lasting.stopped.is_set()


@pytest.mark.parametrize('error', [
    ZeroDivisionError(), errors.Busy('busy'), errors.SourceFailed('no')])
def test_a_pass_that_fails_is_not_the_last_one(error):
    work = Ticking(error=error)
    running = _started(_job(work, 0.02))
    try:
        _await(lambda: len(work.runs) >= 2)
    finally:
        running.stop()
    assert len(work.runs) >= 2


# The command

@pytest.fixture
def once(monkeypatch):
    """Runs jobs one time; returns the exit status."""
    handlers = {number: signal.getsignal(number)
                for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(service, 'configure', lambda *_: None)

    def once(*works):
        jobs = [_job(work) for work in works]
        monkeypatch.setattr(agent, 'jobs', lambda: jobs)
        return command._run_once()

    yield once
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _raising(error):
    def work(cancel, progress):
        raise error
    return work


def _well(cancel, progress):
    return [_done('removed', 'one')]


def _failing(cancel, progress):
    return [_done('failed', 'two'), _done('removed', 'three')]


@pytest.mark.parametrize(('works', 'expected'), [
    ([_well], 0), ([_well, _well], 0), ([_failing], 1),
    ([_failing, _well], 1), ([_raising(ZeroDivisionError()), _well], 1),
    ([_raising(errors.Busy('busy'))], 3),
    ([_failing, _raising(errors.Busy('busy'))], 3),
    ([_raising(errors.Busy('busy')), _failing], 3)])
def test_the_exit_status_tells_how_it_went(once, works, expected):
    assert once(*works) == expected


def test_nothing_to_do_is_no_success(once):
    with pytest.raises(errors.Misconfigured, match='There is nothing to do'):
        once()


def test_every_job_is_done_once_and_told(once, capsys):
    assert once(_raising(ZeroDivisionError('zero')), _failing, _well) == 1
    lines = [line.partition(': ')[2]
             for line in capsys.readouterr().out.splitlines()]
    assert lines == ['failed: zero', 'two', 'three', 'one']


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_what_is_done_once(once, number):
    def work(cancel, progress):
        os.kill(os.getpid(), number)
        assert cancel.wait(30)
        return []

    assert once(work) == 0


@pytest.mark.parametrize('error', [
    cfg.Error('wrong'), errors.Misconfigured('wrong')])
def test_a_wrong_configuration_is_told(monkeypatch, capsys, error):
    def configure(*_):
        raise error

    monkeypatch.setattr(service, 'configure', configure)
    assert command.main([]) == 2
    assert capsys.readouterr().err == 'glance-conversion-agent: wrong\n'


# A service whose only job says when it begins and ends.
_CHILD = """
import sys
from glance_conversion_plugins.cmd import agent as command, service
from glance_conversion_plugins import config
from glance_conversion_plugins.maintenance import agent
from oslo_config import cfg
def configure(prog, argv, options):
    cfg.CONF.register_cli_opts(options)
    config.register_opts(cfg.CONF)
    cfg.CONF(argv, project='glance', default_config_files=sys.argv[1:2])
def work(cancel, progress):
    print('begun', flush=True)
    cancel.wait()
    print('stopped', flush=True)
    return []
service.configure = configure
agent.jobs = lambda: [agent.PeriodicJob('test', 3600, work)]
sys.exit(command.main([]))
"""


@pytest.fixture
def service_process(tmp_path):
    folder = tmp_path / 'etc'
    folder.mkdir()
    conf = folder / 'glance-api.conf'
    conf.write_text('[cache_prefetch]\nworkers = 2\n')
    with subprocess.Popen(
            [sys.executable, '-W', 'ignore', '-c', _CHILD, str(conf)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=os.environ | {
                'OS_GLANCE_CONFIG_DIR': str(folder)}) as child:
        assert child.stdout.readline() == 'begun\n'
        yield child, folder
        child.kill()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_service_and_its_jobs(service_process, number):
    child, _ = service_process
    child.send_signal(number)
    assert child.communicate(timeout=60)[0] == 'stopped\n'
    assert child.returncode == 0


@pytest.mark.parametrize('text', [
    '[cache_prefetch\nworkers = 3\n', '[cache_prefetch]\nworkers = many\n',
    '[cache_prefetch]\nproperties = prefetch\n'])
def test_a_configuration_that_became_wrong_stops_nothing(service_process,
                                                         text):
    child, folder = service_process
    (folder / 'glance-api.conf').write_text(text)
    child.send_signal(signal.SIGHUP)
    # Of two signals that wait the first one is taken first.
    child.terminate()
    out, err = child.communicate(timeout=60)
    assert out == 'stopped\n'
    assert 'The old configuration stays in force' in err
    assert child.returncode == 0


def test_a_new_configuration_is_that_of_the_same_process(service_process):
    child, folder = service_process
    # One that ends it, so that nothing runs on.
    (folder / 'glance-api.conf').write_text(
        '[conversion_agent]\ncleanup_interval = 0\ndigests_interval = 0\n'
        f'[glance_store]\nfilesystem_store_datadir = {folder}/images\n')
    child.send_signal(signal.SIGHUP)
    out, err = child.communicate(timeout=60)
    assert out.startswith('stopped\n')
    assert 'There is nothing to do' in err
    assert child.returncode == 2


def test_a_service_with_nothing_to_do_says_so(monkeypatch, capsys, override):
    override('image_cache_dir', None)
    for name in ('cleanup_interval', 'digests_interval'):
        override(name, 0, 'conversion_agent')
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    monkeypatch.setattr(service, 'configure', lambda *_: None)
    CONF.register_opts(command._OPTIONS)
    try:
        assert command.main([]) == 2
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        CONF.unregister_opts(command._OPTIONS)
    assert 'There is nothing to do' in capsys.readouterr().err


# Metrics

@pytest.mark.parametrize('error', [
    OSError('read-only'), errors.Busy('locked'),
    errors.Misconfigured('a folder is not safe')])
def test_slots_that_can_not_be_counted(monkeypatch, error):
    """All other metrics are served all the same."""
    def usage(folder, kind):
        raise error

    monkeypatch.setattr(slots, 'usage', usage)
    assert math.isnan(metrics._slots(slots.CONVERSION, 'held')())


def test_metrics_have_names_of_their_own():
    names = {metric.name for metric in prometheus_client.REGISTRY.collect()
             if metric.name.startswith('glance_conversion_agent_')}
    assert names >= {f'glance_conversion_agent_{name}' for name in (
        'passes', 'last_success_timestamp_seconds', 'pass_seconds', 'images',
        'fetched_bytes', 'cache_images', 'cache_bytes', 'failing_images',
        'sandbox_layers_missing', 'slots')}
    assert metrics.FETCHED is not metrics.CACHE_BYTES
