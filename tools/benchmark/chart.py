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

"""A chart of the time to active, for each case and contestant."""

import matplotlib
from matplotlib import pyplot

matplotlib.use('Agg')

COLORS = {
    'stock': '#8c8c8c', 'inline': '#1f5fa8', 'deferred': '#5fa0e0',
    'stock-file': '#8c8c8c', 'file': '#1f5fa8', 'staged': '#7f9fc8',
    'qemu': '#d98032', 'import': '#eab98c', 'both': '#c9c9c9',
}


def chart(results, path):
    """Draw the chart, one panel below the other."""
    cases = results['cases']
    figure, panels = pyplot.subplots(
        len(cases), 1, squeeze=False, layout='constrained',
        figsize=(9, 0.6 + 2.6 * len(cases)))
    for panel, (key, found) in zip(panels[:, 0], cases.items(),
                                   strict=True):
        _panel(panel, key, found)
    panels[-1, 0].set_xlabel(
        'seconds until the image is active; digests of the same bytes for '
        'comparison')
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _panel(panel, key, found):
    shown = {name: result for name, result in found['contestants'].items()
             if result['runs'] and name in COLORS}
    seconds = [result['median']['seconds'] for result in shown.values()]
    bars = panel.barh([result['label'].replace('ours', 'this package')
                       for result in shown.values()],
                      seconds, color=[COLORS[name] for name in shown])
    panel.bar_label(bars, [f'{value:.1f} s' for value in seconds],
                    padding=4)
    panel.set_xlim(0, max(seconds, default=1) * 1.15)
    panel.invert_yaxis()
    panel.set_title(f'({key}) {found["title"]}', loc='left')
    panel.spines[['top', 'right']].set_visible(False)
