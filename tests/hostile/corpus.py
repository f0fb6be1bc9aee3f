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



"""Every image that the data path is shown."""

from tests.hostile import cut
from tests.hostile import qcow2
from tests.hostile import raw
from tests.hostile import valid
from tests.hostile import vdi
from tests.hostile import vhd
from tests.hostile import vhdx
from tests.hostile import vmdk

CASES = [*valid.CASES, *raw.CASES, *qcow2.CASES, *vdi.CASES, *vhd.CASES,
         *vhdx.CASES, *vmdk.CASES, *cut.CASES]
