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


import os
import subprocess
from typing import NamedTuple

from oslo_config import cfg
import pytest

from glance_conversion_plugins import config
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.external import qemu_nbd
from tests.contract import images
from tests.unit import processes

CONF = cfg.CONF

_MEBIBYTE = 1 << 20

PATTERN = 'A0-BCD'


def _qcow2(path):
    return qemu_img.Image(str(path), 'qcow2')


@pytest.fixture
def override():
    """Sets options until the test ends."""
    config.register_opts(CONF)
    changed = []

    def override(name, value, group=None):
        changed.append((name, group))
        CONF.set_override(name, value, group=group)

    yield override
    for name, group in changed:
        CONF.clear_override(name, group=group)


@pytest.fixture
def path(tmp_path):
    return images.qcow2(tmp_path / 'disk.qcow2', PATTERN)


@pytest.fixture
def server(path):
    found = qemu_nbd.NbdServer(_qcow2(path), 1, len(PATTERN) * images.BLOCK)
    processes.wait_for_comm(found.pid, 'qemu-nbd')
    yield found
    found.close()


class Big(NamedTuple):
    """An image that takes a while to convert, and little room."""

    path: str
    virtual_size: int       # all of it one repeated byte


@pytest.fixture(scope='session')
def big(tmp_path_factory):
    """1200 MiB of one byte, compressed to a thousandth."""
    path = str(tmp_path_factory.mktemp('big') / 'disk.qcow2')
    images.run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o',
               'compression_type=zstd', path, '1200M')
    commands = [c for at in range(0, 1200, 60)
                for c in ('-c', f'write -q -c -P 65 {at}M 60M')]
    images.run('qemu-io', '-f', 'qcow2', *commands, path)
    # More data than is allowed always, and than 200 times its size.
    assert os.path.getsize(path) * 200 < 1 << 30
    return Big(path, 1200 * _MEBIBYTE)


def _mounted(folder, *options):
    folder.mkdir()
    subprocess.run(['mount', '-t', 'tmpfs', '-o', ','.join(options), 'tmpfs',
                    str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(['umount', '--lazy', str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    """A folder with room for 1 MiB; mounting it needs root."""
    yield from _mounted(tmp_path / 'small', 'size=1m')


@pytest.fixture
def read_only_disk(tmp_path):
    """A folder into which nothing can be written, not even by root."""
    yield from _mounted(tmp_path / 'read-only', 'ro')
