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


from oslo_config import cfg
import pytest

from glance_conversion_plugins import config
from glance_conversion_plugins import inspection


@pytest.fixture
def load(tmp_path):
    """Read a configuration file as Glance does."""
    def load(text=''):
        path = tmp_path / 'glance-api.conf'
        path.write_text(text)
        conf = cfg.ConfigOpts()
        config.register_opts(conf)
        conf(['--config-file', str(path)], project='glance')
        return conf
    return load


@pytest.mark.parametrize(('value', 'expected'), [
    ('1', 1),
    ('4096', 4096),
    ('7B', 7),
    ('1KB', 1024),
    ('3MB', 3 << 20),
    ('100GB', 100 << 30),
    ('2TB', 2 << 40),
    (5, 5),
])
def test_size(value, expected):
    assert config.Size()(value) == expected


BAD_SIZES = ['', '0', '0GB', '-1', '-1GB', '1.5GB', 'GB', '10 GB', '10gb',
             '10G', '10PB', '1e9', '0x10', 'unlimited', '10GB\n5']


@pytest.mark.parametrize('value', BAD_SIZES)
def test_bad_size_says_how_to_write_one(value):
    with pytest.raises(ValueError, match='as in 100GB'):
        config.Size()(value)


def test_sizes_are_of_one_type():
    assert config.Size() == config.Size()
    assert hash(config.Size()) == hash(config.Size())
    assert config.Size() != cfg.types.Integer()


def test_size_from_a_file(load):
    conf = load('[conversion]\nmax_virtual_size = 500GB\n')
    assert conf.conversion.max_virtual_size == 500 << 30


@pytest.mark.parametrize(('group', 'name', 'value'), [
    ('conversion', 'max_virtual_size', 'much'),
    ('conversion', 'max_virtual_size', '0'),
    ('conversion', 'output_format', 'iso'),
    ('conversion', 'output_format', 'vpc'),
    ('conversion', 'max_expansion', '-1'),
    ('conversion', 'max_expansion', '200x'),
    ('conversion', 'qcow2_compression', 'lzma'),
    ('conversion', 'digests', 'none'),
    ('conversion', 'legacy_checksum', 'maybe'),
    ('conversion', 'max_concurrent', '0'),
    ('conversion', 'max_concurrent', 'two'),
    ('sparse_store', 'zero_block_size', '4095'),
    ('sparse_store', 'zero_block_size', '1048577'),
    ('sparse_store', 'data_pools', 'images-data'),
    ('sparse_store', 'data_pools', 'ceph:one,two'),
])
def test_bad_values_name_the_option(load, group, name, value):
    with pytest.raises(cfg.ConfigFileValueError, match=name):
        conf = load(f'[{group}]\n{name} = {value}\n')
        _ = conf[group][name]


def test_defaults(load):
    conf = load()
    assert conf.conversion.output_format is None
    assert conf.conversion.digests == 'inline'
    assert conf.conversion.legacy_checksum is True
    assert conf.conversion.max_virtual_size is None
    assert conf.conversion.max_expansion == 200
    assert conf.conversion.qcow2_compression == 'none'
    assert conf.conversion.max_concurrent == 2
    assert conf.sparse_store.zero_block_size == 64 * 1024
    assert conf.sparse_store.data_pools == {}
    assert conf.sparse_store.mount_marker == ''


@pytest.mark.parametrize('name', inspection.DRIVERS)
def test_output_may_be_whatever_is_decoded(load, name):
    conf = load(f'[conversion]\noutput_format = {name}\n')
    assert conf.conversion.output_format == name


@pytest.mark.parametrize(('name', 'value', 'expected'), [
    ('max_expansion', '0', 0), ('max_expansion', '5000', 5000),
    ('qcow2_compression', 'none', 'none'),
    ('qcow2_compression', 'zlib', 'zlib'),
    ('qcow2_compression', 'zstd', 'zstd')])
def test_values(load, name, value, expected):
    conf = load(f'[conversion]\n{name} = {value}\n')
    assert conf.conversion[name] == expected


@pytest.mark.parametrize(('value', 'expected'), [
    ('', {}),
    ('ceph:images-data', {'ceph': 'images-data'}),
    ('ceph:images-data,far:images-ec', {'ceph': 'images-data',
                                        'far': 'images-ec'}),
    ('ceph: images-data , far :images-ec', {'ceph': 'images-data',
                                            'far': 'images-ec'}),
])
def test_data_pools_are_pairs_of_a_store_and_a_pool(load, value, expected):
    conf = load(f'[sparse_store]\ndata_pools = {value}\n')
    assert conf.sparse_store.data_pools == expected


@pytest.mark.parametrize(('value', 'expected'), [
    ('', ''), ('.mounted', '.mounted'), ('mounted here', 'mounted here')])
def test_mount_marker_is_a_name(load, value, expected):
    conf = load(f'[sparse_store]\nmount_marker = {value}\n')
    assert conf.sparse_store.mount_marker == expected


def test_registering_twice_is_harmless(load):
    conf = load('[conversion]\nmax_concurrent = 7\n')
    config.register_opts(conf)
    assert conf.conversion.max_concurrent == 7


def test_all_options_are_listed_with_help():
    listed = dict(config.list_opts())
    assert set(listed) == {'conversion', 'sparse_store'}
    assert {o.name for o in listed['conversion']} == {
        'output_format', 'digests', 'legacy_checksum', 'max_virtual_size',
        'max_expansion', 'qcow2_compression', 'max_concurrent'}
    assert {o.name for o in listed['sparse_store']} == {
        'zero_block_size', 'data_pools', 'mount_marker'}
    for opts in listed.values():
        assert not [o.name for o in opts if len(o.help.strip()) < 40]
