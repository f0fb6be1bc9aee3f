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


"""What Glance's configuration says, and what that will do."""

from importlib import metadata

from oslo_config import cfg
from oslo_upgradecheck.upgradecheck import Result

from glance_conversion_plugins.cmd import checks
from glance_conversion_plugins import config

CONF = cfg.CONF

_OURS = ('rbd_direct_convert', 'convert_image')
_SPARSE = {'rbd': 'sparse_rbd', 'file': 'sparse_file'}
_SUPPORTED = range(31, 34)


def glance_version() -> Result:
    """The release of Glance that is installed here."""
    version = metadata.version('glance')
    known = f'{_SUPPORTED.start} to {_SUPPORTED.stop - 1}'
    return checks.verdict([], [
        f'Glance {version} is installed; these plugins are tested with '
        f'{known}. Try an import before users do.'
    ] if int(version.split('.')[0]) not in _SUPPORTED else [], version)


def options() -> Result:
    """The values of our own options."""
    try:
        config.check(CONF)
    except cfg.Error as e:
        return checks.verdict([f'{e}. Correct it: neither Glance nor the '
                               'agent starts with a wrong value of what it '
                               'uses.'], [], '')
    return checks.success('All values are in their bounds.')


def import_plugins() -> Result:
    """What image_import_plugins names."""
    named = list(CONF.image_import_opts.image_import_plugins)
    failures, warnings = [], []
    for name in named:
        if error := _load_error(name):
            failures.append(
                f'The import plugin {name} does not load ({error}); Glance '
                'skips it. Install it into the environment of Glance, or '
                'take it out of image_import_plugins.')
    ours = [name for name in named if name in _OURS]
    if not ours:
        warnings.append(
            'No import is converted by these plugins. Put '
            "['rbd_direct_convert','convert_image'] into [image_import_opts] "
            'image_import_plugins.')
    elif after := [name for name in named[named.index(ours[0]):]
                   if name not in _OURS]:
        failures.append(
            f'{", ".join(after)} comes after {ours[0]} in '
            'image_import_plugins and would be handed a placeholder instead '
            'of the image. Name our plugins last.')
    if ours and 'image_conversion' in named:
        warnings.append(
            'image_conversion is enabled too and converts on the disk of the '
            'node before our plugins see the image. Take it out.')
    return checks.verdict(failures, warnings, ', '.join(named))


def _load_error(name: str) -> str | None:
    """Why an import plugin can not be used; None if it can."""
    found = metadata.entry_points(group='glance.image_import.plugins',
                                  name=name)
    if not found:
        return 'it is not installed'
    try:
        next(iter(found)).load()
    except Exception as e:
        return str(e)
    return None


def stores() -> Result:
    """The types of the stores."""
    backends = dict(CONF.enabled_backends or {})
    if not backends:
        return checks.verdict([], [
            'enabled_backends is not set, so images are converted in '
            'staging. Set it, as in ceph:sparse_rbd.'], '')
    failures = [
        f'Store {store_id} is of type {kind}, which is not installed here: '
        'Glance leaves the store out, and does not start if it is the '
        'default.' for store_id, kind in backends.items()
        if not metadata.entry_points(group='glance_store.drivers', name=kind)]
    warnings = [
        f'Store {store_id} is of type {kind}: images are converted in '
        f'staging and their zeros stored. Let it be {_SPARSE[kind]}; what it '
        'holds stays as it is.' for store_id, kind in backends.items()
        if kind in _SPARSE] + [
        f'[sparse_store] data_pools names {store_id}, which is no store of '
        'type sparse_rbd: it has no effect. Correct the name.'
        for store_id in CONF.sparse_store.data_pools
        if backends.get(store_id) != 'sparse_rbd']
    return checks.verdict(failures, warnings, ', '.join(
        f'{store_id}:{kind}' for store_id, kind in backends.items()))


def stock_conversion() -> Result:
    """Whether stock conversion, where it is enabled, can start qemu-img."""
    if ('image_conversion' in CONF.image_import_opts.image_import_plugins
            and not CONF.wsgi.python_interpreter):
        return checks.verdict([], [
            'The stock plugin image_conversion is enabled, and [wsgi] '
            'python_interpreter is not set: under uWSGI its imports fail. Set '
            'it, or use convert_image, which does not need it.'], '')
    return checks.success('Not affected.')


def worker_url() -> Result:
    """The URL by which other nodes reach this one."""
    url = CONF.worker_self_reference_url
    if url:
        return checks.success(url)
    if CONF.image_cache_dir and CONF.image_cache_driver == 'centralized_db':
        return checks.verdict([
            'worker_self_reference_url is not set, and the cache driver '
            'centralized_db needs it: Glance will not start.'], [], '')
    return checks.verdict([], [
        'worker_self_reference_url is not set. With more than one API node '
        'and a staging folder on each, an import fails that is begun on '
        'another node than its upload. Set it to the URL of this node.'], '')
