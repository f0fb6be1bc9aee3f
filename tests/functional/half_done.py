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

"""What is left in Ceph of a process that died between two steps of librbd."""

import contextlib

import rados
import rbd

from glance_conversion_plugins.copying.sinks import rbd as rbd_sink
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.external import rbd_index
from glance_conversion_plugins.external import rbd_pool
from tests.simulation import ceph

POOL = 'images'
MIB = 1024 * 1024


@contextlib.contextmanager
def pool(glance):
    """A rados.Ioctx"""
    with rados.Rados(conffile=str(glance.cloud.ceph.conf),
                     rados_id='glance') as cluster:
        yield cluster.open_ioctx(POOL)


def id_of(ioctx, name):
    with rbd.Image(ioctx, name, read_only=True) as image:
        return image.id()


def lead(ioctx, name, image_id):
    """Let a name lead to an image, which is not called so."""
    ioctx.write_full(f'rbd_id.{name}', ceph.encoded(image_id))


def names(ioctx, image_id):
    """Every name of an image that was begun to be given."""
    listed = {name for name in rbd.RBD().list(ioctx) if image_id in name}
    return listed | {each.key.removeprefix('rbd_id.')
                     for each in ioctx.list_objects()
                     if each.key.startswith(f'rbd_id.{image_id}')}


def entries(ioctx, image_id):
    return [mark for mark in rbd_index.listed(ioctx)
            if mark.image_id == image_id]


def _sink(glance, mark):
    return rbd_sink.RbdSink(
        rbd_pool.Pool(str(glance.cloud.ceph.conf), 'glance', POOL), mark,
        order=22, zero_block_size=4096)


def _sealed(glance, mark):
    sink = _sink(glance, mark)
    sink.create(MIB)
    sink.write(memoryview(b'content'.ljust(4096)), 0)
    sink.seal()
    return sink


def begun(glance, ioctx, mark):
    rbd_index.add(ioctx, mark)
    lead(ioctx, mark.name(marks.PARTIAL), '77')


def listed(glance, ioctx, mark):
    rbd_index.add(ioctx, mark)
    name = mark.name(marks.PARTIAL)
    rbd.RBD().create(ioctx, name, MIB, 22, old_format=False, features=1)
    ioctx.remove_object(f'rbd_header.{id_of(ioctx, name)}')


def half_published(glance, ioctx, mark):
    sink = _sealed(glance, mark)
    lead(ioctx, mark.image_id, id_of(ioctx, mark.name(marks.PARTIAL)))
    sink.release()


def published(glance, ioctx, mark):
    sink = _sealed(glance, mark)
    sink.publish()
    lead(ioctx, mark.name(marks.PARTIAL), id_of(ioctx, mark.image_id))
    sink.release()


def half_taken(glance, ioctx, mark):
    sink = _sealed(glance, mark)
    lead(ioctx, mark.name(marks.REMOVED),
         id_of(ioctx, mark.name(marks.PARTIAL)))
    sink.release()


def half_removed(glance, ioctx, mark):
    sink = _sealed(glance, mark)
    name = mark.name(marks.REMOVED)
    rbd.RBD().rename(ioctx, mark.name(marks.PARTIAL), name)
    sink.release()
    with rbd.Image(ioctx, name) as image:
        image.unprotect_snap(rbd_pool.SNAPSHOT)
        image.remove_snap(rbd_pool.SNAPSHOT)
    ioctx.remove_object(f'rbd_id.{name}')


STATES = (begun, listed, half_published, published, half_taken, half_removed)
