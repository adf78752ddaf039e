"""Every command in every document is run here, or names what runs it; every link resolves.

A block without a marker is run as it stands, with only the addresses of the service and of the
sandbox replaced by those of a service that is started here. See CONTRIBUTING.md for the markers.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from models.schemas import ModelId
from sandbox.opening import Sandbox
from sandbox.options import Options, Times
from services.weights import ISNET_GENERAL_USE
from tests.conftest import ROOT, serving
from tests.documents import Block, anchors, blocks, documents, links
from tests.fakes import FakeRemover
from tests.receiver import Receiver, receiving
from tests.sandbox_thread import provider_settings, running_sandbox

SERVICE = "http://localhost:8000"
SANDBOX = "http://127.0.0.1:8902"
CALLBACK = "localhost:9000"
KEY = "example-key-of-the-shop"
ISNET = ROOT / "weights" / ISNET_GENERAL_USE.relative_path

COMMANDS = [block for block in blocks() if block.language in {"bash", "python"}]
RUN_HERE = [block for block in COMMANDS if block.marker is None]
RUN_ELSEWHERE = [block for block in COMMANDS if block.marker and block.marker[0] == "run by"]
FIRST_REQUEST = next(each for each in RUN_HERE if each.document == ROOT / "README.md")
PICTURES = {".png": b"\x89PNG", ".webp": b"RIFF", ".tif": b"II"}


@dataclass(frozen=True)
class World:
    """What the examples talk to: without keys, with one, and for the first with the real ISNet."""

    open_url: str
    real_url: str
    keyed_url: str
    sandbox: Sandbox
    receiver: Receiver

    def translated(self, block: Block) -> str:
        """The block with the documents' addresses replaced by those of this world."""
        addresses = {
            SERVICE: self._service(block),
            SANDBOX: self.sandbox.admin.removesuffix("/sandbox"),
            CALLBACK: self.receiver.place,
        }
        text = block.text
        for told, here in addresses.items():
            text = text.replace(told, here)
        return text

    def _service(self, block: Block) -> str:
        if KEY in block.text:
            return self.keyed_url
        return self.real_url if block == FIRST_REQUEST else self.open_url


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with (
        running_sandbox(Options(times=Times(runware_task_s=0, kie_step_s=0.02))) as sandbox,
        receiving() as receiver,
        serving(
            tmp_path_factory.mktemp("open"),
            stand_ins={ModelId.LOCAL_ISNET: FakeRemover(ModelId.LOCAL_ISNET)},
            webhook_secret="a-secret-that-only-the-shop-has",  # noqa: S106  # the page's own
            webhook_allowed_hosts=frozenset({receiver.place}),
            **provider_settings(sandbox),
        ) as open_service,
        serving(
            tmp_path_factory.mktemp("real"),
            weights_dir=_weights_of_isnet(tmp_path_factory.mktemp("weights")),
            **provider_settings(sandbox),
        ) as real,
        serving(tmp_path_factory.mktemp("keyed"), api_keys=f"shop:{KEY}") as keyed,
    ):
        yield World(open_service.url, real.url, keyed.url, sandbox, receiver)


def _weights_of_isnet(folder: Path) -> Path:
    """A weights folder without BiRefNet, which takes too long for a test where it is there."""
    target = folder / ISNET_GENERAL_USE.relative_path
    target.parent.parent.mkdir(parents=True)
    target.parent.symlink_to(ISNET.parent)
    return folder


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the checkout's test pictures, into which the examples may write."""
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    return tmp_path


@pytest.mark.parametrize("block", [each for each in RUN_HERE if each.language == "bash"], ids=str)
@pytest.mark.skipif(shutil.which("curl") is None, reason="NO CURL: examples not run")
def test_the_commands_work_when_pasted(world: World, checkout: Path, block: Block) -> None:
    _skip_without_weights(block)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", world.translated(block)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=os.environ,
    )
    assert "problem:" not in done.stdout
    if block == FIRST_REQUEST:
        assert '"model":"local-isnet","status":"succeeded"' in done.stdout
    written = re.findall(r"-o (\S+)", block.text)
    assert written or done.stdout or " DELETE " in block.text
    for name in written:
        _assert_picture(checkout / name)
    if CALLBACK in block.text:
        assert world.receiver.next().path == "/cutouts"


@pytest.mark.parametrize("block", [each for each in RUN_HERE if each.language == "python"], ids=str)
def test_the_python_examples_work_when_pasted(
    world: World, checkout: Path, block: Block, capsys: pytest.CaptureFixture[str]
) -> None:
    _skip_without_weights(block)
    code = compile(world.translated(block), str(block), "exec")
    exec(code, {"__name__": "__main__"})  # noqa: S102  # our own page
    written = re.findall(r'"([\w-]+\.(?:png|webp))"', block.text)
    assert written or capsys.readouterr().out
    for name in written:
        _assert_picture(checkout / name)


def _assert_picture(path: Path) -> None:
    assert path.read_bytes().startswith(PICTURES[path.suffix])


def _skip_without_weights(block: Block) -> None:
    if block == FIRST_REQUEST and not ISNET.exists():
        pytest.skip("needs the ISNet weights (make weights)")


@pytest.mark.parametrize("block", RUN_ELSEWHERE, ids=str)
def test_what_is_run_elsewhere_is_named_there(block: Block) -> None:
    assert block.marker
    runner = ROOT / block.marker[1]
    assert runner.is_file(), f"{block}: there is no {runner}"
    text = runner.read_text(encoding="utf-8")
    if f'"{block.document.name}"' in text:
        return  # it takes its commands from the page itself
    commands = _names_of(block)
    assert commands
    for names in commands:
        assert any(name in text for name in names), f"{runner.name} has none of {names}"


def _names_of(block: Block) -> list[tuple[str, ...]]:
    """For each command of a block (or function of a Python one) the names it may be known by."""
    if block.language == "python":
        return [(name,) for name in re.findall(r"^(?:async )?def (\w+)", block.text, re.MULTILINE)]
    joined = block.text.replace("\\\n", " ")
    return [_names_of_command(line) for line in joined.splitlines() if re.match(r"[\w.]", line)]


def _names_of_command(line: str) -> tuple[str, ...]:
    if verb := re.match(r"make ([\w-]+)", line):
        return (f"make {verb[1]}", f"make --no-print-directory {verb[1]}", f'"{verb[1]}"')
    if module := re.search(r"-m ([\w.]+)", line):
        name = module[1]
        return (name, name.replace(".", "/"), ".".join(name.split(".")[:-1]) + " import")
    if script := re.search(r"[\w./-]+\.(?:sh|py|mjs)\b", line):
        return (script[0], Path(script[0]).name)
    return (line.split(maxsplit=1)[0],)


def test_every_block_says_what_it_is() -> None:
    strange = [str(block) for block in blocks() if block.language in {"sh", "shell", "console"}]
    assert not strange, "commands are ```bash"
    bare = [str(b) for b in blocks() if not b.language and re.match(r"\$ |curl |make ", b.text)]
    assert not bare, "commands are ```bash"


def test_a_command_that_asks_this_service_alone_is_not_left_to_the_outside_world() -> None:
    for block in COMMANDS:
        lines = block.text.replace("\\\n", " ").splitlines()
        asks_us_alone = all(
            line.startswith("curl ") and re.findall(r"https?://[^/\s'\"]+", line) == [SERVICE]
            for line in lines
        )
        assert not (asks_us_alone and block.marker and block.marker[0] == "outside world"), block


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(document: Path) -> None:
    for link in links(document):
        target, _, anchor = link.partition("#")
        if "://" in target:
            parts = urlsplit(target)
            assert parts.scheme in {"http", "https"}, link
            assert parts.hostname, link
            assert "." in parts.hostname or parts.hostname == "localhost", link
            continue
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), f"{document.name}: {link}"
        assert not anchor or anchor in anchors(path), f"{document.name}: {link}"


def test_pictures_of_the_documents_are_small_and_used() -> None:
    pictures = sorted((ROOT / "docs" / "images").iterdir())
    shown = {(page.parent / link).resolve() for page in documents() for link in links(page)}
    assert set(pictures) <= shown
    for picture in pictures:
        limit = 20_000 if picture.suffix == ".svg" else 120_000
        assert picture.stat().st_size < limit, picture.name
