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

"""Entry points of the import plugins. They only wire.

Glance logs a plugin whose entry point raises, skips it, and imports the image
unconverted; so every check belongs into the tasks.
"""

from typing import Any

from oslo_config import cfg
from taskflow.patterns import linear_flow

from glance_conversion_plugins import config
from glance_conversion_plugins.image_import import image as image_
from glance_conversion_plugins.image_import import task

config.register_opts(cfg.CONF)


def rbd_direct_convert(**kwargs: Any) -> linear_flow.Flow:
    """Return the flow of the plugin of this name.

    :param kwargs: what glance.async_.flows.api_image_import.get_flow()
        passes to plugins
    """
    return _flow(task.RbdDirectConvert, kwargs)


def convert_image(**kwargs: Any) -> linear_flow.Flow:
    """Return the flow of the plugin of this name; the same parameters."""
    return _flow(task.ConvertImage, kwargs)


def _flow(kind: type[task.ConvertImage], kwargs: dict[str, Any]
          ) -> linear_flow.Flow:
    request = image_.ImportRequest(
        kwargs['image_id'], kwargs['task_id'], kwargs.get('backend') or [],
        kwargs['import_req'].get('all_stores_must_succeed', True),
        kwargs['import_req'].get('method', {}).get('name', ''))
    image = image_.ImportedImage(
        kwargs['context'], request.task_id, kwargs['task_repo'],
        kwargs['action_wrapper'], request.stores)
    task_type = kwargs['task_type']
    return linear_flow.Flow(task_type).add(
        kind(request, image,
             f'{task_type}-{kind.__name__}-{request.task_id}'))
