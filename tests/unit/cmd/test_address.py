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

"""What is said of an address, by its first bytes."""

import functools
import http.server
import pathlib
import subprocess
import threading
import urllib.error

# Registers Glance's options, which the limits are read from.
from glance.common import config as _glance_config      # noqa: F401
import pytest

from glance_conversion_plugins.cmd import address
from glance_conversion_plugins import errors
from tests.contract import packages

MIB = 1 << 20


class _Ranges(http.server.BaseHTTPRequestHandler):
    """Serves a part of a file, as most servers of images do."""

    def __init__(self, path, *args):
        self._path = pathlib.Path(path)
        super().__init__(*args)

    def do_GET(self):
        if self.path != '/image':
            self.send_error(404)
            return
        data = self._path.read_bytes()
        last = int(self.headers['Range'].removeprefix('bytes=0-'))
        part = data[:last + 1]
        self.send_response(206)
        self.send_header('Content-Range',
                         f'bytes 0-{len(part) - 1}/{len(data)}')
        self.send_header('Content-Length', str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def served(tmp_path, override):
    """The address of a file."""
    path = tmp_path / 'image'
    server = http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), functools.partial(_Ranges, path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}/image', path
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize('kind, said', [
    ('qcow2', 'qcow2'), ('vdi', 'vdi'), ('vmdk', 'vmdk'), ('vpc', 'vhd'),
    ('vhdx', 'vhdx'), ('raw', 'raw, or a fixed vhd')])
def test_its_format(served, kind, said):
    url, path = served
    subprocess.run(['qemu-img', 'create', '-q', '-f', kind, path, '20M'],
                   check=True)
    lines = list(address.report(url))
    assert f'format: {said}' in lines
    assert lines[-1].startswith('verdict: nothing in its first bytes keeps')


def test_no_more_is_read_than_its_beginning(served):
    url, path = served
    path.write_bytes(b'disk' * (5 * MIB))
    assert list(address.report(url))[:2] == ['size of the file: 20 MiB',
                                             'read: 8 MiB']


@pytest.mark.parametrize('kind, said', [
    ('xz', 'compressed (xz)'), ('zip', 'compressed (zip)'), ('ova', 'ova')])
def test_its_container(served, kind, said):
    url, path = served
    path.write_bytes(packages.ova(b'disk') if kind == 'ova' else
                     packages.compressed(kind, b'disk' * 5000))
    lines = list(address.report(url))
    assert f'container: {said}' in lines
    assert f'with the container format "{said.split()[0]}"' in lines[-1]


@pytest.mark.parametrize('data, error, words', [
    (b'<!DOCTYPE html><html>', errors.FormatMismatch, 'it is a web page'),
    (b'Rar!\x1a\x07\0', errors.FormatMismatch, 'an archive of RAR'),
    (b'QFI\xfb\0\0\0\x03' + b'\0' * 7 + b'\x01' + b'\0' * 600,
     errors.UnsafeImage, 'backing')])
def test_what_would_be_refused(served, data, error, words):
    url, path = served
    path.write_bytes(data)
    with pytest.raises(error, match=words):
        list(address.report(url))


def test_an_address_that_has_nothing(served):
    with pytest.raises(urllib.error.HTTPError):
        list(address.report(served[0] + 's'))


def test_an_address_where_nobody_is(served):
    with pytest.raises(OSError, match='refused'):
        list(address.report('http://127.0.0.1:9/image'))
