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

"""What imports take from the configuration."""

# Both register options, as Glance does.
from glance.async_.flows.plugins import image_conversion    # noqa: F401
from glance.common import config    # noqa: F401
import pytest

from glance_conversion_plugins.image_import import options

GIB = 1 << 30


@pytest.mark.parametrize('ours, stock, expected', [
    (None, 'raw', 'raw'), (None, 'qcow2', 'qcow2'), ('raw', 'qcow2', 'raw'),
    ('vhdx', 'raw', 'vhdx')])
def test_output_format_is_that_of_stock_unless_ours_is_set(override, ours,
                                                           stock, expected):
    override('output_format', stock, 'image_conversion')
    override('output_format', ours, 'conversion')
    assert options.output_format() == expected


@pytest.mark.parametrize('target, how, expected', [
    ('qcow2', 'none', []),
    ('qcow2', 'zlib', ['-c', '-o', 'compression_type=zlib']),
    ('qcow2', 'zstd', ['-c', '-o', 'compression_type=zstd']),
    ('raw', 'zstd', []), ('vmdk', 'zstd', []), ('vhdx', 'zlib', [])])
def test_only_qcow2_is_compressed(override, target, how, expected):
    override('output_format', target, 'conversion')
    override('qcow2_compression', how, 'conversion')
    assert options.output_options() == expected


@pytest.mark.parametrize('ours, cap, expected', [
    (None, 5 * GIB, 5 * GIB), (GIB, 5 * GIB, GIB),
    (9 * GIB, 5 * GIB, 5 * GIB)])
def test_the_smaller_limit_on_the_size_counts(override, ours, cap, expected):
    override('max_virtual_size', ours, 'conversion')
    override('image_size_cap', cap)
    assert options.policy().max_virtual_size == expected


@pytest.mark.parametrize('most', [0, 7])
def test_the_limit_on_the_expansion_is_that_of_the_deployment(override, most):
    override('max_expansion', most, 'conversion')
    assert options.policy().max_expansion == most


def test_glance_says_which_vmdk_and_gpt_are_allowed(override):
    override('vmdk_allowed_types', ['monolithicSparse'], 'image_format')
    override('gpt_safety_checks_nonfatal', ['mbr'], 'image_format')
    found = options.policy()
    assert found.vmdk_allowed_types == ['monolithicSparse']
    assert found.gpt_safety_checks_nonfatal == ['mbr']


@pytest.mark.parametrize('digests, checksum, inline, all_', [
    ('inline', True, ('sha256', True), ('sha256', True)),
    ('inline', False, ('sha256', False), ('sha256', False)),
    ('deferred', True, (None, False), ('sha256', True)),
    ('deferred', False, (None, False), ('sha256', False))])
def test_which_digests_are_computed_when(override, digests, checksum, inline,
                                         all_):
    override('digests', digests, 'conversion')
    override('legacy_checksum', checksum, 'conversion')
    override('hashing_algorithm', 'sha256')
    assert options.inline_digest_spec() == (*inline, False)
    assert options.digest_spec() == (*all_, False)
    # Of what is stored as it was uploaded, the one that tells what that was.
    assert options.inline_digest_spec(True) == (*inline, digests == 'inline')
    assert options.digest_spec(True) == (*all_, True)
    override('source_hash', False, 'conversion')
    assert options.digest_spec(True) == (*all_, False)


def test_what_is_read_back_has_its_digests_inline(override):
    override('digests', 'deferred', 'conversion')
    assert not options.reads_back()
    assert options.digests_are_deferred()
    override('verify_after_write', True, 'conversion')
    assert options.reads_back()
    assert not options.digests_are_deferred()
    assert options.inline_digest_spec() == options.digest_spec()
