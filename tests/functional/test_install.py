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

"""An operator with nothing but the page on installation.

Into the environment of a stock Glance that runs and has images; upgraded;
and back to stock. Each command is the next one of the page.
"""

import configparser
import copy
import hashlib
from importlib import metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile

from cloud import glance as service
from cloud import ini
import pytest

from tests import documents

INSTALL = documents.ROOT / 'doc' / 'source' / 'install' / 'index.rst'
NAME = 'glance-conversion-plugins'
QUIET = ('--quiet', '--disable-pip-version-check')


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    """What the source archives of two releases hold."""
    folder = tmp_path_factory.mktemp('sources')
    for version in '1.0.0', '1.0.1':
        subprocess.run(
            [sys.executable, '-m', 'build', '--sdist', '--outdir', folder,
             documents.ROOT], check=True, stdout=subprocess.DEVNULL,
            env=os.environ | {'PBR_VERSION': version})
    for path in folder.glob('*.tar.gz'):
        shutil.unpack_archive(path, folder)
    return sorted(path for path in folder.iterdir() if path.is_dir())


def test_a_wheel_holds_the_samples_too(sources, tmp_path):
    subprocess.run([sys.executable, '-m', 'build', '--wheel', '--outdir',
                    tmp_path, sources[0]], check=True,
                   stdout=subprocess.DEVNULL)
    [wheel] = tmp_path.glob('*-1.0.0-py3-none-any.whl')
    names = zipfile.ZipFile(wheel).namelist()
    assert 'glance_conversion_plugins/plugins.py' in names
    assert [name for name in names if name.endswith(
        f'data/share/{NAME}/glance-image-import.conf.sample')]


class Page:
    """The commands and the settings of the page, in its order."""

    def __init__(self, venv, sources, environment, folder):
        self._steps = [
            (language, step)
            for language, text in documents.blocks(INSTALL)
            if language in ('console', 'ini')
            for step in (documents.typed(text) if language == 'console'
                         else [text])]
        self._outputs = dict(
            text.partition('\n')[::2]
            for language, text in documents.blocks(INSTALL)
            if language == 'console')
        self._venv = venv
        self._sources = iter(sources)
        self._environment = environment
        self._folder = folder

    def type(self, command, status=0):
        """Do what is next on the page; returns what is printed."""
        assert self._steps.pop(0) == ('console', command)
        typed = command.replace('VENV', str(self._venv))
        folder = (next(self._sources) if command.endswith(' .')
                  else self._folder)
        done = subprocess.run(
            # The client would take what is not a terminal for an image.
            ['bash', '-c', f'{typed} <&-'], cwd=folder, text=True,
            env=self._environment, capture_output=True)
        assert done.returncode == status, done.stdout + done.stderr
        for line in self._outputs.get(f'$ {command}', '').splitlines():
            if label := re.match(r'[a-z_ ]+: ', line):
                assert f'\n{label[0]}' in f'\n{done.stdout}'
        return done.stdout

    def settings(self):
        """The settings that are next, without the paths of the example."""
        parser = configparser.ConfigParser(interpolation=None,
                                           default_section='')
        while self._steps[0][0] == 'ini':
            parser.read_string(self._steps.pop(0)[1])
        return {name: {option: value for option, value in section.items()
                       if not value.startswith('/')}
                for name, section in parser.items() if section}

    def at_its_end(self):
        return not self._steps


@pytest.fixture
def site(glance, tmp_path):
    """A stock Glance in an environment of its own, not yet made."""
    cloud = glance.cloud
    shared = cloud.glance
    settings = copy.copy(cloud.settings)
    settings.venv = tmp_path / 'venv'
    glance.configured_otherwise()
    cloud.glance = service.Glance(settings, cloud.ceph, cloud.database,
                                  cloud.keystone.auth_url)
    yield glance
    cloud.glance.kill()
    cloud.glance = shared
    shared.start()
    cloud.sections = None


@pytest.fixture
def page(site, tmp_path, sources, images):
    shutil.copy(images.qcow2('debian')[0], tmp_path / 'debian.qcow2')
    cloud = site.cloud
    venv = cloud.glance.settings.venv
    return Page(venv, sources, os.environ | cloud.environ('demo') | {
        'OS_GLANCE_CONFIG_DIR': str(cloud.glance.config_dir),
        'PATH': f'{venv}/bin:{cloud.settings.venv}/bin:'
                f'{os.environ["PATH"]}'}, tmp_path)


def stock(venv):
    return {
        'DEFAULT': {'enabled_backends': 'ceph:rbd, local:file'},
        'ceph2': None, 'files': None,
        'image_import_opts': {'image_import_plugins': "['image_conversion']"},
        'wsgi': {'python_interpreter': venv / 'bin' / 'python'}}


def packages(venv):
    """{name==version} of what is in the environment itself."""
    return set(subprocess.run(
        [venv / 'bin' / 'pip', '--disable-pip-version-check', 'list',
         '--format', 'freeze', '--local'], check=True,
        stdout=subprocess.PIPE, text=True).stdout.splitlines())


def assert_samples(venv):
    etc, share = documents.ROOT / 'etc', venv / 'share' / NAME
    for path in etc.rglob('*.*'):
        if path.is_file():
            assert (share / path.relative_to(etc)).read_bytes() == (
                path.read_bytes())


def somebodys_glance(site, page, qcow2):
    """It runs, and has an image, which is returned."""
    venv = site.cloud.glance.settings.venv
    page.type('/usr/bin/python3 -m venv --system-site-packages VENV')
    subprocess.run([venv / 'bin' / 'pip', *QUIET, 'install',
                    f"glance=={metadata.version('glance')}", 'PyMySQL',
                    'uwsgi'],
                   check=True, stdout=subprocess.DEVNULL)
    page.type('VENV/bin/pip install --upgrade pyOpenSSL')
    site.cloud.glance.reconfigure(stock(venv))
    return site.imported(qcow2)


def enable(site, page):
    """Returns the settings, and an image that was imported with them."""
    glance = site.cloud.glance
    enabled = ini.merge(stock(glance.settings.venv), page.settings())
    assert 'sparse_file' in enabled['DEFAULT']['enabled_backends']
    assert 'image_conversion' not in str(enabled['image_import_opts'])
    glance.configure(enabled)
    page.type('glance-conversion-status upgrade check')
    page.type('glance-conversion-manage inspect debian.qcow2')
    glance.restart()
    image_id = site.adopt(page.type(
        'glance image-create-via-import --disk-format qcow2 '
        '--container-format bare --file debian.qcow2 --name debian'))
    image = site.finish(image_id)
    assert image['status'] == 'active'
    assert image['disk_format'] == 'raw'
    assert site.message(image_id).startswith('Converted qcow2 to raw')
    return enabled, image


def go_back(site, page, enabled, image):
    """Although something of an import is left over."""
    glance = site.cloud.glance
    venv = glance.settings.venv
    left = site.leave_behind(image['id'])
    glance.reconfigure(ini.merge(enabled, {
        'image_import_opts': stock(venv)['image_import_opts']}))
    page.type('glance-conversion-manage digests')
    page.type('glance-conversion-manage cleanup')
    assert left not in site.stored()
    glance.reconfigure(stock(venv))
    page.type(f'VENV/bin/pip uninstall --yes {NAME}')
    glance.restart()


def test_from_stock_to_ours_and_back(site, page, images):
    venv = site.cloud.glance.settings.venv
    qcow2, _ = images.qcow2('before')
    before = somebodys_glance(site, page, qcow2)
    present = packages(venv)

    page.type('VENV/bin/pip install .')
    assert packages(venv) == present | {f'{NAME}==1.0.0'}
    assert_samples(venv)
    enabled, image = enable(site, page)

    page.type('VENV/bin/pip install --upgrade .')
    assert packages(venv) == present | {f'{NAME}==1.0.1'}
    page.type('glance-conversion-status upgrade check')

    go_back(site, page, enabled, before)
    assert page.at_its_end()
    assert packages(venv) == present
    assert not (venv / 'share' / NAME).exists()
    for stored in before, image:
        data = site.api('GET', f"/v2/images/{stored['id']}/file")
        assert hashlib.sha512(data).hexdigest() == stored['os_hash_value']
    after = site.imported(qcow2, stores=('ceph', 'local'))
    assert after['os_hash_value'] == before['os_hash_value']
