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


"""What ``glance-conversion-status upgrade check`` looks at.

A check takes nothing, looks at this deployment and returns a result whose
details say what was found, and what to do about it.
"""

from collections.abc import Sequence

from oslo_upgradecheck import upgradecheck


def success(details: str) -> upgradecheck.Result:
    return upgradecheck.Result(upgradecheck.Code.SUCCESS, details)


def verdict(failures: Sequence[str], warnings: Sequence[str], details: str
            ) -> upgradecheck.Result:
    """A result: failed, or with warnings, or as the details say."""
    if failures:
        return upgradecheck.Result(upgradecheck.Code.FAILURE,
                                   ' '.join([*failures, *warnings]))
    if warnings:
        return upgradecheck.Result(upgradecheck.Code.WARNING,
                                   ' '.join(warnings))
    return success(details)
