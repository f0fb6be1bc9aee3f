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

"""Every option of this package, one group per feature."""

from oslo_config import cfg
from oslo_config import types

from glance_conversion_plugins.config import values

CONVERSION_OPTS: list[cfg.Opt] = [
    cfg.StrOpt('output_format', choices=[
        ('raw', 'the disk itself, as Ceph wants it'),
        ('qcow2', 'QEMU'), ('vdi', 'VirtualBox'), ('vhd', 'Hyper-V, Xen'),
        ('vhdx', 'Hyper-V'), ('vmdk', 'VMware')], help="""
Format that images are converted to.

Unset, it is what ``[image_conversion] output_format`` says, so a deployment
that names its format there need not name it again. Images go directly into a
store only where this is ``raw``.
"""),
    cfg.StrOpt('digests', default='inline', choices=[
        ('inline', 'while the image is written; it becomes active when both '
         'are known'),
        ('deferred', 'from the stored data, once the image is active; until '
         'then they are null')], help="""
When ``checksum`` and ``os_hash_value`` are computed.

With ``deferred``, an image of mostly zeros becomes active several times
sooner, for digests cover every zero.
"""),
    cfg.BoolOpt('legacy_checksum', default=True, help="""
Whether the md5 ``checksum`` is computed beside ``os_hash_value``.

Without it the field stays null, and a conversion costs half as much CPU time
for digests. Clients older than the multihash (before 2019) verify downloads
by this field alone.
"""),
    cfg.Opt('max_virtual_size', type=values.Size(), help="""
Largest size that an image may have once converted, as in ``500GB``.

A number of bytes, or one followed by B, KB, MB, GB or TB (powers of 1024).
Larger images are refused before anything is written, but for a raw disk in
an archive, whose size shows while it is unpacked. Glance's own
``image_size_cap``, 1 TiB by default, holds too: to allow more, raise both.
"""),
    cfg.IntOpt('max_expansion', default=200, min=0, help="""
How many bytes of data an image may hold for each byte that was uploaded.

Zeros do not count, and 1 GiB of data is always allowed. Compressed, an image
of one repeated byte takes less than a thousandth of its size, so a small
upload could fill a store; images of real use seldom shrink to a fiftieth. 0
allows everything that ``max_virtual_size`` and quotas do.
"""),
    cfg.StrOpt('qcow2_compression', default='none',
               choices=[('none', 'not at all'),
                        ('zlib', 'as every qemu reads it'),
                        ('zstd', 'faster; for qemu 5.1 and newer')],
               help="""
How the clusters of an image are compressed that is converted to qcow2.

Compressed images take less room in the store and on its way to it, and more
CPU time on each read.
"""),
    cfg.BoolOpt('unpack', default=True, help="""
Whether images in the container formats ``ova`` and ``compressed`` are
unpacked, converted as others are, and ``bare`` afterwards; or refused.
"""),
    cfg.BoolOpt('source_hash', default=True, help="""
Whether the SHA-256 of what was uploaded is recorded beside a converted image.

It is computed while the image is converted, by a thread of its own: where a
processor has no instructions for it and all its cores are in use, that takes
time. Of a raw image, which is stored as it was uploaded, it is one more of its
digests, and deferred with them.
"""),
    cfg.BoolOpt('verify_after_write', default=False, help="""
Whether an image that was converted straight into stores is read back from
each, and compared with what was written, before it is active.

If it differs, the import fails. Digests are inline then, whatever ``digests``
says. What goes into stores by way of staging is not read back, nor is an
upload.
"""),
    cfg.BoolOpt('raise_min_disk', default=False, help="""
Whether ``min_disk`` of an image is raised to what its disk needs.

So Nova refuses a flavor whose disk is too small before a server is built. What
an owner has set is never lowered.
"""),
    cfg.StrOpt('deployment', default='', help="""
Name of this deployment, where several have their stores in one pool.

It is part of the name of what is being written, so that none of them judges
what another has left there. It must be the same on all nodes of a deployment.
Unset, the host and the name of Glance's database are taken.
"""),
    cfg.BoolOpt('keep_upload', default=True, help="""
Whether the upload of an interrupted import stays in staging, so that its owner
can import the image again without uploading it again.

Turn it off where staging does not outlive a restart of Glance, as in a pod
without a volume for it.
"""),
    cfg.StrOpt('sandbox', default='best_effort', choices=[
        ('best_effort', 'images are converted all the same; '
         '``glance-conversion-status upgrade check`` says what is missing'),
        ('required', 'nothing is converted that a program would have to '
         'decode')], help="""
What happens where a node can not confine the programs that decode images.

They are confined by Landlock (Linux 5.13 and newer, where it is enabled) and
by libseccomp. An image that takes over such a program could without them do
what the user that runs Glance can.
"""),
    cfg.Opt('min_free_staging', type=values.Size(), help="""
Room that is to stay free in staging while images are converted or unpacked
there, as in ``20GB``.

An image for which that leaves too little waits for others that are converted
on the same node, and fails if there are none. What goes directly into a store
needs no room in staging beyond its upload. Unset, it is not looked at.
"""),
    cfg.Opt('rate_limit', type=values.Size(), help="""
Most bytes of data per second that one conversion reads and writes, as in
``200MB``; a node does so for ``max_concurrent`` of them.

Zeros do not count. Unset, there is no limit.
"""),
    cfg.IntOpt('max_concurrent', default=2, min=1, help="""
How many images one node converts at once, over all processes of its Glance.

Others wait, first come, first served; their tasks say so. Each conversion uses
up to two cores for digests, part of one for decoding, and up to 160 MiB of
memory. Processes count together if they share ``[oslo_concurrency]
lock_path``. Deferred digests are computed for as many images at most, and for
one for every two cores; they give way to conversions for up to ten minutes.
"""),
    cfg.IntOpt('max_concurrent_per_project', default=0, min=0, help="""
How many of them may be of one project; 0: all.

The images of a project that has so many under way wait, and those of others
go before them.
"""),
]

SPARSE_STORE_OPTS: list[cfg.Opt] = [
    cfg.IntOpt('zero_block_size', default=32 * 1024, min=4096,
               max=1024 * 1024, help="""
How many bytes of zeros between data are left out, from 4096 to 1048576.

They are told apart in blocks of 4 KiB, wherever they lie. Fewer save space
where data is scattered, and cost more, smaller writes. Zeros that the image
itself does not hold are always left out.
"""),
    cfg.DictOpt('data_pools', default={}, help="""
Pools for the data of images in ``sparse_rbd`` stores, as in
``ceph:images-data``: pairs of a store's id and a pool.

What such a pool needs is ``rbd_store_pool`` for names and headers, which can
not be erasure-coded, and ``allow_ec_overwrites`` where it is erasure-coded
itself. URLs stay as they are. Images that are there stay where they are.
"""),
    cfg.StrOpt('mount_marker', default='', help="""
Name of a file that lies in every folder of every ``sparse_file`` store while
the folder is mounted.

An operator puts it there, as in ``touch /srv/images/.mounted``. Where it is
missing, the store takes, gives and deletes nothing, so that no image ends up
on the disk below a mount point, and none counts as deleted while its file
server is away. Unset, it is not looked for; then let the folder below the
mount belong to root, with mode 0700.
"""),
]

CACHE_PREFETCH_OPTS: list[cfg.Opt] = [
    cfg.IntOpt('interval', default=300, min=0, help="""
Seconds from the start of one pass of ``glance-conversion-agent`` over the
cache queue, and over what the options below ask for, to the next; 0: none.
"""),
    cfg.IntOpt('workers', default=2, min=1, max=64, help="""
How many images are fetched at the same time.

Each takes up to one core for its digest, about 50 MiB of memory and one
connection to a store.
"""),
    cfg.ListOpt('properties', default=[], item_type=values.Pair(), help="""
Image properties that ask for prefetch: pairs as in
``prefetch:true,os_distro:debian``, of which one is enough. A name ends at
the first colon.

Where ``tags`` or ``visibility`` are set too, an image must also have one of
each of those. Owners of images set properties and tags; only ``visibility``
keeps them from filling the caches.
"""),
    cfg.ListOpt('tags', default=[], help="""
Image tags that ask for prefetch, of which one is enough.

Where ``properties`` or ``visibility`` are set too, those must hold as well.
"""),
    cfg.ListOpt('visibility', default=[], item_type=types.String(choices=[
        'public', 'community', 'shared', 'private']), help="""
Visibilities of images that are prefetched: of ``public``, ``community``,
``shared`` and ``private``.

Alone, it asks for all such images; with ``properties`` or ``tags`` it limits
what these ask for.
"""),
    cfg.IntOpt('newest', default=0, min=0, help="""
How many of the newest public images are prefetched, whatever else they have.
"""),
    cfg.IntOpt('most_hit', default=0, min=0, help="""
How many images are prefetched of those that the caches of all nodes together
have served most often.

Only ``image_cache_driver = centralized_db`` counts over all nodes.
"""),
    cfg.Opt('rate_limit', type=values.Size(), help="""
Most bytes per second that all workers of one agent read from stores, as in
``100MB``.

What ``sparse_rbd`` and ``sparse_file`` know to be zeros does not count, for
nothing is read. Unset, there is no limit.
"""),
    cfg.IntOpt('grace', default=60, min=0, help="""
Seconds for which an image that was queued is left to Glance.

``glance cache-queue`` also gives it to a worker inside of glance-api, which
begins at once if it has nothing else to do.
"""),
]

CONVERSION_AGENT_OPTS: list[cfg.Opt] = [
    cfg.IntOpt('cleanup_interval', default=600, min=0, help="""
Seconds from one removal of what dead imports have left to the next, as
``glance-conversion-manage cleanup`` does it; 0: none.
"""),
    cfg.IntOpt('digests_interval', default=300, min=0, help="""
Seconds from one search for images whose deferred digests were interrupted to
the next; 0: none.

They are computed where nobody else has worked on them for ten minutes.
"""),
    cfg.IntOpt('verify_interval', default=0, min=0, help="""
Seconds after which a stored image is verified again, as
``glance-conversion-manage verify`` does it; 0: none is.

Set it on one node of a cloud. What was verified when is noted in a file in
``[oslo_concurrency] lock_path``, which should outlive a restart of the node.
An image that differs is logged as an error.
"""),
    cfg.Opt('verify_rate_limit', type=values.Size(), default='100MB', help="""
Most bytes per second that are read from stores to verify images.

Holes are not read. Verifying also gives way to conversions on the node, and
to a store with slow operations, for up to an hour per image.
"""),
    cfg.PortOpt('metrics_port', help="""
Port on 127.0.0.1 where the agent serves metrics for Prometheus.

Unset, it serves none.
"""),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register all options. May be called more than once."""
    for group, opts in list_opts():
        conf.register_opts(opts, group=group)


def check(conf: cfg.ConfigOpts, *groups: str) -> None:
    """Look at every value, which is checked only when it is looked at.

    :param groups: which to look at; all, if none is given
    :raises cfg.Error: if one is wrong; it names the option
    """
    ours = dict(list_opts())
    for group in groups or ours:
        for opt in ours[group]:
            getattr(conf[group], opt.dest)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """List all options, for generators of samples and documentation."""
    return [('conversion', CONVERSION_OPTS),
            ('sparse_store', SPARSE_STORE_OPTS),
            ('cache_prefetch', CACHE_PREFETCH_OPTS),
            ('conversion_agent', CONVERSION_AGENT_OPTS)]
