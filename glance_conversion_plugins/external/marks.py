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

"""Names and marks of images that Glance has not recorded yet.

While an image is written it has a name of its own, which tells whose it is,
so that a crash before it is marked leaves nothing unknown and no one can
clone half an image by mistake. RBD images and files are named alike. The
deployment is part of the name: two clouds may share a pool, and none of them
judges what the other has left.
"""

import re
from typing import NamedTuple

PARTIAL = 'partial'     # it is being written
SEALED = 'sealed'       # stands for a mark where files have one name only
REPLACED = 'replaced'   # another one took its place
REMOVED = 'removed'     # its writer has lost it
UNSEALED = 'unsealed'   # the same, of one that was sealed

UUID = re.compile(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')
_STATES = '|'.join((PARTIAL, SEALED, REPLACED, REMOVED, UNSEALED))
_NAME = re.compile(r'(?P<image_id>[0-9a-f-]{36})\.(?P<task_id>[0-9a-f-]+)'
                   rf'(\.(?P<deployment>[0-9a-f]{{8}}))?\.(?P<state>{_STATES})')


class Mark(NamedTuple):
    """Who writes an image that is not yet Glance's."""

    image_id: str
    task_id: str
    deployment: str = ''    # '': of a version that did not say
    host: str = ''          # for people; nothing is decided by it

    def name(self, state: str) -> str:
        """Name the image while it is in a state: PARTIAL, say."""
        parts = self.image_id, self.task_id, self.deployment, state
        return '.'.join(part for part in parts if part)

    def is_same(self, other: 'Mark') -> bool:
        """Whether both are of one writer, wherever each was read."""
        return self[:3] == other[:3]


class Found(NamedTuple):
    """A mark in a store, and whether its image has its own name already."""

    mark: Mark
    is_published: bool
    # Or its writer has only begun: there is no image, or it is not marked yet
    # and seems to be open to nobody, for as long as its store takes to answer.
    is_written: bool = True


def parse(name: str, *states: str) -> Mark | None:
    """Whose image has a name; None if it is not one of those states."""
    match = _NAME.fullmatch(name)
    if match and match['state'] in states:
        return Mark(match['image_id'], match['task_id'],
                    match['deployment'] or '')
    return None
