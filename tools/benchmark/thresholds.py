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

"""What speed is asked for, beside what it is; nothing is asserted."""

from benchmark import drivers

MIB = 2 ** 20


def thresholds(results):
    """Lines of measure, value, must and want, for what was measured."""
    lines = []
    for key, found in results['cases'].items():
        lines += _speed(key, _medians(found))
        lines += _pool(key, found)
    lines += _room(results)
    for part, found in results.get('stores', {}).items():
        lines += _stores(part, _medians(found), found['data'])
    if 'latency' in results:
        lines += _latency(_medians(results['latency']))
    if 'memory' in results:
        lines += _memory(results['memory'])
    if 'api' in results:
        lines += _api(results['api'])
    if 'attack' in results:
        lines += _attack(results['attack'])
    for count, found in results.get('burst', {}).items():
        lines += _burst(count, found['median'])
    if 'first_byte' in results:
        lines.append(('(k) first byte of 1 TiB, s',
                      results['first_byte']['median']['ours'], '< 1',
                      '<= 0.2'))
    return [dict(zip(('measure', 'value', 'must', 'want'), line,
                     strict=True)) for line in lines]


def _medians(found):
    return {key: result['median']
            for key, result in found['contestants'].items()
            if result['runs']}


def _speed(key, medians):
    asked = {
        'a': (('inline', '>= 5', '>= 5'), ('deferred', '>= 15', '>= 20')),
        'b': (('inline', '>= 1.5', '>= 2'),),
        'd': (('inline', '>= 4', '>= 4'),),
        'vmdk': (('inline', '>= 1', '-'),),
        'vhdx': (('inline', '>= 1', '-'),),
    }
    for ours, must, want in asked.get(key, ()):
        yield from _ratio(f'({key}) stock / ours {ours}', medians,
                          'stock', ours, must, want)
    yield from _ratio(f'({key}) stock / ours, file stores', medians,
                      'stock-file', 'file', '>= 4', '>= 4')
    yield from _ratio(f'({key}) stock / ours staged, file store', medians,
                      'stock-file', 'staged', '>= 1', '>= 1')
    if key in 'ad':
        yield from _ratio(f'({key}) ours inline / both digests', medians,
                          'inline', 'both', '-', '<= 1.1')
    if key == 'a':
        yield from _ratio('(i) ours with sha256 alone / sha256', medians,
                          'sha256', 'bare-sha256', '<= 1.2', '<= 1.1')
    must, want = {'a': ('-', '<= 1.25'), 'c': ('-', '<= 1.25'),
                  'f': ('<= 1', '<= 0.5'), 'g': ('-', '<= 1'),
                  'h': ('<= 1', '<= 0.67'), 'h-raw': ('<= 1', '<= 0.67')
                  }.get(key, ('-', '-'))
    yield from _ratio(f'({key}) ours deferred / qemu-img', medians,
                      'deferred', 'qemu', must, want)
    must, want = (('<= 1', '<= 0.67') if key in ('h', 'h-raw')
                  else ('-', '-'))
    yield from _ratio(f'({key}) ours, nothing hashed / qemu-img', medians,
                      'unhashed', 'qemu', must, want)
    yield from _ratio(f'({key}) the decompressor alone / ours deferred',
                      medians, 'alone', 'deferred', '>= 0.9', '>= 0.9')
    if key in 'ag' and {'deferred', 'qemu'} <= medians.keys():
        yield (f'({key}) ours deferred - 1.25 qemu-img, s',
               medians['deferred']['seconds']
               - 1.25 * medians['qemu']['seconds'],
               '<= 1' if key == 'g' else '-', '<= 1')
    if key == 'c' and 'deferred' in medians:
        yield ('(c) ours deferred, s', medians['deferred']['seconds'],
               '< 60', '-')


def _ratio(measure, medians, over, under, must, want):
    if {over, under} <= medians.keys():
        yield (measure, medians[over]['seconds']
               / medians[under]['seconds'], must, want)


def _pool(key, found):
    for ours, median in _medians(found).items():
        if 'used' in median:
            asked = (('<= 1.05', '<= 1.02')
                     if ours in ('inline', 'deferred', 'unhashed')
                     else ('-', '-'))
            yield (f'({key}) pool / data, {ours}',
                   median['used'] / found['data'], *asked)


def _stores(part, medians, data):
    """What stock takes, in times of ours."""
    asked = {
        'import': {'rbd': '>= 4', 'thick': '>= 6'},
        'upload': {'rbd': '>= 1.5', 'file': '>= 1.5'},
        'read': {'rbd': '>= 10', 'file': '>= 10'},
        'download': {'rbd': '> 1', 'file': '> 1'},
        'dense upload': {'rbd': '>= 1', 'file': '>= 1'},
        'dense read': {'rbd': '>= 1', 'file': '>= 1'},
    }
    for stock, ours in drivers.RIVALS.items():
        must = asked.get(part, {}).get(stock, '-')
        yield from _ratio(f'{part}, {drivers.STORES[stock].label} / {ours}',
                          medians, stock, ours, must, must)
    if part == 'upload':
        yield from _ratio('upload, sparse_rbd / HTTP alone', medians,
                          'sparse_rbd', 'null', '-', '-')
    if part == 'import' and 'sparse_rbd' in medians:
        yield ('import, pool / data, sparse_rbd',
               medians['sparse_rbd']['used'] / data, '<= 1.05', '<= 1.05')


def _room(results):
    runs = [run for found in results['cases'].values()
            for key in ('inline', 'deferred')
            for run in found['contestants'].get(key, {'runs': []})['runs']]
    if runs:
        yield ('memory added, ours, most of all runs, MiB',
               max(run['memory'] for run in runs) / MIB, '<= 256', '<= 128')
        yield ('staging beyond the upload, ours, most, KiB',
               max(run['staging'] for run in runs) / 1024, '<= 4', '<= 4')


def _latency(medians):
    return _ratio('(a) with latency, ours deferred / qemu-img', medians,
                  'deferred', 'qemu', '<= 1', '< 1')


def _memory(found):
    small, large = (result['median']['memory']
                    for result in found.values())
    yield 'memory, 1 TiB / 1 GiB virtual', large / small, 'flat', 'flat'
    yield 'memory of 1 TiB, MiB', large / MIB, '<= 256', '<= 128'


def _burst(count, median):
    yield (f'(e) {count} imports at once / one after the other',
           median['together'] / median['alone'],
           '<= 1.3' if count == 4 else '-', '<= 1.3')
    yield (f'(e) p95 of GET /v2/images beside {count}, ms', median['p95'],
           'reported', '-')


def _api(found):
    for key in ('inline', 'deferred'):
        yield (f'p95 of GET /v2/images, {key} / idle',
               found[key]['p95'] / found['idle']['p95'], 'reported', '<= 2')


def _attack(found):
    ordinary, hostile = found['ordinary'], found['hostile']
    for name, measure in (('seconds', 'an import'),
                          ('p95', 'p95 of GET /v2/images')):
        yield (f'{measure} beside ten hostile / ten ordinary ones',
               hostile[name] / ordinary[name], '<= 2', '<= 1')
