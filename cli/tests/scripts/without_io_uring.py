"""Runs a command under a seccomp filter that refuses io_uring, as containers do.

Exits with 77 where no filter can be set.
"""
import ctypes
import errno
import os
import platform
import struct
import sys

SYS_IO_URING_SETUP = 425  # the same on every architecture
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000

architecture = ARCHITECTURES.get(platform.machine())
if architecture is None:
    sys.exit(77)


def instruction(code, true, false, k):
    return struct.pack("HBBI", code, true, false, k)


program = b"".join(
    [
        instruction(LOAD_WORD, 0, 0, 4),
        instruction(JUMP_IF_EQUAL, 0, 3, architecture),
        instruction(LOAD_WORD, 0, 0, 0),
        instruction(JUMP_IF_EQUAL, 0, 1, SYS_IO_URING_SETUP),
        instruction(RETURN, 0, 0, ERRNO | errno.EPERM),
        instruction(RETURN, 0, 0, ALLOW),
    ]
)
code = ctypes.create_string_buffer(program, len(program))


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


filter_program = Program(len(program) // 8, ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or (
    libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter_program)) != 0
):
    print(os.strerror(ctypes.get_errno()), file=sys.stderr)
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
