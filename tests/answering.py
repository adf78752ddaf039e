"""Models that land when told and clients that listen, for the tests of answers and modes."""

import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from models.images import Cutout, SourceImage
from models.schemas import ModelId
from services.admission import Gate
from services.remover import BackgroundRemover, RemovalOptions
from services.shotgun import Shotgun, Taste
from services.workers import Workers
from tests.conftest import Server
from tests.fakes import FakeRemover
from tests.services.test_results import opened
from utils.clock import Deadline

Event = tuple[str, dict[str, Any]]

RMBG, PORTRAIT, KIE = ModelId.RUNWARE_RMBG, ModelId.RUNWARE_BIREFNET, ModelId.KIE_RECRAFT
BIREFNET, ISNET, KNOCKOUT = ModelId.LOCAL_BIREFNET, ModelId.LOCAL_ISNET, ModelId.LOCAL_KNOCKOUT


class Cutter(FakeRemover):
    """Keeps the left `share` of the picture; one that `sends` is like a provider's from then on."""

    def __init__(
        self,
        name: ModelId,
        *,
        share: float = 0.5,
        sends: bool = False,
        held: bool = False,
        error: Exception | None = None,
    ) -> None:
        super().__init__(name, held=held, error=error)
        self._share = share
        self._sends = sends

    async def remove(
        self, image: SourceImage, *, options: RemovalOptions, deadline: Deadline
    ) -> Cutout:
        if self._sends:
            options.on_sent()
        cutout = await super().remove(image, options=options, deadline=deadline)
        alpha = np.zeros_like(cutout.alpha)
        alpha[:, : round(self._share * image.width)] = 255
        return replace(cutout, alpha=alpha)


def shotgun(folder: Path, *removers: BackgroundRemover, taste: Taste | None = None) -> Shotgun:
    """A shotgun of these models alone, its results under `folder`."""
    results = opened(folder)
    return Shotgun(
        removers={each.name: each for each in removers},
        results=results,
        workers=Workers(pixel_threads=2),
        gate=Gate(running_limit=4, queue_limit=4),
        max_pixels=10**6,
        model_timeout_s=30,
        taste=taste,
    )


def table(*cutters: Cutter) -> dict[ModelId, Cutter]:
    """Stand-ins by their names."""
    return {each.name: each for each in cutters}


def names(*cutters: Cutter) -> str:
    """The same as `models=` takes them."""
    return ",".join(each.name for each in cutters)


def ndjson(lines: Iterable[str]) -> Iterator[Event]:
    for line in lines:
        members = json.loads(line)
        yield members.pop("event"), members


def sse(lines: Iterable[str]) -> Iterator[Event]:
    """Server-sent events as a browser reads them; a comment counts as one, called heartbeat."""
    event = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, json.loads(value)
        elif line.startswith(":"):
            yield "heartbeat", {}
        else:
            assert line == ""


READERS = {"ndjson": ndjson, "sse": sse}


def stream(
    server: Server,
    picture: bytes,
    *,
    accept: str = "*/*",
    path: str = "/remove-background",
    **asked: str,
) -> Any:  # noqa: ANN401  # httpx's own context manager
    return server.client.stream(
        "POST", path, files={"image": picture}, data=asked, headers={"Accept": accept}
    )


def read_to_end(response: httpx.Response, form: str = "ndjson") -> list[Event]:
    return list(READERS[form](response.iter_lines()))


def await_status(server: Server, request_id: str, status: str = "complete") -> dict[str, Any]:
    """The stored record once it has that status."""
    for _ in range(500):
        record: dict[str, Any] = server.client.get(f"/results/{request_id}").json()
        if record["status"] == status:
            return record
        threading.Event().wait(0.01)
    raise AssertionError(f"the shot is still {record['status']}")


def outcomes(record: dict[str, Any]) -> dict[str, str]:
    """What became of each model: the failure's code, the reason of a skip, or the status."""
    return {
        entry["model"]: entry.get("error", {}).get("code") or entry.get("reason") or entry["status"]
        for entry in record["results"]
    }
