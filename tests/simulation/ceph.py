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
of. tests/functional/test_stand_ins.py holds them to the real ones.
"""

import errno
import itertools
import types


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


ObjectNotFound = _error('ObjectNotFound', errno.ENOENT, RadosError)
ObjectBusy = _error('ObjectBusy', errno.EBUSY, RadosError)


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
        self.pools = {}
        self.objects = {}       # {(pool, name): {key: value}}
        self.locks = {}         # {(pool, name): (cookie, until)}
        self.blocked = set()
        self.created = set()
        self.removed = set()    # (name, process)
        self._numbers = itertools.count(1)

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
            Error=RadosError, ObjectNotFound=ObjectNotFound,
            ObjectBusy=ObjectBusy, ObjectExists=ObjectBusy,
            WriteOpCtx=Operation, ReadOpCtx=Operation,
            Rados=lambda **_: Client(self, next(self._numbers)))
        rbd = types.SimpleNamespace(
            Error=Error, ImageNotFound=ImageNotFound, ImageExists=ImageExists,
            ImageBusy=ImageBusy, ConnectionShutdown=ConnectionShutdown,
            ImageHasSnapshots=ImageHasSnapshots,
            InvalidArgument=InvalidArgument,
            RBD_FEATURE_LAYERING=1, Image=Image, RBD=Rbd)
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
    """rados.WriteOpCtx and rados.ReadOpCtx: calls, done all at once."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Ioctx:
    def __init__(self, client, pool):
        self.client = client
        self.pool = pool
        self.images = client.cluster.pools.setdefault(pool, {})

    @property
    def _objects(self):
        return self.client.cluster.objects

    def set_omap(self, operation, keys, values):
        operation.append(lambda found: found.update(
            zip(keys, values, strict=True)))

    def remove_omap_keys(self, operation, keys):
        operation.append(lambda found: [found.pop(key, None)
                                        for key in keys])

    def get_omap_vals(self, operation, after, _prefix, limit):
        result = []
        operation.append(lambda found: result.extend(sorted(
            item for item in found.items() if item[0] > after)[:limit]))
        return result, 0

    def operate_write_op(self, operation, name):
        self.step(f'write {name}')
        for call in operation:
            call(self._objects.setdefault((self.pool, name), {}))
        self.client.cluster.answer()

    def operate_read_op(self, operation, name):
        self.step(f'read {name}')
        if (self.pool, name) not in self._objects:
            raise ObjectNotFound(name)
        for call in operation:
            call(self._objects[self.pool, name])

    def lock_exclusive(self, key, name, cookie, desc='', duration=None,
                       flags=0):
        del name, desc
        self._lock(key, cookie, duration, flags)

    def _lock(self, name, cookie, duration, flags):
        self.step(f'lock {name}')
        self._objects.setdefault((self.pool, name), {})
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

    def find(self, name):
        if name not in self.images:
            raise ImageNotFound(name)
        return self.images[name]


class Rbd:
    """rbd.RBD"""

    def list(self, ioctx):
        ioctx.step('list')
        return sorted(ioctx.images)

    def create(self, ioctx, name, size, order=None, **_):
        ioctx.step(f'create {name}')
        if name in ioctx.images:
            raise ImageExists(name)
        ioctx.images[name] = Header(size)
        ioctx.client.cluster.created.add(name)
        ioctx.client.cluster.answer()

    def rename(self, ioctx, name, to):
        ioctx.step(f'rename {name} to {to}')
        header = ioctx.find(name)
        if to in ioctx.images:
            raise ImageExists(to)
        del ioctx.images[name]
        ioctx.images[to] = header
        ioctx.client.cluster.answer()

    def remove(self, ioctx, name, **_):
        ioctx.step(f'remove {name}')
        header = ioctx.find(name)
        if header.snaps:
            raise ImageHasSnapshots(name)
        if _watching(header):
            raise ImageBusy(name)
        header.gone = True
        header.data = None
        del ioctx.images[name]
        ioctx.client.cluster.removed.add((name, ioctx.client.process))
        ioctx.client.cluster.answer()

    def trash_move(self, ioctx, name, **_):
        ioctx.step(f'trash {name}')
        if _watching(ioctx.find(name)):
            raise ImageBusy(name)
        del ioctx.images[name]


def _watching(header):
    return [client.address for client in header.opened if client.is_heard_of]


class Completion:
    def __init__(self, status):
        self._status = status

    def get_return_value(self):
        return self._status


class Image:
    """rbd.Image"""

    def __init__(self, ioctx, name, snapshot=None, read_only=False):
        ioctx.step(f'open {name}')
        self._ioctx = ioctx
        self._header = ioctx.find(name)
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
