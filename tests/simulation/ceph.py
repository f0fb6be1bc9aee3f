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

"""Stand-ins for the bindings of librados and librbd, in a simulated world.

A client is a connection; its process keeps it known to Ceph while it is heard
of. An image is three objects, as librbd has it, so that a process can die
between them: rbd_id.NAME leads to its id, rbd_header.ID is what it is, and
rbd_directory lists both. tests/functional/test_stand_ins.py holds all this to
the real ones.
"""

import errno
import itertools
import json
import types

DIRECTORY = 'rbd_directory'


class Error(Exception):
    errno = 5


def _error(name, number, base=Error):
    return type(name, (base,), {'errno': number})


ImageNotFound = _error('ImageNotFound', errno.ENOENT)
ImageExists = _error('ImageExists', errno.EEXIST)
ImageHasSnapshots = _error('ImageHasSnapshots', errno.ENOTEMPTY)
InvalidArgument = _error('InvalidArgument', errno.EINVAL)
ImageBusy = _error('ImageBusy', errno.EBUSY)
ConnectionShutdown = _error('ConnectionShutdown', errno.ESHUTDOWN)
TimedOut = _error('TimedOut', errno.ETIMEDOUT)


class RadosError(Exception):
    errno = 5


Stale = _error('OSError', errno.ESTALE, RadosError)


ObjectNotFound = _error('ObjectNotFound', errno.ENOENT, RadosError)
ObjectBusy = _error('ObjectBusy', errno.EBUSY, RadosError)
ObjectExists = _error('ObjectExists', errno.EEXIST, RadosError)


def encoded(*texts):
    """Strings as they are encoded in objects and calls."""
    return b''.join(len(text).to_bytes(4, 'little') + text.encode()
                    for text in texts)


def decoded(data):
    found = []
    while data:
        end = 4 + int.from_bytes(data[:4], 'little')
        found.append(data[4:end].decode())
        data = data[end:]
    return found


class Header:
    """What an RBD image is, whatever its name is."""

    def __init__(self, size):
        self.size = size
        self.data = {}          # offset: content
        self.snaps = {}         # name: whether it is protected
        self.meta = {}
        self.opened = []        # clients, once for each handle
        self.gone = False


class Cluster:
    """All pools, and who may use them."""

    def __init__(self, world):
        self.world = world
        # {pool: {name of an object: what it is}}; a dict is its omap.
        self.pools = {}
        self.locks = {}         # {(pool, name): (cookie, until)}
        self.blocked = set()
        self.created = {}       # {name: process}
        self.removed = set()    # (name, process)
        self._numbers = itertools.count(1)

    def objects(self, pool):
        return self.pools.setdefault(pool, {DIRECTORY: {}})

    def put(self, pool, name, header):
        """Have an image there, whole."""
        objects, image_id = self.objects(pool), self.new_id()
        objects[f'rbd_id.{name}'] = encoded(image_id)
        objects[DIRECTORY][f'name_{name}'] = encoded(image_id)
        objects[f'rbd_header.{image_id}'] = header

    def new_id(self):
        return f'{next(self._numbers):x}'

    def listed(self, pool):
        return sorted(key.removeprefix('name_')
                      for key in self.objects(pool)[DIRECTORY])

    def name_of(self, pool, image_id):
        return next((key.removeprefix('name_') for key, value in
                     self.objects(pool)[DIRECTORY].items()
                     if value == encoded(image_id)), None)

    def named(self, pool):
        """All names that somebody has begun to give."""
        return {*self.listed(pool), *(
            name.removeprefix('rbd_id.') for name in self.objects(pool)
            if name.startswith('rbd_id.'))}

    def find(self, pool, name):
        """The image that a name leads to; None if it does not."""
        objects = self.objects(pool)
        found = decoded(objects.get(f'rbd_id.{name}', b''))
        return objects.get(f'rbd_header.{found[0]}') if found else None

    def step(self, client, what):
        self.world.step(what)
        if client.address in self.blocked:
            raise ConnectionShutdown('blocklisted')
        self.answer()

    def answer(self):
        """It may have done what it does not say that it has done."""
        if self.world.fails():
            raise TimedOut('no answer')

    def bindings(self):
        """(rados, rbd), as modules."""
        rados = types.SimpleNamespace(
            Error=RadosError, OSError=RadosError,
            ObjectNotFound=ObjectNotFound,
            ObjectBusy=ObjectBusy, ObjectExists=ObjectExists,
            WriteOpCtx=Operation, ReadOpCtx=Operation,
            Rados=lambda **_: Client(self, next(self._numbers)))
        rbd = types.SimpleNamespace(
            Error=Error, ImageNotFound=ImageNotFound, ImageExists=ImageExists,
            ImageBusy=ImageBusy, ConnectionShutdown=ConnectionShutdown,
            ImageHasSnapshots=ImageHasSnapshots,
            InvalidArgument=InvalidArgument,
            RBD_FEATURE_LAYERING=1, RBD_FEATURE_JOURNALING=64,
            Image=Image, RBD=Rbd)
        return rados, rbd


class Client:
    """rados.Rados"""

    def __init__(self, cluster, number):
        self.cluster = cluster
        self.address = f'10.0.0.1:0/{number}'
        actor = cluster.world.actor
        self.process = actor and actor.process

    def conf_set(self, *_):
        pass

    def conf_get(self, _):
        return '1'

    def connect(self):
        self.cluster.step(self, 'connect')

    def shutdown(self):
        pass

    def open_ioctx(self, pool):
        return Ioctx(self, pool)

    def get_fsid(self):
        return 'fsid'

    def mon_command(self, command, _):
        """Of its health only, which is good."""
        known = json.loads(command)['prefix'] == 'health'
        return (0, b'{"checks": {}}', '') if known else (-errno.EINVAL, b'',
                                                         'unknown')

    def get_addrs(self):
        return self.address

    def blocklist_add(self, address, _seconds):
        self.cluster.step(self, f'blocklist {address}')
        self.cluster.blocked.add(address)

    @property
    def is_heard_of(self):
        if self.address in self.cluster.blocked:
            return False
        return self.process is None or self.process.is_heard_of(
            self.cluster.world.now)


class Operation(list):
    """rados.WriteOpCtx and rados.ReadOpCtx: calls, done all at once.

    Each is given all objects, and the name of one.
    """

    method = None       # of a class of the store

    def execute(self, *method):
        self.method = method

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def new(self, exclusive):
        def call(objects, name):
            if exclusive == 1 and name in objects:
                raise ObjectExists(name)
        self.append(call)

    def write_full(self, data):
        self.append(lambda objects, name: objects.update({name: data}))

    def cmpext(self, data, offset):
        def call(objects, name):
            if objects.get(name, b'')[offset:offset + len(data)] != data:
                raise RadosError(name)
        self.append(call)

    def remove(self):
        self.append(lambda objects, name: objects.pop(name))

    def omap_cmp(self, key, value):
        def call(objects, name):
            if objects.get(name, {}).get(key, b'').decode() != value:
                raise RadosError(name)
        self.append(call)


class Ioctx:
    def __init__(self, client, pool):
        self.client = client
        self.pool = pool
        self.objects = client.cluster.objects(pool)

    def set_omap(self, operation, keys, values):
        operation.append(lambda objects, name: objects.setdefault(
            name, {}).update(zip(keys, values, strict=True)))

    def remove_omap_keys(self, operation, keys):
        operation.append(lambda objects, name: [
            objects.setdefault(name, {}).pop(key, None) for key in keys])

    def get_omap_vals(self, operation, after, prefix, limit):
        result = []
        operation.append(lambda objects, name: result.extend(sorted(
            each for each in objects[name].items()
            if each[0] > after and each[0].startswith(prefix))[:limit]))
        return result, 0

    def get_omap_vals_by_keys(self, operation, keys):
        result = []
        operation.append(lambda objects, name: result.extend(
            (key, objects[name][key] or None) for key in keys
            if key in objects[name]))
        return result, 0

    def operate_write_op(self, operation, name):
        if operation.method:
            self.step(f'{operation.method[1]} {name}')
            self.call(*operation.method)
            self.client.cluster.answer()
            return
        self.step(f'write {name}')
        was_there = name in self.objects
        for call in operation:
            call(self.objects, name)
        if was_there and name not in self.objects:
            self.client.cluster.removed.add(
                (name.removeprefix('rbd_id.'), self.client.process))
        self.client.cluster.answer()

    def operate_read_op(self, operation, name):
        self._object(f'read {name}', name)
        for call in operation:
            call(self.objects, name)

    def _object(self, what, name):
        self.step(what)
        if name not in self.objects:
            raise ObjectNotFound(name)
        return self.objects[name]

    def read(self, name):
        return self._object(f'read {name}', name)

    def write_full(self, name, data):
        self.step(f'write {name}')
        self.objects[name] = data

    def remove_object(self, name):
        self._object(f'remove {name}', name)
        del self.objects[name]
        self.client.cluster.answer()

    def stat(self, name):
        self._object(f'stat {name}', name)

    def call(self, kind, method, data):
        """Change the directory."""
        found = self.directory
        source, *targets, image_id = decoded(data)
        if (kind, method) != ('rbd', 'dir_rename_image' if targets else
                              'dir_remove_image'):
            raise RadosError(method)
        if found.get(f'name_{source}') != encoded(image_id):
            raise (Stale if targets and f'name_{source}' in found
                   else ObjectNotFound)(source)
        if any(f'name_{target}' in found for target in targets):
            raise ObjectExists(targets)
        del found[f'name_{source}']
        for target in targets:
            found[f'name_{target}'] = encoded(image_id)

    def lock_exclusive(self, key, name, cookie, desc='', duration=None,
                       flags=0):
        del name, desc
        self._lock(key, cookie, duration, flags)

    def _lock(self, name, cookie, duration, flags):
        self.step(f'lock {name}')
        self.objects.setdefault(name, {})
        held, until = self.client.cluster.locks.get((self.pool, name),
                                                    (None, 0))
        now = self.client.cluster.world.now
        if until <= now and flags & 2:
            raise ObjectNotFound(name)
        if until > now and not (held == cookie and flags):
            raise ObjectBusy(name)
        self.client.cluster.locks[self.pool, name] = cookie, now + duration
        self.client.cluster.answer()

    def unlock(self, name, _lock, cookie):
        self.step(f'unlock {name}')
        if self.client.cluster.locks.get((self.pool, name),
                                         (None, 0))[0] != cookie:
            raise ObjectNotFound(name)
        del self.client.cluster.locks[self.pool, name]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def set_osdmap_full_try(self):
        pass

    def close(self):
        pass

    def step(self, what):
        self.client.cluster.step(self.client, what)

    @property
    def directory(self):
        return self.objects[DIRECTORY]

    def find(self, name):
        found = self.client.cluster.find(self.pool, name)
        if found is None:
            raise ImageNotFound(name)
        return found

    def id_of(self, name):
        return decoded(self.objects[f'rbd_id.{name}'])[0]


class Rbd:
    """rbd.RBD; what takes several steps there takes as many here."""

    def list(self, ioctx):
        ioctx.step('list')
        return ioctx.client.cluster.listed(ioctx.pool)

    def create(self, ioctx, name, size, order=None, **_):
        ioctx.step(f'create {name}')
        if f'rbd_id.{name}' in ioctx.objects:
            raise ImageExists(name)
        image_id = ioctx.client.cluster.new_id()
        ioctx.objects[f'rbd_id.{name}'] = encoded(image_id)
        ioctx.client.cluster.created[name] = ioctx.client.process
        ioctx.step(f'list {name}')
        if f'name_{name}' in ioctx.directory:
            raise ImageExists(name)
        ioctx.directory[f'name_{name}'] = encoded(image_id)
        ioctx.step(f'make {name}')
        ioctx.objects[f'rbd_header.{image_id}'] = Header(size)
        ioctx.client.cluster.answer()

    def rename(self, ioctx, name, to):
        ioctx.step(f'rename {name} to {to}')
        ioctx.find(name)
        image_id = ioctx.id_of(name)
        # What is open is renamed, whichever of its names has led there.
        name = ioctx.client.cluster.name_of(ioctx.pool, image_id) or name
        if f'rbd_id.{to}' in ioctx.objects:
            raise ImageExists(to)
        ioctx.objects[f'rbd_id.{to}'] = encoded(image_id)
        ioctx.step(f'dir_rename_image {DIRECTORY}')
        try:
            ioctx.call('rbd', 'dir_rename_image', encoded(name, to, image_id))
        except ObjectExists as e:
            raise ImageExists(to) from e
        except ObjectNotFound as e:
            raise ImageNotFound(name) from e
        ioctx.step(f'forget {name}')
        ioctx.objects.pop(f'rbd_id.{name}', None)
        ioctx.client.cluster.answer()

    def remove(self, ioctx, name, **_):
        ioctx.step(f'remove {name}')
        listed = ioctx.directory.get(f'name_{name}')
        header = ioctx.client.cluster.find(ioctx.pool, name)
        if listed and not header:
            header = ioctx.objects.get(f'rbd_header.{decoded(listed)[0]}')
        if header:
            if header.snaps:
                raise ImageHasSnapshots(name)
            if _watching(header):
                raise ImageBusy(name)
        ioctx.step(f'forget {name}')
        had_id = ioctx.objects.pop(f'rbd_id.{name}', listed)
        ioctx.step(f'unlist {name}')
        if ioctx.directory.get(f'name_{name}') == had_id:
            ioctx.directory.pop(f'name_{name}', None)
        ioctx.client.cluster.removed.add((name, ioctx.client.process))
        ioctx.step(f'end {name}')
        if had_id:
            gone = ioctx.objects.pop(f'rbd_header.{decoded(had_id)[0]}', None)
            if gone:
                gone.gone, gone.data = True, None
        if not listed:
            raise ImageNotFound(name)
        ioctx.client.cluster.answer()

    def trash_move(self, ioctx, name, **_):
        ioctx.step(f'trash {name}')
        if _watching(ioctx.find(name)):
            raise ImageBusy(name)
        del ioctx.objects[f'rbd_id.{name}']
        ioctx.directory.pop(f'name_{name}', None)


def _watching(header):
    return [client.address for client in header.opened if client.is_heard_of]


class Completion:
    def __init__(self, status):
        self._status = status

    def get_return_value(self):
        return self._status


class Image:
    """rbd.Image"""

    def __init__(self, ioctx, name=None, snapshot=None, read_only=False,
                 image_id=None):
        self._ioctx = ioctx
        if name is image_id is None:
            raise InvalidArgument('neither a name nor an id')
        if image_id is None:
            ioctx.step(f'open {name}')
            self._header = ioctx.find(name)
            self._id = ioctx.id_of(name)
        else:
            cluster = ioctx.client.cluster
            ioctx.step(f'open {cluster.name_of(ioctx.pool, image_id)}')
            self._id, self._header = image_id, ioctx.objects.get(
                f'rbd_header.{image_id}')
            if self._header is None:
                raise ImageNotFound(image_id)
        self._read_only = read_only
        self._open = True
        if not read_only:
            self._header.opened.append(ioctx.client)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self._open and not self._read_only:
            self._header.opened.remove(self._ioctx.client)
        self._open = False

    def _do(self, what):
        self._ioctx.step(what)
        if self._header.gone:
            raise ImageNotFound('removed')
        return self._header

    def _answer(self):
        self._ioctx.client.cluster.answer()

    def watchers_list(self):
        return [{'addr': address}
                for address in _watching(self._do('watchers'))]

    def metadata_list(self):
        return list(self._do('metadata').meta.items())

    def metadata_set(self, key, value):
        self._do(f'set {key}').meta[key] = value
        self._answer()

    def metadata_remove(self, key):
        del self._do(f'remove {key}').meta[key]
        self._answer()

    def list_snaps(self):
        return [{'name': name} for name in self._do('snaps').snaps]

    def create_snap(self, name):
        self._do(f'snap {name}').snaps[name] = False
        self._answer()

    def protect_snap(self, name):
        self._do('protect').snaps[name] = True
        self._answer()

    def is_protected_snap(self, name):
        if name not in self._do('snap info').snaps:
            raise ImageNotFound(name)
        return self._header.snaps[name]

    def unprotect_snap(self, name):
        if name not in self._do('unprotect').snaps:
            raise ImageNotFound(name)
        if not self._header.snaps[name]:
            raise InvalidArgument(name)
        self._header.snaps[name] = False
        self._answer()

    def remove_snap(self, name):
        if name not in self._do('remove snap').snaps:
            raise ImageNotFound(name)
        del self._header.snaps[name]
        self._answer()

    def set_snap(self, name):
        pass

    def list_children2(self):
        return []

    def id(self):
        return self._id

    def features(self):
        return 1

    def resize(self, size):
        header = self._do('resize')
        header.size = size
        header.data = {at: data for at, data in header.data.items()
                       if at < size}

    def size(self):
        return self._header.size

    def flush(self):
        self._do('flush')

    def aio_write(self, data, offset, completed):
        header = self._do('write')
        if self._ioctx.client.cluster.world.fails():
            completed(Completion(-errno.ENOSPC))
            return
        header.data[offset] = bytes(data)
        completed(Completion(0))

    def read(self, offset, length):
        data = self._do('read').data
        return data.get(offset, b'').ljust(length, b'\0')[:length]
