"""The project's documents taken apart: their fenced blocks with what runs them, headings, links."""

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from tests.conftest import ROOT

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARKER = re.compile(r"<!-- (run by|outside world): (.+?) -->\n\Z")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_LINK = re.compile(r"(?:\]\(|<img src=\")([^)\s\"]+)[)\"]")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document.

    `marker` is what the comment before it says: who runs it, or what it needs of the outside world.
    """

    document: Path
    line: int
    language: str
    text: str
    marker: tuple[Literal["run by", "outside world"], str] | None

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


@cache
def documents() -> tuple[Path, ...]:
    """Every Markdown file that git knows or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(path for name in sorted(listed.stdout.split()) if (path := ROOT / name).exists())


@cache
def blocks() -> tuple[Block, ...]:
    return tuple(block for document in documents() for block in _blocks_of(document))


def _blocks_of(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        marker = _MARKER.search(text, 0, fence.start())
        found.append(
            Block(
                document=document,
                line=text.count("\n", 0, fence.start()) + 1,
                language=fence[1],
                text=fence[2],
                marker=(marker[1], marker[2]) if marker else None,  # type: ignore[arg-type]
            )
        )
    return found


def links(document: Path) -> list[str]:
    """Targets of the document's links, those inside code left out."""
    return _LINK.findall(_prose(document))


@cache
def anchors(document: Path) -> frozenset[str]:
    """What `#…` may name in the document, by GitHub's rule for headings."""
    return frozenset(_slug(heading) for heading in _HEADING.findall(_prose(document)))


def _prose(document: Path) -> str:
    return _FENCE.sub("", document.read_text(encoding="utf-8"))


def _slug(heading: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", heading.lower())
    return kept.replace(" ", "-")
