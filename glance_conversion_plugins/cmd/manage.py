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

"""``glance-conversion-manage``: what an operator does by hand.

Reads the configuration of the deployment's own Glance, as glance-api does:
--config-file and --config-dir, or the folder OS_GLANCE_CONFIG_DIR names.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import functools
import signal
import sys
import time
from typing import Any

from oslo_config import cfg
from oslo_log import log as logging

from glance_conversion_plugins.cmd import address
from glance_conversion_plugins.cmd import convert
from glance_conversion_plugins.cmd import display
from glance_conversion_plugins.cmd import inspect
from glance_conversion_plugins.cmd import service
from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying import throttle
from glance_conversion_plugins import errors
from glance_conversion_plugins.maintenance import cleanup
from glance_conversion_plugins.maintenance import digests
from glance_conversion_plugins.maintenance.prefetch import status
from glance_conversion_plugins.maintenance import sparsify
from glance_conversion_plugins.maintenance import stored
from glance_conversion_plugins.maintenance import verify
from glance_conversion_plugins.stores import registry
from glance_conversion_plugins import units

CONF = cfg.CONF
LOG = logging.getLogger(__name__)


def _add_commands(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'cleanup', help='remove what imports that died have left')
    parser.add_argument(
        '--dry-run', action='store_true', help='only say what there is')
    parser.add_argument(
        '--dead-after', type=float, metavar='SECONDS',
        help='take any import for dead whose task has been silent for so '
             'long; Glance lets its lock be taken over after 3600')
    parser.set_defaults(run=cleanup_)
    parser = subparsers.add_parser(
        'digests', help='compute the digests of images that lack them')
    parser.add_argument(
        '--dry-run', action='store_true', help='only say which images')
    parser.set_defaults(run=digests_)
    convert.add_command(subparsers)
    _add_stored(subparsers)
    parser = subparsers.add_parser(
        'inspect', help='say what an import of a file would come to')
    parser.add_argument('file', help='or an address, http:// or https://, of '
                        'which only the first bytes are read')
    parser.add_argument('--container-format', metavar='FORMAT',
                        help='as --disk-format; what is compressed is '
                             'unpacked into TMPDIR')
    parser.add_argument('--disk-format', metavar='FORMAT',
                        help='what its owner would say it is; what it is, if '
                             'not given')
    parser.add_argument('--store', action='append', default=[],
                        metavar='STORE', help='where to; may be given again; '
                        'the default store, if not given')
    parser.set_defaults(run=inspect_)
    parser = subparsers.add_parser('cache', help='look at the image cache')
    actions = parser.add_subparsers(title='actions', required=True)
    parser = actions.add_parser('status', help='say what is cached, queued '
                                'and failing, and what a pass of the agent '
                                'would do now')
    parser.set_defaults(run=cache_status)


def _add_stored(subparsers: Any) -> None:
    """What is done with images that are stored."""
    parser = subparsers.add_parser(
        'sparsify', help='give back the room of zeros that were stored')
    parser.add_argument(
        '--dry-run', action='store_true', help='only say how much that is')
    _add_store(parser)
    parser.add_argument(
        '--grace', type=float, default=sparsify.GRACE, metavar='SECONDS',
        help='how long downloads that have begun may go on reading the RBD '
             f'images that were replaced; {sparsify.GRACE} if not given')
    parser.add_argument('image', nargs='*', help='id; all, if none is given')
    parser.set_defaults(run=sparsify_)
    parser = subparsers.add_parser(
        'verify', help='say whether what is stored is what was recorded')
    _add_store(parser)
    parser.add_argument(
        '--rate-limit', type=float, default=0, metavar='MIB',
        help='read so many MiB per second at most')
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument('--all', action='store_true')
    which.add_argument('image', nargs='*', default=[], help='id')
    parser.set_defaults(run=verify_)


def _add_store(parser: Any) -> None:
    parser.add_argument(
        '--store', action='append', default=[], metavar='STORE',
        help='look into this store only; may be given again')


def inspect_(args: Any) -> int:
    """Say what an import of a file would come to; 1: it would be refused."""
    try:
        with display.Display() as shown:
            for line in _report(args, shown.progress):
                shown.say(line)
    except errors.ImageRefused as e:
        print(f'verdict: refused: {e}')
        return 1
    except OSError as e:
        print(f'{args.file}: {e.strerror or e}', file=sys.stderr)
        return 2
    return 0


def _report(args: Any, progress: progress_.Progress) -> Iterator[str]:
    if args.file.startswith(('http://', 'https://')):
        return address.report(args.file)
    return inspect.report(
        args.file, inspect.Declared(args.disk_format, args.container_format),
        args.store, progress)


def cache_status(args: Any) -> int:
    """Say what is cached, what is not, and why."""
    for line in status.report():
        print(line)
    return 0


def cleanup_(args: Any) -> int:
    """Find and remove what dead imports have left."""
    with display.Display() as shown:
        found = ((finding.what, finding.remedy)
                 for finding in cleanup.find(args.dead_after))
        return _carry_out(shown, 'Looking for what dead imports have left',
                          found, args.dry_run, 'remov')


def digests_(args: Any) -> int:
    """Compute digests that interrupted processes still owe."""
    since = time.monotonic()
    with display.Display() as shown:
        found = ((f'digests of image {image_id}', functools.partial(
            digests.catch_up, image_id, progress=shown.progress,
            since=since))
            for image_id in digests.without_digests())
        return _carry_out(shown, 'Looking for images without digests',
                          found, args.dry_run, 'comput')


def sparsify_(args: Any) -> int:
    """Give back the zeros of images that were stored thick."""
    failed = False
    if not args.dry_run:
        _put_back()
    for found in stored.images(args.image, args.store):
        try:
            _sparsify(found, args.dry_run)
        except Exception as e:
            LOG.exception('Image %s stays as it is', found.image_id)
            print(f'  stays as it is: {e}', flush=True)
            failed = True
    if not args.dry_run:
        failed |= not _forget_replaced(args.grace)
    return int(failed)


def _put_back() -> None:
    """Give names back that a dead run has taken."""
    for store_id in registry.identifiers():
        for image_id in sparsify.nameless(store_id):
            sparsify.put_back(store_id, image_id)
            print(f'image {image_id} has its name back')


def _sparsify(place: stored.StoredImage, dry_run: bool) -> None:
    print(f'{place}:', flush=True)
    with display.Display() as shown:
        size, zeros = sparsify.zeros(place, shown.progress)
    print(f'  {units.amount(zeros)} of zeros in '
          f'{units.amount(size)} stored', flush=True)
    if zeros and not dry_run:
        with display.Display() as shown:
            sparsify.sparsify(place, shown.progress)
        print('  given back', flush=True)


def _forget_replaced(grace: float) -> bool:
    """Remove replaced images once nobody reads them; returns success."""
    left = 0
    for store_id in registry.identifiers():
        for mark in sparsify.replaced(store_id, grace):
            try:
                sparsify.forget(store_id, mark)
            except Exception as e:
                LOG.warning('%s stays', mark, exc_info=True)
                print(f'what image {mark.image_id} was stays: {e}')
                left += 1
        if later := sparsify.replaced(store_id, 0):
            print(f'{len(later)} replaced images stay in store {store_id} '
                  'for those who still read them; this command and the agent '
                  f'remove them {units.duration(grace)} after they were '
                  'replaced')
    return not left


def verify_(args: Any) -> int:
    """Compare images with their records; 1: one differs, 2: not all known.
    """
    rate = throttle.Throttle(int(args.rate_limit * 2 ** 20))
    missing, reports = set(args.image), []
    with display.Display() as shown:
        for place in stored.recorded(args.image, args.store):
            missing.discard(place.image_id)
            reports.append(verify.verify(place, (rate,), shown.progress))
            shown.say(str(reports[-1]))
        for image_id in sorted(missing):
            shown.say(f'image {image_id} is in no store of this package')
    if any(report.faults for report in reports):
        return 1
    return 2 if missing or any(report.doubt for report in reports) else 0


def _carry_out(shown: display.Display, looking: str,
               found: Iterable[tuple[str, Callable[[], object]]],
               dry_run: bool, verb: str) -> int:
    """Do one thing after the other; returns 1 if one of them failed."""
    failed, what = False, None
    shown.progress.enter(looking)
    for what, remedy in found:
        shown.say(f'would {verb}e {what}' if dry_run else f'{verb}ing {what}')
        try:
            if not dry_run:
                shown.progress.enter(f'{verb.capitalize()}ing {what}')
                remedy()
        except Exception as e:
            LOG.exception('Failed: %s', what)
            shown.say(f'  failed: {e}')
            failed = True
        shown.progress.enter(looking)
    if what is None:
        shown.say(f'nothing to {verb}e')
    return int(failed)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    try:
        service.configure(
            'glance-conversion-manage', sys.argv[1:] if argv is None else argv,
            [cfg.SubCommandOpt('command', title='commands',
                               handler=_add_commands)])
        return int(CONF.command.run(CONF.command))
    except (cfg.Error, errors.ConversionError) as e:
        print(f'glance-conversion-manage: {e}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('glance-conversion-manage: interrupted', file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as e:
        # All else goes to the log, of which whoever types this sees nothing.
        LOG.exception('Failed')
        print(f'glance-conversion-manage: {type(e).__name__}: {e} (the log '
              'has more)', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
