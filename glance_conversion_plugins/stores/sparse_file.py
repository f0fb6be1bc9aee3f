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
"""The ``sparse_file`` store: stock files, without the zeros."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import os
from typing import Any

from glance_store import capabilities
from glance_store import exceptions

from glance_conversion_plugins.copying import progress as progress_
from glance_conversion_plugins.copying.sinks import file as file_sink
from glance_conversion_plugins.copying.sinks import patient as patient_sink
from glance_conversion_plugins.copying import sources
from glance_conversion_plugins.copying.sources import file as file_source
from glance_conversion_plugins.copying.sources import patient as patient_source
from glance_conversion_plugins.copying import zeros
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import folder
from glance_conversion_plugins.external import marks
from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import deployment
from glance_conversion_plugins.stores import driver

# glance_store looks for the location class in the driver's module.
StoreLocation = compat.filesystem_driver.StoreLocation

# The stock default of 64 KiB costs more to pass on than to read.
_STOCK_CHUNK = 64 * 1024
_CHUNK = 1024 * 1024

# The kernel reads ahead by itself.
_AHEAD = 0


class Store(driver.SparseDriver, compat.filesystem_driver.Store):
    """Stock file store that neither writes nor reads zeros.

    A file appears under its name when it is complete and on disk. Options,
    folders, names and modes are those of the stock driver, so a store can
    change between both types at any time. Its images may also be written by
    an import task, and then are adopted.
    """

    kind = 'sparse_file'

    def get_schemes(self) -> tuple[str, ...]:
        # The last is the entry point's name: Glance does not start unless a
        # scheme of that name exists.
        return ('file', 'filesystem', self.kind)

    def configure(self, re_raise_bsc: bool = False) -> None:
        driver.check_options(self.conf)
        driver.pose_as_stock(self.conf, self.backend_group, self.kind, 'file')
        super().configure(re_raise_bsc=re_raise_bsc)

    def configure_add(self) -> None:
        super().configure_add()
        if self.chunk_size == _STOCK_CHUNK:
            self.READ_CHUNKSIZE = self.WRITE_CHUNKSIZE = _CHUNK

    @property
    def _folders(self) -> list[str]:
        if not self.multiple_datadirs:
            return [self.datadir]
        return [path for priority in self.priority_list
                for path in self.priority_data_map[priority]]

    @property
    def _marker(self) -> str:
        return str(self.conf.sparse_store.mount_marker)

    def _is_mounted(self, path: str) -> bool:
        return not self._marker or os.path.lexists(
            os.path.join(path, self._marker))

    def _get_capacity_info(self, mount_point: str) -> int:
        """Nothing fits into a folder that is not mounted."""
        if not self._is_mounted(mount_point):
            return 0
        return int(super()._get_capacity_info(mount_point))

    def _best_datadir(self, size: int) -> file_sink.Datadir:
        """Where the stock driver would put an image of this size."""
        mode = self.store_conf.filesystem_store_file_perm
        try:
            return file_sink.Datadir(self._find_best_datadir(size),
                                     int(str(mode), 8) if mode > 0 else 0,
                                     self._marker)
        except exceptions.StorageFull as e:
            raise errors.StoreFull(
                'The store has no room for the image.') from e

    def sink(self, image_id: str, task_id: str) -> patient_sink.PatientSink:
        return patient_sink.PatientSink(file_sink.FileSink(
            self._best_datadir, driver.mark(image_id, task_id),
            zero_block_size=self.conf.sparse_store.zero_block_size),
            self._name)

    @property
    def _name(self) -> str:
        return f'Store {self.backend_group or self.kind}'

    def _check_mounted(self, location: Any) -> None:
        """See that what is missing is not only out of reach."""
        path = location.store_location.path
        if not self._is_mounted(os.path.dirname(path)):
            raise exceptions.RemoteServiceUnavailable(
                message='The store is not mounted.')

    def _resolve_location(self, location: Any) -> tuple[str, int]:
        self._check_mounted(location)
        path, size = super()._resolve_location(location)
        return path, size

    @capabilities.check
    def get(self, location: Any, offset: int = 0,
            chunk_size: int | None = None, context: Any = None
            ) -> tuple[Iterable[bytes], int]:
        """Read an image, or ``chunk_size`` bytes of it from ``offset`` on."""
        path, size = self._resolve_location(location)
        # Now, so that a file that can not be read is an error in time.
        source = file_source.FileSource(path, follow=True)
        return self._download(lambda: source, size, offset, chunk_size,
                              _AHEAD)

    @capabilities.check
    def delete(self, location: Any, context: Any = None) -> None:
        """Delete a file."""
        self._check_mounted(location)
        path = location.store_location.path
        if not self._is_own(os.path.basename(path), context):
            with self._unmarked(path):
                super().delete(location, context=context)

    @contextlib.contextmanager
    def _unmarked(self, path: str) -> Iterator[None]:
        """Remove the mark of a file with it, if it was not handed over yet.

        It is a second link, by which the room of the file stays taken.
        """
        is_marked = os.path.exists(path) and os.lstat(path).st_nlink > 1
        yield
        for opened in self._opened() if is_marked else ():
            for mark in [found.mark for found in opened.marked()]:
                if (mark.image_id == os.path.basename(path)
                        and mark.deployment == deployment.identifier()):
                    opened.hand_over(mark)
                    opened.give_back(mark)

    def _path(self, image_id: str) -> str:
        for each in self._folders:
            path = os.path.join(each, image_id)
            if os.path.exists(path):
                return path
        raise errors.NotStored('The store has no data of the image.')

    def source(self, image_id: str) -> patient_source.PatientSource:
        return patient_source.PatientSource(
            lambda: file_source.FileSource(self._path(image_id)), self._name)

    def faults(self, image_id: str) -> list[str]:
        """A file is nothing but its content."""
        return []

    def is_slow(self) -> bool:
        return False

    def places(self) -> list[str]:
        return [os.path.realpath(path) for path in self._folders]

    def location(self, image_id: str) -> tuple[str, dict[str, Any]]:
        path = self._path(image_id)
        metadata: dict[str, Any] = self._get_metadata(path)
        if self.backend_group:
            metadata['store'] = self.backend_group
        return f'file://{path}', metadata

    def _opened(self) -> Iterator[folder.Folder]:
        """Those folders that are there."""
        for path in filter(os.path.isdir, self._folders):
            with folder.Folder(path) as found:
                yield found

    def marked(self) -> list[marks.Found]:
        return [mark for found in self._opened() for mark in found.marked()]

    @contextlib.contextmanager
    def turn(self) -> Iterator[Callable[[], None]]:
        with contextlib.ExitStack() as stack:
            for path in filter(os.path.isdir, self._folders):
                stack.enter_context(folder.Folder(path)).take_turn()
            yield lambda: None

    def look_up(self, mark: marks.Mark) -> marks.Found | None:
        return next((found for found in self.marked()
                     if found.mark.is_same(mark)), None)

    def is_open(self, found: marks.Found) -> bool:
        return any(each.is_open(found.mark) for each in self._opened())

    def hand_over(self, mark: marks.Mark) -> None:
        for found in self._opened():
            found.hand_over(mark)
            found.give_back(mark)

    def mark_again(self, mark: marks.Mark) -> None:
        for found in self._opened():
            found.mark_again(mark)

    def fence(self, mark: marks.Mark) -> bool:
        fenced = [found.fence(mark) for found in self._opened()]
        return any(fenced)

    def discard(self, mark: marks.Mark, is_published: bool = True) -> None:
        # A file that was fenced is published by nobody any more.
        del is_published
        for found in self._opened():
            with found.claimed(mark):
                found.discard(mark)

    def strike_out(self, mark: marks.Mark) -> None:
        """Do nothing: in a folder a mark is what bears it."""

    def sparsify(self, image_id: str, task_id: str,
                 check: Callable[[sources.Source], None],
                 progress: progress_.Progress) -> None:
        """Make holes of an image's zeros, in place."""
        with contextlib.closing(self.source(image_id)) as source:
            zeros.punch(self._path(image_id), source,
                           self.conf.sparse_store.zero_block_size, progress)
            check(source)
