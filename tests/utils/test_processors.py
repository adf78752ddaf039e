"""Processors granted by a control group, of either version, at any level."""

from pathlib import Path

import pytest

from utils import processors


def granted(tmp_path: Path, group: str, files: dict[str, str]) -> float:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(group)
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return processors.granted(cgroups=tmp_path / "groups", proc=tmp_path / "proc")


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 0.5),
        ("0::/\n", {"cpu.max": "25000 100000\n"}, 0.25),
        (
            "4:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "30000", "cpu/a/cpu.cfs_period_us": "100000"},
            0.3,
        ),
    ],
)
def test_the_tightest_quota_counts(
    tmp_path: Path, group: str, files: dict[str, str], expected: float
) -> None:
    assert granted(tmp_path, group, files) == pytest.approx(expected)


@pytest.mark.parametrize("files", [{}, {"cpu.max": "max 100000"}, {"cpu.max": "nonsense"}])
def test_without_a_quota_it_is_what_we_may_run_on(tmp_path: Path, files: dict[str, str]) -> None:
    assert 1 <= granted(tmp_path, "0::/\n", files) <= processors.seen()
