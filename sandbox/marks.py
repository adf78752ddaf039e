"""The faults a picture asks for: written into its metadata, or drawn into its top left corner.

Metadata is simple (`sandbox:fault=runware.slow` anywhere in the file) and does not survive a client
that re-encodes. The drawn mark does, JPEG and WebP included, as long as the picture keeps its
size: a row of black and white cells of 8x8 pixels that spells one fault's number and a model's.
`python -m sandbox.marks IN OUT FAULT[@MODEL]` draws one.
"""

import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from models.images import Pixels
from sandbox.faults import NAMES, Switch, parse_switches
from sandbox.options import PRICES

CELL_PX = 8
_SYNC = (1, 0, 1, 1, 0, 0, 1, 0)
_FAULT_BITS = 8
_MODEL_BITS = 4
_CHECK_BITS = 4
_CELLS = len(_SYNC) + _FAULT_BITS + _MODEL_BITS + _CHECK_BITS
_DARK, _LIGHT = 64, 192
_TEXT = re.compile(rb"sandbox:fault=([a-z0-9_.,=@:/-]+)", re.IGNORECASE)
_SCANNED_BYTES = 1 << 16

MODELS: tuple[str, ...] = tuple(PRICES)


def written_marks(content: bytes) -> tuple[Switch, ...]:
    """What the file's first or last 64 KiB spell out; nothing for words that are no fault."""
    for part in (content[:_SCANNED_BYTES], content[-_SCANNED_BYTES:]):
        if (match := _TEXT.search(part)) is not None:
            try:
                return parse_switches(match[1].decode())
            except ValueError:
                return ()
    return ()


def drawn_marks(rgb: Pixels) -> tuple[Switch, ...]:
    """What the cells in the corner spell out."""
    if rgb.shape[0] < CELL_PX or rgb.shape[1] < CELL_PX * _CELLS:
        return ()
    strip = rgb[:CELL_PX, : CELL_PX * _CELLS].mean(axis=2)
    levels = strip.reshape(CELL_PX, _CELLS, CELL_PX).mean(axis=(0, 2))
    if ((levels > _DARK) & (levels < _LIGHT)).any():
        return ()
    return _read((levels >= _LIGHT).astype(int).tolist())


def draw(rgb: Pixels, fault: str) -> Pixels:
    """A copy of (H, W, 3) with the mark of one `fault[@model]` (no number) in its corner."""
    (switch,) = parse_switches(fault)
    number = NAMES.index(switch.name) + 1
    model = MODELS.index(switch.model) + 1 if switch.model else 0
    bits = [*_SYNC, *_bits(number, _FAULT_BITS), *_bits(model, _MODEL_BITS)]
    bits += _bits(_checksum(number, model), _CHECK_BITS)
    if rgb.shape[1] < CELL_PX * _CELLS:
        raise ValueError(f"the picture must be at least {CELL_PX * _CELLS} pixels wide")
    marked = rgb.copy()
    cells = np.repeat(np.array(bits, np.uint8) * 255, CELL_PX)
    marked[:CELL_PX, : len(cells)] = cells[None, :, None]
    return marked


def _read(bits: list[int]) -> tuple[Switch, ...]:
    number = _number(bits[len(_SYNC) : len(_SYNC) + _FAULT_BITS])
    model = _number(bits[len(_SYNC) + _FAULT_BITS : -_CHECK_BITS])
    if tuple(bits[: len(_SYNC)]) != _SYNC or _number(bits[-_CHECK_BITS:]) != _checksum(
        number, model
    ):
        return ()
    if not 1 <= number <= len(NAMES) or model > len(MODELS):
        return ()
    return parse_switches(NAMES[number - 1] + (f"@{MODELS[model - 1]}" if model else ""))


def _checksum(number: int, model: int) -> int:
    return (number * 7 + model * 5 + 3) % 16


def _bits(number: int, count: int) -> list[int]:
    return [number >> shift & 1 for shift in reversed(range(count))]


def _number(bits: list[int]) -> int:
    return int("".join(map(str, bits)), 2)


def main(source: str, target: str, fault: str) -> None:
    with Image.open(source) as image:
        Image.fromarray(draw(np.array(image.convert("RGB")), fault)).save(Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
