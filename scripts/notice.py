"""NOTICE: whose work the image holds, and under which licences: `python -m scripts.notice`.

The Python part is read from the installed distributions that requirements.txt names.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from services.weights import WEIGHT_FILES

ROOT = Path(__file__).resolve().parent.parent
NOTICE = ROOT / "NOTICE"
_LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
_HEAD = """\
The image of this service (MIT, see LICENSE) holds the work of others.

The licence texts of the Python packages lie in the image beside them, in
/opt/venv/lib/python3.11/site-packages/<name>-<version>.dist-info; those of the Debian packages,
Python itself among them, are /usr/share/doc/<package>/copyright. /app/sbom.json lists every
package with its version. Made by `python -m scripts.notice`.
"""
_SIMD = """\
pillow-simd: MIT-CMU; https://github.com/uploadcare/pillow-simd
Its code takes the place of Pillow's, in two builds (AVX2, and SSE4 for CPUs without).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; with `--check` 1 where NOTICE is not what would be written."""
    parser = argparse.ArgumentParser(prog="python -m scripts.notice", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    text = notice()
    if not parser.parse_args(arguments).check:
        NOTICE.write_text(text, encoding="utf-8")
        return 0
    return int(NOTICE.read_text(encoding="utf-8") != text)


def notice() -> str:
    """The whole text."""
    parts = [
        _HEAD,
        *_titled("Python packages", _packages()),
        *_titled("Pillow-SIMD", [_SIMD.rstrip()]),
    ]
    networks = _titled("Networks, where the image has them", _networks())
    return "\n".join([*parts, *networks]).rstrip() + "\n"


def required_names(requirements: Path = ROOT / "requirements.txt") -> list[str]:
    """The distributions that a requirements file pins for Linux, sorted."""
    names = []
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith((" ", "#", "-")):
            continue
        wanted = Requirement(line.removesuffix("\\").strip())
        if wanted.marker is None or wanted.marker.evaluate(_LINUX):
            names.append(canonicalize_name(wanted.name))
    return sorted(names)


def _titled(title: str, lines: Iterator[str] | list[str]) -> list[str]:
    return [title, "-" * len(title), *lines, ""]


def _packages() -> Iterator[str]:
    for name in required_names():
        try:
            found = metadata(name)
        except PackageNotFoundError:
            raise SystemExit(f"{name} of requirements.txt is not installed here") from None
        yield f"{name}: {_licence(found)}{_home(found)}"


def _licence(found: PackageMetadata) -> str:
    """The expression, else the classifiers, else the first line of the free text."""
    if expression := _field(found, "License-Expression"):
        return expression
    classified = [
        each.rpartition(" :: ")[2]
        for each in found.get_all("Classifier") or []
        if each.startswith("License :: ") and not each.endswith("OSI Approved")
    ]
    free = _field(found, "License").strip().partition("\n")[0]
    return ", ".join(classified) or free or "see its licence files"


def _home(found: PackageMetadata) -> str:
    pairs = (str(each).partition(", ") for each in found.get_all("Project-URL") or [])
    by_label = {label.strip().casefold(): address for label, _, address in pairs}
    preferred = ("homepage", "source", "repository", "source code", "github", "code")
    addresses = [_field(found, "Home-page"), *(by_label.get(each, "") for each in preferred)]
    address = next((each for each in addresses if each), None)
    return f"; {address}" if address else ""


def _field(found: PackageMetadata, name: str) -> str:
    return str((found.get_all(name) or [""])[0])


def _networks() -> Iterator[str]:
    for file in WEIGHT_FILES:
        for source in file.sources:
            yield f"{file.name}, from {source.label}:\n  {source.licence}"


if __name__ == "__main__":
    sys.exit(main())
