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

"""Configuration files in the dialect that Ceph and OpenStack share."""


def merge(*layers):
    """Later layers win; None removes an option or a whole section."""
    merged = {}
    for layer in layers:
        for section, options in (layer or {}).items():
            if options is None:
                merged.pop(section, None)
                continue
            target = merged.setdefault(section, {})
            target.update(options)
            for name in [n for n, v in target.items() if v is None]:
                del target[name]
    return merged


def write(path, sections):
    """Write sections of options; readable only by their owner."""
    lines = []
    for section, options in sections.items():
        lines.append(f'[{section}]')
        lines += [f'{name} = {value}' for name, value in options.items()]
        lines.append('')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)
    path.write_text('\n'.join(lines))
