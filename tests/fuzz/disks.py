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

"""The disks that mutants are images of: small, with data, zeros and holes."""

import functools
import random

KIB = 1024
MIB = 1024 * KIB


@functools.cache
def noise(size: int, piece: int) -> bytes:
    """Every third piece has data that does not compress."""
    rng = random.Random(size)  # noqa: S311
    return b''.join(
        rng.randbytes(piece) if number % 3 == 0 else bytes(piece)
        for number in range(-(-size // piece)))[:size]


@functools.cache
def text(size: int) -> bytes:
    """Data that compresses well, each line another one."""
    return b''.join(b'%015d\n' % number
                    for number in range(-(-size // 16)))[:size]
