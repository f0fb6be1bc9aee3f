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


"""Reading the configuration of the deployment's own Glance, as it does.

The files are those of --config-file and --config-dir, or in the folder that
OS_GLANCE_CONFIG_DIR names, or in /etc/glance; then those in glance.conf.d and
glance-api.conf.d of /etc/glance.
"""

from collections.abc import Sequence

import glance_store
from oslo_config import cfg
from oslo_log import log as logging

from glance_conversion_plugins import config
from glance_conversion_plugins.glance_db import compat

CONF = cfg.CONF


def configure(prog: str, argv: Sequence[str], options: Sequence[cfg.Opt]
              ) -> None:
    """Parse the command line and the files, and set up logs and stores.

    :param options: of the command line
    :raises cfg.Error: if one of our options has a wrong value
    """
    prepare(CONF)
    parse(CONF, prog, argv, options)
    logging.setup(CONF, 'glance')
    create_stores()


def prepare(conf: cfg.ConfigOpts) -> None:
    """Register what has to be known before the files are read."""
    compat.set_config_defaults()
    logging.register_options(conf)
    config.register_opts(conf)


def read(conf: cfg.ConfigOpts, prog: str, argv: Sequence[str]) -> None:
    """Parse the command line, and the files that glance-api would read."""
    conf(argv, project='glance', prog=prog,
         default_config_files=compat.config_files(),
         default_config_dirs=cfg.find_config_dirs('glance', 'glance-api'))


def parse(conf: cfg.ConfigOpts, prog: str, argv: Sequence[str],
          options: Sequence[cfg.Opt]) -> None:
    """Read the configuration as it is now.

    :raises cfg.Error: as ``configure()``
    """
    conf.register_cli_opts(options)
    read(conf, prog, argv)
    config.check(conf)


def create_stores() -> None:
    """Create the stores as glance-api does."""
    if CONF.enabled_backends:
        glance_store.register_store_opts(
            CONF, reserved_stores=compat.RESERVED_STORES)
        glance_store.create_multi_stores(
            CONF, reserved_stores=compat.RESERVED_STORES)
    else:
        glance_store.register_opts(CONF)
        glance_store.create_stores(CONF)
