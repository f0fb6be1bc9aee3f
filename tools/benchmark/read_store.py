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

"""Read an image to its end through the driver of its store.

A program of its own, run by the Python that has Glance, with Glance's
configuration. Prints what it took, as JSON.
"""

import argparse
import hashlib
import json
import time
import warnings


def configure():
    """Set up the stores as glance-api does."""
    # Some library below Glance greets everyone with this, on stderr.
    warnings.filterwarnings('ignore', '(?s).*Eventlet is deprecated')
    from glance.common import config as glance_config
    from glance.common import wsgi_app
    import glance_store
    glance_config.set_config_defaults()
    wsgi_app.CONF([], project='glance', prog='glance-api',
                  default_config_files=wsgi_app._get_config_files())
    glance_store.register_store_opts(
        wsgi_app.CONF, reserved_stores=wsgi_app.RESERVED_STORES)
    glance_store.create_multi_stores(
        wsgi_app.CONF, reserved_stores=wsgi_app.RESERVED_STORES)


def read(url, store, digest):
    """Seconds, CPU and bytes, and the digest where one is asked for."""
    from glance_store import multi_backend
    cpu, start, size = time.process_time(), time.monotonic(), 0
    chunks, _ = multi_backend.get(url, store)
    for chunk in chunks:
        size += len(chunk)
        if digest:
            digest.update(chunk)
    found = {'seconds': time.monotonic() - start,
             'cpu': time.process_time() - cpu, 'bytes': size}
    return found | ({'digest': digest.hexdigest()} if digest else {})


def main():
    """Read one image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('url')
    parser.add_argument('store')
    parser.add_argument('--digest', help='such as md5')
    options = parser.parse_args()
    configure()
    digest = hashlib.new(options.digest) if options.digest else None
    print(json.dumps(read(options.url, options.store, digest)))


if __name__ == '__main__':
    main()
