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

"""The runs whose tables are in the documents, and what each measures."""

# By the folder of its results.
RUNS = {
    'images': '--cases a,b --api',
    'raw': '--cases d',
    'pieces': '--cases f,g,h,h-raw --first-byte',
    'packages': '--cases xz,zst',
    'burst': '--cases= --burst 4',
    'formats': '--cases c,vmdk,vhdx --latency --memory',
    'bluestore': '--cases a,b,c --objectstore bluestore',
    'burst-of-16': '--cases= --burst 16 --crowd 16 --runs 1',
    'stores': '--cases= --stores import,upload,read,dense --runs 1',
    'stores-read': '--cases= --stores read,download,copy,four',
    'cache': '--cases= --stores prefetch',
}


def arguments(name, folder):
    """The command line of one of them, which writes below a folder."""
    return [*RUNS[name].split(), f'--output={folder / name}']
