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
import subprocess
from typing import Any
from typing import NamedTuple

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import sandbox
from glance_conversion_plugins.external import sandbox_exec

LOG = logging.getLogger(__name__)

STOPPED = 'The program that decodes the image stopped before the end.'


class Image(NamedTuple):
    """An image, as qemu is told to open it."""

    path: str
    driver: str                         # qemu's name of the format
    options: Mapping[str, str] = {}     # of that driver

    @property
    def node(self) -> str:
        """Describe it to qemu, leaving nothing for it to guess."""
        tree: dict[str, Any] = {
            'driver': self.driver,
            'read-only': True,
            'file': {'driver': 'file', 'filename': self.path,
                     'locking': 'off'},
            **self.options,
        }
        if self.driver in ('qcow2', 'vmdk'):
            tree['backing'] = None
        return 'json:' + json.dumps(tree)

    @property
    def reading_seconds(self) -> int:
        """Allow a minute, and a second more for each 16 MiB of the file."""
        return 60 + os.path.getsize(self.path) // (16 << 20)

    def decoding_seconds(self, virtual_size: int) -> int:
        """Allow that, and a second more for each 64 MiB of the disk."""
        return self.reading_seconds + virtual_size // (64 << 20)


@contextlib.contextmanager
def _running(argv: Sequence[str], limits: sandbox.Limits,
             cancel: cancel_.Cancel, **files: Sequence[str]
             ) -> Iterator[subprocess.Popen[str]]:
    """Start a program that ends with the block, or when it is cancelled."""
    with sandbox.start(argv, limits, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, **files) as process:
        with cancel.interrupting(process.kill):
            try:
                yield process
            finally:
                process.kill()
    if cancel.is_set():
        raise errors.Cancelled('The conversion was stopped.')


@contextlib.contextmanager
def _qemu_img(command: str, image: Image, cancel: cancel_.Cancel
              ) -> Iterator[subprocess.Popen[str]]:
    argv = ['qemu-img', command, '--output=json', image.node]
    limits = sandbox.Limits(image.reading_seconds)
    with _running(argv, limits, cancel, readable=[image.path]) as process:
        yield process


def _query(command: str, image: Image, cancel: cancel_.Cancel
           ) -> tuple[int, dict[str, Any], str]:
    with _qemu_img(command, image, cancel) as process:
        out, err = process.communicate()
    _check_started(process.returncode, err)
    try:
        answer = json.loads(out)
    except ValueError:
        answer = {}
    return process.returncode, answer, err.strip()


def _check_started(status: int | None, err: str) -> None:
    if status == sandbox_exec.NOT_STARTED:
        LOG.error('Could not run qemu: %s', err)
        raise errors.Misconfigured(sandbox.MISSING)


def info(image: Image, cancel: cancel_.Cancel = cancel_.NEVER
         ) -> Mapping[str, Any]:
    """What ``qemu-img info`` says.

    :raises errors.DamagedImage: if it can not open the image
    """
    status, answer, err = _query('info', image, cancel)
    if status or not answer:
        LOG.warning('qemu-img info failed with %s: %s', status, err)
        raise errors.DamagedImage(
            f'The image can not be opened as {image.driver}: '
            'its header or its tables are damaged.')
    return answer


def check(image: Image, cancel: cancel_.Cancel = cancel_.NEVER
          ) -> Mapping[str, Any]:
    """What ``qemu-img check`` says.

    :raises errors.DamagedImage: if it can not finish
    """
    status, answer, err = _query('check', image, cancel)
    # 2: corruptions found, 3: only leaked clusters found; both are reported.
    if status not in (0, 2, 3) or answer.get('check-errors', 1):
        LOG.warning('qemu-img check failed with %s: %s', status, err)
        raise errors.DamagedImage(
            'The image is damaged: its tables can not be read to the end.')
    return answer


def extents(image: Image, cancel: cancel_.Cancel = cancel_.NEVER
            ) -> Iterator[Mapping[str, Any]]:
    """What ``qemu-img map`` says, one extent after the other.

    :raises errors.DamagedImage: if it can not finish
    """
    with _qemu_img('map', image, cancel) as process:
        assert process.stdout and process.stderr    # noqa: S101
        # One extent a line, so that memory does not grow with their number.
        for line in process.stdout:
            if '{' in line:
                yield json.loads(line.strip('[],\n '))
        err = process.stderr.read().strip()
        process.wait()
    _check_started(process.returncode, err)
    if process.returncode:
        LOG.warning('qemu-img map failed with %s: %s', process.returncode, err)
        raise errors.DamagedImage(
            'The image is damaged: its tables can not be read to the end.')


class Output(NamedTuple):
    """A file that qemu-img writes."""

    path: str
    driver: str
    options: Sequence[str]      # of qemu-img convert


def convert(image: Image, virtual_size: int, output: Output,
            advance: Callable[[float], None],
            cancel: cancel_.Cancel = cancel_.NEVER) -> None:
    """Convert an image into a file.

    :param virtual_size: of the image, in bytes
    :param output: the file exists and is empty
    :param advance: told the percentage that is done, again and again; what
        it raises ends the conversion
    :raises errors.DamagedImage: if the image does not decode
    :raises errors.StagingFull: if there is no room for the file
    """
    argv = ['qemu-img', 'convert', '-p', '-O', output.driver, *output.options,
            image.node, output.path]
    # Tables of the target and a compressed format's overhead take more than
    # the disk has, but never so much.
    limits = sandbox.Limits(image.decoding_seconds(virtual_size),
                                file_size=virtual_size * 5 // 4 + (64 << 20))
    with _running(argv, limits, cancel, readable=[image.path],
                  writable=[output.path]) as process:
        assert process.stdout and process.stderr    # noqa: S101
        # "(12.34/100%)" and a carriage return, which ends a line here.
        for line in process.stdout:
            if '/100%' in line:
                advance(float(line.strip(' (').partition('/')[0]))
        err = process.stderr.read().strip()
        process.wait()
    _check_started(process.returncode, err)
    if process.returncode:
        LOG.warning('qemu-img convert failed with %s: %s', process.returncode,
                    err)
        raise _failure(process.returncode, err, output)


def _failure(status: int, err: str, output: Output
             ) -> errors.ConversionError:
    room = os.statvfs(os.path.dirname(output.path)).f_bavail
    # Some formats have a word of their own for a disk that is full.
    if 'No space left' in err or 'quota exceeded' in err or not room:
        return errors.StagingFull(
            'The node that converts the image has no room for the result.')
    if status < 0:
        return errors.SourceFailed(STOPPED)
    if 'too large' in err:
        return errors.TooLarge(
            'The image is too large for the format that this cloud converts '
            'images to.')
    return errors.DamagedImage(
        'The image is damaged: its content can not be decoded.')
