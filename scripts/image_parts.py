"""The largest parts of an image's tree: `python -m scripts.image_parts ROOT`.

Files belong to the Python distribution or the Debian package that lists them, else to the folder
they are in.
"""

import argparse
import csv
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

_NOT_IN_AN_IMAGE = ("proc", "sys", "dev", "run", "build", "var/cache", "var/lib/apt/lists")
_DEPTH = {"app": 2, "opt": 2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the parts in MB (10^6 bytes of file contents), the largest first, and the sum."""
    parser = argparse.ArgumentParser(prog="python -m scripts.image_parts", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--venv", type=Path, default=Path("opt/venv"), help="default: %(default)s")
    parser.add_argument("--count", type=int, default=10, help="default: %(default)s")
    asked = parser.parse_args(arguments)
    sizes = parts(asked.root, asked.root / asked.venv)
    for name, size in sizes.most_common(asked.count):
        print(f"{size / 1e6:7.1f} MB  {name}")
    whole, weights = sizes.total(), sizes["/app/weights"]
    print(f"{whole / 1e6:7.1f} MB  in all, {(whole - weights) / 1e6:.1f} without the networks")
    return 0


def parts(root: Path, venv: Path) -> Counter[str]:
    """Bytes by owner; a file with two names counts once."""
    owners = {path: name for name, path in _owned(root, venv)}
    seen: set[tuple[int, int]] = set()
    sizes: Counter[str] = Counter()
    for path in _files(root):
        entry = path.lstat()
        if (entry.st_dev, entry.st_ino) not in seen:
            seen.add((entry.st_dev, entry.st_ino))
            sizes[owners.get(path) or _folder_of(path, root)] += entry.st_size
    return sizes


def _owned(root: Path, venv: Path) -> Iterator[tuple[str, Path]]:
    for listing in sorted((root / "var/lib/dpkg/info").glob("*.list")):
        package = listing.stem.partition(":")[0]
        for line in listing.read_text(encoding="utf-8").splitlines():
            yield f"Debian's {package}", _merged(root, line)
    for record in sorted(venv.glob("lib/python3*/site-packages/*.dist-info/RECORD")):
        name = record.parent.name.partition("-")[0].replace("_", "-")
        site = record.parent.parent
        with record.open(encoding="utf-8", newline="") as lines:
            for row in csv.reader(lines):
                yield name, (site / row[0]).resolve() if row[0].startswith("..") else site / row[0]


def _merged(root: Path, line: str) -> Path:
    """Packages still list /lib and /bin, which are links into /usr."""
    first = line.lstrip("/").partition("/")[0]
    return root / "usr" / line.lstrip("/") if (root / first).is_symlink() else root / line[1:]


def _files(root: Path) -> Iterator[Path]:
    skipped = {root / each for each in _NOT_IN_AN_IMAGE}
    for here, names, files in os.walk(root):
        folder = Path(here)
        names[:] = [name for name in names if folder / name not in skipped]
        yield from (folder / name for name in files)


def _folder_of(path: Path, root: Path) -> str:
    inside = path.relative_to(root).parts
    return "/" + "/".join(inside[: min(_DEPTH.get(inside[0], 1), len(inside) - 1)] or ("",))


if __name__ == "__main__":
    sys.exit(main())
