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

"""Images of Glance: uploaded, imported, timed, deleted."""

import os
import time

from cloud import processes

POLL = 0.1


class ImportFailed(Exception):
    """Glance did not make the image active."""


class Image:
    """One image in Glance, by way of its REST API."""

    def __init__(self, cloud, case, staged=True):
        """Create the image and, if wanted, upload its file to staging."""
        self._cloud = cloud
        self.id = self._call('POST', '', 201, json={
            'name': f'bench-{case.key}',
            'container_format': case.container,
            'disk_format': case.disk_format})['id']
        self._path = f'/{self.id}'
        if staged:
            self._stage(case)

    def _stage(self, case):
        self._send('stage', case)
        # A file system makes tables of a file when it writes it down: they
        # would count as what the import allocates.
        os.sync()

    def upload(self, case):
        """Have its file stored as it is, without an import."""
        self._send('file', case)

    def _send(self, where, case):
        with open(case.path, 'rb') as data:
            self._call('PUT', f'{self._path}/{where}', 204, data=data,
                       headers={'Content-Type': 'application/octet-stream',
                                'Content-Length': str(
                                    case.path.stat().st_size)})

    def start_import(self, stores=None, method='glance-direct',
                     user='demo'):
        """Ask for the import; it goes on by itself."""
        wanted = {'stores': stores} if stores else {}
        self._call('POST', f'{self._path}/import', 202, user=user, json={
            'method': {'name': method}} | wanted)

    def wait_active(self):
        """Wait for the end of the import."""
        while (image := self.show())['status'] != 'active':
            # A failed import gives the image back.
            if image['status'] not in ('importing', 'uploading'):
                raise ImportFailed(f'{image["status"]}: {self._reason()}')
            time.sleep(POLL)
        return image

    def wait_stored(self, store):
        """Wait until an active image is in one more store."""
        while store not in (image := self.show())['stores'].split(','):
            if image['os_glance_failed_import']:
                raise ImportFailed(f'{store}: {self._reason()}')
            time.sleep(POLL)

    def wait_idle(self, timeout=60):
        """Wait until the task is over, which may be after its success."""
        processes.wait_until(
            lambda: 'os_glance_import_task' not in self.show(), timeout,
            f'end of the task of {self.id}')

    def wait_digests(self):
        """Wait until Glance knows the digest of the image."""
        while not (image := self.show())['os_hash_value']:
            time.sleep(POLL)
        return image

    def show(self):
        """What Glance says of the image."""
        return self._call('GET', self._path, 200)

    def delete(self, timeout=60):
        """Delete the image; what still reads it may finish first."""
        def deleted():
            status, _ = self._cloud.api('DELETE', f'/v2/images/{self.id}')
            return status in (204, 404)
        processes.wait_until(deleted, timeout, f'deletion of {self.id}', 0.5)

    def delete_from(self, store):
        """Delete the image from one of its stores."""
        status, body = self._cloud.api(
            'DELETE', f'/v2/stores/{store}/{self.id}', user='admin')
        if status != 204:
            raise processes.CloudError(f'{store}: {status} {body}')

    def _reason(self):
        tasks = self._call('GET', f'{self._path}/tasks', 200)['tasks']
        return '; '.join(task['message'] for task in tasks)

    def _call(self, method, path, expected, **kwargs):
        status, body = self._cloud.api(
            method, f'/v2/images{path}', **kwargs)
        if status != expected:
            raise ImportFailed(f'{method} {path}: {status} {body}')
        return body
