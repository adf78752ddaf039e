"""docs/SANDBOX.md says what the sandbox does: every switch, every option, every address."""

import pytest

from sandbox.__main__ import _parser
from sandbox.faults import OFFERED
from sandbox.opening import Sandbox
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "SANDBOX.md").read_text(encoding="utf-8")


def test_every_switch_has_its_row() -> None:
    for provider, stages in OFFERED.items():
        for stage, kinds in stages.items():
            for kind, says in kinds.items():
                assert f"| `{provider}.{kind}` | {stage} | {says} |" in PAGE


def test_no_row_names_a_switch_that_is_gone() -> None:
    rows = PAGE.count("\n| `runware.") + PAGE.count("\n| `kie.")
    assert rows == sum(len(kinds) for stages in OFFERED.values() for kinds in stages.values())


def test_every_command_line_option_is_named() -> None:
    options = {name for action in _parser()._actions for name in action.option_strings}
    named = {name for name in options if name.startswith("--") and not name.endswith("-port")}
    assert {name for name in named if name not in PAGE} == set()


@pytest.mark.anyio
async def test_every_address_has_its_row(sandbox: Sandbox) -> None:
    for name in sandbox.addresses():
        assert f"| `{name}` |" in PAGE
