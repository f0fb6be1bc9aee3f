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

"""What the roads take from the configuration."""

from oslo_config import cfg
import pytest

from glance_conversion_plugins import config
from glance_conversion_plugins import conversion
from glance_conversion_plugins import roads

CONF = cfg.CONF
GIB = 1 << 30


@pytest.fixture
def override():
    """Set an option until the test ends."""
    config.register_opts(CONF)
    changed = []

    def set_(name, value, group=None):
        CONF.set_override(name, value, group=group)
        changed.append((name, group))

    yield set_
    for name, group in changed:
        CONF.clear_override(name, group=group)


@pytest.mark.parametrize('ours, stock, expected', [
    (None, 'raw', 'raw'), (None, 'qcow2', 'qcow2'), ('raw', 'qcow2', 'raw'),
    ('vhdx', 'raw', 'vhdx')])
def test_output_format_is_that_of_stock_unless_ours_is_set(override, ours,
                                                           stock, expected):
    override('output_format', stock, 'image_conversion')
    override('output_format', ours, 'conversion')
    assert roads.output_format() == expected


@pytest.mark.parametrize('target, how, expected', [
    ('qcow2', 'none', []),
    ('qcow2', 'zlib', ['-c', '-o', 'compression_type=zlib']),
    ('qcow2', 'zstd', ['-c', '-o', 'compression_type=zstd']),
    ('raw', 'zstd', []), ('vmdk', 'zstd', []), ('vhdx', 'zlib', [])])
def test_only_qcow2_is_compressed(override, target, how, expected):
    override('qcow2_compression', how, 'conversion')
    assert roads._options(target) == expected


@pytest.mark.parametrize('ours, cap, expected', [
    (None, 5 * GIB, 5 * GIB), (GIB, 5 * GIB, GIB),
    (9 * GIB, 5 * GIB, 5 * GIB)])
def test_the_smaller_limit_on_the_size_counts(override, ours, cap, expected):
    override('max_virtual_size', ours, 'conversion')
    override('image_size_cap', cap)
    assert roads.policy().max_virtual_size == expected


@pytest.mark.parametrize('most', [0, 7])
def test_the_limit_on_the_expansion_is_that_of_the_deployment(override, most):
    override('max_expansion', most, 'conversion')
    assert roads.policy().max_expansion == most


def test_glance_says_which_vmdk_and_gpt_are_allowed(override):
    override('vmdk_allowed_types', ['monolithicSparse'], 'image_format')
    override('gpt_safety_checks_nonfatal', ['mbr'], 'image_format')
    found = roads.policy()
    assert found.vmdk_allowed_types == ['monolithicSparse']
    assert found.gpt_safety_checks_nonfatal == ['mbr']


@pytest.mark.parametrize('digests, inline, checksum, expected', [
    ('inline', True, True, conversion.Wanted('sha256', True)),
    ('inline', True, False, conversion.Wanted('sha256', False)),
    ('deferred', True, True, conversion.Wanted(None, False)),
    ('deferred', False, True, conversion.Wanted('sha256', True)),
    ('deferred', False, False, conversion.Wanted('sha256', False))])
def test_which_digests_are_computed_when(override, digests, inline, checksum,
                                         expected):
    override('digests', digests, 'conversion')
    override('legacy_checksum', checksum, 'conversion')
    override('hashing_algorithm', 'sha256')
    assert roads.wanted(inline) == expected
