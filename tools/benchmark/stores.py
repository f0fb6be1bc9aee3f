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

"""Plain stores, no import plugin: stock drivers and ours, side by side."""

from benchmark import drivers
from benchmark import measure
from benchmark import prefetch
from benchmark import reads
from benchmark import writes

DENSE_RUNS = 5

PARTS = {
    'import': {'import': writes.Import},
    'upload': {'upload': writes.Upload},
    'read': {'read': reads.Read},
    'download': {'download': reads.Download},
    'copy': {'copy': reads.Copy},
    'four': {'four': writes.Four},
    'prefetch': {'prefetch': prefetch.Prefetch},
    'dense': {'dense upload': writes.DenseUpload,
              'dense read': reads.DenseRead},
}


def stores(cloud, options, results):
    """All parts that were asked for, into results."""
    ground = drivers.Ground(cloud)
    labels = {key: store.label for key, store in drivers.STORES.items()}
    for name in options.stores:
        for key, kind in PARTS[name].items():
            # The case goes by the name of the part in what is printed.
            case = kind.case()._replace(key=key)
            results[key] = {
                'title': kind.title, 'image': case.title,
                'virtual': case.virtual, 'data': case.data,
                'contestants': measure.compare(
                    kind(ground), case, _runs(name, kind, options), labels)}


def _runs(name, kind, options):
    if name == 'dense':
        return dict.fromkeys(kind.contestants, DENSE_RUNS)
    sparse = drivers.RIVALS.values()
    return {key: options.stock_runs
            if key == 'thick' or kind.slow and key not in sparse
            else options.runs for key in kind.contestants}
