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

"""Glance on our samples, word for word, and on wrong values."""

import configparser
import pathlib

from cloud import processes
import pytest

ETC = pathlib.Path(__file__).parents[2] / 'etc'
SAMPLES = ('glance-api-minimal.conf.sample', 'glance-api-tuned.conf.sample')


def options_of(*paths):
    """{section: {option: value}} of configuration files."""
    parser = configparser.ConfigParser(
        interpolation=None, default_section='', strict=False)
    parser.optionxform = str
    parser.read(paths)
    return {name: dict(parser[name]) for name in parser.sections()}


def of_this_machine(cloud):
    """What no sample can know: where things are."""
    root = cloud.glance.dir
    return {
        'DEFAULT': {'worker_self_reference_url': cloud.glance.url,
                    'image_cache_dir': root / 'image-cache'},
        'ceph': {'rbd_store_ceph_conf': cloud.ceph.conf},
        'local': {'filesystem_store_datadir': root / 'files'},
        'oslo_concurrency': {'lock_path': root / 'lock'},
        'conversion_agent': {'metrics_port': cloud.settings.port(50)},
    }


@pytest.fixture
def on_samples(glance):
    """Start Glance on samples as they are, and what they leave open."""
    cloud = glance.cloud

    def start(*names):
        said = options_of(*(ETC / name for name in names))
        site = of_this_machine(cloud)
        glance.configured_otherwise()
        # None: it is the sample that says it.
        cloud.glance.configure({'ceph2': None, 'files': None} | {
            section: {name: site.get(section, {}).get(name)
                      for name in options}
            for section, options in said.items()})
        for name in names:
            path = cloud.glance.config_dir / (
                'glance-api.conf' if name.startswith('glance-api')
                else 'glance-image-import.conf')
            # The last value of an option counts.
            path.write_text((ETC / name).read_text() + path.read_text())
        cloud.glance.start()
        return said

    return start


@pytest.mark.parametrize('name', SAMPLES)
def test_an_import_on_the_samples(on_samples, glance, images, name):
    said = on_samples(name, 'glance-image-import.conf.sample')
    written = options_of(glance.cloud.glance.config_dir / 'glance-api.conf')
    assert written['DEFAULT']['enabled_backends'] == (
        said['DEFAULT']['enabled_backends'])
    image = glance.imported(images.qcow2('sampled')[0],
                            stores=('ceph', 'local'))
    assert image['disk_format'] == 'raw'
    assert image['stores'] == 'ceph,local'


@pytest.mark.parametrize('section, name, value', [
    ('conversion', 'max_concurrent', 'many'),
    ('conversion', 'digests', 'sometimes'),
    ('sparse_store', 'zero_block_size', '17'),
])
def test_glance_does_not_start_with_a_wrong_value(glance, section, name,
                                                  value):
    service = glance.cloud.glance
    glance.configured_otherwise()
    with pytest.raises(processes.CloudError, match='ended early'):
        service.reconfigure({section: {name: value}})
    # Not of the error, which ends with what the last process had to say: the
    # other one may have been stopped amid its start.
    said = service.log.read_text() + service.daemon.log.read_text()
    assert f'Value for option {name} ' in said
