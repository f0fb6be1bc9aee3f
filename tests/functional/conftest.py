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

"""One real cloud for all functional tests."""

import functools
import http.server
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import pytest

TOOLS = pathlib.Path(__file__).resolve().parents[2] / 'tools'
sys.path.insert(0, str(TOOLS))

from cloud import Cloud  # noqa: E402

pytest.register_assert_rewrite('tests.functional.nodes',
                               'tests.functional.campaign')

from tests.functional import nodes as nodes_  # noqa: E402
from tests.functional import support  # noqa: E402

# Each worker of pytest-xdist has a cloud of its own.
WORKER = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))
ROOT = os.environ.get('GLANCE_TEST_CLOUD_DIR',
                      '/var/tmp/glance-conversion-test-cloud') + (
                          f'-{WORKER}' if WORKER else '')
# The first of two hundred ports: some tests bring up a second cloud.
PORT = int(os.environ.get('GLANCE_TEST_PORT', '28600')) + 200 * WORKER


# These take longest, and go first: in the end no worker waits for another.
LONG = ('test_nodes', 'test_formats', 'test_crash', 'test_failure',
        'test_quickstart', 'test_install', 'test_packages', 'test_resume',
        'test_import')


def pytest_collection_modifyitems(items):
    def turn(item):
        name = item.path.stem
        return LONG.index(name) if name in LONG else len(LONG)
    items.sort(key=turn)


def fresh_cloud(root, base_port):
    """A cloud that is not up, in place of what a dead run has left."""
    Cloud(root, sys.prefix, base_port=base_port).destroy()
    shutil.rmtree(root, ignore_errors=True)
    cloud = Cloud(root, sys.prefix, base_port=base_port)
    cloud.settings.save()
    return cloud


@pytest.fixture(scope='session')
def cloud():
    """A fresh cloud, destroyed at the end.

    GLANCE_TEST_KEEP_CLOUD=1 keeps it, for a look at what a test has left.
    With another GLANCE_TEST_CLOUD_DIR and GLANCE_TEST_PORT the tests can run
    beside others on the same machine.
    """
    cloud = fresh_cloud(ROOT, PORT)
    cloud.up()
    cloud.sections = {}
    yield cloud
    if not os.environ.get('GLANCE_TEST_KEEP_CLOUD'):
        cloud.destroy()


@pytest.fixture
def configure(glance):
    """Restart Glance with other options, if it does not have them."""
    return glance.configure


@pytest.fixture
def glance(cloud):
    """Glance as an ordinary user sees it.

    It has its default configuration unless a test chooses another before it
    does anything else. Whatever a test does, it must leave nothing.
    """
    service = support.Service(cloud)
    yield service
    service.forget_images()
    if left := service.leftovers():
        service.sweep()
    assert not left


@pytest.fixture(scope='session')
def images(tmp_path_factory):
    return support.Images(tmp_path_factory.mktemp('images'))


@pytest.fixture
def full_pool(glance):
    """A pool that is over its quota."""
    ceph = glance.cloud.ceph
    ceph.run('rbd', '-p', 'images2', 'create', '--size', '64M', 'fill')
    ceph.run('rbd', '-p', 'images2', 'bench', '--io-type', 'write',
             '--io-total', '64M', '--io-size', '1M', 'fill')
    ceph.run('ceph', 'osd', 'pool', 'set-quota', 'images2', 'max_bytes',
             str(8 * support.MIB))
    support.wait_for(lambda: 'full_quota' in ceph.run(
        'ceph', 'osd', 'pool', 'ls', 'detail').stdout)
    yield 'ceph2'
    ceph.run('ceph', 'osd', 'pool', 'set-quota', 'images2', 'max_bytes', '0')
    support.wait_for(lambda: 'full_quota' not in ceph.run(
        'ceph', 'osd', 'pool', 'ls', 'detail').stdout)
    ceph.run('rbd', '-p', 'images2', 'rm', '--no-progress', 'fill')


@pytest.fixture(scope='session')
def full(tmp_path_factory):
    """A folder without room, one for all, as Glance is configured for it."""
    folder = tmp_path_factory.mktemp('full')
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs',
                    folder], check=True)
    (folder / 'filler').write_bytes(os.urandom(60 * 1024))
    yield folder
    subprocess.run(['umount', folder], check=True)


@pytest.fixture
def http_server(images):
    """Serves the folder of images on loopback, as web-download needs."""
    handler = functools.partial(QuietHandler, directory=str(images.folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


# Several nodes

@pytest.fixture(scope='module')
def all_nodes(cloud):
    nodes = nodes_.Nodes(cloud)
    try:
        nodes.up()
        with nodes.neighbour():
            yield nodes
    finally:
        nodes.down()


@pytest.fixture(scope='module')
def disks(images):
    return nodes_.make_disks(images, 6, size=96 * support.MIB, pieces=300)


@pytest.fixture
def nodes(all_nodes):
    """Both nodes, which are to be left as they were found."""
    all_nodes.up()
    yield all_nodes
    all_nodes.up()
    if not all_nodes.is_tidy():
        all_nodes.settle()
    all_nodes.assert_all_is_well()
    all_nodes.forget_images()
    all_nodes.assert_all_is_well()


@pytest.fixture(scope='module')
def large(images):
    """Something that is read for a second or two."""
    qcow2, raw = images.full()
    return nodes_.Disk(raw, qcow2, support.digests(raw)[1])
