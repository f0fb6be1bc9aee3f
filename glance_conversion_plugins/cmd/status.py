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


"""``glance-conversion-status upgrade check``: is this deployment sound?

Reads the configuration of the deployment's own Glance, as glance-api does, and
tries what an import needs. The exit status is 0 if all is well, 1 with
warnings, 2 with failures, 255 if it could not look.
"""

from collections.abc import Callable
from collections.abc import Sequence
import sys

from oslo_config import cfg
from oslo_upgradecheck import upgradecheck

from glance_conversion_plugins.cmd.checks import configuration
from glance_conversion_plugins.cmd.checks import environment
from glance_conversion_plugins.cmd import display
from glance_conversion_plugins.cmd import service

CONF = cfg.CONF


def _all() -> list[tuple[str, Callable[[], upgradecheck.Result]]]:
    return [
        ('Glance release', configuration.glance_version),
        ('Values of options', configuration.options),
        ('Import plugins', configuration.import_plugins),
        ('Types of stores', configuration.stores),
        ('Libraries of the distribution', environment.bindings),
        # After this, Glance sees our stores as the types that it knows.
        ('Options of stores', environment.stores_configured),
        ('qemu', environment.programs),
        ('Confinement of qemu', environment.confined),
        ('Stores', environment.stores_answer),
        ('Staging', environment.staging),
        ('URL of this node', configuration.worker_url),
        ('Stock conversion under uWSGI', configuration.stock_conversion),
        ('Image cache', environment.cache),
        ('Leftovers', environment.leftovers),
    ]


def _guarded(check: Callable[[], upgradecheck.Result]
             ) -> upgradecheck.Result:
    try:
        return check()
    except Exception as e:
        return upgradecheck.Result(
            upgradecheck.Code.FAILURE,
            f'It could not be looked at: {type(e).__name__}: {e}')


class _Checks(upgradecheck.UpgradeCommands):
    def check(self) -> upgradecheck.Code:
        checks = _all()
        with display.Display(quiet=True) as shown:
            found = []
            for number, (title, check) in enumerate(checks, 1):
                shown.progress.enter(f'{title} ({number} of {len(checks)})')
                found.append((title, _guarded(check)))
        self._upgrade_checks = tuple((title, lambda _, r=result: r)
                                     for title, result in found)
        return super().check()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    service.prepare(CONF)
    upgradecheck.register_cli_options(CONF, _Checks())
    try:
        service.read(CONF, 'glance-conversion-status',
                     sys.argv[1:] if argv is None else argv)
    except cfg.Error as e:
        print(f'glance-conversion-status: {e}', file=sys.stderr)
        return 255
    # Its main() does this; but it knows no folders of files.
    upgradecheck.CONF = CONF
    return upgradecheck.run(CONF)


if __name__ == '__main__':
    sys.exit(main())
