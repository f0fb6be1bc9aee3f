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

"""What the owner of an image that is read is to know of it.

They follow the message of an import that succeeds, each a sentence of its
own.
"""

BEYOND = ('Its file has more than its disk: what is before or after its '
          'footer was left out')

REFCOUNTS = ('Its reference counts do not agree with its tables, as when it '
             'was not closed; its content was read by its tables, which are '
             'sound')

LOG = ('It was not closed properly: what its log held was written to its '
       'place before it was read')
