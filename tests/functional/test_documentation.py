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

"""Each command that the documentation tells somebody to type is run."""

import functools
import http.server
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading

import bench
import pytest

from tests.contract import packages
from tests import documents
from tests.functional import test_install
from tests.functional import test_quickstart

WALKED = {test_install.INSTALL, test_quickstart.QUICKSTART}

# What can not be run here, and what stands for it.
ELSEWHERE = {
    'tools/test.sh': 'what runs this test',
    'tools/test.sh -x tests/unit': 'the same, with arguments for pytest',
    'tools/demo.sh --boot': 'test_quickstart',
    'pip install .': 'test_install installs what is built from the same',
    'cd contrib/kolla': 'tests/contract/test_kolla',
    'kolla-build --config-file kolla-build.conf glance-api':
        'tests/contract/test_kolla, up to where an engine would build',
    'systemctl daemon-reload': 'needs systemd; test_contrib reads the unit',
    'systemctl enable --now glance-conversion-agent': 'the same',
}
# The first words of those that need a container engine. Their arguments are
# compared with what Kolla has: tests/contract/test_kolla, test_contrib.
ENGINES = ('docker run ', 'docker exec ', 'podman build ')
BENCH = 'tox -e bench -- '


def here(page):
    """The commands of a page that are run here."""
    return [command for command in documents.commands(page)
            if command not in ELSEWHERE
            and not command.startswith((*ENGINES, BENCH))]


PAGES = [path for path in documents.PAGES
         if path not in WALKED and here(path)]
MEASURING = [command for page in documents.PAGES
             for command in documents.commands(page)
             if command.startswith(BENCH)]


@pytest.fixture
def site(images, tmp_path):
    """The address of the files that the pages speak of."""
    qcow2, raw = images.qcow2('documented')
    shutil.copy(qcow2, tmp_path / 'debian.qcow2')
    (tmp_path / 'flatcar.img.bz2').write_bytes(
        packages.compressed('bzip2', raw.read_bytes()))
    vmdk = tmp_path / 'disk.vmdk'
    subprocess.run(['qemu-img', 'convert', '-O', 'vmdk', '-o',
                    'subformat=streamOptimized', qcow2, vmdk], check=True)
    (tmp_path / 'appliance.ova').write_bytes(packages.ova(vmdk.read_bytes()))
    server = http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), functools.partial(
            http.server.SimpleHTTPRequestHandler, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(glance, configure, images, site, tmp_path):
    """Run a command as an operator does, where an operator would."""
    configure(DEFAULT={
        'image_cache_dir': glance.cloud.glance.dir / 'image-cache'})
    cloud = glance.cloud
    image_id = glance.imported(images.qcow2('stored')[0])['id']
    places = {
        # Where an installation that is not editable has it.
        'VENV/share/glance-conversion-plugins': documents.ROOT / 'etc',
        '/etc': tmp_path / 'etc',
        'IMAGE_ID': image_id,
        'https://example.org': site,
        # Nobody reads the old data, for whom it would wait a minute.
        'sparsify --store': 'sparsify --grace 0 --store',
        # Unlike our commands it knows no other folder by the environment.
        'glance-manage': f'glance-manage --config-dir '
                         f'{cloud.glance.config_dir}'}
    for folder in ('etc/glance', 'etc/cron.d', 'etc/kolla',
                   'etc/systemd/system', 'releasenotes/notes'):
        (tmp_path / folder).mkdir(parents=True)
    environment = os.environ | {
        'CEPH_CONF': str(cloud.ceph.conf),
        'OS_GLANCE_CONFIG_DIR': str(cloud.glance.config_dir),
        'PATH': f'{cloud.settings.venv}/bin:{os.environ["PATH"]}'}

    def run(command, page):
        command = re.sub('|'.join(places),
                         lambda found: str(places[found[0]]), command)
        folder = page.parent if 'contrib' in page.parts else tmp_path
        imports = command.startswith('glance image-create-via-import')
        user = 'demo' if imports else 'admin'
        done = subprocess.run(
            ['bash', '-c', f'{command} <&-'], cwd=folder, text=True,
            env=environment | cloud.environ(user), capture_output=True)
        # Of the check, 1 is for warnings: a store of this cloud is stock.
        status = int(command.startswith('glance-conversion-status'))
        assert done.returncode == status, done.stdout + done.stderr
        if imports:
            image = glance.finish(glance.adopt(done.stdout))
            assert image['status'] == 'active'

    return run


@pytest.mark.parametrize('page', PAGES, ids=documents.name)
def test_every_command_works(run, page):
    for command in here(page):
        run(command, page)


@pytest.mark.parametrize('command', MEASURING)
def test_every_benchmark_has_these_options(monkeypatch, command):
    """To run them would take an hour."""
    words = shlex.split(command.removeprefix(BENCH))
    monkeypatch.setattr(sys, 'argv', ['bench.py', *words])
    chosen = vars(bench.options())
    named = {word[2:].replace('-', '_') for word in words
             if word.startswith('--')}
    assert named and named <= chosen.keys()


def test_what_is_not_run_is_still_in_the_documentation():
    found = [command for page in documents.PAGES
             for command in documents.commands(page)]
    assert set(ELSEWHERE) <= set(found)
    for start in (*ENGINES, BENCH):
        assert [command for command in found if command.startswith(start)]


def test_a_wrong_command_would_be_found(run):
    with pytest.raises(AssertionError):
        run('glance-conversion-manage no-such-command', documents.ROOT / 'x')
