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

"""Memory of many uploads and as many imports at once."""

import contextlib
import threading
import time

from benchmark import cases
from benchmark import images
from benchmark import sampling

# Every upload has a thread that answers it, and imports are asked for beside.
_PROCESSES = 4


def crowd(cloud, contest, case, count):
    """Bytes in memory of all of Glance before, at most, and seconds.

    As many imports at once as Glance does by default; the others wait.

    :param case: what is imported
    """
    raw = cases.first_gib()
    contest.configure('inline')
    with _threaded(cloud.glance, -(-2 * count // _PROCESSES)):
        waiting = [images.Image(cloud, case) for _ in range(count)]
        uploaded = [images.Image(cloud, raw, staged=False)
                    for _ in range(count)]
        uploads = [threading.Thread(target=image.upload, args=(raw,))
                   for image in uploaded]
        glance = cloud.glance
        start = time.monotonic()
        with sampling.Sampler(glance.pids(), glance.staging) as sampler:
            for image in waiting:
                image.start_import()
            for thread in uploads:
                thread.start()
            for thread in uploads:
                thread.join()
            for image in (*uploaded, *waiting):
                image.wait_active()
        seconds = time.monotonic() - start
        for image in (*uploaded, *waiting):
            image.delete()
    contest.empty()
    return {'seconds': seconds, 'added': sampler.memory,
            'peak': sampler.peak}


@contextlib.contextmanager
def _threaded(glance, threads):
    """Let each worker answer so many requests at a time."""
    before = dict(glance.options)
    glance.options |= {'processes': _PROCESSES, 'threads': threads}
    glance.kill()
    glance.start()
    try:
        yield
    finally:
        glance.options = before
        glance.kill()
        glance.start()
