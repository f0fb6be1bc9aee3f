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

"""The sample policies and the metadef namespace, without a server."""

from importlib import metadata as packages
import json
import pathlib

from glance.api.v2 import metadef_namespaces
from glance.db.sqlalchemy import metadata
from glance.db.sqlalchemy import models_metadef
from glance import policies
from glance.policies import metadef
from oslo_config import cfg
from oslo_policy import policy
import pytest
import sqlalchemy
import yaml

ETC = pathlib.Path(__file__).parents[2] / 'etc'
NAMESPACE = ETC / 'metadefs' / 'glance-conversion-plugins.json'
SAMPLES = sorted((ETC / 'policy').iterdir())

READER = {'roles': ['reader'], 'project_id': 'theirs'}
MEMBER = {'roles': ['member', 'reader'], 'project_id': 'theirs'}
ADMIN = {'roles': ['admin', 'member', 'reader'], 'project_id': 'operators'}
SERVICE = MEMBER | {'service_roles': ['service']}
BORROWED = MEMBER | {'service_roles': ['member', 'reader']}

METADEF = {rule.name for rule in metadef.list_rules()} - {
    'metadef_default', 'metadef_admin'}
READING = {name for name in METADEF if name.startswith(('get_', 'list_'))}
DATA = ['upload_image', 'set_image_location', 'add_image_location']


def sample(name):
    return ETC / 'policy' / f'{name}.yaml'


@pytest.fixture
def enforcer(tmp_path):
    """Make an enforcer with Glance's rules and a file over them."""
    conf = cfg.ConfigOpts()
    conf([], project='glance', default_config_files=[],
         default_config_dirs=[])
    nothing = tmp_path / 'policy.yaml'
    nothing.touch()

    def make(path=None):
        enforcer = policy.Enforcer(conf, policy_file=str(path or nothing))
        enforcer.suppress_default_change_warnings = True
        enforcer.register_defaults(policies.list_rules())
        enforcer.load_rules()
        return enforcer
    return make


def image(owner='theirs'):
    return {'project_id': owner, 'owner': owner, 'visibility': 'private'}


def namespace(owner='theirs', visibility='private'):
    return {'project_id': owner, 'visibility': visibility}


def described():
    return json.loads(NAMESPACE.read_text())


def test_there_are_samples():
    assert [path.name for path in SAMPLES] == [
        'force-import.yaml', 'metadefs-admin-only.yaml',
        'metadefs-open.yaml']


@pytest.mark.parametrize('path', SAMPLES, ids=lambda path: path.stem)
def test_every_rule_is_one_of_glance(path):
    names = set(yaml.safe_load(path.read_text()))
    assert names
    assert names <= {rule.name for rule in policies.list_rules()}


@pytest.mark.parametrize('path', SAMPLES, ids=lambda path: path.stem)
def test_every_check_parses(path, enforcer):
    # What can not be parsed becomes a rule that nobody passes.
    rules = policy.Rules.load(path.read_text())
    assert '!' not in {str(check) for check in rules.values()}
    assert enforcer(path).check_rules(raise_on_violation=True)


def test_the_files_for_metadefs_name_every_rule():
    closed, opened = [set(yaml.safe_load(sample(name).read_text()))
                      for name in ('metadefs-admin-only', 'metadefs-open')]
    assert closed == METADEF | {'metadef_admin'}
    assert opened == METADEF - READING | {'metadef_default'}


@pytest.mark.parametrize('rule', sorted(METADEF))
@pytest.mark.parametrize('name', [None, 'metadefs-admin-only',
                                  'metadefs-open'])
def test_who_passes_the_rules_for_metadefs(enforcer, name, rule):
    enforcer = enforcer(name and sample(name))

    def allowed(who, target):
        return bool(enforcer.enforce(rule, target, who))

    theirs, others = namespace(), namespace('others')
    public = namespace('others', 'public')
    assert allowed(ADMIN, others)
    assert not allowed(MEMBER, others)
    reads = rule in READING and name != 'metadefs-admin-only'
    writes = rule not in READING and name == 'metadefs-open'
    assert allowed(READER, theirs) == reads
    assert allowed(MEMBER, theirs) == (reads or writes)
    # Who may list at all is asked without regard to any namespace.
    assert allowed(READER, public) == (
        reads and rule != 'get_metadef_namespaces')
    assert allowed(MEMBER, public) == allowed(READER, public)


@pytest.mark.parametrize('rule', DATA)
def test_who_passes_force_import(enforcer, rule):
    before, after = enforcer(), enforcer(sample('force-import'))

    def allowed(who, target):
        found = bool(after.enforce(rule, target, who))
        # Nobody may do more than Glance lets them do.
        assert found <= bool(before.enforce(rule, target, who))
        return found

    assert before.enforce(rule, image(), MEMBER)
    assert not allowed(MEMBER, image())
    assert not allowed(BORROWED, image())
    assert allowed(SERVICE, image())
    assert not allowed(SERVICE, image('others'))
    assert allowed(ADMIN, image())
    assert not allowed(READER | {'service_roles': ['service']}, image())


def test_force_import_leaves_the_rule_for_imports():
    assert set(yaml.safe_load(sample('force-import').read_text())) == set(
        DATA)


def test_the_namespace_follows_the_schema_of_the_api():
    metadef_namespaces.get_schema().validate(described())
    assert described()['visibility'] == 'public'
    assert described()['resource_type_associations'] == [
        {'name': 'OS::Glance::Image'}]


def test_the_namespace_defines_nothing_twice():
    """Neither what Glance's own namespaces define, nor what it reserves."""
    shipped = [json.loads(file.read_text())
               for file in packages.files('glance')
               if 'metadefs' in file.parts and file.suffix == '.json']
    assert shipped
    ours = set(described()['properties'])
    assert ours
    for other in shipped:
        assert other['namespace'] != described()['namespace']
        assert not ours & set(other.get('properties', {}))
    assert not [name for name in ours if name.startswith('os_glance')]


def test_glance_loads_the_namespace():
    engine = sqlalchemy.create_engine('sqlite://',
                                      poolclass=sqlalchemy.StaticPool)
    models_metadef.register_models(engine)
    metadata.db_load_metadefs(engine, str(NAMESPACE.parent))
    with engine.connect() as connection:
        found = connection.execute(sqlalchemy.select(
            models_metadef.MetadefNamespace)).one()
        assert found.namespace == described()['namespace']
        assert found.visibility == 'public'
        assert found.description == described()['description']
        loaded = connection.execute(sqlalchemy.select(
            models_metadef.MetadefProperty)).all()
        assert {row.name: row.json_schema for row in loaded} == (
            described()['properties'])
        assert connection.execute(sqlalchemy.select(
            models_metadef.MetadefResourceType)).one().name == (
                'OS::Glance::Image')
