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

import contextlib
import hashlib
import types

import pytest

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying.sinks import fanout
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import sandbox_exec
from glance_conversion_plugins.image_import import execution
from glance_conversion_plugins.image_import import image as image_
from tests.contract import images
from tests.hostile import qcow2
from tests.hostile import raw
from tests.unit import fakes

KIB, MIB = 1 << 10, 1 << 20


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


def _declared(disk_format, container_format='bare'):
    return image_.Declaration(disk_format, container_format, {})


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
        execution.see_keepable(_declared(disk_format), path)
    else:
        with pytest.raises(errors.TooLarge, match='64 MiB, and 32 MiB'):
            execution.see_keepable(_declared(disk_format), path)


@pytest.mark.parametrize('content', [b'', b'\0', b'QFI\xfb', b'LUKS\xba\xbe',
                                     b'QFI\xfb\0\0\0\3' + b'\xff' * 100])
def test_a_file_is_as_large_as_it_is(tmp_path, most, content):
    """Whatever it claims to be."""
    path = tmp_path / 'disk'
    path.write_bytes(content)
    with open(path, 'r+b') as f:
        f.truncate(32 * MIB + 1)
    with pytest.raises(errors.TooLarge):
        execution.see_keepable(_declared('ploop'), str(path))


MULTIPLE = 'matches several, iso and qcow2'


@pytest.mark.parametrize('make, disk_format, why', [
    (raw.iso, 'iso', ''),
    (lambda: raw.iso(raw.mbr()), 'iso', ''),
    (lambda: raw.iso(raw.gpt()[:1024]), 'iso', ''),
    (lambda: raw.iso(raw.mbr()), 'raw', 'is a hybrid ISO.*declare it as iso'),
    (lambda: raw.iso(qcow2.plain()[:32 * KIB]), 'iso', MULTIPLE),
    (lambda: raw.iso(qcow2.plain()[:32 * KIB]), 'raw', MULTIPLE),
    (qcow2.plain, 'iso', 'declared as iso, but its content is qcow2'),
    (lambda: bytes(MIB), 'iso', 'declared as iso, but its content is raw'),
    (lambda: b'QED\0' + bytes(MIB), 'qed', 'its format is not allowed'),
    # What Glance can not look into.
    (lambda: bytes(MIB), 'ploop', ''),
    (raw.gpt, 'gpt', ''),
], ids=range(11))
def test_what_glance_would_not_take_is_not_kept(tmp_path, make, disk_format,
                                                why):
    path = tmp_path / 'disk'
    path.write_bytes(make())
    with (pytest.raises(errors.ImageRefused, match=why) if why
          else contextlib.nullcontext()):
        execution.see_keepable(_declared(disk_format), str(path))


@pytest.mark.parametrize('container_format, must', [
    ('bare', False), ('docker', True)])
def test_where_glance_does_not_ask_neither_do_we(tmp_path, override, must,
                                                 container_format):
    override('require_image_format_match', must, 'image_format')
    path = tmp_path / 'disk'
    path.write_bytes(qcow2.plain())
    execution.see_keepable(_declared('iso', container_format), str(path))


# What was stored is read back

class _Target(fakes.FakeSink):
    def __init__(self, before_read=None):
        super().__init__()
        self._before_read = before_read

    def read_back(self):
        super().read_back()
        return fakes.FakeSource('AB', self._before_read)


def _read_back(targets, cancel=None):
    sink = fanout.FanOut(targets, all_must_succeed=False)
    context = types.SimpleNamespace(
        conversion=conversion_.Conversion(cancel))
    execution._read_back(context, digest.Digest(
        None, hashlib.sha512(images.content('AB')).hexdigest()), sink)


@pytest.mark.usefixtures('override')
def test_all_places_are_read_back():
    targets = {'one': _Target(), 'two': _Target()}
    _read_back(targets)
    for target in targets.values():
        assert target.names() == ['read_back']


@pytest.mark.usefixtures('override')
def test_no_place_has_what_was_written():
    targets = {'one': fakes.FakeSink(), 'two': fakes.FakeSink()}
    with pytest.raises(errors.SinkFailed, match='did not give back'):
        _read_back(targets)
    for target in targets.values():
        assert target.names()[0] == 'read_back'
        assert target.names()[-1] == 'abort'


@pytest.mark.usefixtures('override')
def test_an_import_that_is_stopped_amid_the_last_place():
    """It is no failure of that place, with which the others would go on."""
    cancel = cancel_.Cancel()
    targets = {'one': _Target(), 'two': _Target(lambda at: cancel.set())}
    with pytest.raises(errors.Cancelled):
        _read_back(targets, cancel)
    for target in targets.values():
        assert target.names()[-1] == 'abort'
