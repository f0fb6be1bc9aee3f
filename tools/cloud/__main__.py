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

"""The command line: python3 tools/cloud COMMAND."""

import argparse
import json
import pathlib
import shlex
import sys
import time

if not __package__:
    # Run as a folder: its parent is what holds the package.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from cloud import boot
from cloud import Cloud
from cloud import debian_image
from cloud import install
from cloud import processes


def up(cloud, options):
    """Bring the cloud up and say where it is."""
    started = time.monotonic()
    cloud.up()
    print(f'up in {time.monotonic() - started:.1f} s')
    status(cloud, options)


def down(cloud, options):
    """Stop the cloud, and remove it if so asked."""
    if options.destroy:
        cloud.destroy()
    else:
        cloud.down()


def status(cloud, _options):
    """Print what runs and where."""
    print(json.dumps(cloud.status(), indent=2))


def env(cloud, options):
    """Print shell commands that make the clients talk to this cloud."""
    variables = cloud.environ(options.user)
    variables['CEPH_CONF'] = str(cloud.ceph.conf)
    variables['OS_GLANCE_CONFIG_DIR'] = str(cloud.glance.config_dir)
    for name, value in variables.items():
        print(f'export {name}={shlex.quote(value)}')
    print(f'export PATH={shlex.quote(str(cloud.settings.venv))}/bin:"$PATH"')


def client(cloud, options):
    """Run the glance client and pass on what it says."""
    args = options.args[1:] if options.args[:1] == ['--'] else options.args
    result = cloud.client(*args, user=options.user, check=False)
    sys.stdout.write(result.stdout)
    sys.stderr.write(result.stderr)
    return result.returncode


def image(_cloud, _options):
    """Build the Debian image, or find it in the cache."""
    built = debian_image.debian_image()
    print(built.qcow2, built.kernel, built.initrd, sep='\n')


def boot_image(cloud, options):
    """Boot a clone of an image and show its console."""
    boot.boot_clone(cloud, options.pool, options.image_id)


def install_all(cloud, _options):
    """Install the packages and the virtual environment."""
    install.install(cloud.settings.venv)


def parser():
    """The commands and their options."""
    top = argparse.ArgumentParser(prog='tools/cloud', description=__doc__)
    top.add_argument('--root', help='folder of the cloud')
    top.add_argument('--venv', help='where Glance, Keystone, uWSGI are')
    top.add_argument('--base-port', type=int, help='first of 100 ports')
    top.add_argument('--objectstore', choices=('memstore', 'bluestore'))
    commands = top.add_subparsers(dest='command', required=True)
    parsers = {}
    for name, action in {
            'install': install_all, 'up': up, 'down': down,
            'status': status, 'env': env, 'client': client,
            'image': image, 'boot': boot_image}.items():
        parsers[name] = commands.add_parser(name, help=action.__doc__)
        parsers[name].set_defaults(action=action)
    parsers['down'].add_argument('--destroy', action='store_true',
                                 help='remove the folder as well')
    for name, user in {'env': 'admin', 'client': 'demo'}.items():
        parsers[name].add_argument('--user', default=user,
                                   choices=('admin', 'demo'))
    parsers['client'].add_argument('args', nargs=argparse.REMAINDER)
    parsers['boot'].add_argument('image_id')
    parsers['boot'].add_argument('--pool', default='images')
    return top


def main():
    """Run one command."""
    options = parser().parse_args()
    try:
        cloud = Cloud(options.root, options.venv, options.base_port,
                      options.objectstore)
        return options.action(cloud, options)
    except (processes.CommandError, processes.CloudError, TimeoutError,
            ValueError) as error:
        return f'error: {error}'


if __name__ == '__main__':
    sys.exit(main())
