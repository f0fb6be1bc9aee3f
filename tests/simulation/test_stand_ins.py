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

"""The stand-ins and the real database do the same; Ceph's turn is elsewhere.
"""

import pytest

from glance_conversion_plugins.glance_db import compat
from glance_conversion_plugins.glance_db import records
from tests.simulation import ceph
from tests.simulation import checks
from tests.simulation import glance
from tests.simulation import world
from tests.unit import databases


@pytest.mark.parametrize('check', checks.CEPH_CHECKS, ids=checks.name)
def test_ceph(check):
    cluster = ceph.Cluster(world.World(0))
    rados, rbd = cluster.bindings()
    check(checks.Ceph(rados, rbd, rados.Rados))


@pytest.mark.parametrize('check', checks.RECORDS_CHECKS, ids=checks.name)
def test_records(check):
    database = glance.Database(world.World(0))

    def new_image(status, url=None, **properties):
        image_id = database.new_image(status)
        database.images[image_id].extra_properties |= properties
        if url:
            image = database.image_repo().get(image_id)
            image.locations.append({'url': url, 'metadata': {}})
            database.image_repo().save(image)
        return image_id

    check(database.image_repo, new_image, database)


@pytest.mark.parametrize('check', checks.RECORDS_CHECKS, ids=checks.name)
def test_real_records(check, tmp_path):
    def new_image(status, url=None, **properties):
        return databases.add_image(status, urls=(url,) if url else (),
                                   properties=properties)

    with databases.glance_database(tmp_path / 'glance.sqlite'):
        check(compat.image_repo, new_image, records)
