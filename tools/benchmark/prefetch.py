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

"""Into the image cache of a node."""

import os

from benchmark import drivers
from benchmark import part
from benchmark import pool
from cloud import ini
from cloud import processes


class Prefetch(part.Part):
    """Into the cache of a node: Glance's own worker, and our agent."""

    title = "prefetch into a node's cache (stock: Glance's own worker)"

    def run(self, key, case, verify):
        glance = self._cloud.glance
        cache = glance.dir / 'cache'
        self._ground.start(key, {
            'DEFAULT': {'image_cache_dir': cache,
                        'image_cache_max_size': 2 * case.virtual},
            'paste_deploy': {'flavor': 'keystone+cachemanagement'}})
        image = self._ground.kept(key, case)
        fetch = self._ask if key in drivers.RIVALS else self._run_agent
        with self._ground.measured() as found:
            before = os.times()
            fetch(image.id, cache)
            after = os.times()
        # The agent is a process of its own.
        found['cpu'] += sum(after[2:4]) - sum(before[2:4])
        path = cache / image.id
        found['used'] = path.stat().st_blocks * 512
        if verify:
            found['same'] = pool.same(case, path)
        self._cloud.api('DELETE', f'/v2/cache/{image.id}', 'admin')
        return found

    def _ask(self, image_id, cache):
        self._cloud.api('PUT', f'/v2/cache/{image_id}', 'admin')
        processes.wait_until((cache / image_id).exists, part.TIMEOUT,
                             'the cache of Glance', 0.05)

    def _run_agent(self, image_id, cache):
        (cache / 'queue' / image_id).touch()
        glance = self._cloud.glance
        etc = glance.dir / 'agent.conf'
        ini.write(etc, {'cache_prefetch': {'grace': 0},
                        'conversion_agent': {'cleanup_interval': 0,
                                             'digests_interval': 0}})
        processes.run(self._cloud.settings.bin('glance-conversion-agent'),
                      '--config-file', glance.config_dir / 'glance-api.conf',
                      '--config-file', etc, '--once')
