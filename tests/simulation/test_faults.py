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

"""The simulation finds what it is made to find."""

import contextlib
import unittest.mock

import pytest

from tests.simulation import cloud as cloud_
from tests.simulation import faults

_LOST = 'is active without its data'
_STUCK = 'is stuck'
_RUNS = 3000


@pytest.mark.parametrize(('fault', 'found'), [
    (faults.lease_ends_before_the_record, _LOST),
    (faults.silence_is_death, _LOST),
    (faults.replaced_is_forgotten_unseen, _LOST),
    (faults.recorded_by_the_name_of_the_store, _LOST),
    (faults.success_without_record_is_discarded, _LOST),
    (faults.kept_image_is_not_given_back, _STUCK),
    (faults.only_a_placeholder_tells_of_death, _STUCK),
], ids=lambda value: getattr(value, '__name__', ''))
def test_a_rule_that_seems_good_enough_is_found_out(fault, found):
    with contextlib.ExitStack() as patches:
        for part in fault():
            patches.enter_context(unittest.mock.patch.object(*part))
        for seed in range(_RUNS):
            if any(found in wrong for wrong in cloud_.run(seed)[1]):
                print('seed', seed)
                return
    pytest.fail('It was not noticed')
