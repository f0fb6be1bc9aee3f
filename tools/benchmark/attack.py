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

"""Glance beside ten imports: of ordinary images, and of those that attack."""

import pathlib
import tempfile
import time

from benchmark import cases
from benchmark import images
from benchmark import measure
from benchmark import responses
from tests.hostile import bombs

OTHERS = 10
PATIENCE = 900      # seconds


def attack(cloud, contest, case, runs):
    """Seconds of an import, and milliseconds of GET /v2/images, beside ten.

    :param case: what the others are in the first half; each run has both
    """
    asked, found = cases.first_gib(), {'ordinary': [], 'hostile': []}
    contest.configure('inline')
    with tempfile.TemporaryDirectory(prefix='attack-') as folder:
        others = {'ordinary': [case] * OTHERS,
                  'hostile': _hostile(pathlib.Path(folder))}
        for number in range(runs):
            for key, kind in others.items():
                measure.progress(f'an import beside ten {key} ones, run '
                                 f'{number + 1} of {runs}')
                found[key].append(_beside(cloud, asked, kind))
                contest.empty()
    return {key: measure.median(made) for key, made in found.items()}


def _hostile(folder):
    """Five that make qemu-img complain without end, five that cost work."""
    makers = (bombs.complaints, bombs.work)
    made = []
    for number in range(OTHERS // len(makers)):
        for make in makers:
            name = make.__name__
            path = pathlib.Path(make(folder / f'{name}-{number}'))
            made.append(cases.Case(name, name, path, 'qcow2', 0, 0))
    return made


def _beside(cloud, asked, others):
    staged = [images.Image(cloud, case) for case in others]
    image, measured = images.Image(cloud, asked), {}

    def work(stop):
        start = time.monotonic()
        for other in staged:
            other.start_import()
        image.start_import()
        image.wait_active()
        measured['seconds'] = time.monotonic() - start
        for other in staged:
            _wait_ended(other)
        measured['all'] = time.monotonic() - start

    try:
        times = responses.beside(cloud, work)
    finally:
        for each in (image, *staged):
            each.delete()
    return measured | responses.percentiles(times)


def _wait_ended(image):
    """Wait until Glance has stored or refused an image."""
    deadline = time.monotonic() + PATIENCE
    while image.show()['status'] in ('importing', 'uploading'):
        if time.monotonic() > deadline:
            raise images.ImportFailed('It does not end.')
        time.sleep(images.POLL)
