"""Gives up, for this process and for good, what reading a stranger's video does not need. Linux; ctypes and no package.

Afterwards no file can be opened by name, no socket made, no program started and no process created; open descriptors
go on working. `enter` says which of the rungs this kernel has.
"""

import ctypes
import errno
import os
import platform
import resource
import struct

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446  # the same number on every machine
LANDLOCK_VERSION = 1  # flag: tell the version
RETURN_ERROR, RETURN_ALLOW, RETURN_KILL = 0x00050000, 0x7FFF0000, 0x80000000

CLONE3, CLONE_THREAD = 435, 0x10000

MACHINES = {"x86_64": (0, 0xC000003E, 56), "aarch64": (1, 0xC00000B7, 220)}  # column below, audit number, clone
DENIED = {  # the kernel's numbers of calls
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "creat": (85, None),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
}


def enter(memory: int) -> dict[str, bool]:
    """The rungs that hold from now on: limits, landlock, seccomp. Everything must have been imported before."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    if LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return {"limits": True, "landlock": False, "seccomp": False}
    return {"limits": True, "landlock": landlock(), "seccomp": seccomp()}


def landlock() -> bool:
    """No file by name, no TCP port, no abstract socket or signal to outside: rules for all, and none that allows."""
    version = LIBC.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_VERSION)
    if version < 1:
        return False
    files = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)  # kinds of access that the version knows
    rules = struct.pack("QQQ", (1 << files) - 1, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = LIBC.syscall(LANDLOCK_CREATE_RULESET, rules, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    held = LIBC.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return held


def seccomp() -> bool:
    """The denied calls fail with EPERM; those of another machine's numbering end the process. Threads may start."""
    if platform.machine() not in MACHINES:
        return False
    column, machine, clone = MACHINES[platform.machine()]
    numbers = [call[column] for call in DENIED.values() if call[column] is not None]

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    load, equal, at_least, has_bits, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    lines = [
        step(load, 4),  # the machine
        step(equal, machine, yes=1),
        step(answer, RETURN_KILL),
        step(load, 0),  # the call
        step(equal, CLONE3, no=1),  # its flags cannot be seen: libc then takes clone
        step(answer, RETURN_ERROR | errno.ENOSYS),
        step(equal, clone, no=2),
        step(load, 16),  # the first argument
        step(has_bits, CLONE_THREAD, yes=len(numbers) + 1, no=len(numbers) + 2),
        step(at_least, 0x40000000, yes=len(numbers) + 1),  # the x32 calls of x86-64
    ]
    lines += [step(equal, number, yes=len(numbers) - i) for i, number in enumerate(numbers)]
    lines += [step(answer, RETURN_ALLOW), step(answer, RETURN_ERROR | errno.EPERM)]
    code = ctypes.create_string_buffer(b"".join(lines))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(code)))
    return LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) == 0
