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

"""The same race on a cluster that answers 5 ms later."""

import contextlib
import json

from benchmark import measure
from benchmark import pool

# The messenger of the OSD holds each message of a client for a random
# time up to this long, which in the mean makes 5 ms of a round trip.
# osd_debug_inject_dispatch_delay_* was tried as well: it sleeps on the
# thread that serves all, which limits throughput and is no latency.
LONGEST = 0.0065


def latency(cloud, contest, case, runs):
    """Ours deferred and qemu-img, with late answers."""
    found = {'write_ms_without': _write_ms(cloud)}
    with delayed(cloud):
        found['write_ms_with'] = _write_ms(cloud)
        measure.progress('4 KiB write: {write_ms_without:.2f} ms, delayed '
                         '{write_ms_with:.2f} ms'.format(**found))
        found['contestants'] = measure.compare(
            contest, case, {'deferred': runs, 'qemu': runs})
    return found


@contextlib.contextmanager
def delayed(cloud):
    """Delay what clients that connect from now on send to the OSD."""
    _inject(cloud, 'type', 'client')
    _inject(cloud, 'max', LONGEST)
    _inject(cloud, 'probability', 1)
    try:
        yield
    finally:
        _inject(cloud, 'probability', 0)


def _inject(cloud, name, value):
    cloud.ceph.run('ceph', 'tell', 'osd.0', 'injectargs',
                   f'--ms_inject_delay_{name}', value)


def _write_ms(cloud):
    """The mean latency of small writes, one at a time."""
    output = cloud.ceph.run(
        'rados', 'bench', '-p', pool.POOL, '3', 'write', '-t', '1', '-b',
        '4096', '--format', 'json').stdout
    # Its clean-up prints into the middle of the JSON.
    tail = output[output.rindex('"average_latency":'):]
    value, _ = json.JSONDecoder().raw_decode(tail.partition(':')[2])
    return float(value) * 1000
