"""What is known to be wrong, in packages and in our code, and keys committed by mistake.

`python -m scripts.audit` asks pip-audit about every pinned package, bandit about our own code and
detect-secrets about every file that git has. It exits with 1 where one of them found something.

A package index without advisories (a mirror, a machine without a network) audits no package: that
is said aloud and is no failure, for nothing was found out.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PINNED = ("requirements.txt", "requirements-dev.txt", "requirements-gpu.txt")
OURS = (
    *("main.py", "config.py", "routers", "services", "models", "utils"),
    *("scripts", "sandbox", "clients"),
)
BASELINE = ".secrets.baseline"
"""What looks like a secret and is none: keys of tests, checksums. Made by `detect-secrets scan`."""


@dataclass(frozen=True, slots=True)
class Package:
    """One package as pip-audit told of it; `advisories` are ids with the versions that mend them.

    `asked` says whether the database knew the package at all.
    """

    name: str
    version: str
    advisories: tuple[str, ...]
    asked: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m scripts.audit", description=__doc__)
    parser.add_argument("--osv-url", help="ask this OSV database instead of PyPI's advisories")
    parser.add_argument("--only", choices=["packages", "code", "secrets"], help="one of the three")
    asked = parser.parse_args(arguments)
    found: list[str] = []
    if asked.only in (None, "packages"):
        found += _packages(asked.osv_url)
    if asked.only in (None, "code"):
        found += _said_by("bandit", "-q", "-c", "pyproject.toml", "-r", *OURS)
    if asked.only in (None, "secrets"):
        found += _secrets()
    print(*found, "audit: something was found" if found else "audit: nothing was found", sep="\n")
    return 1 if found else 0


def _packages(osv_url: str | None) -> list[str]:
    """What the advisories say against pinned packages; tells what could not be asked."""
    packages = {each for name in PINNED for each in _audited(ROOT / name, osv_url)}
    unasked = [each for each in packages if not each.asked]
    if unasked:
        print(
            f"!! NOT AUDITED: {len(unasked)} of {len(packages)} packages; "
            "the index used here tells no advisories"
        )
    for each in _pillow_simd(osv_url):
        for advisory in each.advisories:
            print(f"!! Pillow-SIMD is Pillow {each.version}: {advisory}; see docs/SECURITY.md")
    return [
        f"{each.name} {each.version}: {advisory}"
        for each in sorted(packages, key=lambda each: each.name)
        for advisory in each.advisories
    ]


def _pillow_simd(osv_url: str | None) -> list[Package]:
    """Under its own name nobody has advisories for it; there is no newer one to change to."""
    for line in (ROOT / "requirements-simd.txt").read_text().splitlines():
        if line.startswith("pillow-simd=="):
            version = ".".join(line.split("==")[1].split()[0].split(".")[:3])
            return _pip_audit(["-r", "/dev/stdin", "--no-deps"], osv_url, f"pillow=={version}\n")
    raise SystemExit("requirements-simd.txt does not pin pillow-simd")


def _audited(requirements: Path, osv_url: str | None) -> list[Package]:
    return _pip_audit(["-r", str(requirements), "--require-hashes"], osv_url)


def _pip_audit(what: Sequence[str], osv_url: str | None, given: str = "") -> list[Package]:
    service = ["-s", "osv", "--osv-url", osv_url] if osv_url else []
    command = [_tool("pip-audit"), "--disable-pip", "--progress-spinner=off", "-f", "json"]
    done = subprocess.run(
        [*command, *service, *what],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    try:
        told = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"!! NOT AUDITED: {done.stderr.strip().splitlines()[-1:]}")
        return []
    return [_package(each) for each in told]


def _package(told: dict[str, Any]) -> Package:
    return Package(
        name=told["name"],
        version=told.get("version", ""),
        advisories=tuple(
            f"{each['id']}, mended in {', '.join(each['fix_versions']) or 'no version'}"
            for each in told.get("vulns", [])
        ),
        asked="skip_reason" not in told,
    )


def _secrets() -> list[str]:
    """New ones alone; the tool wants to write moved lines down, so it is given a copy."""
    with tempfile.NamedTemporaryFile(prefix="baseline-") as copy:
        copy.write((ROOT / BASELINE).read_bytes())
        copy.flush()
        return _said_by("detect-secrets-hook", "--baseline", copy.name, *_committed(), well=(0, 3))


def _said_by(tool: str, *arguments: str, well: Sequence[int] = (0,)) -> list[str]:
    """What a tool prints where it finds something: where its exit status is none of `well`."""
    done = subprocess.run(
        [_tool(tool), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return [] if done.returncode in well else [done.stdout + done.stderr]


def _committed() -> Iterator[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and name != BASELINE and (ROOT / name).is_file():
            yield name


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


if __name__ == "__main__":
    sys.exit(main())
