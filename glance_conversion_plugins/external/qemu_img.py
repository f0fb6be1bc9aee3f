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

"""The qemu processes: what they are asked, and what they say.

Formats and protocols are always given, never probed; nothing but the named
file is ever opened.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import json
import logging
import os
from typing import Any
from typing import NamedTuple

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import program
from glance_conversion_plugins.external import sandbox
from glance_conversion_plugins.external import sandbox_exec
from glance_conversion_plugins.external import staged

LOG = logging.getLogger(__name__)

# By how much a file may grow while its log is replayed, in bytes.
_MAX_GROWTH = 300 << 20

STOPPED = 'The program that decodes the image stopped before the end.'
NOT_REPLAYED = (
    'The image was not closed properly, and its log can not be replayed; open '
    'it and close it with the program that made it, and upload it again.')
_DAMAGED_TABLES = ('The image is damaged: its tables can not be read to the '
                   'end.')

# Most of what qemu-img answers are the names of snapshots and bitmaps.
_MOST_ANSWERED = 4 << 20
# How many times as long as its CPU time a program may take.
_PATIENCE = 5


class Image(NamedTuple):
    """An image, as qemu is told to open it."""

    path: str
    driver: str                         # qemu's name of the format
    options: Mapping[str, str] = {}     # of that driver
    length: int = 0                     # of it in the file; 0: all of that
    offset: int = 0                     # where it begins there

    @property
    def node(self) -> str:
        """Describe it to qemu, leaving nothing for it to guess."""
        return self.describe(writable=False)

    def describe(self, *, writable: bool) -> str:
        """The same, for a qemu that may write to it or may not."""
        file: dict[str, Any] = {'driver': 'file', 'filename': self.path,
                                'locking': 'off'}
        if writable:
            # Each 4 KiB of a log are flushed otherwise, and nobody needs
            # what is staged after a crash of this node.
            file['cache'] = {'no-flush': True}
        if self.length:
            file = {'driver': 'raw', 'offset': self.offset,
                    'size': self.length,
                    'read-only': True, 'file': file}
        tree: dict[str, Any] = {
            'driver': self.driver,
            'read-only': not writable,
            'file': file,
            **self.options,
        }
        if self.driver in ('qcow2', 'vmdk'):
            tree['backing'] = None
        return 'json:' + json.dumps(tree)

    @property
    def most_said(self) -> int:
        """How much qemu may say of it on stderr, in bytes.

        There is a line of some 50 bytes for each cluster of the file that is
        leaked, which is no harm; there may be one for each entry of each
        table that is wrong, and tables may be shared.
        """
        return (1 << 20) + os.path.getsize(self.path) // 64

    @property
    def reading_seconds(self) -> int:
        """Allow a minute, and a second more for each 16 MiB of the file."""
        return 60 + os.path.getsize(self.path) // (16 << 20)

    def decoding_seconds(self, virtual_size: int) -> int:
        """Allow that, and a second more for each 64 MiB of the disk."""
        return self.reading_seconds + virtual_size // (64 << 20)


@contextlib.contextmanager
def _qemu_img(command: str, image: Image, seconds: int,
              cancel: cancel_.Cancel) -> Iterator[program.Program]:
    argv = ['qemu-img', command, '--output=json', image.node]
    with _translated(), program.run(
            argv, sandbox.Limits(seconds), most=image.most_said,
            seconds=seconds * _PATIENCE, cancel=cancel,
            readable=[image.path]) as running:
        yield running


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except program.Overflow as e:
        LOG.warning('qemu-img said far too much')
        raise errors.DamagedImage(_DAMAGED_TABLES) from e


def _query(command: str, image: Image, cancel: cancel_.Cancel
           ) -> tuple[program.Program, dict[str, Any]]:
    with _qemu_img(command, image, image.reading_seconds, cancel) as running:
        said = running.answer(_MOST_ANSWERED)
    _check_ended(command, running)
    try:
        answer = json.loads(said)
    except (ValueError, RecursionError):
        answer = {}
    return running, answer if isinstance(answer, dict) else {}


def _check_ended(command: str, running: program.Program) -> None:
    """See that a program was not kept from its work.

    :raises errors.ConversionError: in words that do not blame the image
    """
    status, said = running.status, running.said
    if status == sandbox_exec.NOT_STARTED:
        LOG.error('Could not run qemu: %s', said)
        raise errors.Misconfigured(sandbox.MISSING)
    if status is None or status < 0 or status and program.lacked_memory(said):
        LOG.error('qemu-img %s was stopped with %s: %s', command, status,
                  said)
        raise errors.SourceFailed(STOPPED)


def info(image: Image, cancel: cancel_.Cancel = cancel_.NEVER
         ) -> Mapping[str, Any]:
    """What ``qemu-img info`` says.

    :raises errors.DamagedImage: if it can not open the image
    """
    running, answer = _query('info', image, cancel)
    if running.status or not answer:
        LOG.warning('qemu-img info failed with %s: %s', running.status,
                    running.said)
        staged.see_readable(image.path, cancel.is_set)
        raise errors.DamagedImage(
            f'The image can not be opened as {image.driver}: '
            'its header or its tables are damaged.')
    return answer


def check(image: Image, cancel: cancel_.Cancel = cancel_.NEVER
          ) -> Mapping[str, Any]:
    """What ``qemu-img check`` says.

    :raises errors.DamagedImage: if it can not finish
    """
    running, answer = _query('check', image, cancel)
    # 2: corruptions found, 3: only leaked clusters found; both are reported.
    if running.status not in (0, 2, 3) or answer.get('check-errors', 1):
        LOG.warning('qemu-img check failed with %s: %s', running.status,
                    running.said)
        staged.see_readable(image.path, cancel.is_set)
        raise errors.DamagedImage(_DAMAGED_TABLES)
    return answer


def replay(image: Image, cancel: cancel_.Cancel = cancel_.NEVER) -> None:
    """Let qemu write to its place what an image has in its log.

    :raises errors.DamagedImage: if it can not
    """
    argv = ['qemu-img', 'check', '-q', '-r', 'all',
            image.describe(writable=True)]
    # The log may say that the file is longer than it is, by a few blocks.
    limits = sandbox.Limits(image.reading_seconds, file_size=os.path.getsize(
        image.path) + _MAX_GROWTH)
    with _translated(), program.run(
            argv, limits, most=image.most_said,
            seconds=image.reading_seconds * _PATIENCE, cancel=cancel,
            readable=[image.path], writable=[image.path]) as running:
        running.answer(_MOST_ANSWERED)
    _check_ended('check -r', running)
    if running.status:
        LOG.warning('qemu-img check -r failed with %s: %s', running.status,
                    running.said)
        raise errors.DamagedImage(NOT_REPLAYED)


def extents(image: Image, virtual_size: int,
            cancel: cancel_.Cancel = cancel_.NEVER
            ) -> Iterator[Mapping[str, Any]]:
    """What ``qemu-img map`` says, one extent after the other.

    :param virtual_size: of the image, in bytes: sparse formats take as long
        as their disk is large
    :raises errors.DamagedImage: if it can not finish
    """
    with _qemu_img('map', image, image.decoding_seconds(virtual_size),
                   cancel) as running:
        # One extent a line, so that memory does not grow with their number.
        for line in running.lines():
            if '{' in line:
                yield json.loads(line.strip('[],\n '))
    _check_ended('map', running)
    if running.status:
        LOG.warning('qemu-img map failed with %s: %s', running.status,
                    running.said)
        staged.see_readable(image.path, cancel.is_set)
        raise errors.DamagedImage(_DAMAGED_TABLES)


class Output(NamedTuple):
    """A file that qemu-img writes."""

    path: str
    driver: str
    options: Sequence[str]      # of qemu-img convert


def convert(image: Image, virtual_size: int, output: Output,
            advance: Callable[[float], None],
            cancel: cancel_.Cancel = cancel_.NEVER, rate: int = 0) -> None:
    """Convert an image into a file.

    :param virtual_size: of the image, in bytes
    :param output: the file exists and is empty
    :param advance: told the percentage that is done, again and again; what
        it raises ends the conversion
    :param rate: bytes per second; 0: no limit
    :raises errors.DamagedImage: if the image does not decode
    :raises errors.StagingFull: if there is no room for the file
    """
    limit = ['-r', str(rate)] if rate else []
    argv = ['qemu-img', 'convert', '-p', *limit, '-O', output.driver,
            *output.options, image.node, output.path]
    # Tables of the target and a compressed format's overhead take more than
    # the disk has, but never so much.
    limits = sandbox.Limits(image.decoding_seconds(virtual_size),
                                file_size=virtual_size * 5 // 4 + (64 << 20))
    with _translated(), program.run(
            argv, limits, most=image.most_said, cancel=cancel,
            readable=[image.path], writable=[output.path]) as running:
        # "(12.34/100%)" and a carriage return, which ends a line here.
        for line in running.lines():
            if '/100%' in line:
                advance(float(line.strip(' (').partition('/')[0]))
    if running.status:
        LOG.warning('qemu-img convert failed with %s: %s', running.status,
                    running.said)
        error = _failure(running, output)
        if isinstance(error, errors.DamagedImage):
            staged.see_readable(image.path, cancel.is_set)
        raise error


def _failure(running: program.Program, output: Output
             ) -> errors.ConversionError:
    err = running.said
    room = os.statvfs(os.path.dirname(output.path)).f_bavail
    # Some formats have a word of their own for a disk that is full.
    if 'No space left' in err or 'quota exceeded' in err or not room:
        return errors.StagingFull(
            'The node that converts the image has no room for the result.')
    _check_ended('convert', running)
    if 'too large' in err:
        return errors.TooLarge(
            'The image is too large for the format that this cloud converts '
            'images to.')
    return errors.DamagedImage(
        'The image is damaged: its content can not be decoded.')
