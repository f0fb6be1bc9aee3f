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

"""Which images are asked for: the newest, and those that were most often."""

from typing import Any

import sqlalchemy

from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import retry


@retry.patient
def newest_public(limit: int) -> list[Any]:
    """The public images that came last, the last one first."""
    found: list[Any] = compat.database().image_get_all(
        compat.admin_context(), limit=limit,
        sort_key=['created_at'], sort_dir=['desc'],
        filters={'visibility': 'public', 'status': 'active',
                 'os_hidden': False})
    return found


@retry.patient
def most_hit(limit: int) -> list[str]:
    """Ids of the images with the most cache hits on all nodes together."""
    image, cached = compat.Image, compat.CachedImages
    hits = sqlalchemy.func.sum(cached.hits)
    with compat.session_for_read() as session:
        return [image_id for image_id, in session.query(
            cached.image_id).join(
            image, image.id == cached.image_id).filter(
            image.status == 'active').group_by(
            cached.image_id).having(hits > 0).order_by(
            hits.desc()).limit(limit)]
