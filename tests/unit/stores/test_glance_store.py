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

"""glance_store's own tests of its rbd and file drivers, run against ours.

They come with the installed glance_store and show that our drivers do what
the stock drivers promise. Where they look at how stock does it, a test is
excluded, and must fail just there.
"""

import types
from typing import NamedTuple
import unittest
from unittest import mock

from glance_store._drivers import filesystem
from glance_store._drivers import rbd
from glance_store import location
from glance_store import multi_backend
from glance_store.tests.unit import test_filesystem_store
from glance_store.tests.unit import test_filesystem_store_base
from glance_store.tests.unit import test_multistore_filesystem
from glance_store.tests.unit import test_multistore_rbd
from glance_store.tests.unit import test_rbd_store
from glance_store.tests.unit import test_rbd_store_base
import pytest

from glance_conversion_plugins.copying.sinks import rbd as rbd_sink
from glance_conversion_plugins.copying.sources import rbd as rbd_source
from glance_conversion_plugins.external import rbd_fence
from glance_conversion_plugins.external import rbd_index
from glance_conversion_plugins.external import rbd_marks
from glance_conversion_plugins.external import rbd_names
from glance_conversion_plugins.external import rbd_pool
from glance_conversion_plugins.stores import handover
from glance_conversion_plugins.stores import sparse_file
from glance_conversion_plugins.stores import sparse_rbd
from glance_conversion_plugins.stores import sparsify_rbd
from tests.unit import stock_mocks

RBD = (test_rbd_store, test_multistore_rbd)
FILE = (test_filesystem_store, test_multistore_filesystem)

# How many tests there are at least. One that is renamed or goes needs a look
# at what of our drivers is not tested any more.
LEAST = {
    test_rbd_store: 36,
    test_multistore_rbd: 37,
    test_filesystem_store: 59,
    test_multistore_filesystem: 55,
}


class Exclusion(NamedTuple):
    """Why a test can not pass, and what it fails with.

    What it asserts before that holds for our drivers too.
    """

    reason: str
    failure: str


_DELETES = Exclusion(
    'asserts a call of _delete_image(); our sink removes what it wrote',
    "Expected '_delete_image' to have been called")
_THICK = 'thick provisioning; ours is always thin'
_OPENS = Exclusion(
    'counts writes into a mock of open(); our sink needs a real descriptor',
    'fileno() returned a non-integer')

# By name; the same for a store that is the only one and for one of many.
NOT_RBD = {
    'test_add_duplicate_image': Exclusion(
        'the duplicate is a mock of _create_image(), which we do not call',
        'NotImplementedError'),
    'test_add_image_exceeding_max_size_raises_exception': _DELETES,
    'test_add_thick_provisioning_with_holes_in_file': Exclusion(
        _THICK, 'MismatchError: 2 != 3'),
    'test_add_thick_provisioning_with_partial_holes_in_file': Exclusion(
        _THICK, 'MismatchError: 4 != 5'),
    'test_add_w_image_size_zero_less_resizes': Exclusion(
        'asserts that each write has the size of a chunk',
        'reference = [8388608, 8388608,'),
    'test_add_w_rbd_image_exception': Exclusion(
        'the failure is a mock of Image.__enter__(); ours writes without it',
        'NotImplementedError'),
    'test_add_w_rbd_no_space_exception': Exclusion(
        'asserts calls of _create_image() and _delete_image()',
        "['create', 'delete'] != []"),
    'test_add_with_thick_provisioning': Exclusion(
        _THICK, 'MismatchError: 2 != 3'),
    'test_get_partial_image': Exclusion(
        'asserts that ranges are refused; ours goes on to ask for the size',
        "'Image' object has no attribute 'stat'"),
    'test_write_less_than_declared_raises_exception': _DELETES,
}
NOT_FILE = {
    'test_add_thick_provisioning_with_holes_in_file': _OPENS,
    'test_add_thick_provisioning_with_partial_holes_in_file': _OPENS,
    'test_add_thick_provisioning_without_holes_in_file': _OPENS,
    'test_add_thin_provisioning_with_holes_in_file': _OPENS,
    'test_add_thin_provisioning_with_partial_holes_in_file': _OPENS,
    'test_add_thin_provisioning_without_holes_in_file': _OPENS,
}


def collect(module):
    """(class, name) of every test in a module."""
    loader = unittest.TestLoader()
    return [(found, name) for found in vars(module).values()
            if isinstance(found, type) and found.__module__ == module.__name__
            and issubclass(found, unittest.TestCase)
            for name in loader.getTestCaseNames(found)]


def parameters(modules):
    return [pytest.param(found, name,
                         id=f'{module.__name__.rpartition(".")[2]}.'
                            f'{found.__name__}.{name}')
            for module in modules for found, name in collect(module)]


def run(found, name, exclusions):
    """Run a test of glance_store's."""
    result = unittest.TestResult()
    test = found(name)
    raised = []     # by the test first, then by its tearDown
    test.addOnException(
        lambda info: raised.append(f'{info[0].__name__}: {info[1]}'))
    test.run(result)
    assert result.testsRun == 1
    assert not result.skipped
    if name not in exclusions:
        assert result.wasSuccessful(), '\n'.join(
            text for _, text in result.errors + result.failures)
        return
    reason, failure = exclusions[name]
    assert raised, f'It passes by now, but is excluded: {reason}'
    assert failure in raised[0]
    pytest.xfail(reason)


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """What these tests leave behind, put back as it was."""
    for name in ('SCHEME_TO_CLS_MAP', 'SCHEME_TO_CLS_BACKEND_MAP'):
        monkeypatch.setattr(location, name, {})
    for owner, name in ((filesystem.ChunkedFile, 'CHUNKSIZE'),
                        (sparse_file.Store, 'WRITE_CHUNKSIZE')):
        monkeypatch.setattr(owner, name, getattr(owner, name, None),
                            raising=False)
    yield
    mock.patch.stopall()


@pytest.fixture(autouse=True)
def glance(monkeypatch, override):
    """One that records at once what was published."""
    override('deployment', 'test', 'conversion')
    monkeypatch.setattr(handover, 'watch',
                        lambda published: published.sink.hand_over())


@pytest.fixture(autouse=True)
def ours(monkeypatch):
    """Our drivers, where these tests name the stock ones.

    In the stock modules themselves the names stay: stock's Store, from which
    ours derive, looks for itself there.
    """
    for stock, our, name, modules in (
            (rbd, sparse_rbd, 'rbd_store', (*RBD, test_rbd_store_base)),
            (filesystem, sparse_file, 'filesystem',
             (*FILE, test_filesystem_store_base))):
        seen = types.SimpleNamespace(**{**vars(stock), 'Store': our.Store})
        for module in modules:
            monkeypatch.setattr(module, name, seen)
    load = multi_backend._load_multi_store
    monkeypatch.setattr(
        multi_backend, '_load_multi_store',
        lambda conf, entry, *args, **kwargs: load(
            conf, f'sparse_{entry}', *args, **kwargs))


@pytest.fixture
def mocked_ceph(monkeypatch):
    for name, error in stock_mocks.errors().items():
        monkeypatch.setattr(test_rbd_store_base.MockRBD, name, error)
    monkeypatch.setattr(rbd, 'rados', test_rbd_store_base.MockRados)
    monkeypatch.setattr(rbd, 'rbd', test_rbd_store_base.MockRBD)
    monkeypatch.setattr(rbd_pool, 'rados', stock_mocks.MockRados)
    for name in ('add', 'read', 'remove'):
        monkeypatch.setattr(rbd_index, name, lambda *_: None)
    mock_rbd = stock_mocks.mock_rbd()
    # Names have no steps there.
    for name in ('is_listed', 'is_taken', 'id_listed'):
        monkeypatch.setattr(
            rbd_names, name,
            lambda ioctx, name: name if name in mock_rbd.images else None)
    monkeypatch.setattr(rbd_names, 'move', mock_rbd.move)
    for name in ('tidy', 'forget', 'free', 'mend'):
        monkeypatch.setattr(rbd_names, name, lambda *_: None)
    for module in (rbd_fence, rbd_marks, rbd_pool, rbd_sink, rbd_source,
                   sparse_rbd, sparsify_rbd):
        monkeypatch.setattr(module, 'rbd', mock_rbd)
    # A mock that refuses once refuses always.
    monkeypatch.setattr(rbd_pool, '_REMOVE_SECONDS', 0)


@pytest.fixture
def datadir(monkeypatch, tmp_path):
    """A folder for the stores that have none of their own."""
    option = next(each for each in filesystem.Store.OPTIONS
                  if each.name == 'filesystem_store_datadir')
    monkeypatch.setattr(option, 'default', str(tmp_path))


@pytest.mark.parametrize('found, name', parameters(RBD))
@pytest.mark.usefixtures('mocked_ceph')
def test_rbd(found, name):
    run(found, name, NOT_RBD)


@pytest.mark.parametrize('found, name', parameters(FILE))
@pytest.mark.usefixtures('datadir')
def test_file(found, name):
    run(found, name, NOT_FILE)


@pytest.mark.parametrize('module', LEAST)
def test_none_is_missing(module):
    assert len(collect(module)) >= LEAST[module]


@pytest.mark.parametrize('modules, exclusions',
                         [(RBD, NOT_RBD), (FILE, NOT_FILE)])
def test_what_is_excluded_exists(modules, exclusions):
    for module in modules:
        assert set(exclusions) <= {name for _, name in collect(module)}
