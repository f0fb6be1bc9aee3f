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
from glance_conversion_plugins.config import values
from glance_conversion_plugins.formats import inspection


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
    assert values.Size()(value) == expected


BAD_SIZES = ['', '0', '0GB', '-1', '-1GB', '1.5GB', 'GB', '10 GB', '10gb',
             '10G', '10PB', '1e9', '0x10', 'unlimited', '10GB\n5']


@pytest.mark.parametrize('value', BAD_SIZES)
def test_bad_size_says_how_to_write_one(value):
    with pytest.raises(ValueError, match='as in 100GB'):
        values.Size()(value)


def test_sizes_are_of_one_type():
    assert values.Size() == values.Size()
    assert hash(values.Size()) == hash(values.Size())
    assert values.Size() != cfg.types.Integer()


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
    ('cache_prefetch', 'interval', '-1'),
    ('cache_prefetch', 'interval', 'often'),
    ('cache_prefetch', 'workers', '0'),
    ('cache_prefetch', 'workers', '65'),
    ('cache_prefetch', 'properties', 'prefetch'),
    ('cache_prefetch', 'properties', 'prefetch:true,os_distro'),
    ('cache_prefetch', 'properties', ':true'),
    ('cache_prefetch', 'visibility', 'everyone'),
    ('cache_prefetch', 'visibility', 'public,Private'),
    ('cache_prefetch', 'newest', '-1'),
    ('cache_prefetch', 'most_hit', 'all'),
    ('cache_prefetch', 'rate_limit', '0'),
    ('cache_prefetch', 'rate_limit', 'fast'),
    ('cache_prefetch', 'grace', '-1'),
    ('conversion_agent', 'cleanup_interval', '-1'),
    ('conversion_agent', 'digests_interval', '1.5'),
    ('conversion_agent', 'metrics_port', '65536'),
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
    assert conf.sparse_store.zero_block_size == 32 * 1024
    assert conf.sparse_store.data_pools == {}
    assert conf.sparse_store.mount_marker == ''
    assert conf.cache_prefetch.interval == 300
    assert conf.cache_prefetch.workers == 2
    for name in ('properties', 'tags', 'visibility'):
        assert conf.cache_prefetch[name] == []
    assert conf.cache_prefetch.newest == 0
    assert conf.cache_prefetch.most_hit == 0
    assert conf.cache_prefetch.rate_limit is None
    assert conf.cache_prefetch.grace == 60
    assert conf.conversion_agent.cleanup_interval == 600
    assert conf.conversion_agent.digests_interval == 300
    assert conf.conversion_agent.metrics_port is None


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


@pytest.mark.parametrize(('value', 'expected'), [
    ('a:b', ('a', 'b')),
    ('a:b:c', ('a', 'b:c')),
    ('a::', ('a', ':')),
    ('a:', ('a', '')),
    (' a : b ', ('a', 'b')),
    ('two words: and more ', ('two words', 'and more')),
    (('a', 'b'), ('a', 'b')),
])
def test_a_pair_is_a_name_and_all_that_follows_its_colon(value, expected):
    assert values.Pair()(value) == expected


@pytest.mark.parametrize('value', ['a', '', ' ', ':', ':b', ' :b', '::'])
def test_what_is_no_pair_is_named(value):
    with pytest.raises(ValueError, match='as in prefetch:true') as caught:
        values.Pair()(value)
    assert str(caught.value).startswith(f'"{value}" is not a pair')


def test_pairs_are_of_one_type():
    assert values.Pair() == values.Pair()
    assert hash(values.Pair()) == hash(values.Pair())
    assert values.Pair() != values.Size()
    assert repr(values.Pair()) == 'Pair'


@pytest.mark.parametrize(('value', 'expected'), [
    ('', []),
    ('prefetch:true', [('prefetch', 'true')]),
    ('prefetch:true,os:debian', [('prefetch', 'true'), ('os', 'debian')]),
    (' prefetch : true , os:debian ', [('prefetch', 'true'),
                                       ('os', 'debian')]),
    ('url:http://x:1/,a:b', [('url', 'http://x:1/'), ('a', 'b')]),
])
def test_properties_are_pairs_of_a_name_and_a_value(load, value, expected):
    conf = load(f'[cache_prefetch]\nproperties = {value}\n')
    assert conf.cache_prefetch.properties == expected


def test_properties_may_be_set_by_a_program(load):
    conf = load()
    conf.set_override('properties', [('a', 'b')], 'cache_prefetch')
    assert conf.cache_prefetch.properties == [('a', 'b')]
    conf.set_override('properties', ['a:b'], 'cache_prefetch')
    assert conf.cache_prefetch.properties == [('a', 'b')]


def test_a_sample_shows_pairs_as_they_are_written():
    option = cfg.ListOpt('properties', item_type=values.Pair(),
                         default=[('a', 'b'), ('c', 'd:e')])
    # What the generator of samples asks.
    assert option.type.format_defaults(option.default) == ['a:b,c:d:e']


@pytest.mark.parametrize(('value', 'expected'), [
    ('', []), ('golden', ['golden']),
    ('golden, two words', ['golden', 'two words'])])
def test_tags_are_a_list(load, value, expected):
    conf = load(f'[cache_prefetch]\ntags = {value}\n')
    assert conf.cache_prefetch.tags == expected


@pytest.mark.parametrize('value', [
    ['public'], ['community', 'shared', 'private'], []])
def test_visibility_is_any_that_glance_knows(load, value):
    conf = load(f'[cache_prefetch]\nvisibility = {",".join(value)}\n')
    assert conf.cache_prefetch.visibility == value


def test_a_rate_is_a_size(load):
    conf = load('[cache_prefetch]\nrate_limit = 100MB\n')
    assert conf.cache_prefetch.rate_limit == 100 << 20


@pytest.mark.parametrize('group', ['cache_prefetch', 'conversion_agent'])
def test_every_interval_can_be_switched_off(load, group):
    names = [o.name for o in dict(config.list_opts())[group]
             if o.name.endswith('interval')]
    conf = load(f'[{group}]\n' + ''.join(f'{name} = 0\n'
                                         for name in names))
    assert names
    assert {conf[group][name] for name in names} == {0}


def test_a_check_finds_what_nobody_has_looked_at(load):
    config.check(load('[cache_prefetch]\nworkers = 3\n'))
    conf = load('[cache_prefetch]\ninterval = often\n')
    with pytest.raises(cfg.ConfigFileValueError, match='interval'):
        config.check(conf)


def test_registering_twice_is_harmless(load):
    conf = load('[conversion]\nmax_concurrent = 7\n')
    config.register_opts(conf)
    assert conf.conversion.max_concurrent == 7


def test_all_options_are_listed_with_help():
    listed = dict(config.list_opts())
    assert set(listed) == {'conversion', 'sparse_store', 'cache_prefetch',
                           'conversion_agent'}
    assert {o.name for o in listed['conversion']} == {
        'output_format', 'digests', 'legacy_checksum', 'max_virtual_size',
        'max_expansion', 'qcow2_compression', 'deployment', 'sandbox',
        'keep_upload', 'max_concurrent', 'max_concurrent_per_project',
        'unpack', 'source_hash', 'raise_min_disk', 'min_free_staging',
        'rate_limit', 'verify_after_write'}
    assert {o.name for o in listed['sparse_store']} == {
        'zero_block_size', 'data_pools', 'mount_marker'}
    assert {o.name for o in listed['cache_prefetch']} == {
        'interval', 'workers', 'properties', 'tags', 'visibility', 'newest',
        'most_hit', 'rate_limit', 'grace'}
    assert {o.name for o in listed['conversion_agent']} == {
        'cleanup_interval', 'digests_interval', 'metrics_port',
        'verify_interval', 'verify_rate_limit'}
    for opts in listed.values():
        assert not [o.name for o in opts if len(o.help.strip()) < 40]
