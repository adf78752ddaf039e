"""What the doctor says: findings in order, as lines for people or JSON for machines."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

_NAME_WIDTH = 24
_HIDDEN = "[hidden]"


class Level(StrEnum):
    """How a finding counts: only `warning` and `broken` are held against the box."""

    WELL = "well"
    SKIPPED = "skipped"
    WARNING = "warning"
    BROKEN = "broken"


EXIT_STATUS = {Level.WELL: 0, Level.SKIPPED: 0, Level.WARNING: 2, Level.BROKEN: 1}
"""The status by the worst finding; 3 is a command line that was not understood."""

_BY_WEIGHT = (Level.BROKEN, Level.WARNING, Level.WELL)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, what was found, and what to do about it ("" for nothing)."""

    check: str
    level: Level
    found: str
    advice: str = ""


def well(check: str, found: str, advice: str = "") -> Finding:
    return Finding(check, Level.WELL, found, advice)


def skipped(check: str, found: str) -> Finding:
    return Finding(check, Level.SKIPPED, found)


def warning(check: str, found: str, advice: str) -> Finding:
    return Finding(check, Level.WARNING, found, advice)


def broken(check: str, found: str, advice: str) -> Finding:
    return Finding(check, Level.BROKEN, found, advice)


def worst(findings: Iterable[Finding]) -> Level:
    """`well` where nothing is held against the box."""
    levels = {each.level for each in findings}
    return next((level for level in _BY_WEIGHT if level in levels), Level.WELL)


def without_secrets(finding: Finding, secrets: Collection[str]) -> Finding:
    """The same with every secret blacked out, whoever has put it into a sentence."""
    found, advice = finding.found, finding.advice
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        found, advice = found.replace(secret, _HIDDEN), advice.replace(secret, _HIDDEN)
    return Finding(finding.check, finding.level, found, advice)


def as_line(finding: Finding) -> str:
    """One line, and one below it that says what to do."""
    shown = (
        finding.level.upper() if finding.level in {Level.WARNING, Level.BROKEN} else finding.level
    )
    line = f"{shown:8} {finding.check:{_NAME_WIDTH}} {finding.found}"
    return f"{line}\n{'':8} {'':{_NAME_WIDTH}} -> {finding.advice}" if finding.advice else line


def summary(findings: Sequence[Finding]) -> str:
    counts = {level: sum(each.level is level for each in findings) for level in Level}
    told = ", ".join(f"{count} {level}" for level, count in counts.items() if count)
    return f"\n{len(findings)} things looked at: {told}."


def as_json(findings: Sequence[Finding], *, seconds: float) -> str:
    level = worst(findings)
    document = {
        "status": level,
        "exit_status": EXIT_STATUS[level],
        "seconds": round(seconds, 1),
        "findings": [asdict(each) for each in findings],
    }
    return json.dumps(document, indent=2)
