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

"""What is looked at before anything is done with an image."""

import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import sandbox_exec
from glance_conversion_plugins.image_import import execution
from tests.contract import images

MIB = 1 << 20


@pytest.fixture
def no_landlock(monkeypatch):
    monkeypatch.setattr(sandbox_exec, 'landlock_version', lambda: 0)


@pytest.mark.parametrize('sandbox', ['required', 'best_effort'])
def test_all_layers_suffice(override, sandbox):
    override('sandbox', sandbox, 'conversion')
    execution.see_confined()


def test_a_layer_that_is_required_is_missing(override, no_landlock, caplog):
    override('sandbox', 'required', 'conversion')
    with pytest.raises(errors.Misconfigured, match='can not confine'):
        execution.see_confined()
    assert 'Landlock' in caplog.text


def test_best_effort_is_the_default(override, no_landlock):
    execution.see_confined()


@pytest.fixture
def most(override):
    override('max_virtual_size', 32 * MIB, 'conversion')


@pytest.mark.parametrize('disk_format', ['qcow2', 'vmdk', 'vdi', 'vhdx'])
@pytest.mark.parametrize('size, allowed', [(16, True), (64, False)])
def test_a_kept_image_is_as_large_as_its_disk(tmp_path, most, disk_format,
                                              size, allowed):
    path = str(tmp_path / 'disk')
    images.run('qemu-img', 'create', '-q', '-f', disk_format, path,
               f'{size}M')
    if allowed:
        execution.see_small_enough(path)
    else:
        with pytest.raises(errors.TooLarge, match='64 MiB, and 32 MiB'):
            execution.see_small_enough(path)


@pytest.mark.parametrize('content', [b'', b'\0', b'QFI\xfb', b'LUKS\xba\xbe',
                                     b'QFI\xfb\0\0\0\3' + b'\xff' * 100])
def test_a_file_is_as_large_as_it_is(tmp_path, most, content):
    """Whatever it claims to be."""
    path = tmp_path / 'disk'
    path.write_bytes(content)
    with open(path, 'r+b') as f:
        f.truncate(32 * MIB + 1)
    with pytest.raises(errors.TooLarge):
        execution.see_small_enough(str(path))
