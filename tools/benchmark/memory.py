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

"""Whether memory depends on the size of the disk."""

import time

from benchmark import cases
from benchmark import images
from benchmark import measure
from benchmark import sampling

SIZES_GIB = (1, 1024)
# Digests of 1 TiB take half an hour: only their start is watched.
DIGEST_SECONDS = 5


def memory(cloud, contest, runs):
    """Peak bytes added, for small and large disks with the same data."""
    found = {size: {'runs': []} for size in SIZES_GIB}
    for number in range(runs):
        for size in SIZES_GIB:
            measure.progress(f'memory of {size} GiB, run {number + 1} of '
                             f'{runs}')
            found[size]['runs'].append(
                _measure(cloud, contest, cases.small_data(size)))
    for result in found.values():
        result['median'] = measure.median(result['runs'])
    return found


def _measure(cloud, contest, case):
    glance = contest.configure('deferred')
    image = images.Image(cloud, case)
    with sampling.Sampler(glance.pids(), glance.staging) as sampler:
        start = time.monotonic()
        image.start_import()
        image.wait_active()
        seconds = time.monotonic() - start
        time.sleep(DIGEST_SECONDS)
    # Whoever computes digests holds the image in the pool.
    glance.kill()
    glance.start()
    image.delete()
    contest.empty()
    return {'seconds': seconds, 'memory': sampler.memory,
            'staging': sampler.staging}
