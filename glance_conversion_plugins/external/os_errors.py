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

"""Which errors of ours the errors of a file system are."""

from collections.abc import Iterator
import contextlib
import errno
import logging

from glance_conversion_plugins import errors

LOG = logging.getLogger(__name__)

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn what the system raises into our errors.

    :param path: of the folder, for the log
    """
    try:
        yield
    except OSError as e:
        LOG.error('The file store in %s failed: %s', path, e)
        raise _failure(e) from e


def _failure(error: OSError) -> errors.SinkFailed:
    if error.errno in _NO_ROOM:
        return errors.StoreFull('The store has no room for the image.')
    if error.errno in _DENIED:
        return errors.WriteDenied('The store can not be written to.')
    return errors.SinkFailed('The store could not take the image.')
