"""What a circumstance needs of the machine: None where it is there, else what is missing."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

from scripts.run_image import enter_private_network

NOBODY = 65534
_CLONE_NEWNS = 0x00020000
_FAKETIME = ("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",)
LIBFAKETIME = next((each for each in _FAKETIME if Path(each).exists()), "")

_isolated = False


def isolate() -> None:
    """Mounts and a network of our own, where that is allowed: nobody else sees what we break."""
    global _isolated  # noqa: PLW0603  # a property of this process
    if os.geteuid() != 0:
        return
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        return
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    enter_private_network()
    _isolated = True


def root() -> str | None:
    return None if os.geteuid() == 0 else "needs root"


def mounts() -> str | None:
    return None if _isolated else "needs root and a mount namespace of its own"


def faketime() -> str | None:
    return None if LIBFAKETIME else "needs libfaketime (apt-get install faketime)"


def memory_group() -> str | None:
    writable = os.access("/sys/fs/cgroup/memory", os.W_OK) or os.access("/sys/fs/cgroup", os.W_OK)
    return None if writable and os.geteuid() == 0 else "needs root and memory control groups"


def setpriv() -> str | None:
    return None if shutil.which("setpriv") else "needs setpriv"


def group_of(pid: int) -> str:
    """The folder of the memory control group that a process is in."""
    for line in Path(f"/proc/{pid}/cgroup").read_text("ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            return f"/sys/fs/cgroup/memory{path}"
    return f"/sys/fs/cgroup{path}"
