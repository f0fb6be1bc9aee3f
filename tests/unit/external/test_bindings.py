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

"""What happens on a node that lacks a library of the distribution."""

import subprocess
import sys
import textwrap

import pytest

from glance_conversion_plugins import errors
from glance_conversion_plugins.external import bindings
from tests.contract import images

# Imports of it fail as they do where it is not installed, or broken.
_WITHOUT = textwrap.dedent('''\
    import sys
    for name in sys.argv[1].split(','):
        sys.modules[name] = None
    from glance_conversion_plugins import plugins
    from glance_conversion_plugins.copying import convert
    from glance_conversion_plugins import errors
    from glance_conversion_plugins.formats import detection
    from glance_conversion_plugins.formats import inspection
    policy = detection.Policy(1 << 30)
    for disk_format, path in zip(('raw', 'qcow2'), sys.argv[2:]):
        info = inspection.inspect(path, disk_format, policy)
        try:
            convert.open_source(info).close()
            print('opened')
        except errors.Misconfigured as e:
            print(e)
''')


def test_a_module_that_is_there_is_itself():
    assert bindings.load('textwrap') is textwrap


def test_one_that_is_missing_fails_where_it_is_used():
    missing = bindings.load('no_such_module')
    assert not hasattr(missing, '__wrapped__')
    with pytest.raises(errors.Misconfigured, match='a library is missing'):
        missing.NBD()


def test_one_that_is_broken_fails_where_it_is_used(tmp_path, monkeypatch):
    (tmp_path / 'broken_binding.py').write_text('raise OSError("symbol")')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(errors.Misconfigured):
        bindings.load('broken_binding').NBD()


@pytest.mark.parametrize('missing', ['nbd', 'nbd,rbd,rados'])
def test_only_the_images_that_need_it_fail(tmp_path, missing):
    """Glance would store what it has no plugin for unconverted."""
    found = subprocess.run(
        [sys.executable, '-c', _WITHOUT, missing,
         images.raw(tmp_path / 'raw', 'AB'),
         images.qcow2(tmp_path / 'qcow2', 'AB')],
        check=True, capture_output=True, text=True)
    assert found.stdout.splitlines() == [
        'opened', 'This cloud can not convert images: a library is missing.']
