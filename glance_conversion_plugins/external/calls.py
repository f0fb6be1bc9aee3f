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

"""The system calls that a program which reads images may not make.

A program that an image has taken over runs as the user that Glance runs as.
What that user may do to files is Landlock's to forbid; what it may do to
processes, to names and rights of files, and to the kernel is forbidden here.
stat() and its kin stay: they can not be told apart by path, and nothing
starts without them.
"""

import errno
import os
from typing import NamedTuple

# How an argument is compared; the numbers are libseccomp's.
_NOT, _MASKED = 1, 7
# Stands for the pid of the program itself.
SELF = -1

_THREAD = 0x10000
_NAMESPACES = (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000,
               0x20000000, 0x40000000)
_INT = 0xffffffff               # what the kernel looks at of an int
_PR_SET_PDEATHSIG = 1
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15
_FIOSETOWN, _SIOCSPGRP, _TIOCSTI = 0x8901, 0x8902, 0x5412


class Condition(NamedTuple):
    """What an argument has to be."""

    argument: int
    comparison: int
    value: int                  # or a mask
    masked: int = 0


class Rule(NamedTuple):
    """A call that fails where all conditions hold."""

    name: str
    conditions: tuple[Condition, ...] = ()
    error: int = errno.EPERM
    # Of a call that libseccomp may not know; those from 424 on have the same
    # number on all machines.
    number: int = -1


_FORBIDDEN = (
    # Sockets, and what gets round all of this.
    'socket', 'socketpair', 'connect', 'bind', 'listen', 'io_uring_setup',
    # Other processes.
    'ptrace', 'process_vm_readv', 'process_vm_writev', 'kcmp',
    'process_madvise', 'move_pages', 'migrate_pages', 'tkill', 'pidfd_open',
    'pidfd_getfd', 'pidfd_send_signal',
    # Processes of its own, which nobody would end; threads are no processes.
    'fork', 'vfork', 'execveat', 'memfd_create', 'memfd_secret',
    # Namespaces and mounts.
    'unshare', 'setns', 'mount', 'umount', 'umount2', 'pivot_root', 'chroot',
    'open_by_handle_at', 'swapon', 'swapoff', 'quotactl', 'acct',
    # Modes, owners, times and attributes of files.
    'chmod', 'fchmod', 'fchmodat', 'chown', 'chown32', 'fchown', 'fchown32',
    'lchown', 'lchown32', 'fchownat', 'setxattr', 'lsetxattr', 'fsetxattr',
    'removexattr', 'lremovexattr', 'fremovexattr', 'utime', 'utimes',
    'futimesat', 'utimensat', 'utimensat_time64',
    # By path: older Landlocks do not see it.
    'truncate', 'truncate64',
    'inotify_init', 'inotify_init1', 'fanotify_init',
    # Memory, queues and semaphores that others may share.
    'shmget', 'shmat', 'shmctl', 'msgget', 'msgsnd', 'msgrcv', 'msgctl',
    'semget', 'semop', 'semtimedop', 'semctl', 'ipc', 'mq_open', 'mq_unlink',
    # The kernel.
    'bpf', 'perf_event_open', 'userfaultfd', 'add_key', 'request_key',
    'keyctl', 'personality', 'modify_ldt', 'syslog', 'init_module',
    'finit_module', 'delete_module', 'kexec_load', 'kexec_file_load',
    'reboot', 'iopl', 'ioperm', 'settimeofday', 'clock_settime', 'adjtimex',
)
_NEW = {'open_tree': 428, 'move_mount': 429, 'fsopen': 430, 'fsconfig': 431,
        'fsmount': 432, 'fspick': 433, 'mount_setattr': 442,
        'quotactl_fd': 443, 'process_mrelease': 448, 'fchmodat2': 452,
        'setxattrat': 463, 'removexattrat': 466, 'open_tree_attr': 467,
        'file_setattr': 469}

# The pid of the process that is meant comes first; only 0 is itself.
_ON_PROCESSES = ('prlimit64', 'sched_setaffinity', 'sched_setattr',
                 'sched_setparam', 'sched_setscheduler')
_SIGNALS = ('kill', 'tgkill', 'rt_sigqueueinfo', 'rt_tgsigqueueinfo')


def rules() -> list[Rule]:
    """All rules, for this machine."""
    # s390 has the arguments of clone() the other way round.
    flags = 1 if os.uname().machine.startswith('s390') else 0
    return [
        *(Rule(name) for name in _FORBIDDEN),
        *(Rule(name, number=number) for name, number in _NEW.items()),
        # As of an old kernel: then the C library takes clone(), of which the
        # flags can be seen.
        Rule('clone3', error=errno.ENOSYS, number=435),
        *(Rule('clone', (Condition(flags, _MASKED, mask, value),))
          for mask, value in ((_THREAD, 0),
                              *((bit, bit) for bit in _NAMESPACES))),
        *(Rule(name, (Condition(0, _NOT, 0),)) for name in _ON_PROCESSES),
        # Its own scheduling is its own affair; a group or a user is not.
        Rule('setpriority', (Condition(0, _NOT, 0),)),
        Rule('setpriority', (Condition(1, _NOT, 0),)),
        Rule('ioprio_set', (Condition(0, _NOT, 1),)),
        Rule('ioprio_set', (Condition(1, _NOT, 0),)),
        *(Rule(name, (Condition(0, _NOT, SELF),)) for name in _SIGNALS),
        # Signals again: the kernel sends them for whoever asks it to.
        *(Rule('fcntl', (Condition(1, _MASKED, _INT, command),))
          for command in (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX)),
        *(Rule('ioctl', (Condition(1, _MASKED, _INT, request),))
          for request in (_FIOSETOWN, _SIOCSPGRP, _TIOCSTI)),
        # It would outlive Glance.
        Rule('prctl', (Condition(0, _MASKED, _INT, _PR_SET_PDEATHSIG),)),
    ]
