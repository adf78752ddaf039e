"""Faults can be chosen for a run, over HTTP, by key, by a picture's metadata and by its pixels."""

import io
import json
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sandbox.faults import NAMES, FaultBoard, Kind, Provider, Stage, parse_switches
from sandbox.marks import MODELS, draw, drawn_marks, written_marks
from sandbox.opening import Sandbox
from tests.conftest import ROOT, artwork, png_bytes
from tests.sandbox.conftest import Clock, connected, decoded, only, removal
from tests.sandbox.test_kie import Kie

pytestmark = pytest.mark.anyio


def marked(fault: str, *, format_: str = "PNG", model: str = "") -> bytes:
    """A file whose pixels carry the mark, saved lossily where the format is."""
    pixels = np.asarray(decoded(artwork(width=400, height=300)))
    out = io.BytesIO()
    Image.fromarray(draw(pixels, fault + (f"@{model}" if model else ""))).save(out, format_)
    return out.getvalue()


def commented(text: str) -> bytes:
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text("Comment", text)
    out = io.BytesIO()
    decoded(artwork(width=320, height=256)).save(out, "PNG", pnginfo=chunk)
    return out.getvalue()


async def code_of(sandbox: Sandbox, picture: bytes, *, key: str = "sandbox") -> str:
    """The error code of a removal, or nothing where it succeeds."""
    async with connected(sandbox, key) as wire:
        reply = await wire.ask(removal(picture))
    return str(only(reply, "errors")["code"]) if reply.get("errors") else ""


async def test_a_key_carries_faults_for_all_that_is_sent_under_it(sandbox: Sandbox) -> None:
    key = "sandbox:fault=runware.timeout_provider@bria:2@1,kie.stuck"
    assert await code_of(sandbox, artwork(), key=key) == ""
    key = "sandbox:fault=runware.timeout_provider@runware:112@10,kie.stuck"
    assert await code_of(sandbox, artwork(), key=key) == "timeoutProvider"
    assert await code_of(sandbox, artwork()) == ""


async def test_a_key_with_a_fault_that_does_not_exist_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(KeyError):
        await code_of(sandbox, artwork(), key="sandbox:fault=runware.nonsense")


async def test_a_key_carries_faults_to_kie(
    sandbox: Sandbox, http: httpx.AsyncClient, clock: Clock
) -> None:
    kie = Kie(sandbox, http, clock, key="sandbox:fault=kie.no_credits")
    assert (await kie.create(await kie.upload())).json()["code"] == 402


async def test_metadata_carries_faults_for_its_picture(
    sandbox: Sandbox, http: httpx.AsyncClient, clock: Clock
) -> None:
    picture = commented("sandbox:fault=runware.timeout_provider,kie.fail_501")
    assert await code_of(sandbox, picture) == "timeoutProvider"
    assert await code_of(sandbox, commented("sandbox:fault=none.such")) == ""
    kie = Kie(sandbox, http, clock)
    assert (await kie.finished(await kie.start(picture)))["failCode"] == "501"


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
async def test_pixels_carry_a_fault_through_lossy_files(
    sandbox: Sandbox, http: httpx.AsyncClient, clock: Clock, format_: str
) -> None:
    picture = marked("runware.provider_error", format_=format_)
    assert await code_of(sandbox, picture) == "inferenceError"
    kie = Kie(sandbox, http, clock)
    answer = await kie.create(await kie.upload(marked("kie.maintenance", format_=format_)))
    assert answer.json()["code"] == 455


async def test_pixels_can_name_the_model(sandbox: Sandbox) -> None:
    assert await code_of(sandbox, marked("runware.provider_error", model="bria:2@1")) == ""
    picture = marked("runware.provider_error", model="runware:112@10")
    assert await code_of(sandbox, picture) == "inferenceError"


def test_every_fault_and_model_can_be_drawn_and_read() -> None:
    ground = np.full((16, 256, 3), 255, np.uint8)
    for fault in NAMES:
        assert str(drawn_marks(draw(ground, fault))[0]) == fault
    for model in MODELS:
        (switch,) = drawn_marks(draw(ground, f"kie.stuck@{model}"))
        assert switch.model == model


@pytest.mark.parametrize("level", [0, 128, 255])
def test_plain_pictures_carry_no_mark(level: int) -> None:
    assert drawn_marks(np.full((16, 256, 3), level, np.uint8)) == ()
    assert drawn_marks(np.full((4, 4, 3), level, np.uint8)) == ()
    assert written_marks(artwork()) == ()


def test_the_mark_can_be_drawn_from_the_command_line(tmp_path: Path) -> None:
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    source.write_bytes(artwork(width=320, height=256))
    command = [sys.executable, "-m", "sandbox.marks", str(source), str(target), "kie.stuck"]
    subprocess.run(command, check=True, cwd=ROOT)
    assert drawn_marks(np.asarray(decoded(target.read_bytes()))) == parse_switches("kie.stuck")


async def test_switches_can_be_set_listed_and_cleared_over_http(
    sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    url = sandbox.admin + "/faults"
    wanted = {"faults": ["runware.timeout_provider@runware:112@10"], "times": 1}
    active = (await http.post(url, json=wanted)).json()["active"]
    assert active == [{"fault": wanted["faults"][0], "times": 1}]  # type: ignore[index]  # a list
    assert await code_of(sandbox, artwork()) == "timeoutProvider"
    assert await code_of(sandbox, artwork()) == ""
    await http.post(url, json={"faults": ["kie.stuck", "kie.slow=2"]})
    assert set((await http.get(url)).json()["offered"]) == set(NAMES)
    assert (await http.delete(url)).json()["active"] == []


@pytest.mark.parametrize(
    "wanted", [{}, {"faults": "kie.stuck"}, {"faults": ["kie.x"]}, {"faults": [], "times": 0}, []]
)
async def test_a_wrong_wish_is_422(
    sandbox: Sandbox, http: httpx.AsyncClient, wanted: object
) -> None:
    reply = await http.post(sandbox.admin + "/faults", json=wanted)
    assert reply.status_code == 422
    assert not sandbox.faults.active


async def test_the_bill_and_the_journal_can_be_read_over_http(
    sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    task = removal(png_bytes(np.full((10, 10, 3), 255, np.uint8)))
    async with connected(sandbox) as wire:
        await wire.ask(task)
    bill = (await http.get(sandbox.admin + "/bill")).json()
    assert bill["total_usd"] == "0.0006"
    assert bill["models"]["runware:112@10"] == {"charged": 1, "refused": 0, "usd": "0.0006"}
    assert only(bill, "entries")["task_id"] == task["taskUUID"]
    calls = (await http.get(sandbox.admin + "/journal")).json()["calls"]
    assert [call["operation"] for call in calls][:3] == [
        "connect",
        "authentication",
        "removeBackground",
    ]


def test_a_switch_for_a_number_of_tasks_is_used_up() -> None:
    board = FaultBoard()
    board.set("kie.stuck", times=2)
    sent = ("first", "first", "second", "third")
    drawn = [board.draw(key, provider=Provider.KIE, stage=Stage.TASK) for key in sent]
    assert [Kind.STUCK in faults for faults in drawn] == [True, True, True, False]


def test_switches_read_as_they_are_written() -> None:
    text = "runware.slow=2.5@bria:2@1,kie.stuck@recraft/remove-background,kie.url_503=3"
    assert ",".join(map(str, parse_switches(text))) == text
    assert json.dumps(NAMES)
