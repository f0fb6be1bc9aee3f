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

import os

# Registers lock_path.
from oslo_concurrency import lockutils  # noqa: F401
from oslo_config import cfg
import pytest

from glance_conversion_plugins.stores import liveness


@pytest.fixture(autouse=True)
def lock_files(tmp_path):
    """Where processes say that they live; this one has not said so yet."""
    folder = tmp_path / 'locks'
    folder.mkdir()
    cfg.CONF.set_override('lock_path', str(folder), 'oslo_concurrency')
    before = liveness._this
    liveness._this = None
    yield folder
    if made := liveness._this:
        os.close(made.fd)
    liveness._this = before
    cfg.CONF.clear_override('lock_path', 'oslo_concurrency')
