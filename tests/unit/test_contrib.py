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

"""What contrib shows to operators: each option in it must exist."""

import configparser
from importlib import metadata
import json
import pathlib
import re

from docutils import core
from docutils import nodes
from glance.common import wsgi_app
from glance import opts as glance_opts
import glance_store
import jinja2
from oslo_concurrency import opts as concurrency_opts
from oslo_config import cfg
from oslo_log import log as logging
from oslo_policy import opts as policy_opts
import pytest
import yaml

from glance_conversion_plugins import config

ROOT = pathlib.Path(__file__).parents[2]
CONTRIB = ROOT / 'contrib'
READMES = sorted(CONTRIB.rglob('README.rst'))
PLUGINS = ['rbd_direct_convert', 'convert_image']

# Of fragments that are put beside an enabled_backends from elsewhere.
STORES = {'rbd': 'sparse_rbd', 'local': 'sparse_file'}


def ini(sections):
    """Write sections as the text of a configuration file."""
    lines = []
    for name, options in sections.items():
        lines.append(f'[{name}]')
        lines += [f'{key} = {value}' for key, value in options.items()]
    return '\n'.join(lines) + '\n'


def from_hieradata(data):
    sections = {}
    for name, content in data['glance::config::api_config'].items():
        section, key = name.split('/')
        sections.setdefault(section, {})[key] = content['value']
    if plugins := data.get('glance::api::image_import_plugins'):
        sections['image_import_opts'] = {
            'image_import_plugins': f"[{','.join(plugins)}]"}
    return ini(sections)


def from_tripleo(data):
    parameters = data['parameter_defaults']
    hieradata = dict(parameters['ControllerExtraConfig'])
    backend = f"{parameters['GlanceBackendID']}:{hieradata['glance_backend']}"
    hieradata['glance::config::api_config'] |= {
        'DEFAULT/enabled_backends': {'value': backend}}
    hieradata['glance::api::image_import_plugins'] = parameters[
        'GlanceImageImportPlugins'].split(',')
    return from_hieradata(hieradata)


def from_openstack_ansible(data):
    store = data['glance_default_store']
    return ini({
        'DEFAULT': {'enabled_backends': f"{store['name']}:{store['type']}"},
        store['name']: store['config'],
        **data['glance_glance_api_conf_overrides']})


READERS = {
    'conf': lambda data: ini(data['conf']['glance']),
    'glance::config::api_config': from_hieradata,
    'glance_default_store': from_openstack_ansible,
    'parameter_defaults': from_tripleo,
    'spec': lambda data: data['spec']['glance']['template'][
        'customServiceConfig'],
}


def from_yaml(text):
    data = yaml.safe_load(text)
    [reader] = [reader for key, reader in READERS.items() if key in data]
    return reader(data)


def examples(language):
    """Find the examples of a language in all READMEs."""
    for path in READMES:
        tree = core.publish_doctree(
            path.read_text(), settings_overrides={'halt_level': 2})
        for number, block in enumerate(tree.findall(nodes.literal_block)):
            if language in block['classes']:
                yield pytest.param(
                    block.astext(),
                    id=f'{path.relative_to(CONTRIB)}:{number}')


def files(*patterns):
    return [pytest.param(path.read_text(), id=str(path.relative_to(CONTRIB)))
            for pattern in patterns for path in sorted(CONTRIB.glob(pattern))]


@pytest.fixture
def check(tmp_path):
    """Read a fragment of configuration as Glance does; return its values."""
    def check(text):
        path = tmp_path / 'fragment.conf'
        # DevStack's headings say which file it is.
        path.write_text(re.sub(r'(?m)^\[\[.*\]\]$', '', text))
        found = {}
        cfg.ConfigParser(str(path), found).parse()
        conf = cfg.ConfigOpts()
        logging.register_options(conf)
        for group, options in (glance_opts.list_api_opts()
                               + glance_opts.list_image_import_opts()
                               + concurrency_opts.list_opts()
                               + policy_opts.list_opts()):
            conf.register_opts(options, group=group)
        config.register_opts(conf)
        conf(['--config-file', str(path)], project='glance',
             default_config_dirs=[])
        if 'enabled_backends' not in found.get('DEFAULT', {}):
            conf.set_override('enabled_backends', STORES)
        assert set(conf.enabled_backends.values()) <= entry_points(
            'glance_store.drivers')
        glance_store.register_store_opts(
            conf, reserved_stores=wsgi_app.RESERVED_STORES)
        values = {}
        for section, options in found.items():
            group = conf if section == 'DEFAULT' else conf[section]
            for name in options:
                values[section, name] = group[name]
        return values
    return check


def entry_points(group):
    return {point.name for point in metadata.entry_points(group=group)}


def scripts():
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    return {line.partition('=')[0].strip()
            for line in setup['entry_points']['console_scripts'].splitlines()}


@pytest.mark.parametrize('text', [
    *files('*/config/**/*.conf'),
    *examples('ini'),
])
def test_ini(check, text):
    assert check(text)


@pytest.mark.parametrize('text', [
    *files('tripleo/*.yaml'),
    *examples('yaml'),
])
def test_yaml(check, text):
    assert check(from_yaml(text))


@pytest.mark.parametrize('text', [
    *files('*/config/**/glance-image-import.conf'),
    *[example for example in examples('ini')
      if 'image_import_plugins' in example.values[0]],
    *[pytest.param(from_yaml(example.values[0]), id=example.id)
      for example in [*files('tripleo/*.yaml'), *examples('yaml')]
      if 'image_import_plugins' in from_yaml(example.values[0])],
])
def test_plugins(check, text):
    assert check(text)['image_import_opts', 'image_import_plugins'] == PLUGINS


def test_plugins_exist():
    assert entry_points('glance.image_import.plugins').issuperset(PLUGINS)


@pytest.mark.parametrize(('text', 'error'), [
    ('[conversion]\nno_such_option = 1\n', cfg.NoSuchOptError),
    ('[conversion]\ndigests = sometimes\n', ValueError),
    ('[conversoin]\ndigests = inline\n', cfg.NoSuchOptError),
    ('[nowhere]\nrbd_store_pool = images\n', cfg.NoSuchOptError),
    ('digests inline\n', cfg.ParseError),
    ('[DEFAULT]\nenabled_backends = ceph:no_such_type\n', AssertionError),
])
def test_errors_would_be_found(check, text, error):
    with pytest.raises(error):
        check(text)


@pytest.mark.parametrize('path', READMES,
                         ids=lambda path: str(path.relative_to(CONTRIB)))
def test_readme_is_correct_and_names_files_that_exist(path):
    text = path.read_text()
    core.publish_doctree(text, settings_overrides={'halt_level': 2})
    for name in re.findall(r'``((?:tools|tests|\.\.)/[\w./-]+)``', text):
        base = path.parent if name.startswith('..') else ROOT
        assert (base / name).exists(), name


@pytest.mark.parametrize('name', ['globals.yml', 'globals-sparse-file.yml'])
def test_kolla_ansible_globals(name):
    data = yaml.safe_load((CONTRIB / 'kolla-ansible' / name).read_text())
    stores = [*data.get('glance_ceph_backends', ()),
              *data.get('glance_backends', ())]
    types = {store['type'] for store in stores}
    assert types & {'sparse_rbd', 'sparse_file'}
    assert types <= entry_points('glance_store.drivers')


@jinja2.pass_context
def customizable(context, packages, kind):
    """Kolla's way of letting overrides extend a list."""
    return packages + list(context.get(f'glance_base_{kind}_append', []))


@pytest.fixture
def render():
    """Render the override over a small parent template."""
    def render(base_package_type):
        environment = jinja2.Environment(     # noqa: S701
            undefined=jinja2.StrictUndefined)
        environment.filters['customizable'] = customizable
        parent = environment.from_string("""
            packages {{ ['first'] | customizable('packages') | join(' ') }}
            pip {{ ['/glance'] | customizable('pip_packages') | join(' ') }}
            {% block glance_base_footer %}{% endblock %}""")
        override = environment.from_string(
            (CONTRIB / 'kolla' / 'template-override.j2').read_text())
        assert override.blocks.keys() <= parent.blocks.keys()
        return override.render(parent_template=parent,
                               base_package_type=base_package_type)
    return render


@pytest.mark.parametrize(('kind', 'packages'), [
    ('deb', re.findall(r'(?m)^(\S+) \[platform:dpkg\]$',
                       (ROOT / 'bindep.txt').read_text())),
    ('rpm', ['bzip2', 'libseccomp', 'libzstd', 'python3-libnbd',
             'python3-rados', 'python3-rbd', 'qemu-img', 'unzip', 'xz']),
])
def test_kolla_override(render, kind, packages):
    lines = [line.strip() for line in render(kind).splitlines()]
    [listed] = [line for line in lines if line.startswith('packages ')]
    assert sorted(listed.split()) == sorted(['packages', 'first', *packages])
    assert 'pip /glance glance-conversion-plugins' in lines
    assert any('import nbd, rados, rbd' in line for line in lines)


def test_kolla_build_conf_names_the_override():
    parser = configparser.ConfigParser()
    parser.read(CONTRIB / 'kolla' / 'kolla-build.conf')
    assert (CONTRIB / 'kolla' / parser['DEFAULT']['template_override']
            ).exists()


def test_kolla_config_json():
    content = json.loads((CONTRIB / 'agent' / 'kolla-config.json').read_text())
    assert content['command'].split()[0] in scripts()
    for item in content['config_files']:
        assert {'source', 'dest', 'owner', 'perm'} <= item.keys()
        assert item['source'].startswith('/var/lib/kolla/config_files/')


def test_unit():
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read(CONTRIB / 'agent' / 'glance-conversion-agent.service')
    service = parser['Service']
    assert pathlib.Path(service['ExecStart'].split()[0]).name in scripts()
    assert service['ExecReload'] == '/bin/kill -HUP $MAINPID'
    assert service['User'] == 'glance'
    assert service['Restart'] == 'on-failure'
    assert '/var/lib/glance' in service['ReadWritePaths'].split()


def test_cron_lines():
    text = (CONTRIB / 'agent' / 'glance-conversion-agent.cron').read_text()
    jobs = re.findall(r'(?m)^#?((?:\S+ ){5})(\w+) (.*glance-conversion.*)$',
                      text)
    assert [user for _, user, _ in jobs] == ['glance', 'root']
    for times, _, command in jobs:
        assert times == '*/5 * * * * '
        assert '--once' in command
        # In cron, % is the end of the line.
        assert '%' not in command


def test_containerfile():
    text = (CONTRIB / 'tripleo' / 'Containerfile').read_text()
    lines = [line for line in text.splitlines() if not line.startswith('#')]
    joined = '\n'.join(lines).replace('\\\n', ' ')
    words = [line.split()[0] for line in joined.splitlines() if line.strip()]
    assert words == ['ARG', 'FROM', 'USER', 'RUN', 'USER']
    assert joined.strip().endswith('USER glance')
