"""Brings samples of any colour space to 8-bit sRGB, a strip at a time.

Whoever decodes (Pillow whole, libvips row by row) hands strips over as Pillow pictures; the profile
is looked at once and the transform then serves every strip.
"""

import io
import struct
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Bytes8: TypeAlias = NDArray[np.uint8]

WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True, slots=True)
class Colour:
    """From a strip in any of the readers' modes to sRGB.

    `transform` is None where no (usable) profile asks for one. `white` is the sample value that
    becomes 255 for samples wider than 8 bits; `inverted` swaps black and white of those.
    """

    transform: ImageCms.ImageCmsTransform | None
    input_mode: str
    white: float = 255.0
    inverted: bool = False

    @classmethod
    def of(
        cls, mode: str, *, profile: bytes | None, white: float = 255.0, inverted: bool = False
    ) -> "Colour":
        """For strips of a Pillow mode, with the file's ICC profile; a broken one counts as none."""
        transform, input_mode = _transform(profile, mode=_base_mode(mode))
        return cls(transform, input_mode, white, inverted)

    def pixels(self, strip: Image.Image) -> Bytes8:
        """(rows, width, 3) uint8 sRGB, or (rows, width, 1) where the three are equal."""
        base = self._base(strip)
        if base.mode != self.input_mode:
            base = base.convert(self.input_mode)
        if self.transform is not None:
            base = ImageCms.applyTransform(base, self.transform) or base
        elif base.mode == "CMYK":
            base = base.convert("RGB")
        samples: Bytes8 = np.asarray(base)
        return samples if samples.ndim == 3 else samples[:, :, np.newaxis]

    def _base(self, strip: Image.Image) -> Image.Image:
        """The strip as L, RGB, CMYK or LAB."""
        if strip.mode in WIDE_MODES:
            return Image.fromarray(self._narrowed(np.asarray(strip)))
        if strip.mode in ("La", "RGBa"):
            strip = strip.convert(strip.mode.upper())
        mode = _base_mode(strip.mode)
        return strip if strip.mode == mode else strip.convert(mode)

    def _narrowed(self, samples: NDArray[np.generic]) -> Bytes8:
        """Wide samples over `white`, rounded to the nearest of 0 to 255; NaN is black."""
        share = np.nan_to_num(samples.astype(np.float64) / self.white, posinf=1, neginf=0)
        rounded = np.floor(np.clip(share, 0, 1) * 255 + 0.5).astype(np.uint8)
        return 255 - rounded if self.inverted else rounded


def white_of(picture: Image.Image, *, depth: int) -> float:
    """The sample that is white: full scale where the depth is known, else a guess by the largest.

    32-bit and float files do not say their range: the smallest usual one that holds them is taken.
    """
    if picture.mode.startswith("I;16"):
        return float((1 << depth) - 1) if 8 < depth <= 16 else 65535.0
    if picture.mode not in WIDE_MODES:
        return 255.0
    top = float(cast("tuple[float, float]", picture.getextrema())[1])
    usual = (1.0, 255.0, 65535.0) if picture.mode == "F" else (255.0, 65535.0)
    return next((white for white in usual if top <= white), top if np.isfinite(top) else 1.0)


def profile_name(profile: bytes | None) -> str | None:
    """What a profile calls itself, in at most 60 characters; None where it cannot be used."""
    if not profile:
        return None
    try:
        named = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, *_UNUSABLE_PROFILE):
        return None
    printable = "".join(each for each in named if each.isprintable()).strip()
    return printable[:60] or "an unnamed profile"


def is_srgb(profile: bytes | None, *, mode: str) -> bool:
    """Whether a profile is sRGB by whatever name, or missing or unusable: it changes nothing then.

    Grey with a profile of its own is a way to write sRGB's greys.
    """
    base = _base_mode(mode)
    transform, _ = _transform(profile, mode=base)
    return base in ("RGB", "L") and (transform is None or base == "L")


def _base_mode(mode: str) -> str:
    if mode in ("L", "LA", "La", "1", *WIDE_MODES):
        return "L"
    return mode if mode in ("CMYK", "LAB") else "RGB"


def _transform(
    profile: bytes | None, *, mode: str
) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """The transform to sRGB and the mode it takes; a broken or foreign profile counts as none.

    Perceptual with black-point compensation, as print houses proof on screen; a matrix profile has
    one table only, and is then colorimetric.
    """
    lab = mode == "LAB"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile and not lab else None
        space = "LAB" if lab else source.profile.xcolor_space.strip() if source else ""
        takes = "RGB" if (mode, space) == ("L", "RGB") else mode
        if space != {"L": "GRAY"}.get(takes, takes):
            return None, mode
        transform = ImageCms.buildTransform(
            source or ImageCms.createProfile("LAB"),
            ImageCms.createProfile("sRGB"),
            takes,
            "RGB",
            ImageCms.Intent.PERCEPTUAL,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, *_UNUSABLE_PROFILE):
        return None, mode
    return (None, mode) if takes == "RGB" and _changes_nothing(transform) else (transform, takes)


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a profile is sRGB by another name: those pixels are kept to the bit.

    A lattice of 9x9x9 colours may move by one level, lcms's own rounding.
    """
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    lattice = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    moved = ImageCms.applyTransform(Image.fromarray(lattice), transform)
    return moved is not None and bool(
        np.abs(np.asarray(moved).astype(np.int16) - lattice).max() <= 1
    )


# what lcms and its wrapper raise on bytes that are no profile
_UNUSABLE_PROFILE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
