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

"""The sign of life of an import, which also hears when it shall stop."""

import itertools
import logging
import threading

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.image_import import image as image_

LOG = logging.getLogger(__name__)

# How often it looks whether the image is still wanted, and after how many
# looks it reports.
_LOOK_SECONDS = 2
_REPORT_EVERY = 2


def check_stopping() -> None:
    """See whether there is time to go on.

    :raises errors.Stopping: if not
    """
    if compat.is_stopping():
        raise errors.Stopping


class Heartbeat:
    """Reports every few seconds, and says when to stop.

    Looking is only reading; a report is a write to Glance's database.
    """

    def __init__(self, image: image_.ImportedImage, message: object,
                 cancel: cancel_.Cancel) -> None:
        """Describe it.

        :param message: something whose str() tells the state
        :param cancel: set when there is nothing left to import
        """
        self._image = image
        self._message = message
        self._cancel = cancel
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.reason: errors.Cancelled | None = None

    def __enter__(self) -> 'Heartbeat':
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for look in itertools.count():
            try:
                check_stopping()
                self._image.check_wanted()
                if look % _REPORT_EVERY == 0:
                    self._image.report(str(self._message))
            except errors.Cancelled as e:
                self.reason = e
                self._cancel.set()
                return
            except Exception:
                LOG.warning('A heartbeat failed; trying again', exc_info=True)
            if self._stop.wait(_LOOK_SECONDS):
                return
