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

"""The benchmark of tox -e bench, on a cloud of its own."""

import argparse
import json
import os
import pathlib
import signal
import sys
import time

# The images that attack are those of the tests.
sys.path.insert(1, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmark import attack
from benchmark import burst
from benchmark import cases
from benchmark import chart
from benchmark import contestants
from benchmark import crowd
from benchmark import documents
from benchmark import first_byte
from benchmark import latency
from benchmark import machine
from benchmark import measure
from benchmark import memory
from benchmark import report
from benchmark import responses
from benchmark import stores
from benchmark import thresholds
from cloud import Cloud

DEFAULT_ROOT = pathlib.Path('/var/tmp/glance-conversion-bench')
DEFAULT_OUTPUT = (pathlib.Path(__file__).resolve().parent.parent
                  / 'doc' / 'source' / 'admin' / 'bench')
BASE_PORT = 29400
# A memstore keeps the holes in objects as zeros, and counts them as data,
# unless it works in pages; then it still counts them, so give it room.
CEPH_ARGS = ('--memstore_page_set=true '
             f'--memstore_device_bytes={64 * 2 ** 30}')


def options(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--stock-runs', type=int, default=1, help='runs of '
                        'what takes minutes')
    parser.add_argument('--stock-c', action='store_true',
                        help='stock, and digests inline, in (c) too: many '
                        'minutes')
    parser.add_argument('--cases', default='a,b,c', help='of '
                        f'{", ".join(cases.TITLES)}; empty for none')
    parser.add_argument('--latency', action='store_true',
                        help='(a) with 5 ms of latency at the OSD')
    parser.add_argument('--api', action='store_true',
                        help='response times beside a conversion')
    parser.add_argument('--attack', action='store_true',
                        help='an import beside ten ordinary and ten hostile '
                        'ones')
    parser.add_argument('--burst', type=int, action='append', default=[],
                        metavar='N', help='so many Debian images at once; '
                        'may be given more than once')
    parser.add_argument('--crowd', type=int, action='append', default=[],
                        metavar='N', help='memory of so many uploads and as '
                        'many imports at once; may be given more than once')
    parser.add_argument('--first-byte', action='store_true',
                        help='of a download of 1 TiB')
    parser.add_argument('--memory', action='store_true',
                        help='memory of 1 GiB and of 1 TiB')
    parser.add_argument('--stores', nargs='?', default='',
                        const=','.join(stores.PARTS),
                        help='plain stores, without import plugins: of '
                        f'{", ".join(stores.PARTS)}; all if none is named')
    parser.add_argument('--documents', nargs='?', default='',
                        const=','.join(documents.RUNS), metavar='RUN,...',
                        help='the runs whose tables are in the documents, of '
                        f'{", ".join(documents.RUNS)}; all if none is named')
    parser.add_argument('--root', type=pathlib.Path, default=DEFAULT_ROOT,
                        help='folder of the cloud; must not exist')
    parser.add_argument('--base-port', type=int, default=BASE_PORT)
    parser.add_argument('--objectstore', default='memstore',
                        choices=('memstore', 'bluestore'))
    parser.add_argument('--venv', type=pathlib.Path,
                        help='where Glance, Keystone, uWSGI are')
    parser.add_argument('--output', type=pathlib.Path,
                        default=DEFAULT_OUTPUT)
    chosen = parser.parse_args(argv)
    chosen.documents = [name for name in chosen.documents.split(',') if name]
    if not set(chosen.documents) <= documents.RUNS.keys():
        parser.error(f'there are runs {", ".join(documents.RUNS)}')
    chosen.cases = [key for key in chosen.cases.split(',') if key]
    if not set(chosen.cases) <= cases.TITLES.keys():
        parser.error(f'there are cases {", ".join(cases.TITLES)}')
    chosen.stores = [name for name in chosen.stores.split(',') if name]
    if not set(chosen.stores) <= stores.PARTS.keys():
        parser.error(f'there are {", ".join(stores.PARTS)}')
    if chosen.root.exists() and chosen.root != DEFAULT_ROOT:
        parser.error(f'{chosen.root} exists')
    return chosen


def measure_all(cloud, chosen, results):
    """Everything that was asked for, into results."""
    contest = contestants.Contestants(cloud)
    contest.warm_up()
    for key in chosen.cases:
        case = cases.case(key)
        found = measure.compare(contest, case, measure.field(key, chosen))
        digests = {result['digest'] for result in found.values()
                   if 'digest' in result}
        results['cases'][key] = {
            'title': case.title, 'virtual': case.virtual, 'data': case.data,
            'digests_agree': len(digests) < 2,
            'scaled': case.virtual > contestants.HASHED,
            'contestants': found}
    if chosen.latency:
        results['latency'] = latency.latency(
            cloud, contest, cases.case('a'), chosen.runs)
    if chosen.api:
        results['api'] = responses.responses(
            cloud, contest, cases.case('a'))
    if chosen.attack:
        results['attack'] = attack.attack(
            cloud, contest, cases.case('a'), chosen.runs)
    if chosen.memory:
        results['memory'] = memory.memory(cloud, contest, chosen.runs)
    if chosen.crowd:
        results['crowd'] = {
            count: crowd.crowd(cloud, contest, cases.case('a'), count)
            for count in chosen.crowd}
    if chosen.burst:
        results['burst'] = {
            count: burst.burst(cloud, contest, cases.case('a'), count,
                               chosen.runs)
            for count in chosen.burst}
    if chosen.first_byte:
        results['first_byte'] = first_byte.first_byte(
            cloud, contest, cases.case('g'), chosen.runs)
    if chosen.stores:
        # Filled as it goes: it is what takes longest.
        results['stores'] = {}
        stores.stores(cloud, chosen, results['stores'])


def write(results, folder):
    """Write the table, the figures and the chart."""
    folder.mkdir(parents=True, exist_ok=True)
    text = report.report(results)
    print(text)
    (folder / 'bench.txt').write_text(text)
    (folder / 'bench.json').write_text(json.dumps(results, indent=1) + '\n')
    if results['cases']:
        chart.chart(results, folder / 'bench.png')


def is_right(results):
    """Whether all contestants ran, and all wrote the same content."""
    found = [case['contestants'] for case in results['cases'].values()]
    if 'latency' in results:
        found.append(results['latency']['contestants'])
    found += [part['contestants']
              for part in results.get('stores', {}).values()]
    return ('error' not in results
            and all(case['digests_agree']
                    for case in results['cases'].values())
            and all('error' not in result and result.get('same', True)
                    for case in found for result in case.values()))


def main():
    """Measure what the command line says."""
    # So that the cloud goes down with us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ['CEPH_ARGS'] = CEPH_ARGS
    chosen = options()
    runs = [options([*sys.argv[1:], *documents.arguments(name, chosen.output),
                     '--documents='])
            for name in chosen.documents]
    return max([bench(each) for each in runs or [chosen]])


def bench(chosen):
    """Bring a cloud up, measure, take it down."""
    cloud = Cloud(chosen.root, chosen.venv)
    results = {'started': time.strftime('%Y-%m-%d %H:%M'), 'cases': {},
               'objectstore': chosen.objectstore,
               'machine': machine.machine(cloud.settings.venv)}
    began = time.monotonic()
    try:
        # What an interrupted run has left.
        cloud.destroy()
        measure.progress('bringing up a cloud in', cloud.root)
        cloud = Cloud(chosen.root, chosen.venv, chosen.base_port,
                      chosen.objectstore)
        cloud.up()
        measure_all(cloud, chosen, results)
    except (Exception, KeyboardInterrupt) as error:
        # What was measured before is worth a report.
        results['error'] = f'{type(error).__name__}: {error}'
        measure.progress('failed:', results['error'])
    finally:
        cloud.destroy()
    results['minutes'] = (time.monotonic() - began) / 60
    results['thresholds'] = thresholds.thresholds(results)
    write(results, chosen.output)
    return 0 if is_right(results) else 1


if __name__ == '__main__':
    sys.exit(main())
