"""Edge modes, their counts and the overlay over real HTTP."""

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models.images import Cutout, Edge, Pixels, SourceImage
from models.schemas import EdgeReport, ModelId
from services.edge_modes import EdgeFinish
from services.overlay import RED
from services.print_edges import edged
from services.remover import RemovalOptions
from tests import printing
from tests.conftest import Server, png_bytes, problem, serving
from tests.fakes import FakeRemover
from utils.clock import Deadline

HEIGHT, WIDTH = 90, 120
NOT_SOFT = [edge for edge in Edge if edge is not Edge.SOFT]


def soft_alpha() -> Pixels:
    """A glow, a ghost and a speck."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(x - 60, y - 45)
    alpha = np.asarray(((30 - distance) * 12 + 128).clip(0, 255), np.uint8)
    alpha[5:9, 5:30] = 20
    alpha[80:82, 100:102] = 200
    return alpha


def cutout() -> Cutout:
    rgb = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return Cutout(rgb=rgb, alpha=soft_alpha())


def pixels() -> Pixels:
    return np.dstack((cutout().rgb, cutout().alpha))


class Airbrush(FakeRemover):
    """Always gives the same soft cut-out."""

    async def remove(
        self, image: SourceImage, *, options: RemovalOptions, deadline: Deadline
    ) -> Cutout:
        return cutout()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    stand_ins = {ModelId.LOCAL_ISNET: Airbrush(ModelId.LOCAL_ISNET)}
    with serving(tmp_path_factory.mktemp("edges"), stand_ins=stand_ins) as server:
        yield server


def shoot(server: Server, path: str = "/remove-background", **asked: object) -> dict[str, Any]:
    response = server.client.post(
        path,
        files={"image": ("customer.png", png_bytes(cutout().rgb))},
        data={"models": "local-isnet", **{name: str(value) for name, value in asked.items()}},
    )
    record: dict[str, Any] = response.raise_for_status().json()
    entry: dict[str, Any] = record["results"][0]
    assert entry["status"] == "succeeded"
    return entry


def picture_of(response: httpx.Response) -> Image.Image:
    picture = Image.open(io.BytesIO(response.raise_for_status().content))
    picture.load()
    return picture


def shown(server: Server, link: str, **asked: object) -> Pixels:
    query = {name: str(value) for name, value in asked.items()}
    response = server.client.get(link, params=query or None)
    return np.asarray(picture_of(response).convert("RGBA"))


@pytest.mark.parametrize("edge", Edge)
def test_a_cutout_is_stored_with_the_edge_asked_for(server: Server, edge: Edge) -> None:
    wanted, report = edged(cutout(), EdgeFinish(edge, lpi=40, angle=30))
    entry = shoot(server, edge=edge, lpi=40, angle=30)
    got = shown(server, entry["url"])
    assert np.array_equal(got, np.dstack((wanted.rgb, wanted.alpha)))
    assert EdgeReport.model_validate(entry["edge_report"]) == report
    assert report.before.ghost > 50
    assert edge is Edge.SOFT or report.after.ghost == 0


def test_prints_are_made_of_the_soft_cutout(server: Server) -> None:
    entry = shoot(server, "/process", edge="halftone", scale=3, lpi=60)
    assert entry["edge_report"]["edge"] == "soft"
    assert np.array_equal(shown(server, entry["url"]), pixels())
    wanted, _ = printing.enlarged(pixels(), EdgeFinish(Edge.HALFTONE, lpi=60), scale=3)
    assert np.array_equal(shown(server, entry["print_url"]), wanted)


def test_one_mode_at_one_size_is_the_same_whichever_way_it_is_asked_for(server: Server) -> None:
    printed = shown(server, shoot(server)["url"], edge="print", scale=1)
    assert np.array_equal(printed, shown(server, shoot(server, edge="print")["url"]))


def test_a_png_says_at_its_end_what_became_of_its_alpha(server: Server) -> None:
    link = f"{shoot(server)['url']}?edge=print&scale=2"
    _, report = printing.enlarged(pixels(), EdgeFinish(Edge.PRINT), scale=2)
    first, again = server.client.get(link), server.client.get(link)
    told = picture_of(first).info["edge_report"]
    assert EdgeReport.model_validate_json(told) == report
    assert "x-edge-report" not in first.headers  # it was not known yet
    assert again.headers["x-edge-report"] == told
    assert report.islands_dropped == 1
    assert report.before.ghost > report.after.ghost == 0


@pytest.mark.parametrize("form", ["tiff", "webp"])
def test_files_that_are_whole_say_it_in_a_header(server: Server, form: str) -> None:
    response = server.client.post(
        "/upscale",
        files={"image": png_bytes(pixels())},
        data={"scale": "2", "edge": "print", "format": form},
    )
    _, report = printing.enlarged(pixels(), EdgeFinish(Edge.PRINT), scale=2)
    told = response.raise_for_status().headers["x-edge-report"]
    assert EdgeReport.model_validate_json(told) == report


def test_without_alpha_there_is_nothing_to_report(server: Server) -> None:
    response = server.client.post(
        "/upscale", files={"image": png_bytes(cutout().rgb)}, data={"edge": "halftone"}
    )
    assert "edge_report" not in picture_of(response).info
    assert picture_of(response).mode == "RGB"


def test_the_overlay_is_red_where_alpha_is_partial_and_untouched_elsewhere(server: Server) -> None:
    link = shoot(server)["url"]
    alpha = soft_alpha()
    partial = (alpha > 0) & (alpha < 255)
    got = shown(server, link, overlay=1)
    assert (got[partial] == RED).all()
    assert np.array_equal(got[alpha == 255], pixels()[alpha == 255])
    assert not got[alpha == 0].any()
    for asked in ({"edge": "print", "scale": 2}, {"print": 1}):
        plain, marked = shown(server, link, **asked), shown(server, link, **asked, overlay=1)
        soft = (plain[..., 3] > 0) & (plain[..., 3] < 255)
        assert (marked[soft] == RED).all()
        assert np.array_equal(marked[~soft], plain[~soft])
    assert not (shown(server, link, edge="hard", scale=2, overlay=1) == RED).all(-1).any()


def test_a_small_overlay_loses_no_red(server: Server) -> None:
    got = shown(server, shoot(server)["url"], overlay=1, preview=30)
    assert max(got.shape) == 30
    assert (got[1, 3] == RED).all()  # the ghost, four rows of ninety
    assert not got[0, 15:].any()


def test_an_overlay_is_kept_and_has_an_etag_of_its_own(server: Server) -> None:
    link = shoot(server)["url"]
    plain = server.client.get(link).headers["etag"]
    seen = {plain}
    for query in (
        "overlay=1",
        "overlay=1&preview=30",
        "preview=30",
        "overlay=1&print=1",
        "print=1",
    ):
        response = server.client.get(f"{link}?{query}")
        etag = response.headers["etag"]
        assert etag not in seen
        seen.add(etag)
        unchanged = server.client.get(f"{link}?{query}", headers={"If-None-Match": etag})
        assert unchanged.status_code == 304
        assert server.client.get(f"{link}?{query}").content == response.content
    again = server.client.get(f"{link}?overlay=1")
    assert "content-length" in again.headers  # it was not made anew


def test_grey_with_alpha_gets_colours_for_its_overlay(server: Server) -> None:
    grey = np.dstack((cutout().rgb[..., 0], soft_alpha()))
    response = server.client.post(
        "/upscale", files={"image": png_bytes(grey)}, data={"scale": "1", "overlay": "1"}
    )
    got = np.asarray(picture_of(response))
    partial = (grey[..., 1] > 0) & (grey[..., 1] < 255)
    assert (got[partial] == RED).all()
    assert np.array_equal(got[~partial][:, 3], grey[~partial][:, 1])


@pytest.mark.parametrize("path", ["/remove-background", "/process", "/upscale"])
@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"edge": "halftone", "lpi": "90"}, "lpi"),
        ({"edge": "halftone", "dpi": "100"}, "lpi"),
        ({"lpi": "9"}, "lpi"),
        ({"angle": "91"}, "angle"),
        ({"edge": "dots"}, "edge"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    server: Server, path: str, asked: dict[str, str], field: str
) -> None:
    response = server.client.post(path, files={"image": png_bytes(pixels())}, data=asked)
    body = problem(response, 400, "invalid_parameter")
    assert body["field"] == field


def test_a_screen_too_fine_for_the_dpi_names_the_limit(server: Server) -> None:
    link = shoot(server)["url"]
    asked = {"edge": "halftone", "dpi": "72", "scale": "1"}
    body = problem(server.client.get(link, params=asked), 400, "invalid_parameter")
    assert (body["field"], body["limit"], body["actual"]) == ("lpi", 18.0, 45.0)
    assert "1.6 pixels" in str(body["detail"])
    assert json.dumps(body["hint"]).count("18")
