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

"""``glance-conversion-manage convert``: what is stored becomes raw."""

from collections.abc import Callable
from collections.abc import Iterator
import logging
from typing import Any
import uuid

from oslo_config import cfg

from glance_conversion_plugins.cmd import display
from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import image_api
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.glance_db import successors
from glance_conversion_plugins.image_import import options
from glance_conversion_plugins.image_import import reimport
from glance_conversion_plugins.image_import import retirement
from glance_conversion_plugins.stores import registry
from glance_conversion_plugins import units

CONF = cfg.CONF
LOG = logging.getLogger(__name__)

_GRACE = 7 * 24 * 3600


def add_command(subparsers: Any) -> None:
    """Describe the command line."""
    parser = subparsers.add_parser(
        'convert', help='let raw images take the place of stored ones that '
                        'are qcow2, vmdk, vdi, vhd or vhdx')
    parser.add_argument(
        '--dry-run', action='store_true',
        help='only say what would become of each, and how much room that '
             'takes')
    parser.add_argument(
        '--store', action='append', default=[], metavar='STORE',
        help='where to; may be given again; where each of them is, or the '
             'default store, if not given')
    parser.add_argument(
        '--pool-room', type=float, default=0, metavar='GIB',
        help='leave so much room in each store')
    parser.add_argument(
        '--retire', action='store_true',
        help='convert nothing, but delete images whose place was taken, once '
             'what took it was read and found right')
    parser.add_argument(
        '--grace', type=float, default=_GRACE, metavar='SECONDS',
        help=f'how long ago that has to be; {_GRACE} if not given')
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument('--all', action='store_true')
    which.add_argument('image', nargs='*', default=[], help='id')
    parser.set_defaults(run=run)


def run(args: Any) -> int:
    """Convert what is stored; 1 if something should have been and was not."""
    if options.output_format() != 'raw':
        raise errors.Misconfigured(
            'Nothing can become raw: the output_format of this cloud is '
            f'{options.output_format()}.')
    _see_ours(args.store)
    api, failed = image_api.connect(), False
    treat = _retire if args.retire else _convert
    with display.Display() as shown:
        for image in _wanted(args):
            shown.say(f'image {image["id"]} "{image["name"] or ""}" '
                      f'({image["disk_format"]}, '
                      f'{units.amount(image["size"] or 0)}):')
            try:
                target = reimport.Target(api, [], shown.progress)
                words = treat(image, args, target)
            except Exception as e:
                LOG.exception('Image %s stays as it is', image['id'])
                words, failed = f'stays as it is: {e}', True
            shown.say(f'  {words}')
        if args.dry_run and not args.retire:
            _say_room(shown.say)
    return int(failed)


def _see_ours(stores: list[str]) -> None:
    for name in stores:
        if not registry.find(name):
            raise errors.Misconfigured(
                f'Store {name} is not of type sparse_rbd or sparse_file; '
                'name one that is with --store.')


def _wanted(args: Any) -> Iterator[Any]:
    """The images to treat, as the database has them."""
    for image_id in args.image:
        if (image := records.find_image(image_id)) is None:
            raise errors.NotStored(f'There is no image {image_id}.')
        yield image
    for image in records.images(status='active') if args.all else ():
        is_replaced = successors.AT in successors.properties(image)
        if (image['disk_format'] in reimport.FORMATS
                and is_replaced == args.retire):
            yield image


def _convert(image: Any, args: Any, target: reimport.Target) -> str:
    """Convert one image; returns what has become of it."""
    if reason := reimport.why_not(image):
        return f'stays as it is: {reason}'
    target = target._replace(stores=_targets(image, args.store))
    size = image['virtual_size']
    if args.dry_run:
        most = f'at most {units.amount(size)}' if size else (
            'it is not recorded how much that takes')
        return f'would become raw in {", ".join(target.stores)}; {most}'
    _see_room(target.stores, (size or image['size'])
              + int(args.pool_room * 2 ** 30))
    successor, message = reimport.convert(image, target)
    return f'has become image {successor}: {message}'


def _retire(image: Any, args: Any, target: reimport.Target) -> str:
    """Delete one image; returns what has become of it."""
    if reason := retirement.why_kept(image, args.grace):
        return f'stays: {reason}'
    if args.dry_run:
        return 'would be deleted, if nothing is wrong with what has its place'
    retirement.retire(image['id'], args.grace, target)
    return 'is deleted'


def _targets(image: Any, wanted: list[str]) -> list[str]:
    """The stores that an image goes into."""
    present = sorted(records.recorded_stores(image['id']))
    stores = wanted or [name for name in present if registry.find(name)] or [
        CONF.glance_store.default_backend]
    _see_ours(stores)
    return stores


def _room(store_id: str) -> int | None:
    """How many bytes are free in a store; None if nobody can say."""
    if (store := registry.find(store_id)) is None:
        return None
    sink = store.sink(str(uuid.uuid4()), str(uuid.uuid4()))
    try:
        return min((place.free for place in sink.room(0)), default=None)
    finally:
        sink.release()


def _see_room(stores: list[str], needed: int) -> None:
    for name in stores:
        free = _room(name)
        if free is not None and free < needed:
            raise errors.StoreFull(
                f'Store {name} has room for {units.amount(free)}, and '
                f'{units.amount(needed)} may be needed.')


def _say_room(say: Callable[[str], None]) -> None:
    for name in registry.identifiers():
        if (free := _room(name)) is not None:
            say(f'store {name}: {units.amount(free)} are free')
