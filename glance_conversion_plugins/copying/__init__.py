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

"""The data path: bytes from a source to a sink.

``convert`` is the way of one image through all of it. What is read is a
source, what is written a sink; ``pipeline`` moves one into the other, in any
order, and shows it in order to whoever digests or inspects it. ``upload`` and
``download`` do so for streams, whose order is given. ``slots`` bound how much
of that a node does at once, and ``courtesy`` is what can wait.
"""
