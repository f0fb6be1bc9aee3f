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

"""One line in the log for each import that a plugin decides about.

For programs, which find the same keys in each of them: those of ``KEYS``, and
``NAME_seconds`` for each stage that took any time. Stages run side by side.
The same is counted for the metrics of the node.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import json
import logging
import time
from typing import Any

from glance_conversion_plugins import errors
from glance_conversion_plugins.image_import import decision
from glance_conversion_plugins.image_import import options
from glance_conversion_plugins.maintenance import tally

LOG = logging.getLogger(__name__)

KEYS = ('image', 'task', 'request', 'plugin', 'outcome', 'reason', 'format',
        'container', 'to', 'stores', 'upload_bytes', 'disk_bytes',
        'written_bytes', 'seconds')

# What an import has come to that was not kept from its end.
DONE = {decision.Action.DIRECT: 'converted', decision.Action.STAGE: 'staged',
        decision.Action.INSPECT: 'inspected'}

# What is not known, and what is empty.
_NONE = '-'


class Journal:
    """What is known of an import, until it is told."""

    def __init__(self, **known: object) -> None:
        self._known: dict[str, Any] = dict.fromkeys(KEYS, '') | known
        self._stages: dict[str, float] = {}
        self._is_told = True

    def note(self, **known: object) -> None:
        """Learn more; each name is one of ``KEYS``."""
        self._known |= known

    def spent(self, stages: Mapping[str, float]) -> None:
        """Learn how many seconds each stage took."""
        self._stages |= stages

    def omit(self) -> None:
        """Say nothing: another plugin is to decide."""
        self._is_told = False

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Tell at the end how it ended."""
        start = time.monotonic()
        try:
            yield
        except Exception as e:
            self.note(outcome=_outcome(e), reason=type(e).__name__)
            raise
        finally:
            self.note(seconds=round(time.monotonic() - start, 2))
            if self._is_told:
                LOG.info('import %s', self)
                tally.add(options.node().locks, self._increments())

    def _increments(self) -> dict[tally.Key, float]:
        """What it adds to the counters of the node."""
        known, outcome = self._known, str(self._known['outcome'])
        reason = '' if outcome == 'kept' else known['reason']
        found: dict[tally.Key, float] = {
            tally.Key('imports', (outcome, reason, known['format'],
                                  known['container'])): 1}
        for name in ('upload_bytes', 'disk_bytes', 'written_bytes'):
            found[tally.Key(name, (outcome,))] = float(known[name] or 0)
        found |= tally.observation('import_seconds', outcome,
                                   known['seconds'])
        for stage, spent in self._stages.items():
            found |= tally.observation('stage_seconds', stage, spent)
        return found

    def __str__(self) -> str:
        stages = {f'{name.replace(" ", "_")}_seconds': round(spent, 2)
                  for name, spent in self._stages.items()}
        return ' '.join(f'{name}={_written(value)}' for name, value
                        in (self._known | stages).items())


def _outcome(error: Exception) -> str:
    if isinstance(error, errors.ImageRefused):
        return 'refused'
    return 'stopped' if isinstance(error, errors.Cancelled) else 'failed'


def _written(value: Any) -> str:
    """A value without blanks, or in quotes."""
    text = str(value) or _NONE
    # What a user has written must not look like another key, or line.
    return text if text.isascii() and all(
        c.isalnum() or c in '-_.,:' for c in text) else json.dumps(text)
