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

"""Values that options have, beyond what oslo.config knows."""

import re

from oslo_config import types

_UNITS = {'B': 0, 'KB': 10, 'MB': 20, 'GB': 30, 'TB': 40}


class _Value(types.ConfigType):
    """A type without parameters: all of one class are equal."""

    def __repr__(self) -> str:
        return type(self).__name__

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


class Size(_Value):
    """An amount of bytes, written as Glance's ``user_storage_quota`` is."""

    def __init__(self) -> None:
        super().__init__(type_name='size value')

    def __call__(self, value: object) -> int:
        match = re.fullmatch(r'(\d+)([KMGT]?B)?', str(value))
        if not match or not int(match[1]):
            raise ValueError(f'"{value}" is not a size: write a number '
                             'of bytes, or one followed by B, KB, MB, GB or '
                             'TB, as in 100GB')
        return int(match[1]) << _UNITS[match[2] or 'B']

    def _formatter(self, value: object) -> str:
        return str(value)


class Pair(_Value):
    """A name and a value, written as ``name:value``."""

    def __init__(self) -> None:
        super().__init__(type_name='pair')

    def __call__(self, value: object) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, colon, content = str(value).partition(':')
        if not (name.strip() and colon):
            raise ValueError(f'"{value}" is not a pair of a name and a '
                             'value, as in prefetch:true')
        return name.strip(), content.strip()

    def _formatter(self, value: tuple[str, str]) -> str:
        return ':'.join(value)
