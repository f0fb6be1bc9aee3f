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
"""What is recorded of an image that was converted after it was stored.

In properties that Glance lets no user set, so that none can pass an image of
his off as that of another one.
"""

from typing import Any
from typing import NamedTuple

from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import retry

_PREFIX = 'os_glance_conversion_converted_'
# Of the former image: which one takes its place, and since when.
TO, AT = f'{_PREFIX}to', f'{_PREFIX}at'
# Of the new one: whose place it takes.
FROM = f'{_PREFIX}from'


class Announced(NamedTuple):
    """What is recorded of an image."""

    to: str = ''    # which one takes its place
    at: str = ''    # since when it has it


@retry.patient
def find(image_id: str) -> Announced:
    """What was announced of an image, on the primary."""
    prop = compat.ImageProperty
    with compat.session_for_write() as session:
        rows = dict(session.query(prop.name, prop.value).filter(
            prop.image_id == image_id, prop.name.in_((TO, AT)),
            prop.deleted.is_(False)).all())
    return Announced(rows.get(TO, ''), rows.get(AT, ''))


@retry.patient
def announce(image_id: str, successor: str) -> None:
    """Note which image is to take the place of one, before there is any."""
    _update(image_id, {'properties': {TO: successor}})


@retry.patient
def link(successor: str, image_id: str) -> None:
    """Note whose place an image takes."""
    _update(successor, {'properties': {FROM: image_id}})


@retry.patient
def replace(image_id: str, successor: str, at: str) -> None:
    """Hide an image behind the one that has taken its place, in one step.

    :param at: the time, as Glance writes it
    """
    _update(image_id, {'os_hidden': True,
                       'properties': {TO: successor, AT: at}})


@retry.patient
def renounce(image_id: str, successor: str) -> None:
    """Forget what was announced, if that is still so."""
    repo = compat.image_repo()
    try:
        repo.delete_property_atomic(repo.get(image_id), TO, successor)
    except compat.exception.NotFound:
        return


def _update(image_id: str, values: dict[str, Any]) -> None:
    compat.database().image_update(compat.admin_context(), image_id, values)
