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

"""Glance's API, for what is asked of it as an administrator."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import re
from typing import Any

from keystoneauth1 import adapter as adapter_
from keystoneauth1 import exceptions
from openstack import config
from openstack import exceptions as sdk_exceptions
import requests

from glance_conversion_plugins import errors

_PIECE = 1 << 20
_DATA = {'Content-Type': 'application/octet-stream'}


def connect() -> 'ImageApi':
    """Who this is say the OS_* variables or clouds.yaml, as to any client.

    :raises errors.Misconfigured: if they do not say enough
    """
    try:
        region = config.OpenStackConfig().get_one()
        session = region.get_session()
        return ImageApi(adapter_.Adapter(
            session, service_type='image',
            interface=region.get_interface('image'),
            region_name=region.get_region_name('image'),
            endpoint_override=region.get_endpoint('image'),
            min_version='2', max_version='2.latest'),
            session.get_project_id())
    except (sdk_exceptions.ConfigException, exceptions.ClientException) as e:
        raise errors.Misconfigured(
            'This command needs the rights of an administrator: set '
            'OS_AUTH_URL and so on, or OS_CLOUD, as for the openstack client '
            f'({e})') from e


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (exceptions.ClientException,
            requests.exceptions.RequestException) as e:
        raise errors.ApiFailed(_said(e)) from e


def _said(error: Exception) -> str:
    """What Glance answers, out of a page of HTML if it is in one."""
    words = str(getattr(error, 'details', None) or error)
    return 'Glance says: ' + ' '.join(re.sub(r'<[^>]*>', ' ', words).split())


class _Body:
    """Data on its way, of a length that is known."""

    def __init__(self, reply: Any, length: int,
                 advance: Callable[[int], None]) -> None:
        self._reply = reply
        self._length = length
        self._advance = advance

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._reply.iter_content(_PIECE):
            self._advance(len(piece))
            yield piece


class ImageApi:
    """What is asked of Glance; all of it raises errors.ApiFailed."""

    def __init__(self, adapter: Any, project: str | None) -> None:
        """Describe it.

        :param adapter: of keystoneauth1
        :param project: of whoever asks, by its id
        """
        self._adapter = adapter
        self.project = project

    def copy_to_staging(self, source_id: str, size: int, image_id: str,
                        advance: Callable[[int], None]) -> None:
        """Stage for an image what another one has.

        :param size: of that, in bytes
        :param advance: told of each piece how long it is, in bytes
        """
        with (_translated(), contextlib.closing(self._adapter.get(
                f'/images/{source_id}/file', stream=True)) as reply):
            self._adapter.put(f'/images/{image_id}/stage', headers=_DATA,
                              data=_Body(reply, size, advance))

    def start_import(self, image_id: str, stores: list[str]) -> None:
        """Have Glance import what is staged for an image."""
        with _translated():
            self._adapter.post(f'/images/{image_id}/import', json={
                'method': {'name': 'glance-direct'}, 'stores': stores})

    def delete(self, image_id: str) -> None:
        """Have Glance delete an image."""
        with _translated():
            self._adapter.delete(f'/images/{image_id}')
