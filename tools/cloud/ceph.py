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

"""A Ceph cluster of one monitor, one manager and one OSD on loopback."""

import base64
import json
import os
import struct
import time
import uuid

from cloud import ini
from cloud import processes

GIB = 2 ** 30

CAPS = {
    'mon.': {'mon': 'allow *'},
    'client.admin': {'mon': 'allow *', 'mgr': 'allow *',
                     'osd': 'allow *', 'mds': 'allow *'},
    'mgr.x': {'mon': 'allow profile mgr', 'osd': 'allow *',
              'mds': 'allow *'},
    'osd.0': {'mon': 'allow profile osd', 'mgr': 'allow profile osd',
              'osd': 'allow *'},
    'client.glance': {
        'mon': 'profile rbd', 'mgr': 'profile rbd',
        'osd': 'profile rbd pool=images, profile rbd pool=images2'},
}


def new_key():
    """A cephx secret, laid out as ceph-authtool --gen-key does."""
    secret = os.urandom(16)
    header = struct.pack('<HIIH', 1, int(time.time()), 0, len(secret))
    return base64.b64encode(header + secret).decode()


class Ceph:
    """The cluster: its daemons, and commands run against it as admin."""

    pools = ('images', 'images2')

    def __init__(self, settings):
        self.settings = settings
        self.fsid = settings.fsid
        self.dir = settings.root / 'ceph'
        self.conf = self.dir / 'ceph.conf'
        self.keyring = self.dir / 'client.admin.keyring'
        self.daemons = {
            f'ceph-{kind}': self._daemon(kind, ident)
            for kind, ident in (('mon', 'a'), ('mgr', 'x'), ('osd', '0'))}

    def _daemon(self, kind, ident):
        name = f'ceph-{kind}' + (f'.{ident}' if ident in '123456789' else '')
        return processes.Daemon(
            self.settings.root, name,
            self.settings.root / 'log' / f'ceph-{kind}.{ident}.log')

    def run(self, program, *args, **kwargs):
        """Run ceph, rbd, rados or another client program as admin.

        Where the OSD is gone or full they would wait for ever.
        """
        env = os.environ | {'CEPH_CONF': str(self.conf)}
        return processes.run(program, *args,
                             **{'env': env, 'timeout': 600} | kwargs)

    def json(self, program, *args, **kwargs):
        """Run a program with --format json and parse its answer."""
        result = self.run(program, *args, '--format', 'json', **kwargs)
        return json.loads(result.stdout)

    def up(self):
        """Create the cluster if it is new and start what is down."""
        self.settings.once('ceph-conf', self._write_configuration)
        self.settings.once('ceph-mon', self._create_mon)
        self._start('mon', 'a')
        self.daemons['ceph-mon'].wait_ready(self._mon_is_up)
        self.settings.once('ceph-osd', self._create_osd)
        self.start_osd()
        self.settings.once('ceph-mgr', self._create_mgr)
        self._start('mgr', 'x')
        self.settings.once('ceph-pools', self._create_pools)

    def down(self):
        """Stop the daemons; the monitor last, as it serves the others."""
        for ident in self._more_osds():
            self._daemon('osd', ident).stop()
        self.stop_osd()
        for name in ('ceph-mgr', 'ceph-mon'):
            self.daemons[name].stop()

    def start_osd(self):
        """Start the OSD and wait until the cluster counts it as up."""
        osd = self.daemons['ceph-osd']
        if not osd.pid():
            # After a crash the cluster may still take it for up.
            self.run('ceph', 'osd', 'down', '0')
        self._start('osd', '0')
        osd.wait_ready(self._osd_is_up)

    def add_osd(self):
        """Create and start one more OSD, as erasure-coded pools need."""
        identity = str(uuid.uuid4())
        ident = self.run('ceph', 'osd', 'new', identity).stdout.strip()
        folder = self.dir / f'osd.{ident}'
        folder.mkdir()
        self.run('ceph', 'auth', 'get-or-create', f'osd.{ident}',
                 *(word for item in CAPS['osd.0'].items() for word in item),
                 '-o', self.dir / f'osd.{ident}.keyring')
        self.run('ceph-osd', '--mkfs', '-i', ident, '--osd-uuid', identity)
        daemon = self._daemon('osd', ident)
        daemon.start('ceph-osd', '-f', '-i', ident, '-c', self.conf)
        wanted = len(self._more_osds()) + 1
        daemon.wait_ready(lambda: self.json(
            'ceph', 'osd', 'stat')['num_up_osds'] == wanted)

    def _more_osds(self):
        return sorted(path.name.partition('.')[2]
                      for path in self.dir.glob('osd.[1-9]'))

    def stop_osd(self):
        """Stop the OSD; its data is there again when it starts.

        A memstore that is killed instead loses what it was given since
        it last started, and its cluster may wait for that for ever.
        """
        self.daemons['ceph-osd'].stop(timeout=120)

    def _mon_is_up(self):
        return not self.run('ceph', 'mon', 'stat', check=False).returncode

    def _osd_is_up(self):
        return self.json('ceph', 'osd', 'stat')['num_up_osds'] == 1

    def _start(self, kind, ident):
        self.daemons[f'ceph-{kind}'].start(
            f'ceph-{kind}', '-f', '-i', ident, '-c', self.conf)

    def _write_configuration(self):
        keys = {name: {'key': new_key()} for name in CAPS}
        caps = {name: {f'caps {service}': f'"{cap}"'
                       for service, cap in CAPS[name].items()}
                for name in CAPS}
        ini.write(self.dir / 'mon.keyring', ini.merge(keys, caps))
        for name in keys:
            if name != 'mon.':
                ini.write(self.dir / f'{name}.keyring', {name: keys[name]})
        ini.write(self.conf, self._configuration())

    def _configuration(self):
        root = self.settings.root
        return {
            'global': {
                'fsid': self.fsid,
                'mon host': f'v2:127.0.0.1:{self.settings.port(2)}/0',
                'public network': '127.0.0.0/8',
                'ms bind msgr1': 'false',
                'ms bind port min': self.settings.port(10),
                'ms bind port max': self.settings.port(99),
                'auth allow insecure global id reclaim': 'false',
                'keyring': self.dir / '$name.keyring',
                'admin socket': root / 'run' / '$name.$pid.asok',
                'run dir': root / 'run',
                'log file': root / 'log' / 'ceph-$name.log',
                'log to stderr': 'false',
                'osd pool default size': 1,
                'osd pool default min size': 1,
                'osd pool default pg num': 32,
                'osd pool default pg autoscale mode': 'off',
                'osd crush chooseleaf type': 0,
            },
            'client': {
                # How often one says that it lives: 5 s by default, of which a
                # busy machine makes more than the 8 s below.
                'objecter tick interval': 1,
                'log file': '/dev/null',
                'admin socket': root / 'run' / '$name.$pid.$cctid.asok',
            },
            'mon': {
                'keyring': self.dir / 'mon.keyring',
                'mon data': self.dir / 'mon.$id',
                'mon cluster log file': root / 'log' / 'ceph.log',
                'mon allow pool size one': 'true',
                'mon warn on pool no redundancy': 'false',
                # radosgw makes pools of its own.
                'mon max pg per osd': 500,
                'mon data avail warn': 5,
                'mon data avail crit': 1,
            },
            'mgr': {'mgr data': self.dir / 'mgr.$id'},
            'osd': {
                'osd data': self.dir / 'osd.$id',
                'osd objectstore': self.settings.objectstore,
                'osd memory target': 1 * GIB,
                # Who was killed holds on to images for so long: 30 s by
                # default, of which every test of a kill would wait.
                'osd client watch timeout': 8,
                # As under systemd: Debian 13 has a relative "osd class dir".
                'chdir': '/',
                # A memstore keeps its data over a stop only if the OSD
                # takes the time to write it down.
                'osd fast shutdown': 'false',
                'memstore device bytes': 12 * GIB,
                # A memstore counts what it holds without a lock: with more
                # than one thread the sum drifts, falls below zero, and the
                # cluster is full for ever.
                'osd op num shards': 1,
                'osd op num threads per shard': 1,
                'bluestore block size': 24 * GIB,
            },
        }

    def _create_mon(self):
        address = f'[v2:127.0.0.1:{self.settings.port(2)}/0]'
        monmap = self.dir / 'monmap'
        self.run('monmaptool', '--create', '--clobber', '--fsid', self.fsid,
                 '--addv', 'a', address, monmap)
        self.run('ceph-mon', '--mkfs', '-i', 'a', '--monmap', monmap,
                 '--keyring', self.dir / 'mon.keyring')

    def _create_mgr(self):
        (self.dir / 'mgr.x').mkdir(exist_ok=True)
        # It would add a pool of its own.
        self.run('ceph', 'config', 'set', '--force', 'mgr',
                 'mgr/devicehealth/enable_monitoring', 'false')

    def _create_osd(self):
        # The uuid that the cluster knows and the one on the disk must be
        # the same, or the OSD is never let in.
        self.run('ceph', 'osd', 'new', self.fsid, '0')
        (self.dir / 'osd.0').mkdir(exist_ok=True)
        self.run('ceph-osd', '--mkfs', '-i', '0', '--osd-uuid', self.fsid,
                 '--keyring', self.dir / 'osd.0.keyring')

    def _create_pools(self):
        for pool in self.pools:
            self.run('ceph', 'osd', 'pool', 'create', pool)
            self.run('rbd', 'pool', 'init', pool)
