"""Whether this checkout may be released: `make release` says what is missing and changes nothing.

The version has one home, `VERSION` in main.py; everything else that names it is compared with it.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
IMAGE = "img-proc-service"

GENERATORS = ("scripts.configuration", "scripts.notice")
"""Modules that write files of this repository; with --check they compare instead."""

_NAMES_OF_THE_IMAGE = ("deploy.yaml", "deploy-gpu.yaml", "docker-compose.yml")
_SEMANTIC = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-[0-9A-Za-z.-]+)?")
_SECTION = re.compile(r"^## \[(.+?)\](?: - (.+))?$", re.MULTILINE)

_PIN = re.compile(r"^([\w.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)

Check: TypeAlias = Callable[[Path, str], Iterator[str]]


class NoVersionError(Exception):
    """main.py does not say its version."""


def main() -> int:
    """Exit status 1 and a line for each thing that is missing, or 0 and what to do next."""
    try:
        version = version_of(ROOT)
    except NoVersionError as error:
        print(f"  - {error}")
        return 1
    missing = problems(ROOT, version)
    if missing:
        print(f"{version} cannot be released yet:", *(f"  - {each}" for each in missing), sep="\n")
        return 1
    print(next_steps(version))
    return 0


def version_of(root: Path) -> str:
    """What main.py assigns to VERSION; the service is not imported for it.

    Raises:
        NoVersionError: there is no such line, or it is no string.
    """
    for node in ast.parse((root / "main.py").read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id="VERSION")], value=ast.Constant(value=str(version))
            ):
                return version
    raise NoVersionError('main.py has no line VERSION = "…"')


def problems(root: Path, version: str) -> list[str]:
    """What stands against releasing `root` as `version`, a sentence each."""
    return list(chain.from_iterable(check(root, version) for check in CHECKS))


def next_steps(version: str) -> str:
    return f"""{version} is ready as far as files can tell. Now, in this order:
  bash .ci/run                                  # static checks, every test, the demo
  make bench                                    # where a figure of docs/BENCHMARKS.md moved
  git tag -a v{version} -m "{version}"
  git push origin v{version}
  docker build -t {IMAGE} --build-arg VERSION={version} .
  docker tag {IMAGE} REGISTRY/OWNER/{IMAGE}:{version}
  docker push REGISTRY/OWNER/{IMAGE}:{version}  # a tag is never pushed twice
docs/DEPLOYMENT.md has the rest."""


def clean_tree(root: Path, _: str) -> Iterator[str]:
    changed = _git(root, "status", "--porcelain").splitlines()
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        yield f"not committed: {changed[0][3:]}{more}"


def new_version(root: Path, version: str) -> Iterator[str]:
    """The version is a semantic one, above every tag."""
    if not _SEMANTIC.fullmatch(version):
        yield f"{version} is no semantic version"
        return
    tags = [tag.removeprefix("v") for tag in _git(root, "tag", "--list", "v*").split()]
    if version in tags:
        yield f"v{version} is tagged already: choose the next version in main.py"
    later = [tag for tag in tags if _SEMANTIC.fullmatch(tag) and _order(tag) > _order(version)]
    if later:
        yield f"v{later[-1]} is tagged, which is later than {version}"


def changelog(root: Path, version: str) -> Iterator[str]:
    """CHANGELOG.md tells of the version, with its day, and has nothing waiting."""
    pieces = _SECTION.split((root / "CHANGELOG.md").read_text(encoding="utf-8"))
    sections = {name: (day, text) for name, day, text in zip(*[iter(pieces[1:])] * 3, strict=True)}
    if re.search(r"^- ", sections.get("Unreleased", ("", ""))[1], re.MULTILINE):
        yield "CHANGELOG.md has lines under [Unreleased]: move them to the version"
    if version not in sections:
        yield f"CHANGELOG.md has no section [{version}]"
        return
    day, text = sections[version]
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", day or ""):
        yield f"CHANGELOG.md: [{version}] has no date (## [{version}] - YYYY-MM-DD)"
    if not re.search(r"^- ", text, re.MULTILINE):
        yield f"CHANGELOG.md: [{version}] is empty"


def named_versions(root: Path, version: str) -> Iterator[str]:
    """What names the image or its version names this one; the GPU's tag has `-gpu` behind it."""
    for name in _NAMES_OF_THE_IMAGE:
        for tag in re.findall(rf"^[^#\n]*{IMAGE}:([\w.-]+)", _text(root / name), re.MULTILINE):
            if tag.removesuffix("-gpu") != version:
                yield f"{name} names the image {IMAGE}:{tag}"
    dockerfile = _text(root / "Dockerfile")
    for told in sorted(set(re.findall(r"^ARG VERSION=(\S+)", dockerfile, re.MULTILINE))):
        if told != version:
            yield f"Dockerfile has ARG VERSION={told}"


def generated_files(root: Path, _: str) -> Iterator[str]:
    for module in GENERATORS:
        if (root / (module.replace(".", "/") + ".py")).exists():
            command = [sys.executable, "-m", module, "--check"]
            done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
            if done.returncode:
                said = (done.stdout + done.stderr).strip().splitlines() or ["it says nothing"]
                yield f"python -m {module} has work to do: {said[-1]}"


def locks(root: Path, _: str) -> Iterator[str]:
    """Every requirement of an .in file with a lock is pinned there, to a version that it allows."""
    for lock in sorted(root.glob("requirements*.txt")):
        wanted = lock.with_suffix(".in")
        pins = {canonicalize_name(name): pin for name, pin in _PIN.findall(_text(lock))}
        for each in _requirements(wanted):
            pin = pins.get(canonicalize_name(each.name))
            if pin is None:
                yield f"{lock.name} lacks {each.name}: run make lock"
            elif not each.specifier.contains(pin, prereleases=True):
                yield f"{lock.name} has {each.name} {pin}, {wanted.name} wants {each.specifier}"


def _requirements(path: Path) -> list[Requirement]:
    lines = (line.partition(" #")[0].strip() for line in _text(path).splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _order(version: str) -> tuple[int, int, int, bool]:
    """Where a semantic version stands; what is before a release (1.0.0-rc.1) before it."""
    major, minor, patch = version.partition("-")[0].split(".")
    return int(major), int(minor), int(patch), "-" not in version


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


CHECKS: tuple[Check, ...] = (
    clean_tree,
    new_version,
    changelog,
    named_versions,
    generated_files,
    locks,
)

if __name__ == "__main__":
    sys.exit(main())
