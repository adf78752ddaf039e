"""Writes docs/CONFIGURATION.md and .env.example from config.py, so that the three agree.

`python -m scripts.configuration` writes them; a test compares.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from config import GROUPS, Group

ROOT = Path(__file__).parent.parent

_ENV_HEAD = """\
# Copy to .env and fill in. Every setting may be left out; docs/CONFIGURATION.md explains them.
# One NAME=value a line: no quotes and no comment behind a value, since `docker run --env-file`
# would take both as part of it.
"""

_DOC_HEAD = """\
# Configuration

Every setting is an environment variable; a `.env` file in the folder the service is started from
is read as well, and the environment wins. Nothing is required: without keys the service starts
with the local models and says so in its log and at `/ready`. What cannot be used stops the start
with one line for each problem; keys are never printed.

This page and `.env.example` are written by `python -m scripts.configuration` from `config.py`.

## Look at these first

These decide most; everything else has a default that fits the 2 vCPU, 4 GB box.

| Variable | What to do with it |
| --- | --- |
"""

FIRST = {
    "API_KEYS": "set it before anybody else reaches the port",
    "RUNWARE_API_KEY": "your key, or `sandbox`; empty leaves its two models out",
    "KIE_API_KEY": "your key, or `sandbox`; empty leaves its model out",
    "DAILY_BUDGET_USD": "set it as soon as one of those is real",
    "DATA_DIR": "name a folder on the persistent volume: ledger, records, picks and keys must last",
    "TRUSTED_PROXIES": "name the proxy in front, where there is one",
    "PUBLIC_BASE_URL": "where the world reaches the service, if links shall be absolute",
}
"""The settings that a newcomer should decide on, in that order."""


def env_example() -> str:
    blocks = [_ENV_HEAD]
    for group in GROUPS.values():
        lines = [f"# {_title(group)}"]
        lines += [f"{name.upper()}={_default(field)}" for name, field in group.model_fields.items()]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def configuration_page() -> str:
    first = [f"| `{name}` | {advice} |\n" for name, advice in FIRST.items()]
    blocks = [_DOC_HEAD + "".join(first)]
    for group in GROUPS.values():
        rows = [_row(name, field) for name, field in group.model_fields.items()]
        table = "| Variable | Default | Meaning |\n| --- | --- | --- |\n" + "\n".join(rows)
        blocks.append(f"## {_title(group)}\n\n{table}\n")
    return "\n".join(blocks)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; with `--check` 1 where a file is not what would be written."""
    parser = argparse.ArgumentParser(prog="python -m scripts.configuration")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    texts = {".env.example": env_example(), "docs/CONFIGURATION.md": configuration_page()}
    if not parser.parse_args(arguments).check:
        for name, text in texts.items():
            (ROOT / name).write_text(text, encoding="utf-8")
        return 0
    stale = [name for name, text in texts.items() if (ROOT / name).read_text("utf-8") != text]
    print(*(f"{name} is not what config.py says" for name in stale), sep="\n", end="")
    return int(bool(stale))


def _title(group: type[Group]) -> str:
    return (group.__doc__ or "").strip().rstrip(".")


def _row(name: str, field: FieldInfo) -> str:
    default = _default(field)
    return f"| `{name.upper()}` | {f'`{default}`' if default else '(empty)'} | {_meaning(field)} |"


def _meaning(field: FieldInfo) -> str:
    limits = [
        f"{word} {value:g}"
        for each in field.metadata
        for attribute, word in (("ge", "at least"), ("gt", "above"), ("le", "at most"))
        if (value := getattr(each, attribute, None)) is not None
    ]
    text = (field.description or "").replace("|", "\\|")
    return f"{text} ({', '.join(limits)})" if limits else text


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined or value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ",".join(f"{name}={each}" for name, each in value.items())
    if isinstance(value, frozenset):
        return ",".join(sorted(value))
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
