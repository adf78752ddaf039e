"""What memory this process has been granted and what it holds.

A container's limit is a cgroup's, not the machine's: every level above us may be the tightest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def granted_bytes(*, cgroups: Path = _CGROUPS, proc: Path = _PROC) -> int | None:
    """The memory this process may use: the smallest cgroup limit above it, or the machine's.

    None where the system tells neither (not Linux).
    """
    limits = [*_cgroup_limits(cgroups, proc), *_machine_memory(proc)]
    return min(limits, default=None)


def free_bytes(*, cgroups: Path = _CGROUPS, proc: Path = _PROC) -> int | None:
    """What could be taken now without anybody being ended for it; None where nobody tells.

    The least that a control group above us has left, pages of files that it would drop counted as
    free, or what the machine calls available.
    """
    found = [*_left_in_groups(cgroups, proc), *_kib_of(proc / "meminfo", "MemAvailable")]
    return min(found, default=None)


def peak_bytes(*, pid: int | None = None, proc: Path = _PROC) -> int | None:
    """The most that this process or `pid` ever had resident, or None where /proc does not tell."""
    return next(_kib_of(proc / str(pid or "self") / "status", "VmHWM"), None)


def resident_bytes(*, pid: int | None = None, proc: Path = _PROC) -> int | None:
    """The resident set of this process or of `pid`, or None where /proc does not tell."""
    for line in _read(proc / str(pid or "self") / "status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return None


def _left_in_groups(cgroups: Path, proc: Path) -> Iterator[int]:
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _left_upwards(cgroups, path, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
            yield from _left_upwards(root, path, "memory.limit_in_bytes", "memory.usage_in_bytes")


def _left_upwards(root: Path, path: str, limit: str, used: str) -> Iterator[int]:
    here = root / path.lstrip("/")
    for folder in [here, *here.parents]:
        most, now = _read(folder / limit).strip(), _read(folder / used).strip()
        if most.isdigit() and now.isdigit():
            facts = dict(line.split()[:2] for line in _read(folder / "memory.stat").splitlines())
            yield max(0, int(most) - int(now) + int(facts.get("inactive_file", 0)))
        if folder == root:
            return


def _kib_of(path: Path, name: str) -> Iterator[int]:
    for line in _read(path).splitlines():
        if line.startswith(f"{name}:"):
            yield int(line.split()[1]) * 1024


@dataclass(frozen=True, slots=True)
class CgroupUse:
    """What our own control group holds and has met; None for what it does not tell.

    `working_set_bytes` leaves out file pages unused of late, as Kubernetes counts.
    """

    bytes: int | None = None
    working_set_bytes: int | None = None
    oom_kills: int | None = None


def cgroup_use(*, cgroups: Path = _CGROUPS, proc: Path = _PROC) -> CgroupUse:
    """All None where the group of neither version can be read."""
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            use = _use(cgroups, path, "memory.current", "inactive_file", "memory.events")
        elif "memory" in controllers.split(","):
            names = ("memory.usage_in_bytes", "total_inactive_file", "memory.oom_control")
            use = _use(cgroups / "memory", path, *names)
        else:
            continue
        if use is not None:
            return use
    return CgroupUse()


def _use(root: Path, path: str, held: str, idle: str, events: str) -> CgroupUse | None:
    """From our own group, or the root of what a container sees, by the files' names."""
    for folder in (root / path.lstrip("/"), root):
        if (size := _read(folder / held).strip()).isdigit():
            unused = _count(folder / "memory.stat", idle) or 0
            kills = _count(folder / events, "oom_kill")
            return CgroupUse(int(size), max(0, int(size) - unused), kills)
    return None


def _count(path: Path, name: str) -> int | None:
    for line in _read(path).splitlines():
        found, _, value = line.partition(" ")
        if found == name:
            return int(value)
    return None


def _cgroup_limits(cgroups: Path, proc: Path) -> Iterator[int]:
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _limits_upwards(cgroups, path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits_upwards(cgroups / "memory", path, "memory.limit_in_bytes")


def _limits_upwards(root: Path, path: str, name: str) -> Iterator[int]:
    """Limits from our own group up to the root; a container may see only the last."""
    here = root / path.lstrip("/")
    for folder in [here, *here.parents]:
        text = _read(folder / name).strip()
        if text.isdigit():
            yield int(text)
        if folder == root:
            return


def _machine_memory(proc: Path) -> Iterator[int]:
    for line in _read(proc / "meminfo").splitlines():
        if line.startswith("MemTotal:"):
            yield int(line.split()[1]) * 1024


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
