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


"""The samples in etc: generated from the code, or read by it."""

import pathlib
import subprocess
import sys

import pytest

from tests.unit import test_contrib

ETC = pathlib.Path(__file__).parents[2] / 'etc'
GENERATED = 'glance-conversion-plugins.conf.sample'

check = test_contrib.check


def test_the_sample_of_all_options_is_that_of_the_code(tmp_path):
    subprocess.run(
        [sys.executable, '-m', 'oslo_config.generator', '--config-file',
         ETC / 'oslo-config-generator' / 'glance-conversion-plugins.conf',
         '--output-file', tmp_path / GENERATED],
        check=True, capture_output=True)
    assert (tmp_path / GENERATED).read_text() == (
        ETC / GENERATED).read_text(), 'run tox -e genconfig'


@pytest.mark.parametrize('path', sorted(
    path for path in ETC.glob('*.sample') if path.name != GENERATED),
    ids=lambda path: path.name)
def test_samples_are_read_as_glance_reads_them(check, path):
    values = check(path.read_text())
    if path.name.startswith('glance-api'):
        assert values['DEFAULT', 'enabled_backends'] == {
            'ceph': 'sparse_rbd', 'local': 'sparse_file'}
    else:
        assert values['image_import_opts', 'image_import_plugins'] == (
            test_contrib.PLUGINS)
