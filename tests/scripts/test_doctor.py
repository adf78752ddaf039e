"""The doctor as a process of its own, on a box that is well and on boxes that are not."""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from models.schemas import ModelId
from scripts.doctor import main
from scripts.doctor_box import folders
from scripts.doctor_outside import Clocks, clock, providers
from scripts.doctor_pictures import Ward, examined, networks, weights
from scripts.findings import Finding
from services.weights import ISNET_GENERAL_USE
from tests.conftest import ROOT, make_settings, serving
from tests.fakes import FakeRemover
from tests.ports import unused_port
from tests.sandbox_thread import running_sandbox

KEY = "a-key-that-nobody-must-see"


class Visit:
    """One run of the doctor: its exit status, everything it wrote, and its findings by name."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status = done.returncode
        self.text = done.stdout + done.stderr
        self.report: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        self.by_name = {each["check"]: each for each in self.report.get("findings", ())}

    def level(self, check: str) -> str:
        assert check in self.by_name, self.text
        return str(self.by_name[check]["level"])

    def said(self, check: str) -> str:
        return f"{self.by_name[check]['found']} {self.by_name[check]['advice']}"

    def broken(self) -> list[str]:
        return [name for name, each in self.by_name.items() if each["level"] == "broken"]


def visited(
    folder: Path,
    *words: str,
    settings: Mapping[str, str] | None = None,
    before: tuple[str, ...] = (),
) -> Visit:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PORT": str(unused_port()),
        "TEMP_DIR": str(folder / "temp"),
        "DATA_DIR": str(folder / "data"),
        "WEIGHTS_DIR": str(folder / "weights"),
        "WEIGHTS_DOWNLOAD": "false",
        **(settings or {}),
    }
    done = subprocess.run(
        [*before, sys.executable, "-m", "scripts.doctor", "--json", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Visit(done)


def seeing_network(folder: Path, *, sees: bool) -> dict[str, str]:
    """Settings with a network of two operators for ISNet: it finds what has little blue, or all."""
    path = folder / "weights" / ISNET_GENERAL_USE.relative_path
    path.parent.mkdir(parents=True)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 1024, 1024])
        for name, channels in (("picture", 3), ("mask", 1))
    ]
    nodes = [
        helper.make_node("ReduceMin", ["picture"], ["least"], axes=[1]),
        helper.make_node("Neg" if sees else "Abs", ["least"], ["dark"]),
        helper.make_node("Relu", ["dark"], ["mask"]),
    ]
    graph = helper.make_graph(nodes, "sees", ends[:1], ends[1:])
    opset = [helper.make_opsetid("", 13)]
    onnx.save_model(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"UNVERIFIED_WEIGHTS": f"{ISNET_GENERAL_USE.name}={sha256}"}


def test_a_box_that_is_well(tmp_path: Path) -> None:
    settings = {**seeing_network(tmp_path, sees=True), "API_KEYS": f"shop:{KEY}"}
    visit = visited(tmp_path, settings=settings)
    assert visit.broken() == [], visit.text
    assert visit.status == visit.report["exit_status"] == 2  # BiRefNet has no weights here
    assert visit.report["status"] == "warning"
    for check in ("settings", "door", "onnxruntime", "local-isnet", "local-knockout"):
        assert visit.level(check) == "well"
    assert visit.said("enlargement").startswith("2400x2400 in ")
    assert "alpha within 0 of 255" in visit.said("enlargement")
    assert "for shots." in visit.said("memory divided")
    assert "answered by local-isnet" in visit.said("a default shot")
    assert visit.said("weights birefnet-general").startswith("There are none")
    assert KEY not in visit.text
    assert not list(tmp_path.glob("**/doctor-*"))


async def examination(folder: Path, *, quick: bool = False, **settings: object) -> list[Finding]:
    """What is said of the models, in this process."""
    (folder / "scratch").mkdir()
    asked = make_settings(folder / "temp", weights_dir=folder / "weights", **settings)
    ward = Ward(asked, folder / "scratch")
    return [each async for each in examined(ward, quick=quick, paid=())]


def broken(findings: list[Finding]) -> dict[str, str]:
    return {
        each.check: f"{each.found} {each.advice}" for each in findings if each.level == "broken"
    }


@pytest.mark.anyio
async def test_a_network_that_runs_and_does_not_see_is_broken(tmp_path: Path) -> None:
    named = seeing_network(tmp_path, sees=False)["UNVERIFIED_WEIGHTS"]
    found = broken(await examination(tmp_path, unverified_weights=named))
    assert sorted(found) == ["local-isnet"]
    assert "does not see" in found["local-isnet"]


@pytest.mark.anyio
async def test_without_weights_and_keys_nobody_would_answer(tmp_path: Path) -> None:
    findings = await examination(tmp_path)
    assert "Set a provider's key" in broken(findings)["a default shot"]
    (isnet,) = [each for each in findings if each.check == "weights isnet-general-use"]
    assert (isnet.level, "make weights" in isnet.advice) == ("warning", True)


@pytest.mark.anyio
async def test_a_foreign_file_for_weights_is_broken_and_never_run(tmp_path: Path) -> None:
    path = tmp_path / "weights" / ISNET_GENERAL_USE.relative_path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a network")
    found = broken(await examination(tmp_path))
    assert sorted(found) == ["a default shot", "weights isnet-general-use"]
    assert path.read_bytes() == b"not a network"


@pytest.mark.anyio
async def test_a_network_is_not_tried_in_memory_that_others_need(tmp_path: Path) -> None:
    named = seeing_network(tmp_path, sees=True)["UNVERIFIED_WEIGHTS"]
    asked = make_settings(tmp_path, weights_dir=tmp_path / "weights", unverified_weights=named)
    ward = Ward(asked, tmp_path, free=lambda: 100 << 20)
    assert len([each for each in weights(ward) if each.level == "well"]) == 1
    findings = [each async for each in networks(ward)]
    (isnet,) = [each for each in findings if each.check == "local-isnet"]
    assert isnet.level == "warning"
    assert "100 are free now" in isnet.found


def test_an_unwritable_data_folder_is_broken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    settings = {"DATA_DIR": str(tmp_path / "file" / "data")}
    visit = visited(tmp_path, "--only", "folders", settings=settings)
    assert visit.status == 1
    assert visit.broken() == ["DATA_DIR"]
    assert visit.level("TEMP_DIR") == "well"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_root_is_told_that_it_is_not_the_services_user(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    findings = list(folders(make_settings(tmp_path, data_dir=tmp_path / "data")))
    assert (findings[0].check, findings[0].level) == ("user", "warning")
    assert "--user 65534:65534" in findings[0].advice


def test_a_small_disk_in_memory_is_broken(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = f'mount -t tmpfs -o size=4m none "{small}" && exec "$@"'
    before = ("unshare", "-m", "sh", "-c", mount, "sh")
    allowed = shutil.which("unshare") and not subprocess.call(
        [*before, "true"], stderr=subprocess.DEVNULL
    )
    if not allowed:
        pytest.skip("may not mount anything here")
    settings = {"TEMP_DIR": str(small)}
    visit = visited(tmp_path, "--only", "folders", settings=settings, before=before)
    assert visit.status == 1
    assert visit.broken() == ["TEMP_DIR"]
    assert "on tmpfs" in visit.said("TEMP_DIR")
    assert visit.level("room") == "warning"


def test_an_invalid_setting_is_told_by_name_and_its_secret_is_not(tmp_path: Path) -> None:
    settings = {"QUEUE_LIMIT": "-1", "API_KEYS": KEY}
    visit = visited(tmp_path, "--only", "machine", "settings", "models", settings=settings)
    told = [each["found"] for each in visit.report["findings"] if each["check"] == "settings"]
    assert visit.status == 1
    assert [line.partition(":")[0] for line in sorted(told)] == ["API_KEYS", "QUEUE_LIMIT"]
    assert KEY not in visit.text
    assert visit.level("CPU flags") != "skipped"
    assert visit.level("models") == "skipped"


def test_an_open_door_with_somebodys_money_behind_it_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNWARE_API_KEY", KEY)
    monkeypatch.setenv("TEMP_DIR", str(tmp_path))
    assert main(["--only", "settings"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(maxsplit=2)[:2] == ["well", "settings"]
    assert lines[1].startswith("BROKEN   door ")
    assert "spends your money" in lines[1]
    assert lines[2].strip() == "-> Set API_KEYS before others can reach the port."
    assert lines[-1] == "4 things looked at: 2 well, 1 warning, 1 broken."
    assert KEY not in "".join(lines)


def test_the_providers_take_the_key_or_not_and_nothing_is_spent(tmp_path: Path) -> None:
    with running_sandbox() as sandbox:
        settings = {
            "RUNWARE_URL": sandbox.runware_ws,
            "KIE_API_URL": sandbox.kie_api,
            "RUNWARE_API_KEY": "sandbox-doctor",
            "KIE_API_KEY": KEY,
        }
        visit = visited(tmp_path, "--only", "providers", settings=settings)
        other = {"runware_api_key": KEY, "kie_api_key": "sandbox-doctor"}
        turned = make_settings(
            tmp_path, **other, runware_url=sandbox.runware_ws, kie_api_url=sandbox.kie_api
        )
        runware, kie = asyncio.run(providers(turned.providers, Clocks()))
        assert list(sandbox.bill.entries()) == []
        assert sandbox.bill.total_usd == 0
    assert visit.status == 1
    assert visit.said("Runware").startswith("A look-alike on this machine takes the key; left: ")
    assert visit.broken() == ["Kie.ai"]
    assert "Correct KIE_API_KEY" in visit.said("Kie.ai")
    assert visit.level("clock") == "well"
    assert KEY not in visit.text
    assert "sandbox-doctor" not in visit.text
    assert (runware.level, kie.level) == ("broken", "well")
    assert "refuses the key (provider_refused)" in runware.found


def test_a_clock_that_is_wrong_is_broken() -> None:
    clocks = Clocks()
    clocks.note("Kie.ai", "Mon, 23 Nov 2026 08:00:00 GMT")
    (found,) = clock(clocks)
    assert (found.level, "from what Kie.ai says" in found.found) == ("broken", True)


def test_beside_a_running_service_nothing_of_it_is_touched(tmp_path: Path) -> None:
    isnet = {ModelId.LOCAL_ISNET: FakeRemover(ModelId.LOCAL_ISNET)}
    with serving(tmp_path / "temp", stand_ins=isnet, data_dir=tmp_path / "data") as server:
        on_its_way = tmp_path / "temp" / "uploads" / "somebodys"
        on_its_way.mkdir()
        (on_its_way / "picture").write_bytes(b"half of it")
        before = sorted(tmp_path.rglob("*"))
        settings = {"PORT": str(server.client.base_url.port)}
        visit = visited(tmp_path, "--only", "service", "models", "--quick", settings=settings)
        assert sorted(tmp_path.rglob("*")) == before
        assert server.client.get("/ready").status_code == 200
    assert visit.level("service") == "warning"  # no weights for BiRefNet
    assert visit.level("local-knockout") == "well"
    assert "not tried" in visit.said("networks")


def test_a_wrong_command_line_has_a_status_of_its_own(tmp_path: Path) -> None:
    assert visited(tmp_path, "--slow").status == 3
