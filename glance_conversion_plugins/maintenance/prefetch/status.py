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


"""The cache of a node in words: what is there, what is not, and why."""

from collections.abc import Iterator

from oslo_config import cfg

from glance_conversion_plugins.maintenance.prefetch import planning
from glance_conversion_plugins.maintenance.prefetch import prefetch
from glance_conversion_plugins.units import amount

CONF = cfg.CONF


def report() -> Iterator[str]:
    """Lines for an operator."""
    work = prefetch.Prefetch()
    yield from _cached(work)
    queued = work.node.queued()
    yield f'queued: {len(queued)}'
    yield from (f'  {image_id}' for image_id in queued)
    failing = work.failures.items()
    yield f'failing: {len(failing)}'
    for image_id, failure in failing:
        yield f'  {image_id}  {prefetch.again(failure)}'
    yield 'the next pass:'
    steps = work.plan()
    for step in steps:
        yield from _step(step)
    if not steps:
        yield '  nothing is wanted'


def _cached(work: prefetch.Prefetch) -> Iterator[str]:
    entries = work.node.entries()
    size = sum(entry.size for entry in entries)
    allocated = sum(entry.allocated for entry in entries)
    yield (f'cached: {len(entries)}, {amount(size)} of '
           f'{amount(CONF.image_cache_max_size)} (image_cache_max_size), '
           f'{amount(allocated)} on disk')
    for entry in entries:
        yield (f'  {entry.image_id}  {amount(entry.size)}, '
               f'{amount(entry.allocated)} on disk, hits: {entry.hits}')


def _step(step: planning.Step) -> Iterator[str]:
    if step.refusal:
        yield (f'  {step.image_id}  would be passed over ({step.why}): '
               f'{step.refusal}')
        return
    yield (f'  {step.image_id}  would be fetched ({step.why}), '
           f'{amount(step.size)}')
    for image_id in step.evict:
        yield f'    {image_id} would be evicted for it'
