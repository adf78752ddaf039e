"""The memory granted is the tightest limit above the process, wherever it is written."""

from pathlib import Path

from utils.memory import CgroupUse, cgroup_use, granted_bytes, resident_bytes

GIB = 1024**3


def _proc(folder: Path, *, cgroup: str, total_kib: int = 8 * 1024**2) -> Path:
    (folder / "self").mkdir(parents=True)
    (folder / "self" / "cgroup").write_text(cgroup)
    (folder / "meminfo").write_text(f"MemTotal:       {total_kib} kB\nMemFree: 1 kB\n")
    return folder


def test_a_v2_limit_on_any_level_counts(tmp_path: Path) -> None:
    cgroups = tmp_path / "cgroup"
    (cgroups / "box" / "service").mkdir(parents=True)
    (cgroups / "box" / "memory.max").write_text(f"{4 * GIB}\n")
    (cgroups / "box" / "service" / "memory.max").write_text("max\n")
    proc = _proc(tmp_path / "proc", cgroup="0::/box/service\n")
    assert granted_bytes(cgroups=cgroups, proc=proc) == 4 * GIB


def test_a_v1_limit_counts(tmp_path: Path) -> None:
    cgroups = tmp_path / "cgroup"
    (cgroups / "memory" / "box").mkdir(parents=True)
    (cgroups / "memory" / "memory.limit_in_bytes").write_text(str(2**63 - 4096))
    (cgroups / "memory" / "box" / "memory.limit_in_bytes").write_text(str(3 * GIB))
    proc = _proc(tmp_path / "proc", cgroup="4:memory:/box\n1:name=systemd:/box\n")
    assert granted_bytes(cgroups=cgroups, proc=proc) == 3 * GIB


def test_inside_a_container_the_root_of_the_mount_counts(tmp_path: Path) -> None:
    cgroups = tmp_path / "cgroup"
    cgroups.mkdir()
    (cgroups / "memory.max").write_text(str(GIB))
    proc = _proc(tmp_path / "proc", cgroup="0::/kubepods/pod1/container\n")
    assert granted_bytes(cgroups=cgroups, proc=proc) == GIB


def test_without_a_limit_the_machine_counts(tmp_path: Path) -> None:
    proc = _proc(tmp_path / "proc", cgroup="0::/\n")
    assert granted_bytes(cgroups=tmp_path / "none", proc=proc) == 8 * GIB


def test_where_the_system_tells_nothing_nothing_is_claimed(tmp_path: Path) -> None:
    assert granted_bytes(cgroups=tmp_path, proc=tmp_path) is None
    assert resident_bytes(proc=tmp_path) is None


def test_this_process_has_a_resident_set() -> None:
    assert (resident_bytes() or 0) > 10 * 1024**2


def test_a_v2_group_tells_what_it_holds_and_what_the_kernel_ended(tmp_path: Path) -> None:
    group = tmp_path / "cgroup" / "service"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("3000\n")
    (group / "memory.stat").write_text("anon 1000\ninactive_file 800\nactive_file 1200\n")
    (group / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    proc = _proc(tmp_path / "proc", cgroup="0::/service\n")
    use = cgroup_use(cgroups=tmp_path / "cgroup", proc=proc)
    assert use == CgroupUse(bytes=3000, working_set_bytes=2200, oom_kills=2)


def test_a_v1_group_tells_the_same_also_as_the_root_of_a_container(tmp_path: Path) -> None:
    group = tmp_path / "cgroup" / "memory"
    group.mkdir(parents=True)
    (group / "memory.usage_in_bytes").write_text("3000\n")
    (group / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 800\n")
    (group / "memory.oom_control").write_text("oom_kill_disable 0\noom_kill 2\n")
    proc = _proc(tmp_path / "proc", cgroup="0::/\n4:memory:/pod/one\n")
    use = cgroup_use(cgroups=tmp_path / "cgroup", proc=proc)
    assert use == CgroupUse(bytes=3000, working_set_bytes=2200, oom_kills=2)


def test_a_group_that_cannot_be_read_tells_nothing(tmp_path: Path) -> None:
    assert cgroup_use(cgroups=tmp_path, proc=tmp_path) == CgroupUse()
