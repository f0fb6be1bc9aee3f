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


"""``glance-conversion-agent``: the periodic jobs of a node.

Runs beside glance-api, as its user and on its configuration: --config-file
and --config-dir, or the folder OS_GLANCE_CONFIG_DIR names. SIGTERM stops it,
SIGHUP lets it read its configuration again.

With --once every job runs one time. The exit status is 0 if nothing failed,
1 if something did, 2 if the configuration is wrong, and 3 if another agent is
at work on this node.
"""

from collections.abc import Sequence
import contextlib
import ctypes
import os
import signal
import sys

from oslo_config import cfg
from oslo_log import log as logging

from glance_conversion_plugins import cancel
from glance_conversion_plugins.cmd import display
from glance_conversion_plugins.cmd import service
from glance_conversion_plugins import errors
from glance_conversion_plugins.maintenance import agent
from glance_conversion_plugins.maintenance import metrics

CONF = cfg.CONF
LOG = logging.getLogger(__name__)

_NAME = 'glance-conversion-agent'
_MODULE = 'glance_conversion_plugins.cmd.agent'
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

_M_MMAP_THRESHOLD = -3      # of malloc.h

_OPTIONS = [cfg.BoolOpt('once', default=False, help='Run every job one time '
                        'and exit.')]


def _return_memory() -> None:
    """Give chunks of images back to the system as soon as they are free.

    glibc raises this limit by itself, to 32 MiB, and then keeps what each
    thread has freed: 500 MiB instead of 260 for four workers.
    """
    with contextlib.suppress(AttributeError):       # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def _run_once() -> int:
    status, stop = 0, cancel.Cancel()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with display.Display(quiet=True) as shown:
        for job in _wanted():
            if stop.is_set():
                return status or 1

            def say(words: object, name: str = job.name) -> None:
                shown.say(f'{name}: {words}')

            try:
                if not agent.run_once(job, stop, say, shown.progress):
                    status = status or 1
            except errors.Busy as e:
                say(e)
                status = 3
            except Exception as e:
                LOG.exception('%s failed', job.name)
                say(f'failed: {e}')
                status = status or 1
    return status


def _wanted() -> list[agent.PeriodicJob]:
    """The jobs of this node.

    :raises errors.Misconfigured: if there is none
    """
    if wanted := agent.jobs():
        return wanted
    raise errors.Misconfigured('There is nothing to do: every interval '
                               'is 0, or there is no image cache.')


def _run(argv: Sequence[str]) -> int:
    """Run until a signal comes."""
    # Before there are threads, which inherit this: one place takes them all.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    wanted = _wanted()
    if CONF.conversion_agent.metrics_port:
        metrics.serve(CONF.conversion_agent.metrics_port)
    running = agent.Agent(wanted)
    running.start()
    LOG.info('Started, with %s', ', '.join(
        f'{job.name} every {job.interval} s' for job in wanted))
    while (number := signal.sigwait(_SIGNALS)) == signal.SIGHUP:
        try:
            fresh = cfg.ConfigOpts()
            service.prepare(fresh)
            service.parse(fresh, _NAME, argv, _OPTIONS)
            break
        except cfg.Error as e:
            LOG.error('The old configuration stays in force, for the new '
                      'one is wrong: %s', e)
    LOG.info('Stopping: %s', signal.Signals(number).name)
    running.stop()
    if number == signal.SIGHUP:
        # Stores, logs and intervals all come from the configuration; only a
        # new start is sure to read them again. It keeps the process id.
        os.execv(sys.executable,        # noqa: S606
                 [sys.executable, '-P', '-m', _MODULE, *argv])
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        service.configure(_NAME, argv, _OPTIONS)
        _return_memory()
        return _run_once() if CONF.once else _run(argv)
    except (cfg.Error, errors.ConversionError,
            logging.LogConfigError) as e:
        print(f'{_NAME}: {e}', file=sys.stderr)
        return 2


if __name__ == '__main__':
    sys.exit(main())
