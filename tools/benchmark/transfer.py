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

"""Image data over HTTP, with as little work in the client as can be."""

import http.client
import os
import time
import urllib.parse

from cloud import processes

BLOCK = 2 ** 20
TIMEOUT = 3600


def put(cloud, image_id, store, path):
    """Upload a file as the data of an image."""
    with open(path, 'rb') as data:
        reply = _request(cloud, 'PUT', image_id, data, {
            'Content-Type': 'application/octet-stream',
            'Content-Length': str(os.path.getsize(path)),
            'X-Image-Meta-Store': store})
        with reply:
            _expect(reply, 204)


def get(cloud, image_id):
    """Download the data of an image; returns how many bytes came."""
    buffer, size = bytearray(BLOCK), 0
    with _request(cloud, 'GET', image_id) as reply:
        _expect(reply, 200)
        while count := reply.readinto(buffer):
            size += count
    return size


def first_byte(cloud, image_id):
    """Seconds until a download gives its first byte."""
    start = time.monotonic()
    with _request(cloud, 'GET', image_id) as reply:
        _expect(reply, 200)
        reply.read(1)
        return time.monotonic() - start


def _request(cloud, method, image_id, data=None, headers=None):
    """The reply, whose connection ends with it."""
    connection = http.client.HTTPConnection(
        urllib.parse.urlsplit(cloud.glance.url).netloc, timeout=TIMEOUT,
        blocksize=BLOCK)
    connection.request(
        method, f'/v2/images/{image_id}/file', data,
        {'X-Auth-Token': cloud.keystone.token('demo')} | (headers or {}))
    return connection.getresponse()


def _expect(reply, status):
    if reply.status != status:
        raise processes.CloudError(
            f'{reply.status} {reply.read().decode(errors="replace")}')
