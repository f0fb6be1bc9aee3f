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

"""Images that are made to cost: what they take is bounded, and comes back."""

import os
import subprocess
import threading
import time

import pytest

from tests.functional import support
from tests.hostile import bombs

MIB = support.MIB
MOST = 256 * MIB


@pytest.fixture
def hostile(tmp_path):
    made = []
    for number in range(5):
        for make in (bombs.complaints, bombs.work):
            made.append(make(tmp_path / f'{make.__name__}-{number}'))
    return made


def resident(glance):
    """Bytes of the largest process of Glance that are in memory."""
    return max(int(support.proc(pid, 'statm').split()[1])
               for pid in glance.cloud.glance.pids()
               if support.proc(pid, 'statm')) * os.sysconf('SC_PAGE_SIZE')


class Peak(threading.Thread):
    """Looks at the memory of Glance for as long as a block lasts."""

    def __init__(self, glance):
        super().__init__(daemon=True)
        self._glance, self._done, self.bytes = glance, threading.Event(), 0

    def run(self):
        while not self._done.wait(0.05):
            self.bytes = max(self.bytes, resident(self._glance))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self.join()


def test_ten_at_once_cost_no_memory_and_leave_every_slot(glance, images,
                                                         hostile):
    qcow2, _ = images.qcow2('beside', size=8 * MIB)
    glance.imported(qcow2)
    idle = resident(glance)
    with Peak(glance) as peak:
        begun = [glance.begin(path) for path in hostile]
        # One that is honest waits its turn, and gets it.
        glance.imported(qcow2, timeout=300)
        for image_id in begun:
            image = glance.finish(image_id, 300)
            assert image['status'] == 'queued'
            message = glance.message(image_id)
            assert 'The image' in message and '/' not in message
    assert peak.bytes - idle < MOST
    assert glance.qemu_processes() == []
    assert not [name for name in glance.stored() if '.partial' in name]
    glance.imported(qcow2)


def test_all_that_is_done_for_an_image_ends_with_it(glance, configure,
                                                    tmp_path):
    """Reading, and digests that are computed afterwards."""
    configure(conversion={'digests': 'deferred', 'max_virtual_size': 1 << 40})
    qcow2 = tmp_path / 'endless.qcow2'
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', qcow2, '1T'],
                   check=True)
    image_id = glance.begin(qcow2)
    glance.finish(image_id, 300)
    pids = glance.cloud.glance.pids()

    def spent():
        """CPU seconds of all of Glance."""
        return sum(sum(map(int, stat.rpartition(b')')[2].split()[11:13]))
                   for pid in pids if (stat := support.proc(pid, 'stat'))
                   ) / os.sysconf('SC_CLK_TCK')

    before = spent()
    # Somebody is at it.
    support.wait_for(lambda: spent() > before + 1)
    glance.delete(image_id)
    time.sleep(10)
    before = spent()
    time.sleep(10)
    assert spent() < before + 1
