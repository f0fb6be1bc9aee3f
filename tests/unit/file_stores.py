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

"""Real stores of files, without a Glance."""

import glance_store
from oslo_config import cfg

from glance_conversion_plugins import config
from glance_conversion_plugins.stores import sparse_file


def make(datadir):
    """Configure a store for a folder, which must exist."""
    conf = cfg.ConfigOpts()
    glance_store.register_opts(conf)
    config.register_opts(conf)
    conf([])
    conf.set_override('filesystem_store_datadir', str(datadir), 'glance_store')
    made = sparse_file.Store(conf)
    made.configure()
    return made
