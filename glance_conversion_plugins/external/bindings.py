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

"""Libraries that come from the distribution and may be missing here.

Glance logs an import plugin that can not be imported, skips it, and stores
the image unconverted. So what is missing fails where it is used, inside of
the task, and only the images that need it.
"""

import importlib
import logging
from typing import Any

from glance_conversion_plugins import errors

LOG = logging.getLogger(__name__)


class _Missing:
    """Stands for a module that could not be imported."""

    def __init__(self, name: str, error: Exception) -> None:
        self._name = name
        self._error = error

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith('__'):      # of whoever only looks at it
            raise AttributeError(attribute)
        LOG.error('Python can not import %s: %s', self._name, self._error)
        raise errors.Misconfigured(
            'This cloud can not convert images: a library is missing.')


def load(name: str) -> Any:
    """Import a module; any use of one that is missing raises Misconfigured.
    """
    try:
        return importlib.import_module(name)
    # A library of another version than its binding raises what it likes.
    except Exception as e:
        return _Missing(name, e)
