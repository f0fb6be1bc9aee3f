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

"""What imports have come to, added up for all processes of a node.

glance-api has many processes, which come and go; all add to one file, which
the agent reads when Prometheus asks it. Imports are few beside that.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import json
import logging
import os
from typing import NamedTuple

from prometheus_client import core

from glance_conversion_plugins.external import locks
from glance_conversion_plugins.maintenance import notes

LOG = logging.getLogger(__name__)

_PREFIX = 'glance_conversion_'
_FILE = 'glance-conversion-tally'
# A counter is worth no longer wait.
_PATIENCE_SECONDS = 2

# Upper bounds, in seconds: an import takes from one to some thousand.
BOUNDS = (1., 2., 5., 10., 20., 60., 120., 300., 600., 1800., 3600.)
_LAST = '+Inf'

# What an import may come to.
OUTCOMES = ('converted', 'staged', 'inspected', 'kept', 'refused', 'stopped',
            'failed')


class _Family(NamedTuple):
    """Some counters of one name."""

    help: str
    labels: tuple[str, ...]
    is_histogram: bool = False


FAMILIES = {
    'imports': _Family(
        'Imports that ended, by what came of them; the reason is the kind of '
        'the error', ('outcome', 'reason', 'format', 'container')),
    'upload_bytes': _Family('Bytes of uploads', ('outcome',)),
    'disk_bytes': _Family('Bytes of disks in them', ('outcome',)),
    'written_bytes': _Family('Bytes that were written of those',
                             ('outcome',)),
    'import_seconds': _Family('How long the plugin was at an import',
                              ('outcome',), True),
    'stage_seconds': _Family('How long it was at a stage, on all threads',
                             ('stage',), True),
}


class Key(NamedTuple):
    """Names a counter."""

    family: str
    labels: tuple[str, ...]
    part: str = ''      # of a histogram: sum, or the bound of a bucket


def observation(family: str, label: str, seconds: float) -> dict[Key, float]:
    """What one observation adds to a histogram."""
    bound = next((str(bound) for bound in BOUNDS if seconds <= bound),
                 _LAST)
    return {Key(family, (label,), 'sum'): seconds,
            Key(family, (label,), bound): 1}


def add(folder: str | None, increments: Mapping[Key, float]) -> None:
    """Add to the counters of the node; never raises.

    :param folder: where lock files live, as of slots
    """
    try:
        path = os.path.join(locks.folder(folder), _FILE)
        fd = locks.hold(path + '.lock', _PATIENCE_SECONDS)
        try:
            found = _read(path)
            for key, value in increments.items():
                found[key] = found.get(key, 0) + value
            notes.write(path, {json.dumps(key): (value,)
                               for key, value in found.items()})
        finally:
            os.close(fd)
    # Nothing that matters to an image depends on it.
    except Exception:
        LOG.warning('An import is not counted', exc_info=True)


def read(folder: str | None) -> dict[Key, float]:
    """The counters of the node."""
    return _read(os.path.join(locks.folder(folder), _FILE))


def _read(path: str) -> dict[Key, float]:
    found = {}
    for name, value in notes.read(path, float).items():
        # Another version may have counted what this one does not know.
        with contextlib.suppress(ValueError, TypeError, KeyError):
            family, labels, part = json.loads(name)
            if len(labels) == len(FAMILIES[family].labels):
                found[Key(family, tuple(labels), part)] = value
    return found


class Collector:
    """Gives Prometheus what is in the file."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder

    def collect(self) -> Iterator[core.Metric]:
        try:
            found = read(self._folder)
        # What raises here would take all other metrics with it.
        except Exception:
            LOG.warning('The imports can not be counted', exc_info=True)
            found = {}
        for name, family in FAMILIES.items():
            values = {key: value for key, value in found.items()
                      if key.family == name}
            yield (_histogram if family.is_histogram else _counter)(
                name, family, values)
        yield _outcomes(found)


def _outcomes(found: Mapping[Key, float]) -> core.Metric:
    """All there from the start, so that the first failure shows."""
    metric = core.CounterMetricFamily(
        f'{_PREFIX}import_outcomes', 'Imports that ended, by what came of '
        'them', labels=['outcome'])
    for outcome in OUTCOMES:
        metric.add_metric([outcome], sum(
            value for key, value in found.items()
            if key.family == 'imports' and key.labels[0] == outcome))
    return metric


def _counter(name: str, family: _Family, values: Mapping[Key, float]
             ) -> core.Metric:
    metric = core.CounterMetricFamily(_PREFIX + name, family.help,
                                      labels=family.labels)
    for key, value in values.items():
        metric.add_metric(key.labels, value)
    return metric


def _histogram(name: str, family: _Family, values: Mapping[Key, float]
               ) -> core.Metric:
    metric = core.HistogramMetricFamily(_PREFIX + name, family.help,
                                        labels=family.labels)
    for labels in sorted({key.labels for key in values}):
        buckets, count = [], 0.
        for bound in (*map(str, BOUNDS), _LAST):
            count += values.get(Key(name, labels, bound), 0)
            buckets.append((bound, count))
        metric.add_metric(labels, buckets,
                          values.get(Key(name, labels, 'sum'), 0))
    return metric
