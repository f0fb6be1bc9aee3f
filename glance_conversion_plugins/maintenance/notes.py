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

"""A file in which a job notes what it has to know in its next pass.

That may be made by another process.
"""

from collections.abc import Callable
from collections.abc import Mapping
import json
import logging
import os
from typing import Any
from typing import TypeVar

LOG = logging.getLogger(__name__)

_T = TypeVar('_T')


def read(path: str, entry: Callable[..., _T]) -> dict[str, _T]:
    """What is noted; nothing, if that can not be read.

    :param entry: makes what is noted under a key of the values in the file
    """
    try:
        with open(path) as file:
            return {key: entry(*values)
                    for key, values in json.load(file).items()}
    except FileNotFoundError:
        return {}
    except OSError as e:
        LOG.warning('%s can not be read: %s', path, e)
        return {}
    except (ValueError, TypeError, AttributeError):
        LOG.warning('%s is damaged and starts anew', path)
        return {}


def write(path: str, noted: Mapping[str, Any]) -> None:
    """Note tuples under keys, in place of all that was noted."""
    temporary = path + '.new'
    try:
        with open(temporary, 'w') as file:
            json.dump(noted, file)
        os.replace(temporary, path)
    except OSError as e:
        # Of a full disk, say; this pass still knows.
        LOG.warning('%s is not up to date: %s', path, e)
