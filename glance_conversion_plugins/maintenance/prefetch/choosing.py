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


"""Which images a node should have: its queue, and what the operator asks for.
"""

from collections.abc import Iterator
import itertools
from typing import Any
from typing import NamedTuple

from oslo_config import cfg

from glance_conversion_plugins.glance_db import popularity
from glance_conversion_plugins.glance_db import records

CONF = cfg.CONF


class Candidate(NamedTuple):
    """An image that somebody wants here."""

    image_id: str
    why: str
    size: int = 0                   # bytes
    refusal: str | None = None      # why it can not be had, whatever is done
    gone: bool = False              # it does not exist any more


def candidates(queued: list[str]) -> list[Candidate]:
    """All that is wanted, what matters most first, each image once.

    :param queued: ids of what was asked for by hand
    """
    found: dict[str, Candidate] = {}
    for candidate in itertools.chain(map(_queued, queued), _policy()):
        found.setdefault(candidate.image_id, candidate)
    return list(found.values())


def _queued(image_id: str) -> Candidate:
    image = records.find_image(image_id)
    if image is None or image['status'] in ('deleted', 'pending_delete'):
        return Candidate(image_id, 'queued', gone=True, refusal='it was '
                         'deleted' if image else 'there is no such image')
    return _candidate(image, 'queued')


def _candidate(image: Any, why: str) -> Candidate:
    return Candidate(image['id'], why, image['size'] or 0, _refusal(image))


def _refusal(image: Any) -> str | None:
    if image['status'] != 'active':
        return f'its status is {image["status"]}'
    if image['size'] is None:
        return 'its size is not known'
    if not image['os_hash_value'] and not image['checksum']:
        return 'it has no digest yet to verify it by'
    return None


def _policy() -> Iterator[Candidate]:
    policy = CONF.cache_prefetch
    if policy.properties or policy.tags or policy.visibility:
        yield from _selected(policy)
    if policy.newest:
        for image in popularity.newest_public(policy.newest):
            yield _candidate(image, 'among the newest')
    if policy.most_hit:
        for image_id in popularity.most_hit(policy.most_hit):
            if image := records.find_image(image_id):
                yield _candidate(image, 'among the most hit')


def _selected(policy: Any) -> Iterator[Candidate]:
    """Images that satisfy each kind of condition that is set."""
    for name, tag, visibility in itertools.product(
            policy.properties or [None], policy.tags or [None],
            policy.visibility or ['all']):
        filters: dict[str, Any] = {'status': 'active',
                                   'visibility': visibility,
                                   'os_hidden': False}
        why = []
        if name:
            # Under this key no name is taken for one of Glance's filters.
            filters['properties'] = {name[0]: name[1]}
            why.append('property {}={}'.format(*name))
        if tag:
            filters['tags'] = [tag]
            why.append(f'tag {tag}')
        if visibility != 'all':
            why.append(visibility)
        for image in records.images(**filters):
            yield _candidate(image, ', '.join(why))
