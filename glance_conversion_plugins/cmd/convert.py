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

from collections.abc import Iterator
import logging
from typing import Any

from oslo_config import cfg

from glance_conversion_plugins.cmd import display
from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import image_api
from glance_conversion_plugins.glance_db import records
from glance_conversion_plugins.glance_db import successors
from glance_conversion_plugins.image_import import options
from glance_conversion_plugins.image_import import reimport
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
        '--dry-run', action='store_true', help='only say what would become '
                                               'of each, and how much room '
                                               'that takes')
    parser.add_argument(
        '--store', action='append', default=[], metavar='STORE',
        help='where to; may be given again; where each of them is, or the '
             'default store, if not given')
    parser.add_argument(
        '--pool-room', type=float, default=0, metavar='GIB',
        help='leave so much room in each store')
    parser.add_argument(
        '--retire', action='store_true',
        help='delete images whose place was taken, once nothing is wrong with '
             'what took it')
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
    api, failed, room = image_api.connect(), 0, 0
    with display.Display() as shown:
        for image_id in _wanted(args):
            try:
                image = api.show(image_id)
                shown.say(f'image {image_id} "{image["name"] or ""}" '
                          f'({image["disk_format"]}, '
                          f'{units.amount(image["size"] or 0)}):')
                words, taken = _treat(image, args, api, shown)
                room += taken
            except Exception as e:
                LOG.exception('Image %s stays as it is', image_id)
                words, failed = f'stays as it is: {e}', failed + 1
            shown.say(f'  {words}')
        if args.dry_run:
            _say_room(room, shown)
    return int(failed > 0)


def _wanted(args: Any) -> Iterator[str]:
    """Ids of the images to treat."""
    if not args.all:
        yield from args.image
        return
    for image in records.images(status='active'):
        names = {each['name'] for each in image['properties']
                 if not each['deleted']}
        is_replaced = successors.AT in names
        if image['disk_format'] in reimport.FORMATS and (
                args.retire or not is_replaced):
            yield image['id']


def _treat(image: image_api.Shown, args: Any, api: image_api.ImageApi,
           shown: display.Display) -> tuple[str, int]:
    """What becomes of one image, and how much room that takes at most."""
    target = reimport.Target(api, _targets(image, args.store), shown.progress)
    if args.retire and image.get(successors.AT):
        if args.dry_run:
            return 'would be deleted, if nothing is wrong', 0
        reason = reimport.retire(image, args.grace, target)
        return f'stays: {reason}' if reason else 'is deleted', 0
    if reason := reimport.why_not(image):
        return f'stays as it is: {reason}', 0
    needed = reimport.room_needed(image)
    if args.dry_run:
        return (f'would become raw in {", ".join(target.stores)}, at most '
                f'{units.amount(needed)}'), needed * len(target.stores)
    _see_room(target.stores, needed + int(args.pool_room * 2 ** 30))
    successor, message = reimport.convert(image, target)
    return f'has become image {successor}: {message}', 0


def _targets(image: image_api.Shown, wanted: list[str]) -> list[str]:
    """The stores that an image goes into."""
    present = (image.get('stores') or '').split(',')
    stores = wanted or [name for name in present if registry.find(name)] or [
        CONF.glance_store.default_backend]
    for name in stores:
        if not registry.find(name):
            raise errors.Misconfigured(
                f'Store {name} is not of type sparse_rbd or sparse_file; '
                'name one that is with --store.')
    return stores


def _see_room(stores: list[str], needed: int) -> None:
    for name in stores:
        store = registry.find(name)
        free = reimport.room(store) if store else None
        if free is not None and free < needed:
            raise errors.StoreFull(
                f'Store {name} has room for {units.amount(free)}, and '
                f'{units.amount(needed)} may be needed.')


def _say_room(needed: int, shown: display.Display) -> None:
    shown.say(f'all of that: at most {units.amount(needed)}, less what is '
              'zeros')
    for name in registry.identifiers():
        if (store := registry.find(name)) and (
                free := reimport.room(store)) is not None:
            shown.say(f'store {name}: {units.amount(free)} are free')
