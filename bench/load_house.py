"""What bench.load stands on: the look-alikes, the service in its control group, locust's home."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
from PIL import Image

from bench.image_load import DATA, make_pictures
from bench.load_clients import PLAN
from bench.local_load import wait_until_prepared, weights_folder
from bench.upscale_peers import CACHE
from bench.upscale_service import ROOT, running_service
from services.weight_sources import sha256_of
from services.weights import BIREFNET_GENERAL

KEYS = {"shop-a": "load-key-of-the-first-shop", "shop-b": "load-key-of-the-second-shop"}
WANTED = ROOT / "requirements-load.txt"
_TASK_S = 0.8  # a Runware task, and each state of a Kie.ai task
_WEATHER_EVERY_S = 7
# One task each time: what providers are known for, hard failures among them.
WEATHER = (
    "runware.slow=6",
    "kie.slow=8",
    "runware.provider_error@bria:2@1",
    "kie.fail_500",
    "runware.drop_before_result",
    "kie.null_record",
    "runware.timeout_provider",
    "kie.poll_500",
    "kie.url_503",
    "runware.rate_limited=1",
    "kie.html_502",
    "runware.url_truncated@runware:112@10",
    "kie.slow_body=6",
    "runware.slow=15",
    "kie.lost_reply",
)


class LocustMissing(Exception):
    """Its environment could not be made; the text says why."""


def locust_python() -> Path:
    """The interpreter of locust's own environment, made on first use from the hashed list."""
    home, digest = CACHE / "locust", hashlib.sha256(WANTED.read_bytes()).hexdigest()
    python, stamp = home / "bin" / "python", home / "made-from"
    if stamp.is_file() and stamp.read_text() == digest:
        return python
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    pip = [str(python), "-m", "pip", "install", "-q", "--no-input", "--require-hashes"]
    done = subprocess.run(
        [*pip, "--only-binary", ":all:", "-r", str(WANTED)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LocustMissing(f"locust cannot be installed: {done.stderr[-500:]}")
    stamp.write_text(digest)
    return python


def prepared_weights(graph: Path) -> tuple[Path, dict[str, str]]:
    """A weights folder whose cheap forms are made, kept for the next run, and its settings."""
    digest = sha256_of(graph)
    folder = CACHE / f"load-weights-{digest[:12]}"
    if not folder.is_dir():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        weights_folder(part, graph).rename(folder)
    env = {
        "WEIGHTS_DIR": str(folder),
        "UNVERIFIED_WEIGHTS": f"{BIREFNET_GENERAL.name}={digest}",
    }
    return folder, env


def make_form(folder: Path, env: Mapping[str, str]) -> None:
    """A first start makes the network's cheap form, as an image's build has by then."""
    folder.mkdir()
    with running_service(folder, env=env, watched=False) as service:
        wait_until_prepared(service.client)


def make_every_picture(folder: Path) -> None:
    """Those of bench.image_load, and small, transparent, WebP and progressive ones."""
    make_pictures(folder)
    with Image.open(DATA / "car-1.jpg") as opened:
        car = opened.convert("RGB")
    for name, size in (("small.jpg", (520, 390)), ("four.webp", (2312, 1734))):
        car.resize(size, Image.Resampling.BICUBIC).save(folder / name, quality=85)
    larger = car.resize((2832, 2124), Image.Resampling.BICUBIC)
    larger.save(folder / "progressive.jpg", quality=90, progressive=True)
    shutil.copy(DATA / "art" / "aircraft_jarno_vasamaa3.png", folder / "logo.png")
    with Image.open(DATA / "art" / "daffodil_susan_park_01.png") as opened:
        sticker = opened.convert("RGBA")
    sticker = sticker.resize((1600, 1600 * sticker.height // sticker.width))
    sticker.save(folder / "sticker.webp", lossless=True)


@dataclass(frozen=True, slots=True)
class LookAlikes:
    """The sandbox in a process of its own, outside the group: providers are not in our memory."""

    pid: int
    addresses: dict[str, str]

    def settings(self) -> dict[str, str]:
        files = [
            self.addresses[each].partition("://")[2] for each in ("runware_files", "kie_files")
        ]
        return {
            "RUNWARE_API_KEY": "sandbox-load",
            "KIE_API_KEY": "sandbox-load",
            "RUNWARE_URL": self.addresses["runware_ws"],
            "KIE_API_URL": self.addresses["kie_api"],
            "KIE_UPLOAD_URL": self.addresses["kie_upload"],
            "PROVIDER_RESULT_DOMAINS": ",".join(files),
        }

    def bill(self) -> dict[str, Any]:
        answer = httpx.get(f"{self.addresses['admin']}/bill", trust_env=False, timeout=30)
        told: dict[str, Any] = answer.raise_for_status().json()
        return told


@contextmanager
def running_look_alikes() -> Iterator[LookAlikes]:
    command = [sys.executable, "-m", "sandbox", "--free-ports", "--json", "--no-isnet"]
    process = subprocess.Popen(
        [*command, "--delay", str(_TASK_S)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield LookAlikes(process.pid, json.loads(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def weather(look_alikes: LookAlikes) -> Iterator[None]:
    """One task in a while meets one of the providers' faults, each kind in its turn."""
    done = Event()

    def blow() -> None:
        with httpx.Client(trust_env=False, timeout=10) as client:
            for turn in range(1 << 30):
                if done.wait(_WEATHER_EVERY_S):
                    return
                wanted = {"faults": [WEATHER[turn % len(WEATHER)]], "times": 1}
                client.post(f"{look_alikes.addresses['admin']}/faults", json=wanted)

    thread = Thread(target=blow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def run_locust(plan: Path, *, clients: int, seconds: float, log: Path) -> float:
    """The clients for so long, then until their last requests have ended; its processor seconds."""
    command = [str(locust_python()), "-m", "locust", "-f", "bench/load_locust.py", "--headless"]
    command += ["-u", str(clients), "-r", str(max(1, clients / 10)), "-t", f"{round(seconds)}s"]
    command += ["--stop-timeout", "60", "--only-summary", "--exit-code-on-error", "0"]
    before = os.times()
    with log.open("ab") as output:
        subprocess.run(
            [*command, "--skip-log-setup"],
            cwd=ROOT,
            env={**os.environ, PLAN: str(plan), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=True,
        )
    after = os.times()
    used = after.children_user + after.children_system
    return used - before.children_user - before.children_system
