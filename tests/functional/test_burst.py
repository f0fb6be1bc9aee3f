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

"""Many imports at once: who waits for what, and who gives way."""

import pytest

from tests.functional import support

MIB = support.MIB


@pytest.fixture
def set_quota(glance):
    """Set the quota of the first pool."""
    def set_quota(size):
        glance.cloud.ceph.run('ceph', 'osd', 'pool', 'set-quota', 'images',
                              'max_bytes', str(size))

    yield set_quota
    set_quota(0)


def test_an_image_waits_for_room_that_one_before_it_may_need(
        glance, configure, images, set_quota):
    configure(conversion={'max_concurrent': 3})
    qcow2, raw = images.full()
    small, _ = images.qcow2('small')
    set_quota(450 * MIB)
    first = glance.begin(qcow2)
    with glance.held(first):
        second = glance.begin(qcow2)
        support.wait_for(lambda: glance.message(second).startswith(
            'Waiting for room, which other conversions may need, '))
        # What is for another pool waits for nothing.
        assert glance.imported(small, stores=['ceph2'])['status'] == 'active'
        assert glance.message(second).startswith('Waiting for room')
        assert len(glance.stored()) == 1
        set_quota(0)
        assert glance.finish(second)['status'] == 'active'
    for image_id in first, second:
        image = glance.finish(image_id)
        assert image['status'] == 'active'
        assert image['os_hash_value'] == support.digests(raw)[1]


def test_staging_keeps_the_room_that_it_is_to_keep(glance, configure, images):
    configure(conversion={'min_free_staging': '1000TB'})
    qcow2, _ = images.full()
    # Right into a store it needs none.
    assert glance.imported(qcow2)['status'] == 'active'
    image, message = glance.refused(qcow2, stores=('local',))
    assert 'has too little room for it now; import the image again' in message
    assert image['status'] == 'queued'
    assert glance.staged() == []


def test_digests_wait_until_no_image_is_converted(glance, configure, images):
    configure(conversion={'digests': 'deferred'})
    full, _ = images.full()
    small, raw = images.qcow2('small')
    first = glance.begin(full)
    with glance.held(first):
        second = glance.imported(small)
        assert second['status'] == 'active'
        with pytest.raises(AssertionError):
            support.wait_for(
                lambda: glance.show(second['id'])['os_hash_value'], 5)
    glance.finish(first)
    support.wait_for(lambda: glance.show(second['id'])['os_hash_value']
                     == support.digests(raw)[1])


def test_each_conversion_keeps_its_rate(glance, configure, images):
    """250 MB at 15 MB in a second take sixteen, and data is what counts."""
    configure(conversion={'rate_limit': '15MB'})
    qcow2, raw = images.full()
    image_id = glance.begin(qcow2)
    shares = set()
    while glance.task(image_id)['status'] in ('pending', 'processing'):
        shares.add(glance.message(image_id).partition('%')[0])
    # It tells so every few seconds.
    assert len([s for s in shares if s.startswith('Converting: ')]) >= 3
    image = glance.finish(image_id)
    assert image['os_hash_value'] == support.digests(raw)[1]
