"""Homes for what tests drive from outside: packages in environments of their own, never in .venv.

Each lies under .venv-judges/, is made once from a pinned and hashed list, and kept for as long as
the list stays the same. Where it cannot be made (no registry), the test is skipped and says so.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT

HOMES = ROOT / ".venv-judges"


def python_home(name: str, wanted: Path, *, from_source: Sequence[str] = ()) -> Path:
    """The interpreter of an environment with what `wanted` lists, wheels but for `from_source`.

    What is built from source is built by the setuptools and wheel that the list must name as well.
    """

    def make(home: Path) -> subprocess.CompletedProcess[str]:
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", "--no-input"]
        pip += ["--require-hashes", "--only-binary", ":all:", "-r"]
        if not from_source:
            return _run([*pip, str(wanted)])
        kinds = ["--no-binary", ",".join(from_source), "--no-build-isolation", "--no-deps"]
        tools = home / "wheels.txt"
        tools.write_text(_without(wanted.read_text(), from_source))
        done = _run([*pip, str(tools)])
        return done if done.returncode else _run([*pip, str(wanted), *kinds])

    return _kept(name, [wanted], make) / "bin" / "python"


def node_home(name: str, lock: Path) -> Path:
    """The folder in which Node finds what the package.json beside `lock` asks for."""
    if shutil.which("npm") is None:
        pytest.skip("NO NODE: npm is not installed")
    wanted = [lock.with_name("package.json"), lock]

    def make(home: Path) -> subprocess.CompletedProcess[str]:
        home.mkdir(parents=True)
        for each in wanted:
            shutil.copy(each, home / each.name)
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        return _run(["npm", "ci", *quiet, "--prefix", str(home)])

    return _kept(name, wanted, make)


def _kept(
    name: str, wanted: Sequence[Path], make: Callable[[Path], subprocess.CompletedProcess[str]]
) -> Path:
    home, stamp = HOMES / name, HOMES / name / "made-from"
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in wanted)).hexdigest()
    HOMES.mkdir(exist_ok=True)
    with (HOMES / f"{name}.lock").open("w") as turn:  # pytest-xdist has several processes
        fcntl.flock(turn, fcntl.LOCK_EX)
        if stamp.is_file() and stamp.read_text() == digest:
            return home
        shutil.rmtree(home, ignore_errors=True)
        done = make(home)
        if done.returncode == 0:
            stamp.write_text(digest)
            return home
    for tampered in ("DO NOT MATCH THE HASHES", "EINTEGRITY"):
        assert tampered not in done.stderr, done.stderr
    pytest.skip(f"NO JUDGE: {wanted[-1].name} cannot be installed: {done.stderr[-300:]}")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _without(listed: str, names: Sequence[str]) -> str:
    """A requirements list without the entries (and their hashes) of these packages."""
    kept, taking = [], True
    for line in listed.splitlines():
        if line and not line[0].isspace():
            taking = line.partition("==")[0] not in names
        if taking:
            kept.append(line)
    return "\n".join(kept) + "\n"
