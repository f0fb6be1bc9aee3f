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

"""What the first bytes at an address tell, before anybody downloads them."""

from collections.abc import Iterator
import tempfile
import urllib.request

from glance_conversion_plugins.formats import archives
from glance_conversion_plugins.formats import inspection
from glance_conversion_plugins.image_import import options
from glance_conversion_plugins.units import amount

# A vhdx says what it is within its first 4 MiB, all others before.
_BEGINNING = 8 << 20
_TIMEOUT = 30       # seconds


def report(url: str) -> Iterator[str]:
    """Lines for an operator.

    :param url: http:// or https://
    :raises errors.ImageRefused: in the words of an import
    :raises OSError: if the address does not answer
    """
    head, size = _fetch(url)
    if size:
        yield f'size of the file: {amount(size)}'
    yield f'read: {amount(len(head))}'
    if (container := archives.container(head)) != 'bare':
        kind = archives.compression(head)
        yield f'container: {container}' + (f' ({kind})' if kind else '')
        yield (f'verdict: import it with the container format "{container}"; '
               'what is in it shows once all of it is here')
        return
    archives.refuse(head)
    with tempfile.NamedTemporaryFile(prefix='inspect-') as f:
        f.write(head)
        f.flush()
        found = inspection.find_format(f.name, options.policy()).name
    # A fixed vhd says so in its last sector.
    yield f'format: {found}' + (', or a fixed vhd' if found == 'raw' else '')
    yield ('verdict: nothing in its first bytes keeps it from being imported; '
           'the rest shows once it is here')


def _fetch(url: str) -> tuple[bytes, int]:
    """The beginning of a file, and the size of all of it; 0: not known."""
    # The caller sees to its scheme.
    request = urllib.request.Request(url, headers={     # noqa: S310
        'Range': f'bytes=0-{_BEGINNING - 1}'})
    with urllib.request.urlopen(            # noqa: S310
            request, timeout=_TIMEOUT) as answer:
        head = answer.read(_BEGINNING)
        whole = (answer.headers.get('Content-Range', '').rpartition('/')[2]
                 or answer.headers.get('Content-Length', ''))
    return head, int(whole) if whole.isdigit() else 0
