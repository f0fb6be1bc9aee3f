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

"""What the status command makes of qemu's own words."""

from oslo_upgradecheck.upgradecheck import Code
import pytest

from glance_conversion_plugins.cmd.checks import environment
from glance_conversion_plugins.external import decompressor
from glance_conversion_plugins.external import sandbox_exec
from glance_conversion_plugins.stores import registry
from tests.unit import file_stores

REST = '\n\nSee <https://qemu.org/contribute/report-a-bug> for more.'


@pytest.fixture
def qemu_says(tmp_path, monkeypatch):
    """Give a text to what becomes all of qemu."""
    def write(text):
        for name in ('qemu-img', 'qemu-nbd'):
            path = tmp_path / name
            path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
            path.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=':')
    return write


@pytest.mark.parametrize('said', [
    'qemu-img version 7.2.22\n\n'
    'Supported formats: qcow2 raw vdi vhdx vmdk vpc',
    'qemu-img version 10.0.13\n\n'
    'Supported image formats:\n\n  qcow2 raw vdi\n  vhdx vmdk vpc',
], ids=['7.2', '10.0'])
@pytest.mark.usefixtures('override')
def test_formats_that_qemu_knows(qemu_says, said):
    qemu_says(said + REST)
    assert environment.programs().code == Code.SUCCESS
    qemu_says(said.replace(' vmdk', '') + REST)
    result = environment.programs()
    assert result.code == Code.FAILURE
    assert 'can not read vmdk;' in result.details


@pytest.mark.parametrize('unpack, code', [(True, Code.WARNING),
                                          (False, Code.SUCCESS)])
def test_a_decompressor_that_is_missing(override, monkeypatch, unpack, code):
    override('unpack', unpack, 'conversion')
    assert environment.programs().code == Code.SUCCESS
    monkeypatch.setitem(decompressor.PROGRAMS, 'xz', ('no-such-xz', '-dc'))
    result = environment.programs()
    assert result.code == code
    assert bool(result.details.count('no-such-xz')) is unpack


@pytest.mark.parametrize('how, code', [
    ('best_effort', Code.WARNING), ('required', Code.FAILURE)])
def test_a_layer_of_confinement_that_is_missing(override, monkeypatch, how,
                                                code):
    override('sandbox', how, 'conversion')
    assert environment.confined().code == Code.SUCCESS
    monkeypatch.setattr(sandbox_exec, 'landlock_version', lambda: 0)
    result = environment.confined()
    assert result.code == code
    assert 'Landlock' in result.details
    assert ('Nothing but raw images' in result.details) == (how == 'required')


@pytest.mark.parametrize('names, code', [
    ('abc', Code.SUCCESS), ('aba', Code.WARNING), ('abd', Code.WARNING)])
def test_two_stores_that_have_one_place(tmp_path, monkeypatch, override,
                                        names, code):
    """Each would find the other's image in its way; d is a link to a."""
    override('deployment', 'test', 'conversion')
    for name in 'abc':
        (tmp_path / name).mkdir()
    (tmp_path / 'd').symlink_to('a')
    found = {str(number): file_stores.make(tmp_path / name)
             for number, name in enumerate(names)}
    for store in found.values():
        store.configure_add()
    monkeypatch.setattr(registry, 'identifiers', lambda: list(found))
    monkeypatch.setattr(registry, 'find', found.get)
    result = environment.stores_answer()
    assert result.code == code, result.details
    assert ('Stores 0 and 2 have the same place' in result.details) == (
        code == Code.WARNING)
