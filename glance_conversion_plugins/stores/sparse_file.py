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

"""The ``sparse_file`` store: stock files, adopted where a task wrote them."""

import os
import socket
from typing import Any

from glance_store._drivers import filesystem as stock
from glance_store import exceptions

from glance_conversion_plugins import config
from glance_conversion_plugins import errors
from glance_conversion_plugins import sinks
from glance_conversion_plugins.sinks import file as file_sink
from glance_conversion_plugins.sources import file as file_source
from glance_conversion_plugins import stores
from glance_conversion_plugins.stores import guard

# glance_store looks for the location class in the driver's module.
StoreLocation = stock.StoreLocation


class Store(guard.Adopting, stock.Store):
    """Stock file store whose images may be written by an import task.

    Options, folders, names and modes are those of the stock driver, so a
    store can change between both types at any time.
    """

    kind = 'sparse_file'

    def get_schemes(self) -> tuple[str, ...]:
        # The last is the entry point's name: Glance does not start unless a
        # scheme of that name exists.
        return ('file', 'filesystem', self.kind)

    def configure(self, re_raise_bsc: bool = False) -> None:
        config.register_opts(self.conf)
        stores.pose_as_stock(self.conf, self.backend_group, self.kind, 'file')
        super().configure(re_raise_bsc=re_raise_bsc)

    @property
    def _folders(self) -> list[str]:
        if not self.multiple_datadirs:
            return [self.datadir]
        return [folder for priority in self.priority_list
                for folder in self.priority_data_map[priority]]

    def _place(self, size: int) -> file_sink.Place:
        """Where the stock driver would put an image of this size."""
        mode = self.store_conf.filesystem_store_file_perm
        try:
            return file_sink.Place(self._find_best_datadir(size),
                                   int(str(mode), 8) if mode > 0 else 0)
        except exceptions.StorageFull as e:
            raise errors.StoreFull(
                'The store has no room for the image.') from e

    def sink(self, image_id: str, task_id: str) -> file_sink.FileSink:
        return file_sink.FileSink(
            self._place, image_id, task_id,
            zero_block_size=self.conf.sparse_store.zero_block_size)

    def _path(self, image_id: str) -> str:
        for folder in self._folders:
            path = os.path.join(folder, image_id)
            if os.path.exists(path):
                return path
        raise errors.SinkFailed('The store has no data of the image.')

    def source(self, image_id: str) -> file_source.FileSource:
        return file_source.FileSource(self._path(image_id))

    def location(self, image_id: str) -> tuple[str, dict[str, Any]]:
        path = self._path(image_id)
        return (f'file://{path}',
                {**self._get_metadata(path), 'store': self.backend_group})

    def hand_over(self, image_id: str, task_id: str) -> None:
        for folder in self._folders:
            file_sink.hand_over(folder, image_id, task_id)

    def discard(self, image_id: str, task_id: str) -> None:
        for folder in self._folders:
            file_sink.discard(folder, image_id, task_id)

    def evict(self, image_id: str, task_id: str) -> None:
        """Discard it: a writer that lives on writes into a removed file."""
        self.discard(image_id, task_id)

    def leftovers(self) -> list[sinks.Owner]:
        return [sinks.Owner(image_id, task_id, socket.gethostname())
                for folder in self._folders
                for image_id, task_id in file_sink.leftovers(folder)]
