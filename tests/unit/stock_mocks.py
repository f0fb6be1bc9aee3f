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

"""The Ceph of glance_store's own tests, as our code sees it.

``MockRados`` and ``MockRBD`` accept every call that the stock driver makes
and do nothing. Here they learn the calls that only our code makes, and which
names are taken, since our code looks for an image before it makes or removes
it. What both drivers call stays theirs, so that what a test patches there is
seen by our code too.
"""

import errno

from glance_store.tests.unit import test_rbd_store_base as stock


class Error(Exception):
    """What every error of RBD derives from, in the real bindings."""

    errno = 0


class ConnectionShutdown(Error):
    """What a client hears that was shut out."""


class _Stored:
    """An image that lies in the cluster, whatever it is called."""

    def __init__(self):
        self.metadata = {}
        self.watchers = []      # who has it open, except to read it


class _Ioctx(stock.MockRados.ioctx):

    def set_osdmap_full_try(self):
        pass


class _Rados(stock.MockRados.Rados):

    def conf_set(self, option, value):
        pass

    def get_fsid(self):
        return 'fsid'

    def mon_command(self, command, data):
        return 0, b'{"checks": {}}', ''

    def open_ioctx(self, pool):
        return _Ioctx()


class MockRados(stock.MockRados):
    """To stand for ``rados`` in our modules."""

    Rados = _Rados


class _Completion:
    """Of a write that went well."""

    def get_return_value(self):
        return 0


def mock_rbd():
    """Make what stands for ``rbd`` in our modules: a cluster without images.

    The errors of ``MockRBD`` must derive from ``Error`` by then.
    """
    images = {}     # {name: _Stored}

    class Image(stock.MockRBD.Image):

        def __init__(self, ioctx, name=None, image_id=None, **options):
            name = name or image_id     # which is the same here
            if name not in images:
                raise stock.MockRBD.ImageNotFound()
            self._id = name
            super().__init__(ioctx, name, **options)
            self._stored = images[name]
            if not options.get('read_only'):
                self._stored.watchers.append(self)

        def __exit__(self, *args, **kwargs):
            self.close()
            return super().__exit__(*args, **kwargs)

        def close(self):
            super().close()
            if self in self._stored.watchers:
                self._stored.watchers.remove(self)

        def watchers_list(self):
            return [{'addr': f'192.0.2.1:0/{id(watcher)}'}
                    for watcher in self._stored.watchers]

        def aio_write(self, data, offset, oncomplete):
            self.write(data, offset)
            oncomplete(_Completion())

        def flush(self):
            pass

        def list_snaps(self):
            return []

        def id(self):
            return self._id

        def features(self):
            return 1

        def metadata_set(self, key, value):
            self._stored.metadata[key] = value

        def metadata_list(self):
            return list(self._stored.metadata.items())

        def metadata_remove(self, key):
            del self._stored.metadata[key]

    class RBD(stock.MockRBD.RBD):

        def create(self, ioctx, name, *arguments, **options):
            super().create(ioctx, name, *arguments, **options)
            images[name] = _Stored()

        def list(self, ioctx):
            return list(images)

        def remove(self, ioctx, name):
            super().remove(ioctx, name)
            del images[name]

        def rename(self, ioctx, source, target):
            if source not in images:
                raise stock.MockRBD.ImageNotFound()
            if target in images:
                raise stock.MockRBD.ImageExists()
            images[target] = images.pop(source)

    def move(ioctx, name, to, image_id):
        RBD().rename(ioctx, name, to)

    return type('MockRBD', (stock.MockRBD,), {
        'ConnectionShutdown': ConnectionShutdown, 'Error': Error,
        'Image': Image, 'RBD': RBD, 'images': images,
        'RBD_FEATURE_JOURNALING': 64, 'move': staticmethod(move)})


def errors():
    """``MockRBD``'s errors, given their common base: {name: class}."""
    found = {name: type(name, (error, Error), {})
             for name, error in vars(stock.MockRBD).items()
             if isinstance(error, type) and issubclass(error, Exception)}
    found['NoSpace'].errno = errno.ENOSPC
    return found
