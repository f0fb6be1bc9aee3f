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

"""One mutant, taken through all that an import does with it.

What may come of it: a refusal that blames it in documented words, or the
bytes that a reader finds which knows the specification and shares nothing with
the package. And nothing is left of it: no process, descriptor, thread or file.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import resource
import signal
import threading
from typing import NamedTuple

from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import convert
from glance_conversion_plugins.copying import extent
from glance_conversion_plugins.copying import unpack
from glance_conversion_plugins import errors
from glance_conversion_plugins.formats import binary
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.formats import tables
from glance_conversion_plugins.formats import vhdx_log
from tests.contract import memory
from tests import documents
from tests.fuzz.disks import MIB
from tests.fuzz import packages
from tests.fuzz.structure import Subject
from tests.hostile import path as path_
from tests import judges
from tests.judges import qcow2
from tests.judges import vdi
from tests.judges import vhd
from tests.judges import vhdx
from tests.judges import vmdk

# Of processor time, for this process and the tools together; an image of a
# few MiB takes some 0.2 s.
MOST_SECONDS = 10
# Of the clock: others may want the processor.
MOST_WAITING = 300
# Of each tool, and of this process beside what it had before.
MOST_MEMORY = 256 * MIB

READERS = {'qcow2': qcow2.read, 'raw': bytes, 'vdi': vdi.read,
           'vhd': vhd.read, 'vhdx': vhdx.read, 'vmdk': vmdk.read}


class Late(BaseException):
    """A mutant takes so long that it may never end."""


class Verdict(NamedTuple):
    """What became of a mutant that did no harm."""

    refused: errors.ImageRefused | None
    decoded: bool                   # qemu was shown it
    disk: bytes = b''


def run(data: bytes, subject: Subject, folder: pathlib.Path, *,
        staged: bool) -> Verdict:
    """Import a mutant.

    :param folder: for temporary files of any kind; empty
    :param staged: whether it is to be converted in staging as well
    :raises AssertionError: if something is wrong with what came of it
    """
    path = folder / 'disk'
    _write(path, data)
    before = _held(), _children_faults()
    with _bounded():
        verdict = _import(path, subject)
        if staged and not verdict.refused:
            _stage(path, subject, verdict.disk)
    assert _held() == before[0], (_held(), before[0])
    path.unlink()
    left = list(folder.iterdir())
    assert not left, left
    if verdict.refused:
        _see_documented(verdict.refused, folder)
    else:
        _see_right(verdict.disk, subject, data)
    return verdict._replace(decoded=_children_faults() > before[1])


def look(data: bytes, subject: Subject, folder: pathlib.Path
         ) -> errors.ImageRefused | None:
    """Do with a mutant what is done before a program is shown it.

    That takes a millisecond, and the rest a hundred.
    """
    path = folder / 'disk'
    _write(path, data)
    error = None
    with _bounded():
        try:
            _look(str(path), subject)
        except errors.ImageRefused as e:
            error = _without_traces(e)
    path.unlink()
    if error:
        _see_documented(error, folder)
    return error


def _without_traces(error: errors.ImageRefused) -> errors.ImageRefused:
    """Let an error hold on to no frame.

    One that is in a frame of its own traceback keeps all that is there and in
    those that called it, an image of many MiB, until the collector runs:
    which Python 3.13 does a third as often as those before, and programs that
    are started later count this process's memory as theirs.
    """
    found: BaseException | None = error
    while found:
        found.__traceback__, found = None, found.__context__
    return error


def _write(path: pathlib.Path, data: bytes) -> None:
    """Write a file; its zeros are holes, for most of some images is zeros."""
    with path.open('wb') as f:
        f.truncate(len(data))
        for start, stop in extent.data_runs(memoryview(data), 0, 65536):
            os.pwrite(f.fileno(), data[start:stop], start)


def _look(path: str, subject: Subject) -> None:
    disk_format = subject.disk_format
    where = packages.place(path, subject.container)
    if where is None:
        return
    size = binary.size(where)
    inspection.find_format(where, packages.POLICY)
    if disk_format == 'vhdx':
        vhdx_log.check(where)
    tables.check(where, disk_format, size)
    inspection.for_qemu(where, disk_format)


def _import(path: pathlib.Path, subject: Subject) -> Verdict:
    place: dict[str, bytes] = {}
    sink = memory.MemorySink(place, 'disk')
    try:
        _convert(path, subject, sink)
    except errors.ImageRefused as e:
        assert not place
        return Verdict(e, False)
    sink.publish()
    return Verdict(None, False, place['disk'])


def _convert(path: pathlib.Path, subject: Subject, sink: memory.MemorySink
             ) -> None:
    conversion = conversion_.Conversion()
    if subject.container != 'bare' and subject.disk_format == 'raw':
        unpack.store(packages.package(path, subject.container), sink,
                     path_.NO_DIGEST, lambda size: None, conversion)
        return
    with packages.disk(path, subject.container, conversion) as where:
        info = convert.inspect(where, subject.disk_format, packages.POLICY,
                               conversion)
        convert.convert(info, packages.POLICY, sink, path_.NO_DIGEST,
                        conversion)


def _stage(path: pathlib.Path, subject: Subject, disk: bytes) -> None:
    """See that the way through staging gives the same."""
    target, conversion = path.with_name('target'), conversion_.Conversion()
    with packages.disk(path, subject.container, conversion) as where:
        info = convert.inspect(where, subject.disk_format, packages.POLICY,
                               conversion)
        convert.stage(info, packages.POLICY, str(target), 'raw', (),
                      conversion)
    # A raw disk may end within a sector, and what qemu writes does not.
    assert target.read_bytes() == disk + bytes(-len(disk) % 512)
    target.unlink()


def _see_documented(error: errors.ConversionError, folder: pathlib.Path
                    ) -> None:
    path_.assert_presentable(error, folder)
    assert documents.is_explained(str(error)), error


def _see_right(disk: bytes, subject: Subject, data: bytes) -> None:
    try:
        expected = READERS[subject.disk_format](packages.content(
            data, subject.container))
    except (judges.Unreadable, ValueError, KeyError) as e:
        raise AssertionError(f'imported, and can not be read: {e!r}') from e
    if subject.disk_format == 'vhd':
        # What a geometry cuts off may be nothing but zeros.
        assert not any(expected[len(disk):])
        expected = expected[:len(disk)]
    assert disk == expected, (
        len(disk), len(expected), next(
            (at for at, (one, other) in enumerate(
                zip(disk, expected, strict=False)) if one != other), None))


def _held() -> tuple[object, ...]:
    """What a mutant may leave behind in this process."""
    return (sorted(os.listdir('/proc/self/fd')), path_.children(),
            threading.active_count())


def _children_faults() -> int:
    """Counts up with each program that has run and ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt


def _seconds() -> float:
    return sum(used.ru_utime + used.ru_stime for used in map(
        resource.getrusage,
        (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Bound the time and the memory of a block, and of the tools it runs."""
    def ring(*_: object) -> None:
        raise Late(f'not done after {MOST_WAITING} s')

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(MOST_WAITING)
    start, before, idle = _seconds(), _peaks(), _memory()
    try:
        yield
    finally:
        signal.alarm(0)
    seconds = _seconds() - start
    assert seconds < MOST_SECONDS, f'{seconds:.1f} s of processor time'
    # A tool counts as large as this process is until it is executed.
    bounds = (idle + MOST_MEMORY, max(MOST_MEMORY, _peaks()[0]))
    for peak, last, bound in zip(_peaks(), before, bounds, strict=True):
        assert peak <= bound or peak == last, f'{peak >> 20} MiB'


def _memory() -> int:
    """What this process has of memory now, in bytes."""
    pages = pathlib.Path('/proc/self/statm').read_text().split()[1]
    return int(pages) * resource.getpagesize()


def _peaks() -> list[int]:
    """The most memory that this process, and any tool, has ever had."""
    return [resource.getrusage(who).ru_maxrss * 1024 for who in (
        resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
