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

"""A real Debian or Ubuntu disk image, built once and kept in a cache."""

import hashlib
import os
import pathlib
import platform
import re
import tempfile
import typing

from cloud import processes
from cloud import settings

PARTITION_OFFSET = 2 ** 20
# Kept free at the end of the disk for the second partition table.
TAIL = 2 ** 20

PACKAGES = ('systemd-sysv', 'openssh-server', 'python3', 'cloud-init',
            'initramfs-tools', 'udev', 'login', 'ca-certificates')
KERNELS = {'debian': 'linux-image-cloud-amd64',
           'ubuntu': 'linux-image-virtual'}

# Run by mmdebstrap with the new system's root as $1.
HOOKS = (
    'echo "LABEL=root / ext4 errors=remount-ro 0 1" > "$1/etc/fstab"',
    'echo demo > "$1/etc/hostname"',
    'chroot "$1" systemctl enable serial-getty@ttyS0.service',
    'rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*',
)


class DebianImage(typing.NamedTuple):
    """The disk, and what boots it without a boot loader."""

    qcow2: pathlib.Path
    kernel: pathlib.Path
    initrd: pathlib.Path


class Recipe(typing.NamedTuple):
    """All that decides what the image holds."""

    suite: str
    packages: tuple
    hooks: tuple
    size_gib: int

    def folder(self):
        """The folder of the cache for exactly this recipe."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:10]
        return settings.cache_dir() / f'{self.suite}-{digest}'


def debian_image(size_gib=10):
    """The image in the cache, built there first if need be."""
    system = platform.freedesktop_os_release()
    kernel = KERNELS.get(system['ID'], KERNELS['debian'])
    recipe = Recipe(system['VERSION_CODENAME'], (kernel, *PACKAGES), HOOKS,
                    size_gib)
    folder = recipe.folder()
    image = DebianImage(folder / 'disk.qcow2', folder / 'vmlinuz',
                        folder / 'initrd.img')
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = pathlib.Path(tempfile.mkdtemp(
            prefix='building-', dir=folder.parent))
        try:
            _build(recipe, work, work / 'image')
            os.rename(work / 'image', folder)
        finally:
            processes.run_as_root('rm', '-rf', '--one-file-system', work)
    return image


def _build(recipe, work, target):
    """Install the system, put it on a disk, compress the disk."""
    tree, raw = work / 'tree', work / 'disk.raw'
    target.mkdir()
    _bootstrap(recipe, tree)
    for pattern, name in {'vmlinuz-*': 'vmlinuz',
                          'initrd.img-*': 'initrd.img'}.items():
        found = sorted((tree / 'boot').glob(pattern))[-1]
        processes.run_as_root('install', '-m', '644', '-o', os.geteuid(),
                              found, target / name)
    _make_disk(recipe.size_gib * 2 ** 30, tree, raw)
    processes.run('qemu-img', 'convert', '-c', '-W', '-m', '8', '-f', 'raw',
                  '-O', 'qcow2', raw, target / 'disk.qcow2')


def _bootstrap(recipe, tree):
    # mmdebstrap drops to a user of its own to download.
    tree.parent.chmod(0o755)
    hooks = [f'--customize-hook={hook}' for hook in recipe.hooks]
    processes.run_as_root(
        'mmdebstrap', '--mode=root', '--variant=minbase',
        f'--include={",".join(recipe.packages)}', *hooks,
        recipe.suite, tree, *_mirrors(recipe.suite))


def _mirrors(suite):
    """The host's own mirrors of its suite, as sources.list lines."""
    wanted = re.compile(rf'{re.escape(suite)}(-updates|-security)?')
    listed = processes.run(
        'apt-get', 'indextargets', '--format',
        '$(REPO_URI) $(RELEASE) $(COMPONENT)', 'Created-By: Packages').stdout
    sources = {line for line in listed.splitlines()
               if wanted.fullmatch(line.split()[1])}
    return [f'deb {line}' for line in sorted(sources)]


def _make_disk(size, tree, raw):
    """A sparse disk with one ext4 partition that holds the tree."""
    with open(raw, 'wb') as disk:
        disk.truncate(size)
    processes.run('/usr/sbin/sfdisk', '--quiet', raw, stdin=None, input=(
        'label: gpt\n'
        f'start={PARTITION_OFFSET // 512}, '
        f'size={(size - PARTITION_OFFSET - TAIL) // 512}, '
        'type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n'))
    processes.run_as_root(
        '/usr/sbin/mke2fs', '-q', '-t', 'ext4', '-L', 'root', '-d', tree,
        '-E', f'offset={PARTITION_OFFSET}', raw,
        f'{(size - PARTITION_OFFSET - TAIL) // 1024}k')
