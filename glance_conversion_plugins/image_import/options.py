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

"""What the configuration of this deployment says of imports."""

from typing import Any

from oslo_config import cfg

from glance_conversion_plugins.copying import conversion as conversion_
from glance_conversion_plugins.copying import digest
from glance_conversion_plugins.copying import slots as slots_
from glance_conversion_plugins.formats import detection

CONF = cfg.CONF


def output_format() -> str:
    """What images are converted to, as Glance names it."""
    return str(CONF.conversion.output_format
               or CONF.image_conversion.output_format)


def output_options() -> list[str]:
    """Of qemu-img convert, where it writes images of that format."""
    compression = CONF.conversion.qcow2_compression
    if output_format() != 'qcow2' or compression == 'none':
        return []
    return ['-c', '-o', f'compression_type={compression}']


def formats_must_match() -> bool:
    """Whether Glance takes nothing that is not what it is declared."""
    return bool(CONF.image_format.require_image_format_match)


def unpacks() -> bool:
    """Whether packages are unpacked, and what is in them is converted."""
    return bool(CONF.conversion.unpack)


def hashes_uploads() -> bool:
    """Whether the hash of what was uploaded is recorded."""
    return bool(CONF.conversion.source_hash)


def min_disk(virtual_size: int) -> int:
    """What an image of so many bytes needs, in GiB; 0 if nobody asks."""
    return -(-virtual_size >> 30) if CONF.conversion.raise_min_disk else 0


def policy() -> detection.Policy:
    """Which images are allowed."""
    cap: Any = CONF.image_size_cap
    return detection.Policy(
        min(CONF.conversion.max_virtual_size or cap, cap),
        CONF.image_format.gpt_safety_checks_nonfatal,
        CONF.image_format.vmdk_allowed_types,
        CONF.conversion.max_expansion)


def node() -> conversion_.Node:
    """What the conversions of this node share."""
    return conversion_.Node(CONF.oslo_concurrency.lock_path,
                        CONF.conversion.min_free_staging or 0,
                        CONF.conversion.rate_limit or 0)


def slots() -> slots_.Limits:
    """How many images are converted at once."""
    return slots_.Limits(CONF.conversion.max_concurrent,
                         CONF.conversion.max_concurrent_per_project)


def sandbox_is_required() -> bool:
    """Whether no program may read an image that is not fully confined."""
    return bool(CONF.conversion.sandbox == 'required')


def reads_back() -> bool:
    """Whether what was stored is read again before an image is active."""
    return bool(CONF.conversion.verify_after_write)


def digests_are_deferred() -> bool:
    # What is read back is compared with the digest of what was written.
    return bool(CONF.conversion.digests == 'deferred') and not reads_back()


def digest_spec(is_upload: bool = False) -> digest.DigestSpec:
    """Which digests an image gets, now or later.

    :param is_upload: whether it is stored as it was uploaded
    """
    return digest.DigestSpec(CONF.hashing_algorithm,
                             CONF.conversion.legacy_checksum,
                             is_upload and hashes_uploads())


def inline_digest_spec(is_upload: bool = False) -> digest.DigestSpec:
    """Which of them are computed while the image is written."""
    if digests_are_deferred():
        return digest.DigestSpec(None, checksum=False)
    return digest_spec(is_upload)
