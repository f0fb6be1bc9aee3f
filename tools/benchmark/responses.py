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

"""How fast the API answers while a conversion runs."""

from concurrent import futures
import statistics
import threading
import time

from benchmark import images
from benchmark import measure

IDLE_SECONDS = 15
PAUSE = 0.02


def responses(cloud, contest, case):
    """Milliseconds of GET /v2/images, idle and beside conversions."""
    contest.configure('deferred')
    stop = threading.Event()
    for _ in range(20):
        _request(cloud)
    timer = threading.Timer(IDLE_SECONDS, stop.set)
    timer.start()
    found = {'idle': percentiles(requests(cloud, stop))}
    for key in ('inline', 'deferred'):
        measure.progress(f'the API while a conversion runs, {key}')
        found[key] = percentiles(_beside(cloud, contest, case, key))
    return found


def _beside(cloud, contest, case, key):
    contest.configure(key)
    for _ in range(20):
        _request(cloud)
    image = images.Image(cloud, case)

    def work(stop):
        image.start_import()
        image.wait_active()
        image.wait_digests()

    try:
        return beside(cloud, work)
    finally:
        image.delete()
        contest.empty()


def beside(cloud, work):
    """Milliseconds of requests while something is done on a thread.

    :param work: is given an event that ends the requests before it is done
    :raises: what it raises
    """
    stop = threading.Event()

    def run():
        try:
            work(stop)
        finally:
            stop.set()

    with futures.ThreadPoolExecutor(1) as pool:
        done = pool.submit(run)
        times = requests(cloud, stop)
        done.result()
    return times


def requests(cloud, stop):
    times = []
    while not stop.is_set():
        times.append(_request(cloud))
        time.sleep(PAUSE)
    return times


def _request(cloud):
    start = time.monotonic()
    cloud.api('GET', '/v2/images')
    return (time.monotonic() - start) * 1000


def percentiles(times):
    return {'requests': len(times), 'median': statistics.median(times),
            'p95': statistics.quantiles(times, n=20)[-1]}
