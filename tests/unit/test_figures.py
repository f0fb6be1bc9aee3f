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

"""The figures in the text are those of the published runs."""

import json
import re
import sys

import pytest

from tests import documents

BENCH = documents.ROOT / 'doc' / 'source' / 'admin' / 'bench'

sys.path.insert(0, str(documents.ROOT / 'tools'))
from benchmark import documents as runs     # noqa: E402


def published(run):
    return json.loads((BENCH / run / 'bench.json').read_text())


def median(run, case, contestant, what='seconds'):
    found = published(run)
    part = found['cases'].get(case) or found['stores'][case]
    return part['contestants'][contestant]['median'][what]


def seconds(*args):
    value = median(*args)
    return f'{value:.0f} s' if value >= 10 else f'{value:.1f} s'


def exact(*args):
    return f'{median(*args):.1f} s'


def row(path, beginning):
    """The cells of the row of a table that begins so, but for the first."""
    text = (documents.ROOT / path).read_text()
    line, = [line for line in text.splitlines() if line.startswith(beginning)]
    return re.split('  +', line[len(beginning):].strip())


@pytest.mark.parametrize('beginning, contestant, digests', [
    ('stock ``image_conversion`` into stock ``rbd``', 'stock', 'seconds'),
    ('``rbd_direct_convert``, digests inline', 'inline', 'seconds'),
    ('``rbd_direct_convert``, digests deferred', 'deferred', 'digests')])
def test_the_first_table(beginning, contestant, digests):
    staging = median('images', 'a', contestant, 'staging')
    assert row('README.rst', beginning) == [
        seconds('images', 'a', contestant),
        seconds('images', 'a', contestant, digests),
        f'{staging / 2 ** 20:.0f} MiB' if staging > 2 ** 20 else
        f'{staging / 2 ** 10:.0f} KiB']


def test_uploads_in_the_readme():
    text = re.sub(r'\s+', ' ', (documents.ROOT / 'README.rst').read_text())
    ours, stock = ([seconds('stores', 'upload', store) for store in stores]
                   for stores in (('sparse_rbd', 'sparse_file'),
                                  ('rbd', 'file')))
    assert (f'takes {ours[0]} into ``sparse_rbd`` and {ours[1]} into '
            f'``sparse_file``, where stock takes {stock[0]} and '
            f'{stock[1]}.') in text


@pytest.mark.parametrize('beginning, run, case', [
    ('qcow2, 10 GiB, 0.46 of data', 'images', 'a'),
    # As they were called when that was written.
    ('vmdk, the same', 'formats', 'e'),
    ('vhdx, the same', 'formats', 'f'),
    ('raw, the same', 'raw', 'd'),
    ('qcow2, 2 GiB that are all data', 'images', 'b')])
def test_what_an_import_takes(beginning, run, case):
    ours, stock = (round(median(run, case, who, 'cpu'))
                   for who in ('inline', 'stock'))
    assert row('doc/source/admin/sizing.rst', beginning) == [
        exact(run, case, 'inline'), exact(run, case, 'deferred'),
        f'{ours} (stock: {stock})']


def test_what_deferring_digests_brings():
    text = (documents.ROOT / 'doc/source/admin/digests.rst').read_text()
    deferred = exact('images', 'a', 'deferred')
    assert (f'active after {exact("images", "a", "inline")}     '
            f'active after {deferred},') in text
    assert (f'digests after '
            f'{exact("images", "a", "deferred", "digests")}') in text


def test_what_the_page_on_benchmarks_says_first():
    text = re.sub(r'\s+', ' ', (
        documents.ROOT / 'doc/source/admin/bench.rst').read_text())
    stock = median('images', 'a', 'stock')
    for how, ratio in (
            ('are {} times faster',
             f'{stock / median("images", "a", "inline"):.1f}'),
            ('active {} times sooner',
             f'{stock / median("images", "a", "deferred"):.0f}'),
            ('digests follow after {} s',
             f'{median("images", "a", "deferred", "digests"):.0f}')):
        assert how.format(ratio) in text
    burst = published('burst')['burst']['4']['median']
    assert (f'active after {burst["together"]:.1f} s; one after the other '
            f'they take {burst["alone"]:.1f} s') in text
    assert f'takes {burst["p95"]:.0f} ms at most' in text
    ours, rival = ([seconds('pieces', case, who) for case in ('f', 'h')]
                   for who in ('unhashed', 'qemu'))
    assert f'64 KiB takes {ours[0]}, one of 4 GiB' in text
    assert (f'qcow2 {ours[1]}; ``qemu-img`` straight to RBD {rival[0]} and '
            f'{rival[1]}') in text
    first = published('pieces')['first_byte']['median']['ours']
    assert f'1 TiB comes after {first:.2f} s' in text
    for kind in 'rbd', 'file':
        ours, stock = (exact('stores-read', 'download', store)
                       for store in (f'sparse_{kind}', kind))
        assert f'{ours} against {stock}' in text


def test_every_run_is_shown_and_nothing_else():
    text = (documents.ROOT / 'doc/source/admin/bench.rst').read_text()
    shown = re.findall(r'literalinclude:: bench/([\w-]+)/bench.txt', text)
    assert shown == [run for run in runs.RUNS if run in shown]
    assert {path.name for path in BENCH.iterdir()} == set(shown)
