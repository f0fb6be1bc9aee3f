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


"""What the agent counts, and what it knows of others, for Prometheus."""

from collections.abc import Callable
import logging

from oslo_concurrency import lockutils
from oslo_config import cfg
import prometheus_client

from glance_conversion_plugins.copying import slots
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import sandbox
from glance_conversion_plugins.maintenance import tally

CONF = cfg.CONF
LOG = logging.getLogger(__name__)

_PREFIX = 'glance_conversion_agent_'

PASSES = prometheus_client.Counter(
    f'{_PREFIX}passes', 'Passes of a job', ['job', 'result'])
LAST_SUCCESS = prometheus_client.Gauge(
    f'{_PREFIX}last_success_timestamp_seconds',
    'When a job last ended well', ['job'])
SECONDS = prometheus_client.Gauge(
    f'{_PREFIX}pass_seconds', 'How long the last pass took', ['job'])
IMAGES = prometheus_client.Counter(
    f'{_PREFIX}images', 'What was done about images', ['job', 'result'])
FETCHED = prometheus_client.Counter(
    f'{_PREFIX}fetched_bytes', 'Bytes of images that were fetched')
CACHE_IMAGES = prometheus_client.Gauge(
    f'{_PREFIX}cache_images', 'Images in the cache')
CACHE_BYTES = prometheus_client.Gauge(
    f'{_PREFIX}cache_bytes', 'Bytes in the cache', ['kind'])
FAILING = prometheus_client.Gauge(
    f'{_PREFIX}failing_images', 'Images that could not be fetched lately')
DIFFERING = prometheus_client.Gauge(
    f'{_PREFIX}differing_images', 'Images, each in a store, that were not '
    'as they are recorded when they were verified last')
LAYERS_MISSING = prometheus_client.Gauge(
    f'{_PREFIX}sandbox_layers_missing',
    'Layers of confinement that this node does not offer')
SLOTS = prometheus_client.Gauge(
    f'{_PREFIX}slots', 'Images of which something is done on this node, by '
    'whatever process, and that wait for that', ['kind', 'state'])


def _slots(kind: slots.Kind, state: str) -> Callable[[], float]:
    def count() -> float:
        try:
            return int(getattr(slots.usage(
                lockutils.get_lock_path(CONF), kind), state))
        except (OSError, errors.ConversionError) as e:
            # What raises here would take all other metrics with it.
            LOG.warning('The slots can not be counted: %s', e)
            return float('nan')
    return count


def serve(port: int) -> None:
    """Serve them on loopback, on a thread."""
    LAYERS_MISSING.set(len(sandbox.missing_layers()))
    for kind in (slots.CONVERSION, slots.DIGESTS):
        for state in slots.Usage._fields:
            SLOTS.labels(kind.name, state).set_function(_slots(kind, state))
    prometheus_client.REGISTRY.register(
        tally.Collector(lockutils.get_lock_path(CONF)))
    prometheus_client.start_http_server(port, addr='127.0.0.1')
