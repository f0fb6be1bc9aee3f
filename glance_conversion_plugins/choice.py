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

"""Which way an image goes: the one place that decides.

Images are converted where their disk_format is one that qemu decodes and that
the inspectors know, and their container_format is ``bare``. All others are
kept as they were uploaded, and Glance inspects them as it always does. Of
those that are converted, the raw ones go directly into stores of ours, in one
pass; all others by way of a file in staging, which Glance uploads.
"""

from collections.abc import Mapping
import enum
import os
from typing import NamedTuple

from glance_conversion_plugins import importing
from glance_conversion_plugins import inspection
from glance_conversion_plugins import placeholder

_KEPT_PROPERTIES = {
    'img_signature': 'it is signed, and a converted image would not match '
                     'its signature',
    'os_encrypt': 'it is encrypted',
}


class Road(enum.Enum):
    """What is done with an image."""

    KEEP = 'kept as it is'
    INSPECT = 'inspected, and kept as it is'
    DIRECT = 'written directly into its stores'
    STAGE = 'converted in staging'


class Choice(NamedTuple):
    """A way, and why."""

    road: Road
    reason: str = ''
    concerns_owner: bool = False    # the reason lies in the image


def choose(facts: importing.Facts, path: str, kinds: Mapping[str, str | None],
           output_format: str) -> Choice:
    """Choose the way of one image.

    :param path: of what is staged
    :param kinds: for each target store the kind of ours that it is, or None
    :param output_format: what the deployment wants
    """
    if path.endswith(placeholder.SUFFIX):
        return Choice(Road.KEEP, 'it is converted already')
    if why := _why_kept(facts):
        return Choice(Road.KEEP, why, concerns_owner=True)
    # A deployment of a single store names none.
    if output_format == 'raw' and kinds and all(kinds.values()):
        if os.path.getsize(path) >= placeholder.SMALLEST:
            return Choice(Road.DIRECT)
    if facts.disk_format == output_format:
        return Choice(Road.INSPECT, f'it is {output_format} already')
    return Choice(Road.STAGE)


def only_rbd(chosen: Choice, kinds: Mapping[str, str | None]) -> Choice:
    """The same, for a plugin that does nothing but write into RBD."""
    if chosen.road is Road.KEEP:
        return chosen
    if chosen.road is not Road.DIRECT:
        return Choice(Road.KEEP, f'it would not be {Road.DIRECT.value}')
    if set(kinds.values()) != {'sparse_rbd'}:
        return Choice(Road.KEEP, 'not every target store is of type '
                      'sparse_rbd')
    return chosen


def _why_kept(facts: importing.Facts) -> str | None:
    for prefix, why in _KEPT_PROPERTIES.items():
        if any(name.startswith(prefix) for name in facts.properties):
            return why
    if facts.container_format != 'bare':
        return f'its container format is {facts.container_format}'
    if facts.disk_format not in inspection.DRIVERS:
        return f'its disk format is {facts.disk_format}'
    return None
