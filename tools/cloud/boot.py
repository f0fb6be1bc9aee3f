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

"""The proof that an import is right: a clone of the image boots."""

import contextlib
import os
import secrets
import select
import subprocess
import time

from cloud import debian_image
from cloud import processes

QEMU = ('qemu-system-x86_64', '-machine', 'q35,accel=tcg', '-m', '1024',
        '-smp', '2', '-display', 'none', '-nic', 'none', '-no-reboot',
        '-monitor', 'none', '-serial', 'stdio')
ARGUMENTS = 'root=/dev/vda1 console=ttyS0'


def boot_clone(cloud, pool, image_id, timeout=240, echo=print):
    """Boot a copy-on-write clone to its login prompt.

    Each line of the serial console goes to echo. Returns the whole
    log; raises TimeoutError or CloudError, with its end, if there is
    no login prompt. Leaves neither the clone nor the machine behind.
    """
    with _clone(cloud, pool, image_id) as clone:
        with _machine(cloud, clone) as machine:
            return _watch(machine, time.monotonic() + timeout, echo)


@contextlib.contextmanager
def _clone(cloud, pool, image_id):
    name = f'{pool}/boot-{secrets.token_hex(4)}'
    cloud.ceph.run('rbd', 'clone', f'{pool}/{image_id}@snap', name)
    try:
        yield name
    finally:
        cloud.ceph.run('rbd', 'rm', '--no-progress', name)


@contextlib.contextmanager
def _machine(cloud, clone):
    image = debian_image.debian_image()
    drive = f'rbd:{clone}:id=admin:conf={cloud.ceph.conf}'
    machine = subprocess.Popen(
        [*QEMU, '-kernel', image.kernel, '-initrd', image.initrd,
         '-append', ARGUMENTS,
         '-drive', f'file={drive},format=raw,if=virtio'],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    with machine:
        try:
            yield machine
        finally:
            machine.kill()


def _watch(machine, deadline, echo):
    """Follow the console until a login prompt, which ends no line."""
    log, shown = '', 0
    while 'login:' not in log[shown:]:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f'no login prompt in time:\n{log[-2000:]}')
        if not select.select([machine.stdout], [], [], left)[0]:
            continue
        data = os.read(machine.stdout.fileno(), 65536)
        if not data:
            raise processes.CloudError(
                f'the machine ended:\n{log[-2000:]}')
        log += data.decode(errors='replace').replace('\r', '')
        while (end := log.find('\n', shown)) >= 0:
            echo(log[shown:end])
            shown = end + 1
    echo(log[shown:])
    return log
