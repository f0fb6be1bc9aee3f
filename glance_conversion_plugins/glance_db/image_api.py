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
"""Glance's API, as an administrator's client uses it."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import re
from typing import Any

from keystoneauth1 import adapter as adapter_
from keystoneauth1 import exceptions
from openstack import config
from openstack import exceptions as sdk_exceptions
import requests

from glance_conversion_plugins import errors

# An image, as the API shows it.
Shown = Mapping[str, Any]

_PIECE = 1 << 20
_DATA = {'Content-Type': 'application/octet-stream'}
_PATCH = {'Content-Type': 'application/openstack-images-v2.1-json-patch'}


def connect() -> 'ImageApi':
    """Who this is say the OS_* variables or clouds.yaml, as to any client.

    :raises errors.Misconfigured: if they do not say enough
    """
    try:
        region = config.OpenStackConfig().get_one()
        return ImageApi(adapter_.Adapter(
            region.get_session(), service_type='image',
            interface=region.get_interface('image'),
            region_name=region.get_region_name('image'),
            endpoint_override=region.get_endpoint('image'),
            min_version='2', max_version='2.latest'))
    except (sdk_exceptions.ConfigException, exceptions.ClientException) as e:
        raise errors.Misconfigured(
            'This command needs the rights of an administrator: set '
            'OS_AUTH_URL and so on, or OS_CLOUD, as for the openstack client '
            f'({e})'
        ) from e


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except exceptions.NotFound as e:
        raise errors.NotStored(_said(e)) from e
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
    """What is asked of Glance.

    All of it raises errors.ApiFailed, and errors.NotStored of what is not
    there.
    """

    def __init__(self, adapter: Any) -> None:
        """Describe it.

        :param adapter: of keystoneauth1
        """
        self._adapter = adapter

    def show(self, image_id: str) -> Shown:
        with _translated():
            shown: Shown = self._adapter.get(f'/images/{image_id}').json()
            return shown

    def create(self, image: Shown) -> None:
        with _translated():
            self._adapter.post('/images', json=image)

    def copy_to_staging(self, source: Shown, image_id: str,
                        advance: Callable[[int], None]) -> None:
        """Stage for an image what another one has.

        :param advance: told of each piece how long it is, in bytes
        """
        with (_translated(), contextlib.closing(self._adapter.get(
                f'/images/{source["id"]}/file', stream=True)) as reply):
            self._adapter.put(
                f'/images/{image_id}/stage', headers=_DATA,
                data=_Body(reply, source['size'], advance))

    def start_import(self, image_id: str, stores: list[str]) -> None:
        with _translated():
            self._adapter.post(f'/images/{image_id}/import', json={
                'method': {'name': 'glance-direct'}, 'stores': stores})

    def last_task(self, image_id: str) -> Shown:
        """The task of an image that was begun last; empty if there is none."""
        with _translated():
            tasks = self._adapter.get(f'/images/{image_id}/tasks').json()
        found: Shown = max(tasks['tasks'], default={},
                           key=lambda task: task['created_at'])
        return found

    def change(self, image_id: str, values: Mapping[str, Any]) -> None:
        with _translated():
            self._adapter.patch(f'/images/{image_id}', headers=_PATCH, json=[
                {'op': 'replace', 'path': f'/{name}', 'value': value}
                for name, value in values.items()])

    def remove_property(self, image_id: str, name: str) -> None:
        with _translated():
            self._adapter.patch(f'/images/{image_id}', headers=_PATCH, json=[
                {'op': 'remove', 'path': f'/{name}'}])

    def members(self, image_id: str) -> dict[str, str]:
        """The projects that an image is shared with: {id: their status}."""
        with _translated():
            found = self._adapter.get(f'/images/{image_id}/members').json()
        return {each['member_id']: each['status']
                for each in found['members']}

    def share(self, image_id: str, member: str, status: str) -> None:
        with _translated():
            self._adapter.post(f'/images/{image_id}/members',
                               json={'member': member})
            self._adapter.put(f'/images/{image_id}/members/{member}',
                              json={'status': status})

    def delete(self, image_id: str) -> None:
        with _translated():
            self._adapter.delete(f'/images/{image_id}')
