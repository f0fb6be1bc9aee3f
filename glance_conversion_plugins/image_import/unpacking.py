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

"""What was decided, done with the disk in a package.

What is raw goes right from its package into the stores. In an OVA the disk is
a part of the upload, and is read where it is. All else is unpacked in staging,
and is an image like any other then.
"""

import contextlib
import os

from glance_conversion_plugins.copying import unpack
from glance_conversion_plugins import errors
from glance_conversion_plugins.external import staged
from glance_conversion_plugins.image_import import decision
from glance_conversion_plugins.image_import import execution
from glance_conversion_plugins.image_import import options

# Glance's clean-up knows files in staging by IMAGE_ID.ANYTHING, and ours too.
_SUFFIX = 'unpacked'


def execute(action: decision.Action, context: execution.Context
            ) -> execution.Result:
    """Do with the disk in a package what was decided."""
    declaration = context.declaration
    execution.see_expected(declaration, context.path, context.conversion)
    # A program reads it, or what is in it.
    execution.see_confined()
    package = unpack.Package(context.path, declaration.container_format,
                             options.policy())
    if (action is decision.Action.DIRECT
            and declaration.disk_format == 'raw'):
        return _store(package, context)
    is_wanted_so = declaration.disk_format == options.output_format()
    if declaration.container_format == 'ova' and not is_wanted_so:
        with contextlib.suppress(errors.LogNotReplayed):
            return execution.proceed(action, context._replace(
                part=unpack.see_part(package, context.conversion),
                uploaded=package.size))
    return _unpack(action, package, context)


def _store(package: unpack.Package, context: execution.Context
           ) -> execution.Result:
    sink = execution.open_sink(context)
    stored = unpack.store(package, sink, options.inline_digest_spec(),
                          context.image.check_quota, context.conversion)
    return execution.offered(context, stored.size, stored.digest, sink)


def _unpack(action: decision.Action, package: unpack.Package,
            context: execution.Context) -> execution.Result:
    path, result = context.beside(_SUFFIX), None
    is_wanted_so = context.declaration.disk_format == options.output_format()
    unpack.unpack(package, path, context.conversion)
    try:
        if action is decision.Action.STAGE and is_wanted_so:
            action = decision.Action.INSPECT
            context.image.check_quota(os.path.getsize(path))
        result = execution.proceed(action, context._replace(
            path=path, uploaded=package.size))
        return result
    finally:
        if result is None or result.path != path:
            staged.unlink(path)
