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


"""Reading the configuration of the deployment's own Glance, as it does."""

from collections.abc import Sequence
import warnings

from oslo_config import cfg
from oslo_log import log as logging

from glance_conversion_plugins import config

CONF = cfg.CONF


def configure(prog: str, argv: Sequence[str], options: Sequence[cfg.Opt]
              ) -> None:
    """Parse the command line and the files, and set up logs and stores.

    The files are those of --config-file and --config-dir, or in the folder
    that OS_GLANCE_CONFIG_DIR names, or in /etc/glance.

    :param options: of the command line
    :raises cfg.Error: if one of our options has a wrong value
    """
    # Some library below Glance greets everyone with this, on stderr.
    warnings.filterwarnings('ignore', '(?s).*Eventlet is deprecated')
    from glance.common import config as glance_config
    from glance.common import wsgi_app
    glance_config.set_config_defaults()
    parse(CONF, prog, argv, options)
    logging.setup(CONF, 'glance')
    _create_stores(wsgi_app.RESERVED_STORES)


def parse(conf: cfg.ConfigOpts, prog: str, argv: Sequence[str],
          options: Sequence[cfg.Opt]) -> None:
    """Read the configuration as it is now.

    :raises cfg.Error: as ``configure()``
    """
    from glance.common import wsgi_app
    logging.register_options(conf)
    config.register_opts(conf)
    conf.register_cli_opts(options)
    conf(argv, project='glance', prog=prog,
         default_config_files=wsgi_app._get_config_files())
    config.check(conf)


def _create_stores(reserved: dict[str, str]) -> None:
    import glance_store
    if CONF.enabled_backends:
        glance_store.register_store_opts(CONF, reserved_stores=reserved)
        glance_store.create_multi_stores(CONF, reserved_stores=reserved)
    else:
        glance_store.register_opts(CONF)
        glance_store.create_stores(CONF)
