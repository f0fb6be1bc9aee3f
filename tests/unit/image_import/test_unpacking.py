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

"""What becomes of an image that is uploaded in a package."""

import os
import types

from glance.async_.flows.plugins import image_decompression
import pytest

from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying.sinks import bounded
from glance_conversion_plugins.copying import unpack
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import sandbox_exec
from glance_conversion_plugins.image_import import decision
from glance_conversion_plugins.image_import import execution
from glance_conversion_plugins.image_import import image as image_
from glance_conversion_plugins.image_import import unpacking
from glance_conversion_plugins.stores import adoption
from glance_conversion_plugins.stores import placeholder
from tests.contract import memory
from tests.contract import packages
from tests.hostile import build
from tests.hostile import qcow2
from tests.hostile import vhdx
from tests.hostile import vmdk

MIB = 1 << 20
DISK = build.content(5 * MIB)
ID = '11111111-2222-3333-4444-555555555555'
Action = decision.Action


class _Image:
    """Notes for how many bytes quota was asked."""

    def __init__(self, most=1 << 40):
        self.most = most
        self.asked = []

    def check_quota(self, size):
        self.asked.append(size)
        if size > self.most:
            raise errors.TooLarge('The image does not fit.')


class _Store:
    """Keeps what is written into it."""

    def __init__(self):
        self.place = {}
        self.sinks = []
        self.written = 0

    def sink(self, image_id, task_id):
        sink = memory.MemorySink(self.place, image_id)
        write = sink.write

        def counting(view, offset):
            written = write(view, offset)
            self.written += written
            return written

        sink.write = counting
        self.sinks.append(sink)
        return sink

    def content(self):
        self.sinks[-1].publish()
        return self.place[ID]


@pytest.fixture
def store(override):
    yield _Store()
    adoption.forget('task')


def _context(folder, data, disk_format, container_format, store=None,
             image=None, **properties):
    path = folder / ID
    path.write_bytes(data)
    header = placeholder.Header(ID, 'task', disk_format, container_format)
    return execution.Context(
        image_.ImportRequest(ID, 'task', ['s'] if store else [], True),
        image or _Image(), image_.Declaration(
            disk_format, container_format, properties),
        str(path), {'s': store} if store else {},
        placeholder.Placeholder(str(folder), header), conversion_.Conversion())


def _packed(data, container_format):
    if container_format == 'ova':
        return packages.ova(data)
    return packages.compressed('zstd', data)


PACKAGES = ('compressed', 'ova')
AT_ONCE = ['raw']
BY_A_FILE = ['qcow2', 'vmdk', 'vdi', 'vhd', 'vhdx']


@pytest.mark.parametrize('container_format', PACKAGES)
@pytest.mark.parametrize('disk_format', AT_ONCE + BY_A_FILE)
def test_into_stores_of_ours(tmp_path, store, disk_format, container_format):
    data = _packed(build.image(disk_format, *(
        ['force_size=on'] if disk_format == 'vhd' else [])), container_format)
    context = _context(tmp_path, data, disk_format, container_format, store)
    result = unpacking.execute(Action.DIRECT, context)
    sealed = adoption.take('s', ID, len(DISK))
    assert sealed.size == len(DISK)
    assert store.content() == DISK
    assert result[:4] == (context.placeholder.path, 'raw', len(DISK),
                          len(DISK))
    assert result.message.startswith(
        f'Converted {container_format} {disk_format} to raw: 5 MiB, ')
    assert context.image.asked == [len(DISK)]
    assert context.conversion.progress.written == store.written
    # The upload, which the task removes, and nothing else.
    assert os.listdir(tmp_path) == [ID]


@pytest.mark.parametrize('container_format', PACKAGES)
@pytest.mark.parametrize('disk_format', BY_A_FILE)
def test_into_other_stores(tmp_path, override, disk_format, container_format):
    override('output_format', 'raw', 'conversion')
    data = _packed(build.image(disk_format, *(
        ['force_size=on'] if disk_format == 'vhd' else [])), container_format)
    result = unpacking.execute(Action.STAGE, _context(
        tmp_path, data, disk_format, container_format))
    assert result.path == str(tmp_path / f'{ID}.raw')
    with open(result.path, 'rb') as f:
        assert f.read() == DISK
    assert sorted(os.listdir(tmp_path)) == [ID, f'{ID}.raw']


@pytest.mark.parametrize('container_format', PACKAGES)
@pytest.mark.parametrize('disk_format', ['raw', 'qcow2'])
def test_what_is_in_it_may_be_wanted_so(tmp_path, override, disk_format,
                                        container_format):
    override('output_format', disk_format, 'conversion')
    inner = build.image(disk_format)
    context = _context(tmp_path, _packed(inner, container_format),
                       disk_format, container_format)
    result = unpacking.execute(Action.STAGE, context)
    assert result[:4] == (str(tmp_path / f'{ID}.unpacked'), disk_format,
                          len(inner), len(DISK))
    with open(result.path, 'rb') as f:
        assert f.read() == inner
    assert result.message == f'Unpacked and inspected: it is {disk_format}'
    assert context.image.asked == [len(inner)]


def _fails(tmp_path, error, action, context, match=None):
    before = os.listdir(tmp_path)
    with pytest.raises(error, match=match):
        unpacking.execute(action, context)
    assert os.listdir(tmp_path) == before
    assert adoption._entries == {}


@pytest.mark.parametrize('action', [Action.DIRECT, Action.STAGE])
@pytest.mark.parametrize('disk_format', ['raw', 'qcow2'])
@pytest.mark.parametrize('container_format', PACKAGES)
def test_a_quota_that_does_not_suffice(tmp_path, store, action, disk_format,
                                       container_format):
    context = _context(
        tmp_path, _packed(build.image(disk_format), container_format),
        disk_format, container_format,
        store if action is Action.DIRECT else None, _Image(len(DISK) - 1))
    _fails(tmp_path, errors.TooLarge, action, context, 'does not fit')
    assert store.place == {}


@pytest.mark.parametrize('action', [Action.DIRECT, Action.STAGE])
def test_another_format_is_in_it(tmp_path, store, action):
    context = _context(tmp_path, _packed(build.image('vmdk'), 'compressed'),
                       'qcow2', 'compressed', store)
    _fails(tmp_path, errors.FormatMismatch, action, context,
           'declared as qcow2, but its content is vmdk')


def test_what_harms_is_found_within(tmp_path, store):
    bad = qcow2.plain()[:300_000]
    context = _context(tmp_path, _packed(bad, 'compressed'), 'qcow2',
                       'compressed', store)
    _fails(tmp_path, errors.DamagedImage, Action.DIRECT, context)


def test_two_steps_expand_to_no_more_than_one(tmp_path, store, override,
                                              monkeypatch):
    """A qcow2 may hold so many times its size, and so may its package."""
    monkeypatch.setattr(bounded, '_ALWAYS_ALLOWED', MIB)
    inner = build.converted(b'A' * (32 * MIB), 'qcow2', (), True)
    data = packages.compressed('xz', inner)
    times = 32 * MIB // len(inner) + 1
    assert len(data) * times < 16 * MIB
    override('max_expansion', times, 'conversion')
    context = _context(tmp_path, data, 'qcow2', 'compressed', store)
    _fails(tmp_path, errors.TooLarge, Action.DIRECT, context, 'far too small')
    execution.execute(Action.DIRECT, _context(tmp_path, inner, 'qcow2',
                                              'bare', store))
    assert store.content() == b'A' * (32 * MIB)


def test_the_upload_is_what_is_hashed(tmp_path, store):
    data = _packed(DISK, 'compressed')
    context = _context(tmp_path, data, 'raw', 'compressed', store,
                       conversion_expected_hash='md5:' + '0' * 32)
    _fails(tmp_path, errors.WrongUpload, Action.DIRECT, context)
    assert store.sinks == []


def test_programs_have_to_be_confined(tmp_path, store, override, monkeypatch):
    """Also for a raw disk, which no program reads otherwise."""
    override('sandbox', 'required', 'conversion')
    monkeypatch.setattr(sandbox_exec, 'landlock_version', lambda: 0)
    context = _context(tmp_path, _packed(DISK, 'compressed'), 'raw',
                       'compressed', store)
    _fails(tmp_path, errors.Misconfigured, Action.DIRECT, context)


# What stock's own plugin does before ours, or after it.
def _by_stock(path, container_format):
    class Repo:
        saved = None

        def get(self, image_id):
            return types.SimpleNamespace(container_format=container_format,
                                         size=None)

        def save(self, image):
            self.saved = image.size

    repo = Repo()
    task = image_decompression._DecompressImage(None, 'task', 'import', repo,
                                                ID)
    assert task.execute(f'file://{path}') == f'file://{path}'
    return repo.saved


@pytest.mark.parametrize('kind', ['gzip', 'zip'])
def test_stock_leaves_us_what_is_declared_as_compressed(tmp_path, store,
                                                        kind):
    data = packages.compressed(kind, DISK)
    context = _context(tmp_path, data, 'raw', 'compressed', store)
    assert _by_stock(context.path, 'compressed') is None
    unpacking.execute(Action.DIRECT, context)
    assert store.content() == DISK


@pytest.mark.parametrize('kind', ['gzip', 'zip'])
def test_stock_unpacks_what_is_declared_as_bare(tmp_path, store, kind):
    data = packages.compressed(kind, DISK)
    context = _context(tmp_path, data, 'raw', 'bare', store)
    assert _by_stock(context.path, 'bare') == len(DISK)
    execution.execute(Action.DIRECT, context)
    assert store.content() == DISK


def test_stock_finds_nothing_to_do_after_us(tmp_path):
    made = placeholder.Placeholder(str(tmp_path), placeholder.Header(
        ID, 'task', 'raw', 'compressed'))
    made.create()
    with open(made.path, 'rb') as f:
        before = f.read()
    assert _by_stock(made.path, 'bare') is None
    with open(made.path, 'rb') as f:
        assert f.read() == before
    made.remove()


# The disk in an OVA is read where it is.

@pytest.fixture
def no_file(monkeypatch):
    def unpack_(*_):
        pytest.fail('it was unpacked')

    monkeypatch.setattr(unpack, 'unpack', unpack_)


AROUND = packages.member('a', build.noise(70_000, 5))


def _amid(disk):
    """An OVA with other things before and after its disk."""
    return packages.tar(AROUND, packages.member(
        'vm.ovf', packages.ovf('d')), packages.member('d', disk),
        packages.member('z', build.noise(2 * MIB, 6)))


INNER = {
    'qcow2': lambda: build.image('qcow2'),
    'qcow2-compressed': lambda: build.image('qcow2', compress=True),
    'vmdk': lambda: build.image('vmdk'),
    'vmdk-stream': lambda: build.image(
        'vmdk', 'subformat=streamOptimized'),
    'vmdk-and-a-text': lambda: vmdk.stream(5 * MIB) + b'# made by a tool',
    'vdi': lambda: build.image('vdi'),
    'vhd': lambda: build.image('vhd', 'force_size=on'),
    'vhd-fixed': lambda: build.image('vhd', 'subformat=fixed',
                                     'force_size=on'),
    'vhd-and-padding': lambda: build.image('vhd', 'force_size=on')
    + bytes(1 << 16),
    'vhdx': lambda: build.image('vhdx'),
}


@pytest.mark.usefixtures('no_file')
@pytest.mark.parametrize('action', [Action.DIRECT, Action.STAGE])
@pytest.mark.parametrize('name', INNER)
def test_the_disk_of_an_ova_is_read_where_it_is(tmp_path, store, override,
                                                name, action):
    override('output_format', 'raw', 'conversion')
    context = _context(tmp_path, _amid(INNER[name]()),
                       name.partition('-')[0], 'ova', store)
    result = unpacking.execute(action, context)
    if action is Action.DIRECT:
        assert store.content() == DISK
    else:
        with open(result.path, 'rb') as f:
            assert f.read() == DISK


@pytest.mark.usefixtures('no_file')
@pytest.mark.parametrize('name', [n for n in INNER if '-and-' not in n])
def test_nothing_behind_the_disk_is_taken_for_it(tmp_path, store, name):
    """What an image lacks at its end others in the archive do have."""
    whole = INNER[name]()
    for length in (len(whole) - 512, len(whole) - 4096, len(whole) * 2 // 3):
        context = _context(tmp_path, _amid(whole[:length]),
                           name.partition('-')[0], 'ova', store)
        # The last block of a vhdx is as long as any, and all zeros here.
        if name == 'vhdx' and len(whole) - length <= 4096:
            unpacking.execute(Action.DIRECT, context)
            assert store.content() == DISK
            store.place.clear()
            adoption.take('s', ID, len(DISK))
        else:
            _fails(tmp_path, errors.ImageRefused, Action.DIRECT, context)


@pytest.mark.usefixtures('no_file')
def test_the_checksum_of_a_disk_is_verified_before(tmp_path, store):
    data = bytearray(packages.ova(build.image('vmdk')))
    data[-100_000] ^= 1
    context = _context(tmp_path, bytes(data), 'vmdk', 'ova', store)
    _fails(tmp_path, errors.DamagedImage, Action.DIRECT, context, 'checksum')
    assert store.sinks == []


def test_a_log_in_an_ova_is_replayed_in_a_file(tmp_path, store):
    data = build.image('vhdx')
    table = vhdx.region(data, 'blocks')
    entry = vhdx.Entry(((table, data[table:table + 4096]),))
    data = vhdx.with_log(build.patched(data, (table, bytes(4096))), entry)
    context = _context(tmp_path, _amid(data), 'vhdx', 'ova', store)
    before = (tmp_path / ID).read_bytes()
    unpacking.execute(Action.DIRECT, context)
    assert store.content() == DISK
    assert (tmp_path / ID).read_bytes() == before
    assert os.listdir(tmp_path) == [ID]


def test_a_raw_disk_that_stays_raw_is_not_said_to_be_converted(tmp_path,
                                                                store):
    context = _context(tmp_path, DISK, 'raw', 'bare', store)
    result = execution.execute(Action.DIRECT, context)
    assert adoption.take('s', ID, len(DISK)).size == len(DISK)
    assert store.content() == DISK
    assert result.message.startswith(
        'Stored as raw, without its zeros: 5 MiB, ')
