"""`make release` on real git repositories: one that is ready, and each thing that may lack."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from main import VERSION
from scripts import release
from tests.conftest import ROOT

FILES = {
    "main.py": 'VERSION = "1.2.0"\n',
    "CHANGELOG.md": "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2026-11-24\n\n- A thing.\n",
    "deploy.yaml": "    image: r.example/o/img-proc-service:1.2.0\n",
    "deploy-gpu.yaml": "    image: r.example/o/img-proc-service:1.2.0-gpu\n",
    "Dockerfile": "ARG VERSION=1.2.0\n",
    "requirements.in": "# why\nfastapi\nuvicorn[standard]>=0.30\n",
    "requirements.txt": "fastapi==0.120.0 \\\n    --hash=sha256:0\nuvicorn[standard]==0.34.0 ; x\n",
    "scripts/configuration.py": "raise SystemExit(0)\n",
}
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@t.example", "-c", "commit.gpgsign=false")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    subprocess.run([*GIT, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "as it is")


def test_what_is_ready_has_no_problems_and_is_left_as_it_was(checkout: Path) -> None:
    version = release.version_of(checkout)
    assert version == "1.2.0"
    assert release.problems(checkout, version) == []
    status = subprocess.check_output(["git", "status", "--porcelain"], cwd=checkout)
    assert status == b""
    assert subprocess.check_output(["git", "tag"], cwd=checkout) == b""


def in_file(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(checkout: Path) -> None:
        text = (checkout / name).read_text()
        assert old in text
        (checkout / name).write_text(text.replace(old, new))
        commit(checkout)

    return change


def uncommitted(checkout: Path) -> None:
    (checkout / "left.txt").write_text("over")


def tagged(name: str) -> Callable[[Path], None]:
    return lambda checkout: git(checkout, "tag", name)


MISSING: dict[str, tuple[Callable[[Path], None], str]] = {
    "uncommitted": (uncommitted, "not committed: left.txt"),
    "tagged": (tagged("v1.2.0"), "v1.2.0 is tagged already"),
    "later tag": (tagged("v1.10.0"), "v1.10.0 is tagged, which is later than 1.2.0"),
    "no section": (in_file("CHANGELOG.md", "[1.2.0]", "[1.1.0]"), "has no section [1.2.0]"),
    "no date": (in_file("CHANGELOG.md", " - 2026-11-24", ""), "[1.2.0] has no date"),
    "empty section": (in_file("CHANGELOG.md", "- A thing.", ""), "[1.2.0] is empty"),
    "unreleased lines": (
        in_file("CHANGELOG.md", "[Unreleased]\n", "[Unreleased]\n\n- Another.\n"),
        "lines under [Unreleased]",
    ),
    "old image": (
        in_file("deploy.yaml", "1.2.0", "1.1.0"),
        "deploy.yaml names the image img-proc-service:1.1.0",
    ),
    "old gpu image": (
        in_file("deploy-gpu.yaml", "1.2.0", "1.1.0"),
        "deploy-gpu.yaml names the image img-proc-service:1.1.0-gpu",
    ),
    "old label": (in_file("Dockerfile", "1.2.0", "0.1.0"), "Dockerfile has ARG VERSION=0.1.0"),
    "stale generated": (
        in_file("scripts/configuration.py", "SystemExit(0)", "SystemExit('README is old')"),
        "scripts.configuration has work to do: README is old",
    ),
    "unlocked": (in_file("requirements.in", "fastapi", "fastapi\nhttpx"), "lacks httpx"),
    "locked too low": (
        in_file("requirements.in", ">=0.30", ">=0.40"),
        "has uvicorn 0.34.0, requirements.in wants >=0.40",
    ),
}


@pytest.mark.parametrize("case", sorted(MISSING))
def test_each_thing_that_is_missing_is_said_alone(checkout: Path, case: str) -> None:
    change, says = MISSING[case]
    change(checkout)
    (problem,) = release.problems(checkout, "1.2.0")
    assert says in problem


def test_a_version_that_is_not_semantic_is_refused(checkout: Path) -> None:
    assert "1.2 is no semantic version" in release.problems(checkout, "1.2")


def test_a_candidate_comes_before_its_release(checkout: Path) -> None:
    git(checkout, "tag", "v1.2.0-rc.1")
    assert release.problems(checkout, "1.2.0") == []


def test_main_py_without_a_version_is_said(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("version = 1\n")
    with pytest.raises(release.NoVersionError):
        release.version_of(tmp_path)


def test_this_repository_names_one_version_everywhere() -> None:
    assert release.version_of(ROOT) == VERSION
    assert list(release.named_versions(ROOT, VERSION)) == []
    assert list(release.locks(ROOT, VERSION)) == []
