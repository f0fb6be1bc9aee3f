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

"""Packages made of a disk: by the tools that people use, and by hand."""

from collections.abc import Iterable
import hashlib
import io
import pathlib
import subprocess
import tarfile
import tempfile

COMPRESSORS = {
    'bzip2': ('bzip2', '-c'),
    'gzip': ('gzip', '-c'),
    'xz': ('xz', '-c'),
    'zstd': ('zstd', '-qc'),
}
KINDS = (*COMPRESSORS, 'zip')

_OVF = 'http://schemas.dmtf.org/ovf/envelope/1'


def compressed(kind: str, data: bytes, *options: str) -> bytes:
    """What a tool makes of the bytes of a file."""
    if kind == 'zip':
        return zipped({'disk.img': data}, *options)
    return subprocess.run([*COMPRESSORS[kind], *options], input=data,
                          check=True, stdout=subprocess.PIPE).stdout


def zipped(files: dict[str, bytes], *options: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            path = pathlib.Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        subprocess.run(['zip', '-q', *options, 'a.zip', *files], cwd=folder,
                       check=True, stdin=subprocess.DEVNULL)
        return pathlib.Path(folder, 'a.zip').read_bytes()


def ovf(*disks: str, files: Iterable[str] = (), attributes: str = '',
        head: str = '<?xml version="1.0"?>') -> bytes:
    """A description of a machine.

    :param disks: the files of its disks
    :param files: others that it refers to
    :param attributes: of each file, beside its name
    """
    references = ''.join(
        f'<File ovf:id="file{number}" ovf:href="{name}" {attributes}/>'
        for number, name in enumerate([*disks, *files]))
    used = ''.join(
        f'<Disk ovf:diskId="vmdisk{number}" ovf:fileRef="file{number}" '
        'ovf:capacity="1"/>' for number, _ in enumerate(disks))
    return (f'{head}<Envelope xmlns="{_OVF}" xmlns:ovf="{_OVF}">'
            f'<References>{references}</References>'
            f'<DiskSection><Info>of one machine</Info>{used}</DiskSection>'
            '<VirtualSystem ovf:id="vm"><Info>one</Info></VirtualSystem>'
            '</Envelope>').encode()


def manifest(algorithm: str, files: dict[str, bytes]) -> bytes:
    return ''.join(
        f'{algorithm}({name})= '
        f'{hashlib.new(algorithm.lower(), data).hexdigest()}\n'
        for name, data in files.items()).encode()


def member(name: str, data: bytes = b'', **attributes: object
           ) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes],
        layout: int = tarfile.USTAR_FORMAT) -> bytes:
    """An archive, also of what no tool would put there."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode='w', format=layout) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


def ova(disk: bytes, name: str = 'disk1.vmdk', algorithm: str = 'SHA256',
        **kwargs: int) -> bytes:
    """What a hypervisor exports."""
    files = {'vm.ovf': ovf(name), name: disk}
    return tar(member('vm.ovf', files['vm.ovf']),
               member('vm.mf', manifest(algorithm, files)),
               member(name, disk), **kwargs)
