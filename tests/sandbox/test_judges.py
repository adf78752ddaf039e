"""The official SDKs judge the Runware look-alike: they must meet it as they meet the real one.

Each SDK lives in a virtual environment of its own under .venv-judges/ (both are imported as
`runware`), installed once from pinned and hashed files. Without a registry the judges are skipped.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sandbox.opening import open_sandbox
from sandbox.options import Options, Times
from tests.conftest import artwork, png_bytes
from tests.homes import python_home

HERE = Path(__file__).parent / "judges"
AT_ONCE = 4
PATIENCE_S = 50
SYNC = {"deliveryMethod": "sync"}
BASE64 = {"outputType": "base64Data"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One SDK, one situation."""

    judge: str
    fault: str = ""
    noisy: bool = False
    wanted: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    said: Mapping[str, Any]
    charged: int
    usd: Decimal
    sockets: int

    @property
    def outcome(self) -> str:
        return str(self.said["outcome"])

    @property
    def item(self) -> Mapping[str, Any]:
        assert self.outcome == "ok", self.said
        (item,) = self.said["result"]
        assert isinstance(item, dict)
        return item

    @property
    def category(self) -> tuple[str, bool]:
        assert self.outcome == "RunwareError", self.said
        return str(self.said["code"]), bool(self.said["retryable"])


CASES: Mapping[str, Case] = {
    "new sync": Case(judge="new", wanted={"fields": SYNC}),
    "new async": Case(judge="new"),
    "new wrong key": Case(judge="new", wanted={"key": "wrong"}),
    "new old name": Case(judge="new", fault="runware.legacy_task_type"),
    "new drop before ack, async": Case(judge="new", fault="runware.drop_before_ack"),
    "new drop after ack, async": Case(judge="new", fault="runware.drop_after_ack"),
    "new drop, sync": Case(
        judge="new", fault="runware.drop_before_result", wanted={"fields": SYNC}
    ),
    "new credits": Case(judge="new", fault="runware.insufficient_credits"),
    "new timeoutProvider": Case(judge="new", fault="runware.timeout_provider"),
    "new 2 MB": Case(judge="new", noisy=True, wanted={"fields": {**SYNC, **BASE64}}),
    "new REST sync": Case(judge="new", wanted={"transport": "rest", "fields": SYNC}),
    "new REST async": Case(judge="new", wanted={"transport": "rest"}),
    "new REST wrong key": Case(judge="new", wanted={"transport": "rest", "key": "wrong"}),
    "old": Case(judge="old"),
    "old wrong key": Case(judge="old", wanted={"key": "wrong"}),
    "old drop before ack": Case(judge="old", fault="runware.drop_before_ack"),
    "old drop before result": Case(judge="old", fault="runware.drop_before_result"),
    "old credits": Case(judge="old", fault="runware.insufficient_credits"),
    "old timeoutProvider": Case(judge="old", fault="runware.timeout_provider"),
    "old 2 MB": Case(judge="old", noisy=True, wanted={"fields": BASE64}),
}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Verdict]:
    """Every case once, a few at a time."""
    pythons = {name: python_home(name, HERE / f"{name}.txt") for name in ("old", "new")}
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "art.png").write_bytes(artwork(width=320, height=256))
    noise = np.random.default_rng(0).integers(0, 256, (800, 800, 3), np.uint8)
    (folder / "noise.png").write_bytes(png_bytes(noise))
    return asyncio.run(_hear_all(pythons, folder))


async def _hear_all(pythons: Mapping[str, Path], folder: Path) -> Mapping[str, Verdict]:
    turns = asyncio.Semaphore(AT_ONCE)

    async def hear(case: Case) -> Verdict:
        async with turns:
            return await _hear(case, python=pythons[case.judge], folder=folder)

    return dict(zip(CASES, await asyncio.gather(*map(hear, CASES.values())), strict=True))


async def _hear(case: Case, *, python: Path, folder: Path) -> Verdict:
    async with open_sandbox(Options(times=Times(runware_task_s=0.02))) as sandbox:
        sandbox.faults.set(case.fault)
        wanted = {
            "key": "sandbox",
            "ws_url": sandbox.runware_ws,
            "rest_url": sandbox.runware_rest,
            "picture": str(folder / ("noise.png" if case.noisy else "art.png")),
            **case.wanted,
        }
        said = await _run(python, HERE / f"{case.judge}.py", json.dumps(wanted))
        lines = [sandbox.bill.line(model) for model in ("bria:2@1", "runware:112@10")]
        return Verdict(
            said=said,
            charged=sum(line.charged for line in lines),
            usd=sandbox.bill.total_usd,
            sockets=len(list(sandbox.journal.calls("connect"))),
        )


async def _run(python: Path, script: Path, wanted: str) -> Mapping[str, Any]:
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(
        str(python),
        str(script),
        wanted,
        stdout=pipe,
        stderr=pipe,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )
    try:
        out, err = await asyncio.wait_for(program.communicate(), PATIENCE_S)
    except TimeoutError:
        program.kill()
        await program.communicate()
        return {"outcome": f"no answer within {PATIENCE_S} s"}
    assert program.returncode == 0, err.decode()
    said = json.loads(out)
    assert isinstance(said, dict)
    return said


@pytest.mark.parametrize("name", ["new sync", "new async", "new REST sync", "new REST async"])
def test_the_new_sdk_completes_removals(verdicts: Mapping[str, Verdict], name: str) -> None:
    verdict = verdicts[name]
    assert verdict.item["cost"] == 0.018
    assert verdict.item["imageURL"].endswith(".png")
    assert (verdict.charged, verdict.usd) == (1, Decimal("0.018"))


@pytest.mark.parametrize("name", ["new wrong key", "new REST wrong key"])
def test_the_new_sdk_gives_up_on_a_wrong_key(verdicts: Mapping[str, Verdict], name: str) -> None:
    assert verdicts[name].category == ("auth", False)
    assert verdicts[name].sockets <= 1


def test_the_new_sdk_takes_the_old_name_in_a_reply(verdicts: Mapping[str, Verdict]) -> None:
    assert verdicts["new old name"].item["taskType"] == "imageBackgroundRemoval"


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_new_sdk_survives_a_drop_of_an_async_task(
    verdicts: Mapping[str, Verdict], when: str
) -> None:
    verdict = verdicts[f"new drop {when} ack, async"]
    assert verdict.item["cost"] == 0.018
    assert (verdict.charged, verdict.sockets) == (1, 2)


def test_the_new_sdk_loses_a_paid_sync_task_in_a_drop(verdicts: Mapping[str, Verdict]) -> None:
    verdict = verdicts["new drop, sync"]
    assert verdict.category == ("connection", True)
    assert "may have been processed" in verdict.said["message"]
    assert verdict.charged == 1


def test_the_new_sdk_sees_an_empty_balance(verdicts: Mapping[str, Verdict]) -> None:
    assert verdicts["new credits"].category == ("quota", False)


def test_the_new_sdk_does_not_know_the_documented_timeout(
    verdicts: Mapping[str, Verdict],
) -> None:
    assert verdicts["new timeoutProvider"].category == ("unknown", False)


def test_the_new_sdk_cannot_receive_a_frame_of_2_mb(verdicts: Mapping[str, Verdict]) -> None:
    verdict = verdicts["new 2 MB"]
    assert verdict.category == ("connection", True)
    assert verdict.charged == 1


def test_the_old_sdk_completes_a_removal(verdicts: Mapping[str, Verdict]) -> None:
    verdict = verdicts["old"]
    assert verdict.item["cost"] == 0.0006
    assert verdict.item["imageURL"].endswith(".png")
    assert (verdict.charged, verdict.usd) == (1, Decimal("0.0006"))


def test_the_old_sdk_tries_a_wrong_key_several_times(verdicts: Mapping[str, Verdict]) -> None:
    verdict = verdicts["old wrong key"]
    assert verdict.outcome == "ConnectionError"
    assert verdict.sockets > 1


@pytest.mark.parametrize("when", ["ack", "result"])
def test_the_old_sdk_recovers_from_a_drop_by_a_conflict(
    verdicts: Mapping[str, Verdict], when: str
) -> None:
    verdict = verdicts[f"old drop before {when}"]
    assert verdict.item["cost"] == 0.0006
    assert verdict.charged == 1
    assert verdict.sockets > 1


@pytest.mark.parametrize(
    ("name", "code"), [("credits", "insufficientCredits"), ("timeoutProvider", "timeoutProvider")]
)
def test_the_old_sdk_raises_errors_as_they_are(
    verdicts: Mapping[str, Verdict], name: str, code: str
) -> None:
    verdict = verdicts[f"old {name}"]
    assert (verdict.outcome, verdict.said["code"]) == ("RunwareAPIError", code)


def test_the_old_sdk_receives_a_frame_of_2_mb(verdicts: Mapping[str, Verdict]) -> None:
    assert verdicts["old 2 MB"].item["imageBase64Data"].startswith("iVBOR")
