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

"""Names of RBD images, which are given and taken in several steps.

An object rbd_id.NAME has the id of an image, its header is rbd_header.ID, and
the object rbd_directory lists names with ids. Whoever dies between those steps
leaves a name that is listed and does not open, or opens and is not listed; the
list decides what an image is called. Each step here is made on condition of
the id, so that it may be made again, by whoever finds it undone, and hits
nothing that has got the name since.
"""

import contextlib
import errno
import struct
from typing import Any

from glance_conversion_plugins.external import bindings

rados = bindings.load('rados')
rbd = bindings.load('rbd')

_DIRECTORY = 'rbd_directory'
_EXCLUSIVE = 1      # LIBRADOS_CREATE_EXCLUSIVE


def _encoded(*texts: str) -> bytes:
    return b''.join(struct.pack('<I', len(text)) + text.encode()
                    for text in texts)


def is_listed(ioctx: Any, name: str) -> bool:
    """Say whether an image is called so, though it may not be whole."""
    return id_listed(ioctx, name) is not None


def id_listed(ioctx: Any, name: str) -> str | None:
    """The id of the image that is called so; None if there is none."""
    with rados.ReadOpCtx() as operation:
        found, _ = ioctx.get_omap_vals_by_keys(operation, (f'name_{name}',))
        try:
            ioctx.operate_read_op(operation, _DIRECTORY)
        except rados.ObjectNotFound:    # nothing was ever in the pool
            return None
        return next((value[4:].decode() for _, value in found), None)


def id_of(ioctx: Any, name: str) -> str | None:
    """The id that a name leads to; None if it leads nowhere."""
    try:
        return str(ioctx.read(f'rbd_id.{name}')[4:].decode())
    except rados.ObjectNotFound:
        return None


def is_taken(ioctx: Any, name: str) -> bool:
    """Say whether anything keeps an image from getting a name."""
    if is_listed(ioctx, name) or id_of(ioctx, name):
        return True
    try:
        rbd.Image(ioctx, name, read_only=True).close()
    except rbd.ImageNotFound:
        return False
    return True     # it has the format of long ago


def move(ioctx: Any, name: str, to: str, image_id: str) -> None:
    """Rename an image, or go on where somebody has died at just that.

    :raises rbd.ImageNotFound: if neither is the name of that image
    :raises rbd.ImageExists: if another one has the new name
    """
    _lead(ioctx, to, image_id)
    try:
        _call(ioctx, 'dir_rename_image', name, to, image_id)
    except rados.ObjectExists as e:
        forget(ioctx, to, image_id)
        raise rbd.ImageExists(to) from e
    except rados.OSError as e:
        if e.errno not in (errno.ENOENT, errno.ESTALE):
            raise       # it may yet be done
        if id_listed(ioctx, to) != image_id:
            forget(ioctx, to, image_id)
            raise rbd.ImageNotFound(name) from e
    forget(ioctx, name, image_id)


def _lead(ioctx: Any, name: str, image_id: str) -> None:
    with rados.WriteOpCtx() as operation:
        operation.new(_EXCLUSIVE)
        operation.write_full(_encoded(image_id))
        try:
            ioctx.operate_write_op(operation, f'rbd_id.{name}')
        except rados.ObjectExists as e:
            if id_of(ioctx, name) != image_id:
                raise rbd.ImageExists(name) from e


def tidy(ioctx: Any, name: str) -> None:
    """Forget a name, which is never given again, if no image has it."""
    if (image_id := id_of(ioctx, name)) and not is_listed(ioctx, name):
        forget(ioctx, name, image_id)


def forget(ioctx: Any, name: str, image_id: str) -> None:
    """Let a name lead nowhere, if it leads to that image."""
    with rados.WriteOpCtx() as operation:
        operation.cmpext(_encoded(image_id), 0)
        operation.remove()
        try:
            ioctx.operate_write_op(operation, f'rbd_id.{name}')
        except rados.Error:
            if id_of(ioctx, name) == image_id:
                raise


def mend(ioctx: Any, name: str) -> None:
    """Let a name that an image is called lead to it, if it leads nowhere."""
    image_id = id_listed(ioctx, name)
    if image_id and not id_of(ioctx, name) and _has_header(ioctx, image_id):
        with contextlib.suppress(rbd.ImageExists):
            _lead(ioctx, name, image_id)


def free(ioctx: Any, name: str) -> None:
    """Free a name that leads to an image, or lists one, that is not there."""
    mend(ioctx, name)
    if (image_id := id_of(ioctx, name)) and not _has_header(ioctx, image_id):
        forget(ioctx, name, image_id)
        # Somebody may have made it just now.
        mend(ioctx, name)
    if (image_id := id_listed(ioctx, name)) and not _has_header(
            ioctx, image_id):
        with contextlib.suppress(rados.ObjectNotFound):
            _call(ioctx, 'dir_remove_image', name, image_id)


def _has_header(ioctx: Any, image_id: str) -> bool:
    try:
        ioctx.stat(f'rbd_header.{image_id}')
    except rados.ObjectNotFound:
        return False
    return True


def _call(ioctx: Any, method: str, *texts: str) -> None:
    """Change the list, as librbd does."""
    with rados.WriteOpCtx() as operation:
        operation.execute('rbd', method, _encoded(*texts))
        ioctx.operate_write_op(operation, _DIRECTORY)
