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


"""Images written as strings, one character for each block.

A letter is a block full of it, ``0`` an allocated block of zeros, ``-`` a
hole: ``'A0-'`` is three blocks long and its guest sees one block of 'A'.
"""

import os
import subprocess

BLOCK = 64 * 1024

_ZEROS = '0-'


def content(pattern: str, block: int = BLOCK) -> bytes:
    """What the guest sees."""
    return b''.join(bytes(block) if c in _ZEROS else c.encode() * block
                    for c in pattern)


def run(*argv: object) -> str:
    """Run a program and return what it says."""
    return subprocess.run([str(a) for a in argv], check=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True).stdout


def raw(path: object, pattern: str, block: int = BLOCK) -> str:
    """Make a raw file; its holes are holes."""
    with open(str(path), 'wb') as f:
        for number, char in enumerate(pattern):
            if char != '-':
                f.seek(number * block)
                f.write(content(char, block))
        f.truncate(len(pattern) * block)
    return str(path)


def qcow2(path: object, pattern: str, *options: str,
          block: int = BLOCK) -> str:
    """Make a qcow2 file, with what ``qemu-img create -o`` takes."""
    arguments = [a for option in options for a in ('-o', option)]
    run('qemu-img', 'create', '-q', '-f', 'qcow2', *arguments, path,
        len(pattern) * block)
    commands = []
    for number, char in enumerate(pattern):
        at = number * block
        if char == '0':
            commands += ['-c', f'write -z {at} {block}']
        elif char != '-':
            commands += ['-c', f'write -P {ord(char)} {at} {block}']
    if commands:
        run('qemu-io', '-f', 'qcow2', *commands, path)
    return str(path)


def compressed(path: object, pattern: str, *options: str,
               block: int = BLOCK) -> str:
    """Make a qcow2 file of compressed clusters."""
    arguments = [a for option in options for a in ('-o', option)]
    source = raw(f'{path}.raw', pattern, block)
    run('qemu-img', 'convert', '-q', '-f', 'raw', '-O', 'qcow2', '-c',
        *arguments, source, path)
    os.unlink(source)
    return str(path)


def patch(path: object, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file."""
    with open(str(path), 'r+b') as f:
        f.seek(offset)
        f.write(data)


def number_at(path: object, offset: int, length: int = 8) -> int:
    """Read a big-endian number, as qcow2 has them."""
    with open(str(path), 'rb') as f:
        f.seek(offset)
        return int.from_bytes(f.read(length), 'big')


def damaged(path, compression_type):
    """A qcow2 of A, B, C, D, all compressed; C does not decode."""
    path = compressed(path, 'ABCD', f'compression_type={compression_type}')
    l2 = number_at(path, number_at(path, 40)) & 0x00fffffffffffe00
    entry = number_at(path, l2 + 2 * 8)
    assert entry & 1 << 62, 'not compressed'
    patch(path, entry & (1 << 54) - 1, b'\xff' * 16)
    return path
