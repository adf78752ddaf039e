"""What a built image does, tried out: `python -m scripts.prove_image`, after build_without_docker.

Started with its own ENTRYPOINT and CMD in a root that cannot be written, in 4 GiB and on two
processors, on a network of its own: health, models, who runs and with what rights, cut-outs
against those of this checkout, volumes owned by root or not writable, and SIGTERM at three bad
moments. Prints a line for each; ends non-zero where one is not as it should be.
"""

import argparse
import io
import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from ruamel.yaml import YAML

from bench.memory_watch import tree
from bench.upscale_service import running_service
from scripts.build_without_docker import FOLDER, ROOT, BuiltStage
from scripts.run_image import (
    STAGE,
    Container,
    Terms,
    built_stage,
    enter_private_network,
    environment,
    running_image,
)

ADDRESS = "http://127.0.0.1:8000"
STOP_WITHIN_S = 25
DATA = ROOT / "tests" / "data"
PORTRAIT = DATA / "anime-girl-1.jpg"
REFERENCE = DATA / "anime-girl-1.isnet-general-use.png"  # rembg's published result
ARTWORK = DATA / "art" / "shamrock_symbol_jonadab__01.png"
COMPOSE_MODELS = "kie-recraft,runware-rmbg-2.0,local-isnet,local-knockout"
LEAST_IOU = 0.97
MOST_DIFFERENCE = 1.0  # levels of alpha, mean; two runs of one network on one machine
_OWNER = 10001
_START_S = 60
_TIMEOUT = httpx.Timeout(120, connect=5)
_TWELVE_MEGAPIXELS = (4000, 3000)
_ROOT_CHECK = "touch /app/x 2>/dev/null && echo written || echo refused"


@dataclass
class Proof:
    """What was seen, in order; `fails` names what was not as it should be."""

    seen: dict[str, Any] = field(default_factory=dict)
    fails: list[str] = field(default_factory=list)

    def note(self, name: str, value: object, *, holds: bool = True) -> None:
        self.seen[name] = value
        if not holds:
            self.fails.append(name)
        print(f"{'ok' if holds else 'NOT SO':7}{name}: {value}", flush=True)


@dataclass(frozen=True)
class Bench:
    """Where a check works: the image, a folder of its own, and where what it sees goes."""

    stage: BuiltStage
    work: Path
    proof: Proof

    def terms(self, name: str) -> Terms:
        """Both volumes fresh, and owned by root as an engine makes them."""
        folders = {"/data": self.work / name / "data", "/tmp/img-proc": self.work / name / "temp"}  # noqa: S108  # nosec B108  # inside
        for each in folders.values():
            each.mkdir(parents=True)
        return Terms(volumes=folders)

    @contextmanager
    def started(self, name: str, terms: Terms) -> Iterator[tuple[Container, httpx.Client]]:
        """The image, alive; its log shown if it does not come to that."""
        with socket.socket() as asking:
            if asking.connect_ex(("127.0.0.1", 8000)) == 0:
                raise SystemExit("Something else answers on port 8000.")
        log = self.work / name / "log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with (
            running_image(self.stage, terms, log=log) as container,
            httpx.Client(base_url=ADDRESS, timeout=_TIMEOUT, trust_env=False) as client,
        ):
            wait_until_alive(client, container)
            yield container, client


def wait_until_alive(client: httpx.Client, container: Container) -> float:
    """The seconds it took.

    Raises:
        SystemExit: it ended, or it has not come up in time; with what it logged.
    """
    begun = time.monotonic()
    while container.process.poll() is None and time.monotonic() - begun < _START_S:
        try:
            client.get("/health").raise_for_status()
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return time.monotonic() - begun
    raise SystemExit(f"The image did not start:\n{container.log.read_text(errors='replace')}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: %(default)s")
    asked = parser.parse_args()
    stage = built_stage(asked.folder, STAGE)
    enter_private_network()
    proof = Proof()
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="proof-") as work:
        bench = Bench(stage, Path(work), proof)
        for check in CHECKS:
            check(bench)
    print(json.dumps(proof.seen))
    for each in proof.fails:
        print(f"not as it should be: {each}", file=sys.stderr)
    return 1 if proof.fails else 0


# Alive, ready, and who it is


def serves(bench: Bench) -> None:
    terms, proof = replace(bench.terms("serves"), env={"KIE_API_KEY": "sandbox"}), bench.proof
    begun = time.monotonic()
    with bench.started("serves", terms) as (container, client):
        proof.note("seconds to /health", round(time.monotonic() - begun, 2))
        proof.note("/health", client.get("/health").json()["status"])
        states = _when_prepared(client)
        for model in ("local-isnet", "local-knockout"):
            proof.note(model, states[model]["status"], holds=states[model]["status"] == "ready")
        _healthcheck(bench, container, terms)
        _who_runs(bench, container)
        _cut_outs(bench, client)
        _spools(bench, client)
        _pick(bench, client, terms.volumes["/data"])


def _when_prepared(client: httpx.Client) -> dict[str, Any]:
    begun = time.monotonic()
    while True:
        states: dict[str, Any] = client.get("/ready").json()["models"]
        waiting = [each for each in states.values() if each["status"] == "loading"]
        if not waiting or time.monotonic() - begun > _START_S:
            return states
        time.sleep(0.2)


def _healthcheck(bench: Bench, container: Container, terms: Terms) -> None:
    done = container.run_inside(bench.stage.image.health, env=environment(bench.stage, terms))
    bench.proof.note(
        "the image's HEALTHCHECK ends with", done.returncode, holds=done.returncode == 0
    )


def _who_runs(bench: Bench, container: Container) -> None:
    """Process 1 and those below it, as the kernel describes them."""
    proof = bench.proof
    first, *others = tree(container.pid)
    name = Path(f"/proc/{first}/comm").read_text("ascii").strip()
    proof.note("process 1", name, holds=name == "tini")
    states = [_status(each) for each in others]
    users = sorted({each["Uid"].split()[0] for each in states})
    proof.note("users below it", users, holds=users == [str(_OWNER)])
    effective = sorted({int(each["CapEff"], 16) for each in states})
    proof.note("their capabilities", effective, holds=effective == [0])
    fixed = sorted({each["NoNewPrivs"] for each in states})
    proof.note("no new privileges", fixed, holds=fixed == ["1"])
    done = container.run_inside(["/bin/sh", "-c", _ROOT_CHECK], env={})
    answer = done.stdout.decode().strip()
    proof.note("root writing to /app is", answer, holds=answer == "refused")


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _spools(bench: Bench, client: httpx.Client) -> None:
    """What libraries put into a temporary folder finds one, though /tmp cannot be written."""
    large = _large_photo(bench.work / "large.jpg")
    (entry,) = _shoot(client, large, "kie-recraft", deadline_s="55")["results"]
    status = entry["status"]
    bench.proof.note("no /tmp: 12 megapixels by the sandbox", status, holds=status == "succeeded")


def _pick(bench: Bench, client: httpx.Client, data: Path) -> None:
    """A pick lands on a volume that root owned."""
    record = _shoot(client, ARTWORK, "local-knockout")
    pick = {"request_id": record["request_id"], "model": "local-knockout"}
    answer = client.post("/preferences", json=pick)
    found = sorted(str(each.relative_to(data)) for each in data.rglob("*") if each.is_file())
    owners = {each.stat().st_uid for each in (data, *data.rglob("*"))}
    proof = bench.proof
    proof.note("a pick is answered", answer.status_code, holds=answer.status_code == 201)
    proof.note("files on the volume", found, holds="picks/picks.jsonl" in found)
    proof.note("owners on the volume", sorted(owners), holds=owners == {_OWNER})


# Pictures


def _cut_outs(bench: Bench, client: httpx.Client) -> None:
    """The image's cut-outs against this checkout's own, and ISNet's against rembg's."""
    weights = {"WEIGHTS_DIR": str(ROOT / "weights")}
    folder = bench.work / "checkout"
    folder.mkdir()
    with running_service(folder, env=weights, watched=False) as checkout:
        _when_prepared(checkout.client)
        for model, picture in (("local-isnet", PORTRAIT), ("local-knockout", _on_white(bench))):
            ours, theirs = (_cut_out(each, picture, model) for each in (client, checkout.client))
            difference = _mean_difference(ours, theirs)
            bench.proof.note(
                f"{model}: mean difference from this checkout's, levels",
                round(difference, 4),
                holds=difference <= (MOST_DIFFERENCE if model == "local-isnet" else 0),
            )
            if model == "local-isnet":
                iou = _iou(ours, REFERENCE)
                bench.proof.note(
                    "local-isnet: IoU with rembg's", round(iou, 4), holds=iou > LEAST_IOU
                )


def _on_white(bench: Bench) -> Path:
    """Artwork on white, as customers send it."""
    path = bench.work / "artwork.png"
    with Image.open(ARTWORK) as opened:
        artwork = opened.convert("RGBA")
    ground = Image.new("RGBA", artwork.size, "white")
    Image.alpha_composite(ground, artwork).convert("RGB").save(path)
    return path


def _shoot(client: httpx.Client, picture: Path, models: str, **more: str) -> dict[str, Any]:
    with picture.open("rb") as file:
        answer = client.post(
            "/remove-background", files={"image": file}, data={"models": models, **more}
        )
    record: dict[str, Any] = answer.raise_for_status().json()
    return record


def _cut_out(client: httpx.Client, picture: Path, model: str) -> NDArray[np.uint8]:
    """RGBA, h x w x 4."""
    (entry,) = _shoot(client, picture, model, deadline_s="55")["results"]
    if entry["status"] != "succeeded":
        raise SystemExit(f"{model}: {entry}")
    content = client.get(entry["url"]).raise_for_status().content
    with Image.open(io.BytesIO(content)) as opened:
        return np.asarray(opened.convert("RGBA"))


def _mean_difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())


def _iou(cut_out: NDArray[np.uint8], reference: Path) -> float:
    with Image.open(reference) as opened:
        truth = np.asarray(opened.convert("RGBA"))[..., 3] > 127
    mask = cut_out[..., 3] > 127
    return float((mask & truth).sum() / (mask | truth).sum())


# Volumes and users


def survives_an_unwritable_volume(bench: Bench) -> None:
    """/data read-only: everything but keeping works, and it says so."""
    terms = bench.terms("unwritable")
    data = terms.volumes["/data"]
    rest = {name: each for name, each in terms.volumes.items() if name != "/data"}
    frozen = replace(terms, volumes=rest, read_only_volumes={"/data": data})
    with bench.started("unwritable", frozen) as (container, client):
        record = _shoot(client, ARTWORK, "local-knockout")
        status = record["results"][0]["status"]
        bench.proof.note("volume not writable: a shot", status, holds=status == "succeeded")
        pick = {"request_id": record["request_id"], "model": "local-knockout"}
        answer = client.post("/preferences", json=pick)
        bench.proof.note(
            "volume not writable: a pick is answered",
            answer.status_code,
            holds=answer.status_code in {201, 202, 503},
        )
        _ready_says_so(bench, client)
        status = container.stop()
        bench.proof.note("volume not writable: SIGTERM ends with", status, holds=status == 0)
    warned = sorted({json.loads(each)["event"] for each in _log(container) if _is_warning(each)})
    bench.proof.note("volume not writable: it warns of", warned, holds=bool(warned))


def _ready_says_so(bench: Bench, client: httpx.Client) -> None:
    answer = client.get("/ready")
    bench.proof.note(
        "volume not writable: /ready", answer.status_code, holds=answer.status_code == 200
    )


def runs_as_anybody(bench: Bench) -> None:
    """`--user 12345:12345` with volumes of that user's."""
    terms = replace(bench.terms("anybody"), user="12345:12345")
    for each in terms.volumes.values():
        each.chmod(0o777)
    with bench.started("anybody", terms) as (container, client):
        status = _shoot(client, ARTWORK, "local-knockout")["results"][0]["status"]
        bench.proof.note("--user 12345:12345: a shot", status, holds=status == "succeeded")
        users = {_status(each)["Uid"].split()[0] for each in tree(container.pid)}
        bench.proof.note("--user 12345:12345: users", sorted(users), holds=users == {"12345"})


def runs_as_compose_says(bench: Bench) -> None:
    """With the few rights and the tmpfs that docker-compose.yml grants."""
    compose = YAML(typ="safe", pure=True).load((ROOT / "docker-compose.yml").read_text("utf-8"))
    (said,) = compose["services"].values()
    terms = replace(
        bench.terms("compose"),
        env=said["environment"],
        tmpfs=[each.partition(":")[0] for each in said["tmpfs"]],
        read_only_root=said["read_only"],
        capabilities=[each.lower() for each in said["cap_add"]],
    )
    inside = {each.partition(":")[2] for each in said["volumes"]}
    bench.proof.note("compose: volumes", sorted(inside), holds=inside == set(terms.volumes))
    bench.proof.note("compose: cap_drop", said["cap_drop"], holds=said["cap_drop"] == ["ALL"])
    with bench.started("compose", terms) as (container, client):
        _when_prepared(client)
        entries = _shoot(client, PORTRAIT, COMPOSE_MODELS, deadline_s="55")["results"]
        landed = {each["model"]: each["status"] for each in entries}
        fine = set(landed.values()) == {"succeeded"}
        bench.proof.note("compose: a shot, the paid ones by the sandbox", landed, holds=fine)
        _stopped(bench, "under compose's terms", container)


# SIGTERM


def stops_idle(bench: Bench) -> None:
    with bench.started("idle", bench.terms("idle")) as (container, _):
        _stopped(bench, "idle", container)


def stops_before_it_is_up(bench: Bench) -> None:
    """Python is still importing: nothing handles the signal yet but process 1."""
    log = bench.work / "early.log"
    with running_image(bench.stage, bench.terms("early"), log=log) as container:
        while len(tree(container.pid)) == 1:
            time.sleep(0.01)
        time.sleep(0.3)
        _stopped(bench, "while it starts", container)


ANSWERED_AT_THE_END = {"200 succeeded, succeeded", "200 cancelled, succeeded"}
"""ISNet and the knock-out: a drain answers with what has landed by three quarters of DRAIN_S."""


def stops_at_work(bench: Bench) -> None:
    """Two enlargements of 12 megapixels on their way and two shots begun."""
    large = _large_photo(bench.work / "large.jpg")
    on_its_way = Event()
    with (
        bench.started("work", bench.terms("work")) as (container, client),
        ThreadPoolExecutor(4) as pool,
    ):
        _when_prepared(client)
        prints = [pool.submit(_enlarge, client, large, on_its_way) for _ in range(2)]
        shots = [pool.submit(_shot_outcome, client, large) for _ in range(2)]
        on_its_way.wait(60)
        _stopped(bench, "at work", container)
        told = [each.result() for each in (*prints, *shots)]
    kept = all(each in {"whole", *ANSWERED_AT_THE_END} for each in told)
    bench.proof.note("at work: what was under way", told, holds=kept)


def stops_with_a_stalled_client(bench: Bench) -> None:
    """A client that asked for an enlargement and reads nothing of it."""
    large = _large_photo(bench.work / "large.jpg")
    with (
        bench.started("stalled", bench.terms("stalled")) as (container, _),
        socket.create_connection(("127.0.0.1", 8000)) as stalled,
    ):
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        _post_by_hand(stalled, large.read_bytes())
        stalled.recv(100)
        _stopped(bench, "with a client that stalls", container)


def _stopped(bench: Bench, when: str, container: Container) -> None:
    begun = time.monotonic()
    status = container.stop()
    seconds = time.monotonic() - begun
    bench.proof.note(f"SIGTERM {when}: status", status, holds=status == 0)
    bench.proof.note(f"SIGTERM {when}: seconds", round(seconds, 2), holds=seconds < STOP_WITHIN_S)


def _enlarge(client: httpx.Client, picture: Path, on_its_way: Event) -> str:
    end = b""
    try:
        with (
            picture.open("rb") as file,
            client.stream("POST", "/upscale", files={"image": file}) as answer,
        ):
            for piece in answer.iter_raw():
                on_its_way.set()
                end = (end + piece)[-8:]
    except httpx.HTTPError as error:
        return type(error).__name__
    return "whole" if end == b"IEND\xaeB`\x82" else f"{answer.status_code}, not whole"


def _shot_outcome(client: httpx.Client, picture: Path) -> str:
    try:
        entries = _shoot(client, picture, "local-isnet,local-knockout")["results"]
    except httpx.HTTPError as error:
        return type(error).__name__
    said = (each["error"]["code"] if each.get("error") else each["status"] for each in entries)
    return f"200 {', '.join(said)}"


def _post_by_hand(connection: socket.socket, picture: bytes) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="p.jpg"\r\n\r\n'
        + picture
        + b"\r\n--b--\r\n"
    )
    head = (
        "POST /upscale HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data;"
        f" boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode("ascii") + body)


def _large_photo(path: Path) -> Path:
    """A photograph tiled to 12 megapixels."""
    if not path.exists():
        with Image.open(DATA / "car-1.jpg") as opened:
            opened.resize(_TWELVE_MEGAPIXELS, Image.Resampling.BICUBIC).save(path, quality=92)
    return path


def _is_warning(line: str) -> bool:
    return '"level": "WARNING"' in line or '"level": "ERROR"' in line


def _log(container: Container) -> list[str]:
    return container.log.read_text(errors="replace").splitlines()


CHECKS: tuple[Callable[[Bench], None], ...] = (
    serves,
    survives_an_unwritable_volume,
    runs_as_anybody,
    runs_as_compose_says,
    stops_idle,
    stops_before_it_is_up,
    stops_at_work,
    stops_with_a_stalled_client,
)


if __name__ == "__main__":
    sys.exit(main())
