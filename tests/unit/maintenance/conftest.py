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


import threading
import time

from oslo_config import cfg
import pytest

from glance_conversion_plugins import config

config.register_opts(cfg.CONF)


@pytest.fixture(autouse=True)
def no_thread_left():
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
    # Those that were told to end may need a moment.
    while (set(threading.enumerate()) - before
           and time.monotonic() < deadline):
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before


@pytest.fixture
def override(override, tmp_path):
    """Sets options until the test ends; the cache is in tmp_path/cache."""
    override('image_cache_driver', 'sqlite')
    override('image_cache_dir', str(tmp_path / 'cache'))
    return override
