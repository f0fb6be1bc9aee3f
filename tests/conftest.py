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

"""No test hangs for ever, whatever it hangs in."""

import faulthandler
import os
import sys
import threading

import pytest

_STDERR = pytest.StashKey()


def pytest_configure(config):
    # Where pytest captures it, what is printed last would be lost.
    config.stash[_STDERR] = os.dup(sys.__stderr__.fileno())


def _limit(config):
    """Seconds that a test has, and as long again to tidy up."""
    chosen = config.getoption('timeout')
    return 2 * float(config.getini('timeout') if chosen is None else chosen)


def _end(name, stderr):
    os.write(stderr, f'\n{name} hangs, in these threads:\n'.encode())
    faulthandler.dump_traceback(stderr)
    os._exit(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Past its limit a test is ended, and all of its process with it.

    pytest-timeout sends a signal, once: that ends nothing in a library
    that does not return, and nothing that hangs as the test tidies up.
    """
    if not (limit := _limit(item.config)):
        return (yield)
    timer = threading.Timer(limit, _end,
                            [item.nodeid, item.config.stash[_STDERR]])
    timer.daemon = True
    timer.start()
    try:
        return (yield)
    finally:
        timer.cancel()
        # Some tests count threads.
        timer.join()
