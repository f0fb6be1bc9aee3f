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

"""The main job, end to end, with the real parts and the real client."""

import argparse
import re
import sys
import time

from cloud import boot
from cloud import Cloud
from cloud import debian_image


def say(text):
    print(f'\n== {text}', flush=True)


def show(cloud, *args, user='demo'):
    """Run the glance client and print what it says; returns it too."""
    print('$ glance', *args, flush=True)
    out = cloud.client(*args, user=user).stdout
    print(out, flush=True)
    return out


def watch(cloud, image_id):
    """Print the messages of the import's task until it ends."""
    last = ''
    while True:
        _, body = cloud.api('GET', f'/v2/images/{image_id}/tasks')
        task = body['tasks'][0]
        if task['message'] and task['message'] != last:
            last = task['message']
            print(f'   {last}', flush=True)
        if task['status'] in ('success', 'failure'):
            return task['status']
        time.sleep(0.5)


def import_image(cloud, path):
    """Import as the ordinary user; returns the id of the image."""
    started = time.monotonic()
    out = show(cloud, 'image-create-via-import', '--disk-format', 'qcow2',
               '--container-format', 'bare', '--name', 'debian',
               '--store', 'ceph', '--file', str(path))
    image_id = re.search(r'\| id +\| (\S+)', out)[1]
    say('What the owner sees meanwhile')
    status = watch(cloud, image_id)
    print(f'   {status}, {time.monotonic() - started:.0f} s after the '
          'command was entered')
    return image_id


def show_pool(cloud, image_id):
    for args in (('du', image_id), ('snap', 'ls', image_id)):
        print('$ rbd -p images', *args, flush=True)
        print(cloud.ceph.run('rbd', '-p', 'images', *args).stdout)
    staged = sorted(p.name for p in cloud.glance.staging.iterdir())
    print(f'staging folder: {staged or "empty"}')


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--boot', action='store_true',
                        help='boot a clone of the imported image')
    parser.add_argument('--down', action='store_true',
                        help='stop the cloud and remove it')
    parser.add_argument('--root', help='folder of the cloud')
    options = parser.parse_args()
    cloud = Cloud(options.root, sys.prefix)
    if options.down:
        cloud.destroy()
        return
    say('Ceph, Keystone and Glance come up')
    cloud.up()
    say('The image: Debian on a disk of 10 GiB, as compressed qcow2')
    image = debian_image.debian_image()
    print(f'{image.qcow2}: {image.qcow2.stat().st_size / 2 ** 20:.0f} MiB')
    say('An ordinary user imports it')
    image_id = import_image(cloud, image.qcow2)
    say('The image as Glance has recorded it')
    show(cloud, 'image-show', image_id)
    say('What is in the pool, and in staging')
    show_pool(cloud, image_id)
    if options.boot:
        say('A copy-on-write clone of it boots')
        boot.boot_clone(cloud, 'images', image_id)
    say('The cloud goes on running. To go on with it yourself:')
    print(f'   eval "$(python3 tools/cloud --root {cloud.root} --venv '
          f'{sys.prefix} env --user demo)"\n   glance image-list\n'
          'To stop it and remove it:\n   tools/demo.sh --down')


if __name__ == '__main__':
    main()
