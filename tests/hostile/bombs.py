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

"""Small files whose tables are shared: what they say is not what they are."""

import struct


def shared_tables(path, count, cluster_bits, entry, reference_bits=4):
    """A qcow2 whose table of tables names the same one again and again.

    :param entry: of what that table is full, from the place of its data
    """
    size = 1 << cluster_bits
    tables = -(-count * 8 // size)
    table, data = (3 + tables) * size, (4 + tables) * size
    head = struct.pack('>4sIQIIQIIQQIIQ', b'QFI\xfb', 3, 0, 0, cluster_bits,
                       size * (size // 8), 0, count, 3 * size, size, 1, 0, 0)
    head += struct.pack('>QQQII', 0, 0, 0, reference_bits, 104) + bytes(8)
    references = [1] * (data // size + 1)
    if reference_bits == 6:
        references[table // size] = count
        references[data // size] = count * (size // 8)
    with open(path, 'wb') as f:
        f.truncate(data + size)
        for offset, content in (
                (0, head), (size, struct.pack('>Q', 2 * size)),
                (2 * size, b''.join(n.to_bytes(1 << reference_bits >> 3)
                                    for n in references)),
                (3 * size, struct.pack('>Q', table) * count),
                (table, struct.pack('>Q', entry(data)) * (size // 8)),
                (data, b'\x4b' * 512)):
            f.seek(offset)
            f.write(content)
    return str(path)


def complaints(path):
    """A complaint of qemu-img for each of 16 million entries, of 400 KiB."""
    return shared_tables(path, 2048, 16, lambda data: data)


def work(path):
    """Gigabytes of compressed clusters, all of them the same, of 12 MiB."""
    return shared_tables(path, 2000, 21, lambda data: 1 << 62 | data,
                         reference_bits=6)
