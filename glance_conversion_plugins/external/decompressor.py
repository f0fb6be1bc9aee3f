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

"""The programs that decompress: what they are told, and how they end.

They are the distribution's, and as confined as qemu is. What they write comes
through a pipe; whether it was all that there is shows only at its end.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import logging

from glance_conversion_plugins import cancel as cancel_
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import program
from glance_conversion_plugins.external import qemu_img
from glance_conversion_plugins.external import sandbox
from glance_conversion_plugins.external import sandbox_exec
from glance_conversion_plugins.external import staged

LOG = logging.getLogger(__name__)

# One thread each: several of xz would need more memory than there is.
PROGRAMS = {
    'bzip2': ('bzip2', '-dc'),
    'gzip': ('gzip', '-dc'),
    'xz': ('xz', '-dc', '-T1', '--format=xz'),
    # By the names in the directory alone, of which a field gives another one.
    'zip': ('unzip', '-UU', '-p'),
    'zstd': ('zstd', '-dcq', '--memory=512MB'),
}
# What is in a zip beside the file that is meant: what macOS knows of it.
BESIDE = '__MACOSX/'
_AFTER_PATH = {'zip': ('-x', f'{BESIDE}*')}
# zstd reads gzip, xz and lzma as well where they follow, the last of them
# without any checksum; but it lists nothing but its own, up to the end.
_LISTS = {'zstd': ('zstd', '-lq')}

# They complain once, but for a name that may be long.
_MOST_SAID = 64 * 1024
# gzip and bzip2 say so and go on. It may as well be the second half of what
# was compressed in pieces, and damaged.
_GARBAGE = 'trailing garbage'
# What they say where something was compressed with more memory than they get.
_NO_MEMORY = ('too much memory', 'emory usage limit',
              'Cannot allocate memory', 'not enough memory',
              'memory exhausted', "couldn't allocate")


def see_alone(path: str, kind: str, seconds: int,
              cancel: cancel_.Cancel = cancel_.NEVER) -> None:
    """See that a file holds nothing that its decompressor takes for another.

    That says nothing until it is done, and on a slow disk it takes a while.

    :param seconds: how long it may take
    :raises errors.DamagedImage: if it does
    """
    if kind in _LISTS:
        for _ in _run(_LISTS[kind], path, kind, seconds, cancel, seconds):
            pass


def decompress(path: str, kind: str, cpu_seconds: int,
               cancel: cancel_.Cancel = cancel_.NEVER) -> Iterator[bytes]:
    """What a file holds, in pieces; it is whole if none of them raises.

    :param kind: one of PROGRAMS
    :param cpu_seconds: how much of a processor's time that may take
    :raises errors.DamagedImage: if the file is truncated or corrupt
    """
    yield from _run(PROGRAMS[kind], path, kind, cpu_seconds, cancel)


def _run(argv: Sequence[str], path: str, kind: str, cpu_seconds: int,
         cancel: cancel_.Cancel, seconds: float | None = None
         ) -> Iterator[bytes]:
    try:
        with program.run([*argv, path, *_AFTER_PATH.get(kind, ())],
                         sandbox.Limits(cpu_seconds), most=_MOST_SAID,
                         cancel=cancel, seconds=seconds,
                         readable=[path]) as running:
            yield from running.pieces()
    except program.Overflow as e:
        LOG.warning('%s said far too much', kind)
        raise _damaged() from e
    if running.status or _GARBAGE in running.said:
        LOG.warning('%s failed with %s: %s', kind, running.status,
                    running.said)
        raise _failure(running, path, cancel)


def _failure(running: program.Program, path: str, cancel: cancel_.Cancel
             ) -> errors.ConversionError:
    status, said = running.status, running.said
    if status == sandbox_exec.NOT_STARTED:
        return errors.Misconfigured(sandbox.MISSING)
    if status is None or status < 0:
        return errors.SourceFailed(qemu_img.STOPPED)
    if any(words in said for words in _NO_MEMORY):
        return errors.TooLarge(
            'The image can not be decompressed here: that takes more than '
            '512 MiB of memory; compress it again with the defaults of the '
            'program.')
    staged.see_readable(path, cancel.is_set)
    if _GARBAGE in said:
        return errors.DamagedImage(
            'The image is damaged: its archive is followed by something '
            'else.')
    return _damaged()


def _damaged() -> errors.DamagedImage:
    return errors.DamagedImage(
        'The image is damaged or truncated: it can not be decompressed to '
        'its end.')
