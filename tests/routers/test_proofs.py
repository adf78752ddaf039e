"""Shirts, plates, sheets and bundles over real HTTP."""

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from models.images import Pixels
from models.schemas import ModelId
from services.catalogue import CATALOGUE
from tests.answering import Cutter
from tests.conftest import Server, artwork, png_bytes, problem, serving
from utils import memory

ISNET, KNOCKOUT = ModelId.LOCAL_ISNET, ModelId.LOCAL_KNOCKOUT
NOBODY = "0" * 32
PROOFS = ("local-knockout/garment.webp", "local-knockout/white.png")
OF_ALL = ("contact-sheet.webp", "bundle.zip")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    stand_ins = {ISNET: Cutter(ISNET)}
    with serving(tmp_path_factory.mktemp("proofs"), stand_ins=stand_ins) as server:
        yield server


@pytest.fixture(scope="module")
def shot(server: Server) -> str:
    """Two cut-outs: the left half, and the disc of tests.conftest.artwork."""
    record = server.shoot(artwork(), models=f"{ISNET},{KNOCKOUT}").raise_for_status().json()
    return str(record["request_id"])


def get(server: Server, shot: str, proof: str, **asked: object) -> httpx.Response:
    query = {name: str(each) for name, each in asked.items()}
    return server.client.get(f"/results/{shot}/{proof}", params=query)


def picture(answer: httpx.Response) -> Pixels:
    with Image.open(io.BytesIO(answer.raise_for_status().content)) as opened:
        return np.asarray(opened)


def test_a_cutout_on_a_shirt(server: Server, shot: str) -> None:
    answer = get(server, shot, PROOFS[0], garment="c8102e", side=64)
    assert answer.headers["content-type"] == "image/webp"
    shown = picture(answer).astype(int)
    assert shown.shape == (48, 64, 3)
    assert np.abs(shown[0, 0] - (200, 16, 46)).max() < 6
    assert np.abs(shown[24, 32] - (200, 20, 30)).max() < 6
    assert picture(get(server, shot, PROOFS[0], side=32)).shape == (24, 32, 3)
    assert picture(get(server, shot, PROOFS[0], side=2048)).shape == (48, 64, 3)
    heather = picture(get(server, shot, PROOFS[0], garment="heather"))
    assert heather[:8].std() > 3


def test_the_plate_is_the_print_choked(server: Server, shot: str) -> None:
    """Against the print itself and the distance transform over the whole of it."""
    size = {"scale": 5, "edge": "print", "trim": 1, "dpi": 254}
    print_ = picture(get(server, shot, "local-knockout.png", **size))
    answer = get(server, shot, PROOFS[1], **size, choke_mm=0.5)
    plate = picture(answer)
    away = ndimage.distance_transform_edt(np.pad(print_[..., 3] > 0, 1))[1:-1, 1:-1]
    assert np.array_equal(plate, np.where(away > 5, print_[..., 3], 0))
    assert plate.any()
    assert answer.headers["x-choke-mm"] == "0.5"
    assert answer.headers["x-width"] == str(print_.shape[1])
    with Image.open(io.BytesIO(answer.content)) as opened:
        assert opened.mode == "L"
        assert opened.info["dpi"] == pytest.approx((254, 254), abs=0.01)


def test_without_a_size_the_plate_is_the_cutouts_and_is_kept(server: Server, shot: str) -> None:
    first = get(server, shot, PROOFS[1], choke_mm=0)
    alpha = picture(get(server, shot, "local-knockout.png"))[..., 3]
    assert np.array_equal(picture(first), alpha)
    again = get(server, shot, PROOFS[1], choke_mm=0)
    assert again.content == first.content
    assert again.headers["content-length"] == str(len(first.content))
    assert get(server, shot, PROOFS[1], choke="bold").headers["etag"] != first.headers["etag"]


@pytest.mark.parametrize("proof", sorted(PROOFS + OF_ALL))
def test_a_copy_that_is_still_right_is_not_sent_again(
    server: Server, shot: str, proof: str
) -> None:
    first = get(server, shot, proof)
    unchanged = server.client.get(
        f"/results/{shot}/{proof}", headers={"If-None-Match": first.headers["etag"]}
    )
    assert (unchanged.status_code, unchanged.content) == (304, b"")


def test_the_sheet_shows_every_cutout_on_every_ground(server: Server, shot: str) -> None:
    sheet = picture(get(server, shot, OF_ALL[0], garments="black"))
    assert sheet.shape == (12 + 2 * (22 + 48 + 12), 12 + 2 * (64 + 12), 3)
    assert picture(get(server, shot, OF_ALL[0], garments="")).shape[1] == 12 + 64 + 12


def bundle(server: Server, shot: str, **asked: object) -> tuple[zipfile.ZipFile, dict[str, Any]]:
    answer = get(server, shot, "bundle.zip", **asked).raise_for_status()
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == f'attachment; filename="{shot}.zip"'
    found = zipfile.ZipFile(io.BytesIO(answer.content))
    manifest: dict[str, Any] = json.loads(found.read("manifest.json"))
    return found, manifest


def test_the_bundle_holds_what_its_manifest_says(server: Server, shot: str) -> None:
    found, manifest = bundle(server, shot, scale=2, edge="print", garments="navy,ff0000")
    assert found.testzip() is None
    names = [each["name"] for each in manifest["files"]]
    assert found.namelist() == [*names, "manifest.json"]
    for each in manifest["files"]:
        content = found.read(each["name"])
        assert hashlib.sha256(content).hexdigest() == each["sha256"]
        assert len(content) == each["bytes"]
        with Image.open(io.BytesIO(content)) as opened:
            assert opened.size == (each["width"], each["height"])
    for model in (ISNET, KNOCKOUT):
        assert names.count(f"{model}/cutout.png") == 1
        assert {f"{model}/garment-navy.webp", f"{model}/garment-ff0000.webp"} <= set(names)


def test_its_files_are_those_of_the_routes(server: Server, shot: str) -> None:
    asked = {"width_in": 0.5, "edge": "print"}
    found, manifest = bundle(server, shot, model=KNOCKOUT, **asked, garments="")
    for name, proof, query in (
        ("cutout.png", "local-knockout.png", {}),
        ("print.png", "local-knockout.png", asked),
        ("white.png", PROOFS[1], asked),
    ):
        assert found.read(f"{KNOCKOUT}/{name}") == get(server, shot, proof, **query).content
    files = {each["kind"]: each for each in manifest["files"]}
    assert sorted(files) == ["contact_sheet", "cutout", "print", "white"]
    assert (files["print"]["width_in"], files["print"]["dpi"]) == (0.5, 300)
    assert files["print"]["source_dpi"] == 128
    assert files["print"]["edge_report"]["after"]["ghost"] == 0
    assert files["white"]["choke_mm"] == 0.5


def test_the_manifest_tells_whose_they_are_and_nothing_secret(server: Server, shot: str) -> None:
    _, manifest = bundle(server, shot)
    record = server.client.get(f"/results/{shot}").json()
    assert manifest["request_id"] == shot
    assert manifest["image"] == record["image"]
    licences = {each.id: each.licence for each in CATALOGUE}
    for told, entry in zip(manifest["models"], record["results"], strict=True):
        assert told["licence"] == licences[told["model"]]
        assert told["score"] == entry["score"]
        assert told["edge_report"] == entry["edge_report"]
    assert "customer.png" not in json.dumps(manifest)
    assert not {"owner", "url", "token"} & set(str_keys(manifest))


def str_keys(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from str_keys(value)
    elif isinstance(node, list):
        for each in node:
            yield from str_keys(each)


def test_a_record_with_prints_bundles_those(server: Server) -> None:
    record = server.client.post(
        "/process",
        files={"image": artwork()},
        data={"models": KNOCKOUT, "scale": "2", "print_check": "true", "garment": "white"},
    ).json()
    entry = record["results"][0]
    kept = server.client.get(entry["print_url"]).content
    found, manifest = bundle(server, record["request_id"], garments="")
    assert found.read(f"{KNOCKOUT}/print.png") == kept
    assert picture_of(found, f"{KNOCKOUT}/white.png").shape == (96, 128)
    assert manifest["models"][0]["print_check"] == entry["print_check"]


def picture_of(found: zipfile.ZipFile, name: str) -> Pixels:
    with Image.open(io.BytesIO(found.read(name))) as opened:
        return np.asarray(opened)


def test_a_rendering_bundles_what_it_was_made_of(server: Server, shot: str) -> None:
    rendered = server.client.post(f"/results/{shot}/render", data={"edge": "hard"}).json()
    _, manifest = bundle(server, rendered["request_id"])
    assert manifest["rendered_from"]["request_id"] == shot


def test_a_failure_on_the_way_leaves_the_archive_without_its_end(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    record = server.shoot(artwork(), models=f"{ISNET},{KNOCKOUT}").json()
    home = server.temp_dir / "results" / record["request_id"]
    (home / f"{KNOCKOUT}.png").unlink()
    address = f"/results/{record['request_id']}/bundle.zip"
    received = bytearray()
    with server.client.stream("GET", address) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            read_into(received, answer)
    assert received.startswith(b"PK\x03\x04")
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(bytes(received)))
    assert any(record.message == "crashed" for record in caplog.records)


def read_into(received: bytearray, answer: httpx.Response) -> None:
    for piece in answer.iter_bytes():
        received += piece


@pytest.mark.parametrize("proof", sorted(PROOFS + OF_ALL))
def test_what_is_not_there_has_no_proofs(server: Server, proof: str) -> None:
    problem(get(server, NOBODY, proof), 404, "result_not_found")
    none = server.shoot(artwork(), models=ISNET).json()["request_id"]
    if proof in PROOFS:
        problem(get(server, none, proof), 404, "result_not_found")


@pytest.mark.parametrize(
    ("proof", "asked", "wanted"),
    [
        ("local-knockout/garment.webp", {"garment": "plaid"}, ("invalid_parameter", "garment")),
        ("local-knockout/garment.webp", {"side": 15}, ("invalid_parameter", "side")),
        ("local-knockout/white.png", {"choke_mm": 2.5}, ("invalid_parameter", "choke_mm")),
        ("local-knockout/white.png", {"dpi": 9000}, ("invalid_parameter", "choke_mm")),
        ("local-knockout/white.png", {"scale": 9}, ("scale_out_of_range", None)),
        ("bundle.zip", {"scale": 9}, ("scale_out_of_range", None)),
        ("bundle.zip", {"garments": "black,,white"}, ("invalid_parameter", "garments")),
        ("bundle.zip", {"model": "kie-recraft"}, ("result_not_found", None)),
        ("contact-sheet.webp", {"garments": "plaid"}, ("invalid_parameter", "garments")),
    ],
    ids=str,
)
def test_bad_wishes_are_refused_before_the_first_byte(
    server: Server,
    shot: str,
    proof: str,
    asked: dict[str, object],
    wanted: tuple[str, str | None],
) -> None:
    answer = get(server, shot, proof, **asked).json()
    assert (answer["code"], answer.get("field")) == wanted


def test_a_large_bundle_passes_in_little_memory(tmp_path: Path) -> None:
    """Prints and plates of 115 megapixels: 460 MB each if one of them were held."""
    with serving(tmp_path) as server:
        record = server.shoot(artwork(width=1800, height=1000), models=KNOCKOUT).json()
        query = f"/results/{record['request_id']}/bundle.zip?scale=8&garments=black"
        server.client.get(f"/results/{record['request_id']}/local-knockout/garment.webp")
        before = memory.resident_bytes() or 0
        most, size = before, 0
        with server.client.stream("GET", query) as answer:
            for piece in answer.iter_bytes():
                size += len(piece)
                most = max(most, memory.resident_bytes() or 0)
        assert most - before < 256 << 20
        assert size > 100_000


def test_proofs_do_not_wait_behind_a_client_that_takes_its_print_slowly(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1500, 1500, 3), np.uint8)
    with serving(tmp_path, stand_ins={ISNET: Cutter(ISNET)}, max_concurrent_jobs=1) as server:
        record = server.shoot(artwork(), models=f"{ISNET},{KNOCKOUT}").raise_for_status().json()
        with server.client.stream(
            "POST", "/upscale", files={"image": ("a.png", png_bytes(noise))}
        ) as slow:
            pieces = slow.iter_bytes(1024)  # once forgotten, it would hang up
            next(pieces)
            for proof in ("local-knockout/garment.webp", "contact-sheet.webp"):
                assert get(server, record["request_id"], proof).status_code == 200
            assert server.client.get("/ready").json()["printing"]["running"] == 1
