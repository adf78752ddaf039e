"""How many processors this process may use: a container sees all of its host's."""

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def seen() -> int:
    """Those that programs find when they look, and start threads for."""
    return os.cpu_count() or 1


def granted(*, cgroups: Path = _CGROUPS, proc: Path = _PROC) -> float:
    """Those whose time we get: the tightest quota of a control group, or those we may run on."""
    return min([float(_allowed()), *_quotas(cgroups, proc)])


def _allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else seen()


def _quotas(cgroups: Path, proc: Path) -> list[float]:
    """Every level from our own group to the root may have one; containers may see the last."""
    found = []
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        root = cgroups / "cpu" if "cpu" in controllers.split(",") else cgroups
        if controllers and root == cgroups:
            continue
        here = root / path.lstrip("/")
        for folder in [here, *here.parents]:
            found += [*_of_v2(folder), *_of_v1(folder)]
            if folder == root:
                break
    return found


def _of_v2(folder: Path) -> list[float]:
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    return [int(quota) / int(period)] if quota.isdigit() and period.isdigit() else []


def _of_v1(folder: Path) -> list[float]:
    quota, period = (
        _read(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    )
    return [int(quota) / int(period)] if quota.isdigit() and period.isdigit() else []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
