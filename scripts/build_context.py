"""What a build would be sent: the tracked files of a folder without those .dockerignore names.

Rules of .dockerignore: Docker's reference, "Build context"; a pattern is matched against a path
and every folder above it, `!` takes back, the last pattern that matches decides.
"""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

_IGNORE_FILE = ".dockerignore"


class IgnoreRules:
    """The patterns of a .dockerignore."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._rules = [rule for line in lines if (rule := _rule(line)) is not None]

    def ignores(self, path: str) -> bool:
        """Whether a file, named by its path in the context, stays outside."""
        above = [str(each) for each in PurePosixPath(path).parents if str(each) != "."]
        ignored = False
        for pattern, takes_back in self._rules:
            if ignored == takes_back and any(pattern.fullmatch(each) for each in (path, *above)):
                ignored = not takes_back
        return ignored


def _rule(line: str) -> tuple[re.Pattern[str], bool] | None:
    """The pattern and whether it takes back; None for a line that says nothing."""
    text = line.strip()
    if not text or line.startswith("#"):
        return None
    takes_back = text.startswith("!")
    cleaned = os.path.normpath(text.removeprefix("!").strip()).strip("/")
    return None if cleaned in {"", "."} else (re.compile(_expression(cleaned)), takes_back)


def _expression(pattern: str) -> str:
    """Go's filepath.Match with `**` for any number of folders, as a regular expression."""
    out, at = "", 0
    while at < len(pattern):
        rest = pattern[at:]
        if rest.startswith("**/"):
            out, at = out + "(?:.*/)?", at + 3
        elif rest.startswith("**"):
            out, at = out + ".*", at + 2
        elif kind := re.match(r"\[\^?[^\]]+\]", rest):
            out, at = out + kind[0], at + len(kind[0])
        elif rest.startswith("\\") and len(rest) > 1:
            out, at = out + re.escape(rest[1]), at + 2
        else:
            out += {"*": "[^/]*", "?": "[^/]"}.get(rest[0], re.escape(rest[0]))
            at += 1
    return out


def ignore_rules(folder: Path) -> IgnoreRules:
    file = folder / _IGNORE_FILE
    return IgnoreRules(file.read_text("utf-8").splitlines() if file.is_file() else [])


def context_files(folder: Path) -> list[str]:
    """The tracked files that a build would be sent."""
    rules = ignore_rules(folder)
    return [
        each for each in _git_paths(folder) if not rules.ignores(each) and (folder / each).is_file()
    ]


def untracked_in_context(folder: Path) -> list[str]:
    """What .dockerignore lets in without git knowing it: in a clean clone a build has it not."""
    rules = ignore_rules(folder)
    return [each for each in _git_paths(folder, "--others") if not rules.ignores(each)]


def _git_paths(folder: Path, *options: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", *options], cwd=folder, capture_output=True, check=True
    )
    return sorted(os.fsdecode(each) for each in listed.stdout.split(b"\0") if each)


def lay_out(folder: Path, files: Sequence[str], into: Path) -> None:
    """Copy the context's files, with their modes and links, into an empty folder."""
    for each in files:
        place = into / each
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(folder / each, place, follow_symlinks=False)


def digest(folder: Path) -> str:
    """Names, modes and contents of everything at or below a path of the context."""
    found = hashlib.sha256()
    paths = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    for path in paths:
        found.update(f"{path.relative_to(folder.parent)} {path.lstat().st_mode}\n".encode())
        if path.is_symlink():
            found.update(os.fsencode(path.readlink()))
        elif path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()
