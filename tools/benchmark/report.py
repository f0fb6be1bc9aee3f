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

"""The results in words: tables in plain text."""

from benchmark import drivers

MIB = 2 ** 20
COLUMNS = ('contestant', 'runs', 'active s', 'digests s', 'CPU s',
           'memory MiB', 'staging MiB', 'pool/data', 'stored MiB', 'content')
NOTES = """\
active s: from the request to import until the image is active; for qemu-img,
until its snapshot is protected. digests s: until they are recorded. CPU s: of
Glance and all it starts, to the end of the digests; for others, of their own
processes. None counts the OSD. memory: peak added (RSS; a part of it is what
a fresh Glance takes at its first import). staging: peak allocated beyond the
upload. pool/data: what rbd diff says of the image's snapshot, against data in
the source; it counts each object from its start to its last byte, holes too.
stored: as the OSD counts it; a memstore counts the same way. content: compared
with the source by qemu-img, in the first run. Medians of the runs given."""

# At one glance: who they are, in the order of their columns.
SUMMARY = {'stock Glance': 'stock', 'inline': 'inline',
           'deferred': 'deferred', 'qemu-img': 'qemu', 'digests': 'both'}
SUMMARY_NOTE = """\
Seconds until the image is active: of stock Glance, of ours with the digests
inline and deferred, of qemu-img straight to RBD, which computes none, and of
both digests alone, which is the least that inline can take."""

STORE_COLUMNS = ('store', 'runs', 'seconds', 'client s', 'CPU s', 'used/data',
                 'content', 'times ours')
STORE_NOTES = """\
Plain stores, without import plugins. seconds: of the import until the image
is active, of the PUT as uWSGI logs it, of the driver's get() to its end, of a
GET to its end, of copy-image until the image is in the other store, of all
uploads. client s: of the glance client, which computes a digest of what it
downloads. CPU s: of Glance, or of the process that reads. used/data: what rbd
diff says of the snapshot, or blocks of the file, against data in the source.
content: as qemu-img and the recorded digests see it, or as read, in the first
run. times ours: seconds against those of our store of the same kind."""


def report(results):
    """The whole report as one text."""
    parts = [_summary(results['cases'])] if results['cases'] else []
    parts += [_machine(results)]
    parts += [_case(key, found) for key, found in results['cases'].items()]
    if results['cases'] or not results.get('stores'):
        parts.append(NOTES)
    if 'latency' in results:
        parts.append(_latency(results['latency']))
    if 'api' in results:
        parts.append(_api(results['api']))
    if 'attack' in results:
        parts.append(_attack(results['attack']))
    if 'memory' in results:
        parts.append(_memory(results['memory']))
    if 'crowd' in results:
        parts.append(_crowd(results['crowd']))
    if 'burst' in results:
        parts.append(_burst(results['burst']))
    if 'first_byte' in results:
        parts.append(_first_byte(results['first_byte']))
    if results.get('stores'):
        parts += [_store_part(key, found)
                  for key, found in results['stores'].items()]
        parts.append(STORE_NOTES)
    parts.append(_thresholds(results['thresholds']))
    if 'error' in results:
        parts.append(f'ENDED EARLY: {results["error"]}')
    return '\n\n'.join(parts) + '\n'


def table(rows):
    """Rows in columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join(
        '  '.join(cell.rjust(width) if number else cell.ljust(width)
                  for number, (cell, width)
                  in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows)


def _summary(cases):
    rows = [('', *SUMMARY)]
    for key, found in cases.items():
        medians = [found['contestants'].get(who, {}).get('median', {})
                   for who in SUMMARY.values()]
        rows.append((f'({key}) {found["title"]}', *(
            _number(median.get('seconds'), 1) for median in medians)))
    return f'{table(rows)}\n\n{SUMMARY_NOTE}'


def _machine(results):
    facts = results['machine'] | {
        name: results[name] for name in ('objectstore', 'started', 'minutes')}
    return table([(name, ' ' + _plain(value).ljust(20))
                  for name, value in facts.items()])


def _plain(value):
    return f'{value:.2f}' if isinstance(value, float) else str(value)


def _case(key, found):
    rows = [COLUMNS]
    rows += [_row(result, found['data'])
             for result in found['contestants'].values() if result['runs']]
    lines = [f'({key}) {found["title"]}', table(rows), *_absent(found)]
    if not found['digests_agree']:
        lines.append('DIGESTS DIFFER between contestants')
    if found['scaled']:
        lines.append('Digests alone: measured over 10 GiB and scaled.')
    return '\n'.join(lines)


def _absent(found):
    """Why somebody has no figures, or fewer."""
    for result in found['contestants'].values():
        if 'error' in result:
            yield f'{result["label"]} FAILED: {result["error"]}'
        elif not result['runs']:
            yield (f'{result["label"]}: left out, it takes many minutes '
                   '(--stock-c, --stock-runs)')


def _store_part(key, found):
    rows = [STORE_COLUMNS]
    for name, result in found['contestants'].items():
        if result['runs']:
            ours = found['contestants'].get(drivers.RIVALS.get(name), {})
            rows.append(_store_row(result, ours.get('median', {}),
                                   found['data']))
    return '\n'.join([f'({key}) {found["title"]}', found['image'],
                      table(rows), *_absent(found)])


def _store_row(result, ours, data):
    median = result['median']
    return (
        result['label'], str(len(result['runs'])),
        _number(median['seconds'], 2),
        _number(median.get('client', result.get('client')), 2),
        _number(median['cpu'], 1),
        _number('used' in median and median['used'] / data or None, 3),
        _same(result),
        _number('seconds' in ours and median['seconds'] / ours['seconds']
                or None, 2))


def _same(result):
    return {None: '-', True: 'same', False: 'WRONG'}[result.get('same')]


def _row(result, data):
    median = result['median']
    return (
        result['label'], str(len(result['runs'])),
        _number(median['seconds'], 2), _number(median.get('digests'), 2),
        _number(median['cpu'], 1), _mib(median.get('memory'), 0),
        _mib(median.get('staging'), 3),
        _number('used' in median and median['used'] / data or None, 3),
        _mib(result.get('stored'), 0), _same(result))


def _number(value, digits):
    return '-' if value is None else f'{value:.{digits}f}'


def _mib(value, digits):
    return _number(None if value is None else value / MIB, digits)


def _latency(found):
    rows = [('contestant', 'runs', 'active s')]
    for result in found['contestants'].values():
        rows.append((result['label'], str(len(result['runs'])),
                     _number(result['median'].get('seconds'), 2)))
    return ('(a) with latency at the OSD: a 4 KiB write takes '
            f'{found["write_ms_without"]:.2f} ms without and '
            f'{found["write_ms_with"]:.2f} ms with it\n' + table(rows))


def _api(found):
    rows = [('GET /v2/images, ms', 'requests', 'median', 'p95')]
    for key, times in found.items():
        rows.append((key, str(times['requests']),
                     f'{times["median"]:.1f}', f'{times["p95"]:.1f}'))
    return ('The API beside a conversion of (a), to the end of its digests\n'
            + table(rows))


def _attack(found):
    rows = [('beside ten that are', 'import s', 'all s', 'requests',
             'median ms', 'p95 ms')]
    for key, measured in found.items():
        rows.append((key, *(f'{measured[name]:.1f}' for name in (
            'seconds', 'all', 'requests', 'median', 'p95'))))
    return ('An import that is asked for after ten others, and '
            'GET /v2/images meanwhile\n' + table(rows))


def _crowd(found):
    rows = [('uploads and imports at once', 'all s', 'added MiB',
             'Glance, in all, MiB')]
    for count, result in found.items():
        rows.append((f'{count} and {count}', _number(result['seconds'], 1),
                     _mib(result['added'], 0), _mib(result['peak'], 0)))
    return table(rows)


def _burst(found):
    rows = [('(e) Debian images, deferred', 'together s', 'one by one s',
             'digests s', 'requests', 'median ms', 'p95 ms')]
    for count, result in found.items():
        rows.append((str(count), *(_number(result['median'][name], 1)
                                   for name in ('together', 'alone',
                                                'digests', 'requests',
                                                'median', 'p95'))))
    return ('Imports asked for at once, until all are active, and those of '
            'as many one by one; GET /v2/images meanwhile\n' + table(rows))


def _first_byte(found):
    rows = [('(k) first byte of a GET of 1 TiB', 's')]
    for key, label in (('ours', 'sparse_rbd'), ('stock', 'stock rbd')):
        rows.append((label, _number(found['median'][key], 2)))
    return table(rows)


def _memory(found):
    rows = [('virtual GiB, 256 MiB of data', 'active s', 'memory MiB')]
    for size, result in found.items():
        rows.append((str(size), _number(result['median']['seconds'], 2),
                     _mib(result['median']['memory'], 0)))
    return table(rows)


def _thresholds(found):
    rows = [('measure', 'value', 'must', 'want')]
    rows += [(line['measure'], f'{line["value"]:.2f}',
              line['must'], line['want']) for line in found]
    return table(rows)
