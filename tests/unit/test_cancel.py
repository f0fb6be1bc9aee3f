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

import threading

from glance_conversion_plugins import cancel


def test_interrupts_whoever_has_asked():
    heard = []
    made = cancel.Cancel()
    with made.interrupting(lambda: heard.append('one')):
        with made.interrupting(lambda: heard.append('two')):
            made.set()
    assert heard == ['one', 'two']
    assert made.is_set()


def test_interrupts_nobody_afterwards():
    heard = []
    made = cancel.Cancel()
    with made.interrupting(lambda: heard.append('one')):
        pass
    made.set()
    assert heard == []


def test_interrupts_at_once_if_it_is_set_already():
    heard = []
    made = cancel.Cancel()
    made.set()
    with made.interrupting(lambda: heard.append('one')):
        assert heard == ['one']


def test_wakes_who_waits():
    made = cancel.Cancel()
    threading.Timer(0.05, made.set).start()
    assert made.wait(10)
