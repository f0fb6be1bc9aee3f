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


"""What this node has: programs, libraries, Ceph, room."""

import collections
from collections.abc import Iterator
import importlib
import itertools
import os
import re
import shutil
import subprocess

import glance_store
from oslo_config import cfg
from oslo_upgradecheck.upgradecheck import Result

from glance_conversion_plugins.cmd import checks
from glance_conversion_plugins.cmd import service
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import decompressor
from glance_conversion_plugins.external import sandbox
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.maintenance import cleanup
from glance_conversion_plugins.stores import registry
from glance_conversion_plugins import units

CONF = cfg.CONF

# Below this a single upload of an ordinary image may not fit.
_LITTLE_ROOM = 10 << 30
_PACKAGES = {'rbd': 'python3-rbd', 'rados': 'python3-rados',
             'nbd': 'python3-libnbd (python3-nbd)'}
_SHOWN = 5


def programs() -> Result:
    """qemu, and the formats that it knows."""
    missing = [name for name in ('qemu-img', 'qemu-nbd')
               if not shutil.which(name)]
    if missing:
        return checks.verdict([
            f'{" and ".join(missing)} can not be found: no image can be '
            'converted. Install qemu-utils (qemu-img).'], [], '')
    said = subprocess.run(['qemu-img', '--help'], capture_output=True,
                          text=True, check=False).stdout
    # "Supported formats:"; in newer ones "Supported image formats:".
    formats = said.partition(' formats:')[2].split()
    lacking = [name for name in inspection.DRIVERS.values()
               if name not in formats]
    version = re.search(r'version (\S+)', said)
    return checks.verdict([
        f'qemu-img can not read {", ".join(lacking)}; images of that format '
        'are refused. Install a qemu with all block drivers.'
    ] if lacking else [], _lacking_decompressors(),
        f'qemu {version[1] if version else "unknown"}')


def _lacking_decompressors() -> list[str]:
    if not CONF.conversion.unpack:
        return []
    return [f'{what} can not be found: images that are compressed by {kind} '
            'are refused. Install it.'
            for kind, what in decompressor.lacking()]


def bindings() -> Result:
    """Libraries that come from the distribution, not from PyPI."""
    wanted = ['nbd']
    if 'sparse_rbd' in (CONF.enabled_backends or {}).values():
        wanted += ['rados', 'rbd']
    missing = []
    for name in wanted:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(_PACKAGES[name])
    return checks.verdict([
        f'Python can not import {", ".join(missing)}. Install it from the '
        "distribution, and let Glance's virtual environment see the system's "
        'packages (--system-site-packages, with the same Python).'
    ] if missing else [], [], ', '.join(wanted))


def confined() -> Result:
    """How far qemu is kept from everything but its image."""
    missing = [f'qemu is less confined than it could be, for want of {layer}.'
               for layer in sandbox.missing_layers()]
    if missing and CONF.conversion.sandbox == 'required':
        return checks.verdict([*missing, 'Nothing but raw images can be '
                               'imported: [conversion] sandbox is '
                               '"required".'], [], '')
    return checks.verdict([], missing, 'by all layers')


def stores_configured() -> Result:
    """Whether Glance could create its stores."""
    service.create_stores()
    return checks.success('All stores can be created.')


def stores_answer() -> Result:
    """Whether each of our stores takes an image, and lets go of it."""
    failures, tried = [], []
    places = collections.defaultdict(list)
    for store_id in registry.identifiers():
        try:
            if store := registry.find(store_id):
                store.probe()
                tried.append(store_id)
                for place in store.places():
                    places[place].append(store_id)
        except (errors.ConversionError, glance_store.BackendException,
                glance_store.GlanceStoreException) as e:
            failures.append(
                f'Store {store_id}: {e} {e.__cause__ or ""}. Glance\'s Ceph '
                'user needs "profile rbd" for mon, mgr and the pool; a folder '
                'has to be mounted and writable.')
    warnings = [
        f'Stores {" and ".join(same)} have the same place: an import into '
        'more than one of them fails. Configure only one of them.'
        for same in places.values() if len(same) > 1]
    return checks.verdict(
        failures, warnings, 'written, protected and removed in '
        + (', '.join(tried) or 'no store of ours'))


def staging() -> Result:
    """Where uploads wait for their import."""
    path = compat.staging_store_path()
    if not os.access(path, os.W_OK | os.X_OK):
        return checks.verdict([
            f'{path}, where uploads are staged, is not there or can not be '
            'written to by this user. Create it, and run this as the user '
            'that runs Glance.'], [], '')
    free = shutil.disk_usage(path).free
    room = f'{units.amount(free)} are free in {path}'
    return checks.verdict([], [
        f'Only {room}. It has to hold all uploads that are imported at a '
        'time, though nothing that is converted directly.'
    ] if free < _LITTLE_ROOM else [], room)


def cache() -> Result:
    """The image cache of this node."""
    if not CONF.image_cache_dir:
        return checks.success('There is none.')
    name = compat.cache_driver_name(compat.image_cache())
    return checks.verdict([], [
        f'The cache driver {CONF.image_cache_driver} does not work here, so '
        f'Glance uses {name}. The log says why.'
    ] if name != CONF.image_cache_driver else [], name)


def leftovers() -> Result:
    """What dead imports have left."""
    found = list(itertools.islice(_leftovers(), _SHOWN + 1))
    shown = '; '.join(found[:_SHOWN]) + ('; ...' if found[_SHOWN:] else '')
    return checks.verdict([], [
        f'Dead imports have left: {shown}. Run "glance-conversion-manage '
        'cleanup --dry-run", then without --dry-run.'
    ] if found else [], 'nothing')


def _leftovers() -> Iterator[str]:
    for finding in cleanup.find():
        yield finding.what
