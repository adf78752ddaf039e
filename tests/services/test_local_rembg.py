"""The local networks: only allow-listed sessions, rembg's answer where it is right, ours where not.

The tests marked `weights` run the real ISNet; without its file they are skipped, loudly.
"""

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.images import Flag, SourceImage
from models.schemas import ModelId
from services.local_rembg import (
    BIREFNET_LITE,
    NETWORKS,
    InferenceSession,
    cut_out,
    mask_from,
    network_input,
    open_session,
    predict,
)
from services.remover import multiply_alpha
from services.weights import WeightsStore
from tests.conftest import DATA, ROOT, serving

Floats = tuple[float, ...]
ISNET = NETWORKS[ModelId.LOCAL_ISNET]


class RembgSession(Protocol):
    """The part of rembg's own session that is compared."""

    def normalize(
        self, img: Image.Image, mean: Floats, std: Floats, size: tuple[int, int]
    ) -> dict[str, NDArray[np.floating]]: ...
    def predict(self, img: Image.Image) -> list[Image.Image]: ...


def source(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8] | None = None) -> SourceImage:
    return SourceImage(rgb=rgb, alpha=alpha, format="PNG", bytes=0, sha256="")


@pytest.fixture(scope="session")
def weights() -> Path:
    """The real ISNet's file, as `make test` leaves it in the project's weights folder."""
    found = WeightsStore(ROOT / "weights").present(ISNET.session)
    if found is None:
        pytest.skip("NO REAL ISNET WEIGHTS: no source answered; run `make weights`")
    return found


@pytest.fixture(scope="session")
def isnet(weights: Path) -> InferenceSession:
    return open_session(ISNET.session, weights, 2)


@pytest.mark.parametrize("name", ["bria-rmbg", "withoutbg", "atlascloud", "u2net", "", "../x"])
def test_only_allow_listed_sessions_can_be_opened(name: str) -> None:
    with pytest.raises(ValueError, match="allowed"):
        open_session(name, Path("x.onnx"), 1)


def test_the_allow_list_holds_local_sessions_that_cost_nothing() -> None:
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    from rembg.sessions import sessions_class

    by_name = {each.name(): each for each in sessions_class}
    for network in (*NETWORKS.values(), BIREFNET_LITE):
        session = by_name[network.session]
        assert session.is_local()
        assert not session.has_usage_cost()
        assert not session.requires_credentials()


def test_rembg_is_asked_for_sessions_in_one_module_only() -> None:
    users = [
        path.relative_to(ROOT).as_posix()
        for folder in ("routers", "services", "models", "utils")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"^\s*(from|import) rembg\b", path.read_text(), re.MULTILINE)
    ]
    assert users == ["services/local_rembg.py"]


def test_the_input_is_scaled_by_255_not_by_the_pictures_maximum() -> None:
    dark = np.full((8, 8, 3), 51, np.uint8)
    assert network_input(source(dark), ISNET) == pytest.approx(51 / 255 - 0.5)


def test_colour_under_transparency_does_not_reach_the_network() -> None:
    rgb = np.full((8, 8, 3), 255, np.uint8)
    clear = network_input(source(rgb, np.zeros((8, 8), np.uint8)), ISNET)
    assert clear == pytest.approx(128 / 255 - 0.5, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.004, 0.2])
def test_an_empty_prediction_is_an_empty_mask_and_a_flag(value: float) -> None:
    noise = np.random.default_rng(0).uniform(0, value + 1e-6, (16, 16)).astype(np.float32)
    mask, flags = mask_from(noise)
    assert mask.max() == 0
    assert flags == (Flag.EMPTY,)


@pytest.mark.filterwarnings("error")
def test_a_uniform_prediction_divides_nothing_by_zero() -> None:
    mask, flags = mask_from(np.ones((16, 16), np.float32))
    assert mask.min() == 255
    assert flags == ()


def test_the_mask_is_rounded_not_truncated() -> None:
    prediction = np.array([[0, 1], [0.9999, 0.5]], np.float32)
    assert mask_from(prediction)[0].tolist() == [[0, 255], [255, 128]]


def test_an_enlarged_mask_does_not_ring() -> None:
    prediction = np.zeros((1024, 1024), np.float32)
    prediction[256:768, 256:768] = 1
    found = cut_out(source(np.zeros((2048, 2048, 3), np.uint8)), prediction)
    edge = 512
    assert found.alpha[:, : edge - 4].max() == 0
    assert found.alpha[edge + 4 : 1500, edge + 4 : 1500].min() == 255


def test_existing_alpha_is_multiplied_in() -> None:
    alpha = np.array([[0, 128], [200, 255]], np.uint8)
    assert multiply_alpha(alpha, np.full((2, 2), 255, np.uint8)).tolist() == alpha.tolist()
    assert multiply_alpha(alpha, alpha).tolist() == [[0, 64], [157, 255]]


@pytest.mark.weights
def test_isnet_cuts_what_rembg_publishes(isnet: InferenceSession) -> None:
    photo = np.asarray(Image.open(DATA / "anime-girl-1.jpg").convert("RGB"))
    published = np.asarray(Image.open(DATA / "anime-girl-1.isnet-general-use.png"))[..., 3]
    found = cut_out(source(photo), predict(isnet, ISNET, source(photo)))
    ours, theirs = found.alpha >= 128, published >= 128
    assert found.alpha.shape == published.shape
    assert (ours & theirs).sum() / (ours | theirs).sum() >= 0.97
    assert np.abs(found.alpha.astype(int) - published).mean() / 255 < 0.01


@pytest.fixture(scope="session")
def rembgs_own(weights: Path) -> Iterator[RembgSession]:
    """rembg's ISNet session as its users open it, on our file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("U2NET_HOME", str(weights.parents[2]))
        patch.setenv("NUMBA_DISABLE_JIT", "1")
        from rembg import new_session

        yield new_session(ISNET.session, providers=["CPUExecutionProvider"])


def full_range_photo() -> Image.Image:
    """A real photo of the network's own size that holds both 0 and 255."""
    photo = Image.open(DATA / "anime-girl-1.jpg").convert("RGB").resize((1024, 1024))
    photo.putpixel((0, 0), (255, 255, 255))
    return photo


@pytest.mark.weights
def test_input_and_mask_are_rembgs_where_rembg_is_right(
    isnet: InferenceSession, rembgs_own: RembgSession
) -> None:
    photo = full_range_photo()
    picture = source(np.asarray(photo))
    (theirs,) = rembgs_own.normalize(photo, ISNET.mean, ISNET.std, (1024, 1024)).values()
    assert np.abs(network_input(picture, ISNET) - theirs).max() < 1e-6
    mask, _ = mask_from(predict(isnet, ISNET, picture))
    (published,) = rembgs_own.predict(photo)
    assert np.abs(mask.astype(int) - np.asarray(published)).max() <= 1


@pytest.mark.weights
def test_a_dark_picture_is_not_brightened_and_an_empty_one_not_stretched(
    isnet: InferenceSession, rembgs_own: RembgSession
) -> None:
    dark = Image.fromarray(np.asarray(full_range_photo()) // 8)
    (theirs,) = rembgs_own.normalize(dark, ISNET.mean, ISNET.std, (1024, 1024)).values()
    ours = network_input(source(np.asarray(dark)), ISNET)
    assert ours.max() == pytest.approx(np.asarray(dark).max() / 255 - 0.5)
    assert theirs.max() == pytest.approx(0.5)
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    (stretched,) = rembgs_own.predict(Image.fromarray(noise))
    mask, flags = mask_from(predict(isnet, ISNET, source(noise)))
    assert np.asarray(stretched).max() == 255
    assert (mask.max(), flags) == (0, (Flag.EMPTY,))


@pytest.mark.weights
def test_blank_pictures_come_back_empty(isnet: InferenceSession) -> None:
    for level in (0, 255):
        blank = source(np.full((40, 60, 3), level, np.uint8))
        found = cut_out(blank, predict(isnet, ISNET, blank))
        assert found.alpha.max() == 0
        assert found.flags == (Flag.EMPTY,)


@pytest.mark.weights
def test_the_service_cuts_a_real_photo_out_and_leaves_its_colours(
    weights: Path, tmp_path: Path
) -> None:
    photo = (DATA / "anime-girl-1.jpg").read_bytes()
    with serving(tmp_path, weights_dir=weights.parents[2]) as server:
        record = server.shoot(photo, models="local-isnet,local-knockout").json()
        entry = record["results"][0]
        assert entry["status"] == "succeeded", entry
        content = server.client.get(entry["url"]).content
        states = server.client.get("/ready").json()["models"]
    cutout = np.asarray(Image.open(io.BytesIO(content)))
    original = np.asarray(Image.open(io.BytesIO(photo)).convert("RGB"))
    solid = cutout[..., 3] == 255
    assert cutout.shape[:2] == original.shape[:2]
    assert solid.mean() > 0.1
    assert np.abs(cutout[solid][:, :3].astype(int) - original[solid]).max() <= 2
    assert states["local-isnet"]["status"] == "ready"
