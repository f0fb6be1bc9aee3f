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

"""Many imports at once, and as many one by one, on one cloud."""

import time

from benchmark import images
from benchmark import measure
from benchmark import responses

# How many are measured alone, and seconds between them.
ALONE, REST = 2, 1


def burst(cloud, contest, case, count, runs):
    """Seconds of both, and milliseconds of GET /v2/images meanwhile."""
    found = {'runs': []}
    for number in range(runs):
        measure.progress(f'(e) {count} images, run {number + 1} of {runs}')
        contest.configure('deferred')
        # What a fresh process does once is not measured.
        _alone(cloud, case)
        one = [_alone(cloud, case) for _ in range(ALONE)]
        found['runs'].append({'alone': sum(one) / len(one) * count}
                             | _together(cloud, case, count))
        contest.empty()
    found['median'] = measure.median(found['runs'])
    return found


def _alone(cloud, case):
    image = images.Image(cloud, case)
    start = time.monotonic()
    image.start_import()
    image.wait_active()
    seconds = time.monotonic() - start
    image.wait_digests()
    image.delete()
    time.sleep(REST)
    return seconds


def _together(cloud, case, count):
    staged = [images.Image(cloud, case) for _ in range(count)]
    measured = {}

    def work(stop):
        start = time.monotonic()
        for image in staged:
            image.start_import()
        for image in staged:
            image.wait_active()
        measured['together'] = time.monotonic() - start
        stop.set()
        for image in staged:
            image.wait_digests()
        measured['digests'] = time.monotonic() - start

    try:
        times = responses.beside(cloud, work)
    finally:
        for image in staged:
            image.delete()
    return measured | responses.percentiles(times)
