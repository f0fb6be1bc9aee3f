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

"""Who has an RBD image open, and who is shut out."""

import pytest

from glance_conversion_plugins.external import rbd_fence
from tests.simulation import ceph
from tests.unit import clusters


def test_an_image_is_open_while_somebody_may_write_it(cluster, ioctx):
    clusters.create(cluster, 'disk')
    assert not rbd_fence.is_open(ioctx, 'disk')
    image = cluster.open('disk')
    assert rbd_fence.is_open(ioctx, 'disk')
    image.close()
    assert not rbd_fence.is_open(ioctx, 'disk')


def test_an_image_that_is_only_read_is_not_open(cluster, ioctx):
    clusters.create(cluster, 'disk')
    with cluster.open('disk', read_only=True):
        assert not rbd_fence.is_open(ioctx, 'disk')


def test_to_look_is_not_to_open(cluster, ioctx):
    clusters.create(cluster, 'disk')
    for _ in range(2):
        assert not rbd_fence.is_open(ioctx, 'disk')


def test_what_is_not_there_is_not_open(cluster, ioctx):
    assert not rbd_fence.is_open(ioctx, 'disk')


def test_who_is_shut_out_has_nothing_open(cluster, ioctx):
    clusters.create(cluster, 'disk')
    with cluster.open('disk'):
        client, other = cluster.client()
        with ceph.Image(other, 'disk') as image:
            addresses = rbd_fence.watchers(image)
            assert len(addresses) == 2
            assert client.address in addresses
            rbd_fence.shut_out(client, set(addresses))
            assert rbd_fence.watchers(image) == [client.address]


def test_who_is_shut_out_can_do_nothing_more(cluster, ioctx):
    clusters.create(cluster, 'disk')
    client, other = cluster.client()
    image = ceph.Image(other, 'disk')
    rbd_fence.shut_out(cluster.client()[0], {client.address})
    with pytest.raises(ceph.ConnectionShutdown):
        image.metadata_set('key', 'value')


@pytest.mark.parametrize('addresses', [
    '10.0.0.9:0/7', '[10.0.0.9:0/7]', '[10.0.0.8:0/6,10.0.0.9:0/7]',
    '[10.0.0.9:0/7,10.0.0.8:0/6]'])
def test_nobody_is_shut_out_by_himself(cluster, monkeypatch, addresses):
    """A client may have several addresses."""
    client, _ = cluster.client()
    monkeypatch.setattr(client, 'get_addrs', lambda: addresses)
    rbd_fence.shut_out(client, {'10.0.0.9:0/7', '10.0.0.9:0/77'})
    assert cluster.blocked == {'10.0.0.9:0/77'}


def test_only_those_are_shut_out_that_are_named(cluster):
    client, _ = cluster.client()
    rbd_fence.shut_out(client, set())
    assert cluster.blocked == set()
    rbd_fence.shut_out(client, {'a', 'b'})
    assert cluster.blocked == {'a', 'b'}
