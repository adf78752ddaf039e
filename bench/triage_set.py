"""Pictures whose kind is known, made from real ones: for the tests and for `bench/triage.py`.

Photos and artwork come from tests/data, and `more` photos from scikit-image's own data.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from bench.knockout import laid_on
from models.images import PictureKind, Pixels, SourceImage

DATA = Path(__file__).parents[1] / "tests" / "data"
MORE_PHOTOS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png",
    "motorcycle_right.png", "rocket.jpg",
)  # fmt: skip
PLAIN_GROUNDS = ((255, 255, 255), (0, 0, 0), (200, 220, 240), (250, 214, 60))
# dark and light grey of programs that show transparency so, and fainter and darker ones
GREYS = ((204, 255), (239, 255), (192, 255), (153, 204), (102, 153), (30, 45), (51, 102))
SQUARES = (4, 5, 8, 10, 16, 24, 32, 48, 64)
QUALITIES = (None, 95, 75, 50)
SCALES = (1.0, 0.9, 1.07)

_Grey: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A picture, what it is, and how it was made."""

    name: str
    kind: PictureKind
    image: SourceImage


def labelled(folder: Path = DATA) -> Iterator[Labelled]:
    """Every picture of the set; `folder` has photos (*.jpg, also in photos/) and art/*.png."""
    yield from photos(folder, more=True)
    yield from artworks(folder)
    yield from cutouts(folder)
    yield from boxed_artwork(folder)
    yield from boards(folder)
    yield from blanks()
    yield from framed_photos(folder, more=True)
    yield from nearly_blank(folder)
    yield from other_patterns()


def photos(folder: Path = DATA, *, more: bool = False) -> Iterator[Labelled]:
    """Photographs as they are, small, enlarged, and with an alpha that says nothing."""
    for name, rgb in _photos(folder, more=more).items():
        yield _made(name, PictureKind.PHOTO, rgb)
        yield _made(f"{name}, reduced", PictureKind.PHOTO, scaled(rgb, 0.4))
        yield _made(f"{name}, enlarged", PictureKind.PHOTO, scaled(rgb, 3))
        yield _made(f"{name}, opaque alpha", PictureKind.PHOTO, rgb, _full(rgb))


def artworks(folder: Path = DATA) -> Iterator[Labelled]:
    """Artwork on plain grounds, clean and through JPEG."""
    for name, rgba in _art(folder).items():
        for ground in PLAIN_GROUNDS:
            for quality in QUALITIES:
                rgb = through_jpeg(laid_on(rgba, ground), quality)
                yield _made(f"{name} on {ground}, JPEG {quality}", PictureKind.ARTWORK, rgb)


def cutouts(folder: Path = DATA) -> Iterator[Labelled]:
    """Transparent artwork, and photographs that a network has cut out."""
    for name, rgba in _art(folder).items():
        yield _cutout(name, rgba)
        yield _cutout(f"{name}, enlarged", scaled(rgba, 2))
        yield _cutout(f"{name}, hard", np.dstack((rgba[..., :3], _hardened(rgba[..., 3]))))
        yield _cutout(f"{name}, trimmed", _trimmed(rgba))
    for path in sorted([*folder.glob("*.*.png"), *folder.glob("photos/*.*.png")]):
        rgba = np.asarray(Image.open(path).convert("RGBA"))
        yield _cutout(path.stem, rgba)
        yield _cutout(f"{path.stem}, trimmed", _trimmed(rgba))


def boards(folder: Path = DATA) -> Iterator[Labelled]:
    """Artwork and cut-out people on painted checkerboards."""
    subjects = [*_art(folder).items()]
    for number, (square, scale) in enumerate((a, b) for a in SQUARES for b in SCALES):
        for step, quality in enumerate(QUALITIES):
            name, rgba = subjects[(number + step) % len(subjects)]
            greys = GREYS[(number * len(QUALITIES) + step) % len(GREYS)]
            rgb = through_jpeg(scaled(on_board(rgba, square, greys), scale), quality)
            title = f"{name} on {greys} {square} px x {scale}, JPEG {quality}"
            yield _made(title, PictureKind.CHECKERBOARD, rgb)


def boxed_artwork(folder: Path = DATA) -> Iterator[Labelled]:
    """Artwork still on its white box or painted checkerboard, on a clear canvas."""
    for name, rgba in _art(folder).items():
        width, height = rgba.shape[1], rgba.shape[0]
        margin = ((height // 8,) * 2, (width // 8,) * 2)
        alpha = np.pad(_full(rgba), margin)
        for ground, rgb in (
            ("a white box", laid_on(rgba, (255, 255, 255))),
            ("a painted board", on_board(rgba, 10, (204, 255))),
        ):
            padded = np.pad(rgb, (*margin, (0, 0)))
            yield _made(f"{name} on {ground}", PictureKind.PHOTO, padded, alpha)


def blanks() -> Iterator[Labelled]:
    """One colour, exactly and nearly, and nothing at all."""
    noise = np.random.default_rng(6).integers(-3, 4, (700, 900, 3))
    for colour in ((255, 255, 255), (0, 0, 0), (240, 240, 235), (200, 30, 60)):
        plain = np.full((700, 900, 3), colour, np.uint8)
        yield _made(f"plain {colour}", PictureKind.BLANK, plain)
        noisy = (plain + noise).clip(0, 255).astype(np.uint8)
        yield _made(f"noisy {colour}", PictureKind.BLANK, noisy)
        yield _made(f"JPEG {colour}", PictureKind.BLANK, through_jpeg(noisy, 75))
    hidden = np.random.default_rng(7).integers(0, 255, (300, 400, 3), np.uint8)
    yield _made("nothing visible", PictureKind.BLANK, hidden, np.full((300, 400), 4, np.uint8))


def framed_photos(folder: Path = DATA, *, more: bool = False) -> Iterator[Labelled]:
    """Photographs whose alpha is a frame, a vignette or a veil: their background is still there."""
    for name, rgb in _photos(folder, more=more).items():
        height, width = rgb.shape[:2]
        for shape, alpha in _frames(width, height).items():
            yield _made(f"{name}, {shape}", PictureKind.PHOTO, rgb, alpha)
        wide = np.pad(rgb, ((height // 4,) * 2, (width // 4,) * 2, (0, 0)))
        inner = np.pad(_full(rgb), ((height // 4,) * 2, (width // 4,) * 2))
        yield _made(f"{name}, on a clear canvas", PictureKind.PHOTO, wide, inner)
        turned = Image.fromarray(np.dstack((wide, inner))).rotate(17, Image.Resampling.BICUBIC)
        pixels = np.asarray(turned)
        yield _made(f"{name}, turned", PictureKind.PHOTO, pixels[..., :3], pixels[..., 3])


def nearly_blank(folder: Path = DATA) -> Iterator[Labelled]:
    """Little or pale artwork on a large plain sheet: a reduction would lose it."""
    for ground in (255, 0, 128):
        sheet = np.full((2600, 3100, 3), ground, np.uint8)
        sheet[1301, 1733] = 90
        yield _made(f"one pixel on {ground}", PictureKind.ARTWORK, sheet)
    sheet = np.full((1200, 1000, 3), 255, np.uint8)
    sheet[400:800, 300:700] = (255, 252, 240)
    yield _made("pale square", PictureKind.ARTWORK, sheet)
    for name, rgba in _art(folder).items():
        faint = rgba.copy()
        faint[..., 3] //= 12
        rgb = laid_on(faint, (255, 255, 255))
        yield _made(f"{name}, a twelfth as strong", PictureKind.ARTWORK, rgb)


def other_patterns() -> Iterator[Labelled]:
    """What looks a little like a painted checkerboard and is none."""
    rows, columns = np.mgrid[:600, :700]
    parts = {
        "stripes across": rows // 16 % 2,
        "stripes down": columns // 16 % 2,
        "stripes aslant": (rows + columns) // 16 % 2,
        "gingham": (rows // 16 % 2 + columns // 16 % 2) / 2,
        "dots": (rows % 24 - 12) ** 2 + (columns % 24 - 12) ** 2 < 90,
        "bricks": (rows % 16 < 2) | ((columns + rows // 16 % 2 * 20) % 40 < 2),
        "noise": np.random.default_rng(8).integers(0, 2, rows.shape),
    }
    for name, part in parts.items():
        kind = PictureKind.ARTWORK if name == "dots" else PictureKind.PHOTO  # on a plain ground
        level = (204 + 51 * np.asarray(part, np.float64)).astype(np.uint8)
        yield _made(name, kind, np.repeat(level[..., None], 3, axis=2))
    flag = (255 * ((rows // 40 + columns // 40) % 2)).astype(np.uint8)
    yield _made("chequered flag", PictureKind.PHOTO, np.repeat(flag[..., None], 3, axis=2))
    tiles = np.array([(190, 60, 60), (240, 220, 200)], np.uint8)[(rows // 20 + columns // 20) % 2]
    yield _made("coloured tiles", PictureKind.PHOTO, tiles)


def random_boards(count: int, *, seed: int, folder: Path = DATA) -> Iterator[Labelled]:
    """Checkerboards of any size, greys, scaling and JPEG quality within what is promised."""
    rng = np.random.default_rng(seed)
    arts = [*_art(folder).items()]
    for _ in range(count):
        name, rgba = arts[rng.integers(len(arts))]
        dark = int(rng.integers(20, 230))
        light = int(rng.integers(dark + 12, min(dark + 120, 255) + 1))
        square, scale = int(rng.integers(4, 65)), float(rng.uniform(0.9, 1.12))
        quality = int(rng.integers(60, 96))
        rgb = scaled(on_board(rgba[::2, ::2], square, (dark, light)), scale)
        title = f"{name} on {dark}/{light} {square} px x {scale:.3f}, JPEG {quality}"
        yield _made(title, PictureKind.CHECKERBOARD, through_jpeg(rgb, quality))


def random_frames(count: int, *, seed: int, folder: Path = DATA) -> Iterator[Labelled]:
    """Photographs in rectangles, rounded ones and ovals, turned and softened, on a clear canvas."""
    rng = np.random.default_rng(seed)
    rgbs = [*_photos(folder, more=True).items()]
    for _ in range(count):
        name, rgb = rgbs[rng.integers(len(rgbs))]
        height, width = rgb.shape[:2]
        w, h = (int(side * rng.uniform(0.4, 1)) for side in (width, height))
        mask = Image.new("L", (width, height))
        box = ((width - w) // 2, (height - h) // 2, (width + w) // 2, (height + h) // 2)
        corner = int(min(w, h) * rng.choice([0, 0.1, 0.25]))
        oval, angle = bool(rng.integers(3) == 0), float(rng.uniform(0, 90))
        draw = ImageDraw.Draw(mask)
        if oval:
            draw.ellipse(box, fill=255)
        else:
            draw.rounded_rectangle(box, radius=corner, fill=255)
        picture = Image.fromarray(np.dstack((rgb, np.asarray(mask))))
        pixels = np.asarray(picture.rotate(angle, Image.Resampling.BICUBIC, expand=True))
        title = f"{name}, {w} x {h}, corners {corner}, oval {oval}, turned {angle:.0f}"
        yield _made(title, PictureKind.PHOTO, pixels[..., :3], pixels[..., 3])


def on_board(rgba: Pixels, square: int, greys: tuple[int, int]) -> Pixels:
    """The picture on a painted checkerboard, (H, W, 3)."""
    rows, columns = np.indices(rgba.shape[:2])
    board = np.array(greys, np.float32)[(rows // square + columns // square) % 2]
    share = rgba[..., 3:].astype(np.float32) / 255
    mixed = rgba[..., :3] * share + board[..., None] * (1 - share)
    laid: Pixels = np.rint(mixed).astype(np.uint8)
    return laid


def through_jpeg(rgb: Pixels, quality: int | None) -> Pixels:
    if quality is None:
        return rgb
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def scaled(pixels: Pixels, scale: float) -> Pixels:
    if scale == 1:
        return pixels
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


@cache
def _photos(folder: Path, *, more: bool) -> dict[str, Pixels]:
    paths = sorted([*folder.glob("*.jpg"), *folder.glob("photos/*.jpg")])
    spec = find_spec("skimage")
    if more and spec is not None and spec.origin is not None:
        paths += [Path(spec.origin).parent / "data" / name for name in MORE_PHOTOS]
    return {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in paths}


@cache
def _art(folder: Path) -> dict[str, Pixels]:
    paths = sorted(folder.glob("art/*.png"))
    return {path.stem: np.asarray(Image.open(path).convert("RGBA")) for path in paths}


def _frames(width: int, height: int) -> dict[str, _Grey]:
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    draw.rounded_rectangle((0, 0, width - 1, height - 1), radius=min(width, height) // 5, fill=255)
    rounded = np.asarray(mask)
    badge_mask = Image.new("L", (width, height))
    corner = min(width, height) // 3
    ImageDraw.Draw(badge_mask).rounded_rectangle((0, 0, width, height), radius=corner, fill=255)
    oval_mask = Image.new("L", (width, height))
    ImageDraw.Draw(oval_mask).ellipse((0, 0, width - 1, height - 1), fill=255)
    feather = oval_mask.filter(ImageFilter.GaussianBlur(min(width, height) / 10))
    hole = np.full((height, width), 255, np.uint8)
    hole[height // 4 : height // 2, width // 4 : width // 2] = 0
    return {
        "rounded corners": rounded,
        "very round corners": np.asarray(badge_mask),
        "oval": np.asarray(oval_mask),
        "feathered oval": np.asarray(feather),
        "a hole": hole,
        "half transparent": np.full((height, width), 128, np.uint8),
        "left half faded": np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1)),
    }


def _hardened(alpha: _Grey) -> _Grey:
    return np.where(alpha >= 128, 255, 0).astype(np.uint8)


def _trimmed(rgba: Pixels) -> Pixels:
    box = Image.fromarray(rgba[..., 3]).point(lambda level: 255 if level > 10 else 0).getbbox()
    assert box is not None
    return np.asarray(Image.fromarray(rgba).crop(box))


def _full(rgb: Pixels) -> _Grey:
    return np.full(rgb.shape[:2], 255, np.uint8)


def _cutout(name: str, rgba: Pixels) -> Labelled:
    return _made(name, PictureKind.TRANSPARENT, rgba[..., :3], rgba[..., 3])


def _made(name: str, kind: PictureKind, rgb: Pixels, alpha: _Grey | None = None) -> Labelled:
    return Labelled(name, kind, SourceImage(rgb, alpha, "PNG", 0, ""))
