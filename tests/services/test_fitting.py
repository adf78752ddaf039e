"""A picture goes out within a provider's limits; whatever comes back is laid back in its place."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.errors import FailureCode, RemoverError
from models.images import Cutout, SourceImage
from services.fitting import Copy, Limits, fit, project

U8 = NDArray[np.uint8]
MASK = NDArray[np.bool_]

ROOMY = Limits(max_side=2048, max_pixels=2048 * 2048, max_bytes=4 << 20)
KIE = Limits(max_side=4096, max_pixels=16_000_000, max_bytes=5_000_000, min_side=256)
RED, WHITE, GREY = (200, 20, 30), (255, 255, 255), 128


def source(rgb: U8, alpha: U8 | None = None) -> SourceImage:
    return SourceImage(rgb, alpha, "PNG", 1, "0" * 64)


def plain(width: int, height: int, colour: tuple[int, int, int] = RED) -> SourceImage:
    return source(np.full((height, width, 3), colour, np.uint8))


def noise(width: int, height: int) -> SourceImage:
    return source(np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8))


def disc(width: int, height: int) -> MASK:
    """Off the centre, so that a shifted or mirrored answer shows."""
    rows, columns = np.mgrid[:height, :width]
    radius = min(width, height) * 0.3
    inside: MASK = (rows - height * 0.4) ** 2 + (columns - width * 0.6) ** 2 < radius**2
    return inside


def picture_of(mask: MASK) -> SourceImage:
    return source(np.where(mask[..., None], RED, WHITE).astype(np.uint8))


def opened(copy: Copy) -> Image.Image:
    image = Image.open(io.BytesIO(copy.content))
    image.load()
    return image


def overlap(alpha: U8, mask: MASK) -> float:
    """Intersection over union."""
    seen = alpha > 127
    return float((seen & mask).sum() / (seen | mask).sum())


def cut_by(
    copy: Copy, mask: MASK, *, size: tuple[int, int] | None = None, kind: str = "PNG"
) -> bytes:
    """A provider's answer: the copy with that alpha (over the part it fills), in any size."""
    alpha = np.zeros((copy.height, copy.width), np.uint8)
    filled = Image.fromarray(mask).resize(copy.filled, Image.Resampling.BOX)
    alpha[: copy.filled[1], : copy.filled[0]] = np.asarray(filled.convert("L"))
    answer = opened(copy).convert("RGB")
    answer.putalpha(Image.fromarray(alpha))
    return encoded(answer.resize(size) if size else answer, kind)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return out.getvalue()


def projected(image: SourceImage, copy: Copy, answer: bytes, folder: Path) -> Cutout:
    path = folder / "answer"
    path.write_bytes(answer)
    return project(image, copy, path)


def check(copy: Copy, limits: Limits) -> None:
    """Within the limits, and what it says of itself is true."""
    with opened(copy) as image:
        assert image.size == (copy.width, copy.height)
        assert f"image/{str(image.format).lower()}" == copy.media_type
        assert image.mode == "RGB"
    assert max(copy.width, copy.height) <= limits.max_side
    assert copy.width * copy.height <= limits.max_pixels
    assert len(copy.content) <= limits.max_bytes
    assert min(copy.width, copy.height) >= limits.min_side
    assert copy.filled[0] <= copy.width
    assert copy.filled[1] <= copy.height


# --- what goes out


@pytest.mark.parametrize("limits", [ROOMY, KIE], ids=["runware", "kie"])
@pytest.mark.parametrize(
    "size",
    [(1, 1), (2, 3), (40, 4000), (4000, 40), (1, 5000), (255, 256), (256, 256), (300, 170),
     (2048, 2048), (2049, 2047), (4096, 3906), (5000, 100), (3000, 4200)],
    ids=str,
)  # fmt: skip
def test_a_copy_respects_every_limit(size: tuple[int, int], limits: Limits) -> None:
    copy = fit(plain(*size), limits)
    check(copy, limits)
    assert copy.media_type == "image/png"


def test_a_picture_that_fits_is_sent_as_it_is() -> None:
    image = noise(300, 260)
    copy = fit(image, KIE)
    assert (copy.width, copy.height, copy.filled) == (300, 260, (300, 260))
    assert np.array_equal(np.asarray(opened(copy)), image.rgb)


@pytest.mark.parametrize("max_bytes", [1_500_000, 600_000, 150_000, 40_000])
def test_a_picture_that_does_not_compress_is_made_smaller_until_it_fits(max_bytes: int) -> None:
    limits = replace(ROOMY, max_bytes=max_bytes)
    copy = fit(noise(900, 700), limits)
    check(copy, limits)
    assert copy.media_type == "image/jpeg"
    assert copy.width / copy.height == pytest.approx(9 / 7, rel=0.02)


def test_a_jpeg_that_fits_is_preferred_to_fewer_pixels() -> None:
    copy = fit(noise(900, 700), replace(ROOMY, max_bytes=1_500_000))
    assert (copy.media_type, copy.width, copy.height) == ("image/jpeg", 900, 700)


def test_a_small_picture_is_enlarged_to_the_least_side() -> None:
    copy = fit(plain(100, 50), KIE)
    assert (copy.width, copy.height, copy.filled) == (512, 256, (512, 256))


@pytest.mark.parametrize("upright", [False, True])
def test_a_strip_is_enlarged_as_far_as_it_may_and_then_padded(upright: bool) -> None:
    size = (40, 4000) if upright else (4000, 40)
    copy = fit(plain(*size), KIE)
    assert sorted((copy.width, copy.height)) == [256, 4096]
    assert sorted(copy.filled) == [40, 4096]
    check(copy, KIE)


def test_padding_repeats_the_rim() -> None:
    rgb = np.zeros((40, 4096, 3), np.uint8)
    rgb[-1] = RED
    sent = np.asarray(opened(fit(source(rgb), KIE)))
    assert sent.shape == (256, 4096, 3)
    assert (sent[40:] == RED).all()


def test_transparency_is_laid_on_grey() -> None:
    alpha = np.full((260, 300), 255, np.uint8)
    alpha[:, :150] = 0
    alpha[:, 200:] = 128
    image = source(np.full((260, 300, 3), 255, np.uint8), alpha)
    sent = np.asarray(opened(fit(image, KIE)))
    assert (sent[:, :150] == GREY).all()
    assert (sent[:, 150:200] == 255).all()
    assert (np.abs(sent[:, 200:].astype(int) - 192) <= 1).all()


# --- what comes back


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("size", [None, (1024, 1024), (150, 130), (600, 520), (1000, 300)], ids=str)
def test_an_answer_of_any_size_and_format_lies_where_the_subject_is(
    tmp_path: Path, size: tuple[int, int] | None, kind: str
) -> None:
    mask = disc(300, 260)
    image = picture_of(mask)
    copy = fit(image, KIE)
    cutout = projected(image, copy, cut_by(copy, mask, size=size, kind=kind), tmp_path)
    assert cutout.alpha.shape == mask.shape
    assert overlap(cutout.alpha, mask) > 0.97
    inner = cutout.alpha == 255
    assert inner.any()
    assert np.array_equal(cutout.rgb[inner & mask], image.rgb[inner & mask])


def test_the_answer_of_a_smaller_copy_is_brought_to_the_pictures_edges(tmp_path: Path) -> None:
    mask = disc(1200, 900)
    image = picture_of(mask)
    copy = fit(image, replace(ROOMY, max_side=400))
    assert copy.width == 400
    cutout = projected(image, copy, cut_by(copy, mask), tmp_path)
    assert overlap(cutout.alpha, mask) > 0.99


@pytest.mark.parametrize("halved", [False, True], ids=["same size", "half size"])
@pytest.mark.parametrize("size", [(2000, 100), (100, 2000), (60, 50)], ids=str)
def test_padding_and_enlarging_are_taken_back(
    tmp_path: Path, size: tuple[int, int], halved: bool
) -> None:
    mask = disc(*size)
    image = picture_of(mask)
    copy = fit(image, KIE)
    smaller = (copy.width // 2, copy.height // 2) if halved else None
    cutout = projected(image, copy, cut_by(copy, mask, size=smaller), tmp_path)
    assert cutout.alpha.shape == mask.shape
    assert overlap(cutout.alpha, mask) > 0.9


def test_an_existing_alpha_is_multiplied_in(tmp_path: Path) -> None:
    mask = disc(300, 260)
    own = np.full(mask.shape, 255, np.uint8)
    own[:60], own[60:100] = 0, 100
    image = replace(picture_of(mask), alpha=own)
    copy = fit(image, KIE)
    cutout = projected(image, copy, cut_by(copy, mask), tmp_path)
    without = projected(replace(image, alpha=None), copy, cut_by(copy, mask), tmp_path)
    assert (cutout.alpha[:60] == 0).all()
    assert int(cutout.alpha[60:100].max()) == 100
    deep = mask & (without.alpha == 255) & (own == 255)
    assert deep.any()
    assert (cutout.alpha[deep] == 255).all()


def test_the_source_is_left_alone(tmp_path: Path) -> None:
    mask = disc(300, 260)
    image = picture_of(mask)
    image.rgb.flags.writeable = False
    before = image.rgb.copy()
    copy = fit(image, KIE)
    projected(image, copy, cut_by(copy, mask, size=(600, 520)), tmp_path)
    assert np.array_equal(image.rgb, before)


# --- what is no cut-out


def whole() -> tuple[SourceImage, Copy, bytes]:
    mask = disc(300, 260)
    image = picture_of(mask)
    copy = fit(image, KIE)
    return image, copy, cut_by(copy, mask)


BAD = {
    "nothing": b"",
    "a web page": b"<html>404</html>",
    "JSON": b'{"code":404}',
    "a signature only": b"\x89PNG\r\n\x1a\n",
    "opaque PNG": encoded(Image.new("RGB", (300, 260), RED)),
    "opaque RGBA": encoded(Image.new("RGBA", (300, 260), (*RED, 255))),
    "opaque WebP": encoded(Image.new("RGB", (300, 260), RED), "WEBP"),
    "JPEG": encoded(Image.new("RGB", (300, 260), RED), "JPEG"),
    "empty picture": encoded(Image.new("RGBA", (300, 260), (*RED, 0))),
    "dust": encoded(Image.new("RGBA", (300, 260), (*RED, 10))),
    "huge": encoded(Image.new("LA", (4000, 4000), (9, 200))),
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
def test_what_is_no_cut_out_is_a_bad_result(tmp_path: Path, answer: bytes) -> None:
    image, copy, _ = whole()
    with pytest.raises(RemoverError) as caught:
        projected(image, copy, answer, tmp_path)
    assert caught.value.code is FailureCode.PROVIDER_BAD_RESULT
    assert not caught.value.retryable


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_truncated_answer_is_a_bad_result(tmp_path: Path, share: float, kind: str) -> None:
    image, copy, _ = whole()
    answer = cut_by(copy, disc(300, 260), kind=kind)
    with pytest.raises(RemoverError) as caught:
        projected(image, copy, answer[: int(len(answer) * share)], tmp_path)
    assert caught.value.code is FailureCode.PROVIDER_BAD_RESULT


@pytest.mark.parametrize("colour", [WHITE, RED, (0, 0, 0)])
def test_a_picture_of_one_colour_may_come_back_empty(
    tmp_path: Path, colour: tuple[int, int, int]
) -> None:
    image = plain(300, 260, colour)
    copy = fit(image, KIE)
    answer = cut_by(copy, np.zeros((260, 300), np.bool_))
    assert not projected(image, copy, answer, tmp_path).alpha.any()


def test_a_wholly_transparent_picture_may_come_back_empty_whatever_it_hides(tmp_path: Path) -> None:
    image = replace(noise(300, 260), alpha=np.zeros((260, 300), np.uint8))
    copy = fit(image, KIE)
    answer = cut_by(copy, np.zeros((260, 300), np.bool_))
    assert not projected(image, copy, answer, tmp_path).alpha.any()


def test_a_picture_of_one_pixel_goes_there_and_back(tmp_path: Path) -> None:
    image = plain(1, 1)
    copy = fit(image, KIE)
    cutout = projected(image, copy, cut_by(copy, np.zeros((1, 1), np.bool_)), tmp_path)
    assert cutout.alpha.shape == (1, 1)
