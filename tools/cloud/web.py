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

"""A small HTTP client for the REST services of the cloud."""

import json as json_module
import socket
import typing
import urllib.error
import urllib.request

# Nothing here is ever further than loopback, whatever http_proxy says.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Reply(typing.NamedTuple):
    """Status, headers and body; a JSON body comes parsed."""

    status: int
    headers: typing.Any
    body: typing.Any


def request(method, url, *, json=None, data=None, headers=None,
            timeout=600):
    """Send one request; error statuses are replies like any other."""
    headers = dict(headers or {})
    if json is not None:
        data = json_module.dumps(json).encode()
        headers.setdefault('Content-Type', 'application/json')
    sent = urllib.request.Request(url, data, headers, method=method)
    try:
        with _opener.open(sent, timeout=timeout) as answer:
            return _reply(answer)
    except urllib.error.HTTPError as error:
        with error:
            return _reply(error)


def answers(url):
    """Whether something at this URL answers without a server error."""
    try:
        return request('GET', url, timeout=10).status < 500
    except OSError:
        return False


def is_free(port):
    """Whether a server could listen on this port of loopback."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(('127.0.0.1', port))
        except OSError:
            return False
    return True


def _reply(answer):
    body = answer.read()
    if 'json' in answer.headers.get('Content-Type', '') and body:
        body = json_module.loads(body)
    return Reply(answer.status, answer.headers, body)
