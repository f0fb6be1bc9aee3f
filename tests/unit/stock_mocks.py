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


class _Ioctx(stock.MockRados.ioctx):

    def set_osdmap_full_try(self):
        pass


class _Rados(stock.MockRados.Rados):

    def conf_set(self, option, value):
        pass

    def get_fsid(self):
        return 'fsid'

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
    images = {}     # {name: metadata}

    class Image(stock.MockRBD.Image):

        def __init__(self, ioctx, name, **options):
            if name not in images:
                raise stock.MockRBD.ImageNotFound()
            super().__init__(ioctx, name, **options)
            self._metadata = images[name]

        def aio_write(self, data, offset, oncomplete):
            self.write(data, offset)
            oncomplete(_Completion())

        def flush(self):
            pass

        def list_snaps(self):
            return []

        def metadata_set(self, key, value):
            self._metadata[key] = value

        def metadata_list(self):
            return list(self._metadata.items())

        def metadata_remove(self, key):
            del self._metadata[key]

    class RBD(stock.MockRBD.RBD):

        def create(self, ioctx, name, *arguments, **options):
            super().create(ioctx, name, *arguments, **options)
            images[name] = {}

        def remove(self, ioctx, name):
            super().remove(ioctx, name)
            del images[name]

        def rename(self, ioctx, source, target):
            images[target] = images.pop(source)

    return type('MockRBD', (stock.MockRBD,),
                {'Error': Error, 'Image': Image, 'RBD': RBD})


def errors():
    """``MockRBD``'s errors, given their common base: {name: class}."""
    found = {name: type(name, (error, Error), {})
             for name, error in vars(stock.MockRBD).items()
             if isinstance(error, type) and issubclass(error, Exception)}
    found['NoSpace'].errno = errno.ENOSPC
    return found
