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

"""What is measured of each store; a contest for measure.compare()."""

from benchmark import cases

TIMEOUT = 3600     # seconds, of one request


class Part:
    """One measure of all stores, stock's and ours."""

    contestants = ('rbd', 'sparse_rbd', 'file', 'sparse_file')
    slow = True     # for stock: minutes

    def __init__(self, ground):
        self._ground = ground
        self._cloud = ground.cloud

    def empty(self):
        self._ground.clean()

    @staticmethod
    def case():
        return cases.case('d')
