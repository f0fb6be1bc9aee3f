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

"""Seeded interleavings of writers, clean-ups and owners that pause and die."""

import os

import pytest

from tests.simulation import cloud as cloud_

# More by hand: tox -e simulation.
RUNS = int(os.environ.get('GLANCE_TEST_SIMULATIONS', '20000'))
FIRST = int(os.environ.get('GLANCE_TEST_FIRST_SEED', '0'))
PARTS = 20


@pytest.mark.parametrize('part', range(PARTS))
def test_nothing_is_lost_left_or_stuck(part):
    for seed in range(FIRST + part, FIRST + RUNS, PARTS):
        cloud, wrong = cloud_.run(seed)
        assert not wrong, (seed, wrong, cloud.world.log)
